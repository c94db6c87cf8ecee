"""Native guests that do what a string of bytes says: as the primary VM beside RM, or as one of two secondary VMs.

The same judge as for hostile Python VMs, and beyond it: pages of other owners are canaries that must neither change
nor be seen, by the guest's registers, in its memory or in a queue. A guest that has shot itself (its vectors in a
device, its tables full of junk, an endless loop) is switched off and on again and goes on with its next step.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from gunyah.abi.hypercalls import BY_NAME
from gunyah.abi.rm import HEADER_SIZE, PACKET_MAX, Header, MessageId, MessageType, VmStatus
from gunyah.abi.smccc import PSCI_CPU_ON_64
from gunyah.abi.types import VMID_HLOS
from gunyah.hypervisor.ledger import ledger_of
from gunyah.hypervisor.native_executor import NativeExecutor
from gunyah.hypervisor.vcpu import Vcpu
from gunyah.machine import board
from gunyah.native import NativePrimary
from gunyah.secondary import PrimaryVm
from gunyah.system import System
from gunyah.vmm.vm_config import QueuePair, VmSettings
from tools.fuzz import native_guest as guest
from tools.fuzz.attack import SECOND, Attack
from tools.fuzz.bystander import Bystander
from tools.fuzz.canaries import Canaries
from tools.fuzz.native_guest import DATA, STEP, Field, NativeGuest, Op, step
from tools.fuzz.native_steps import number, steps, values
from tools.fuzz.native_words import words
from tools.fuzz.steady import Steady

__all__ = ["NativeCallsAttack", "NativePairAttack", "NativePrimaryAttack", "NativeSmpAttack"]

MIB = 1 << 20
BATCH = 2048
"""Steps that the guest gets at once."""
LOOK = SECOND // 20_000
"""Ticks between two looks at whether the guest gets on."""
RESCUES_MAX = 20
"""So many times in a row is a guest switched off and on again that has no step to do, and does not say so."""
STEP_TICKS = SECOND // 40_000
"""What a step may take on average before its batch is broken off: a guest that has changed its own counters."""
SEND, RECEIVE, YIELD = (BY_NAME[name].number for name in ("msgqueue_send", "msgqueue_receive", "scheduler_yield"))


class NativeAttack(Attack):
    """One machine with a hostile native guest. Subclasses build it, and say where the guest is."""

    unit = STEP
    laps = 0
    """How often the guest does its steps again."""
    guest: NativeGuest
    canaries: Canaries

    def __init__(self, acts: Iterable[bytes], *, seed: int = 1) -> None:
        super().__init__(acts, seed=seed)
        self._secret = random.Random(seed ^ 0x5EC2E7).getrandbits(64) | 1
        self._words = words(seed)

    @staticmethod
    def stream(seed: int, count: int) -> Iterator[bytes]:
        """``count`` acts of a seed."""
        return steps(seed, count)

    @property
    def calls(self) -> int:
        return self.guest.calls

    def _equip(self, hostile: NativeGuest, listed: Sequence[int]) -> None:
        hostile.equip(listed, self._words, self._secret)
        vcpu = hostile.vcpu()
        assert vcpu is not None and isinstance(vcpu.executor, NativeExecutor)
        self.canaries.watch(vcpu.executor, self.findings.append)

    @abstractmethod
    def _again(self) -> bool:
        """The guest has switched itself off: switch the VM on again; False if the machine is off."""

    @abstractmethod
    def _own_memory(self) -> list[tuple[int, int]]:
        """(PA, bytes) of what the hostile VM may read."""

    def _wait(self, ticks: int) -> bool:
        """Until the guest is idle; False when that takes more than ``ticks``, or the VM or the machine is off."""
        hv, hostile = self.hv, self.guest
        deadline = hv.clock.ticks() + ticks
        before, turns, beyond = -1, 0, 0

        def over() -> bool:
            return hostile.idle or bool(hv.reports) or self._off()

        while not hv.run(over, min(deadline, hv.clock.ticks() + LOOK)):
            if hv.stopped is not None or hv.clock.ticks() >= deadline:
                return False
            # It may sleep and have armed nothing that could wake it: a miracle does.
            hostile.wake()
            done = hostile.get(Field.DONE)
            turns = turns + 1 if done == before else 0
            before = done
            if turns > 1 or not hostile.on_its_way:
                hostile.rescue()
                turns = 0
                beyond = beyond + 1 if hostile.at_the_end else 0
                if beyond > RESCUES_MAX:
                    self.findings.append(f"the guest cannot be brought back: {self._where()}")
                    return False
        return not hv.reports and not self._off()

    def _where(self) -> str:
        vcpu = self.guest.vcpu()
        if vcpu is None:
            return "its vCPU is gone"
        return f"{vcpu} at {vcpu.pc:#x}, blocks {vcpu.blocks:#x}, step {self.guest.get(Field.POSITION)}"

    def _off(self) -> bool:
        vcpu = self.guest.vcpu()
        return vcpu is None or vcpu.powered_off

    def _run(self) -> None:
        while not self.done and not self.hv.reports and not self.findings:
            batch = list(islice(self._acts, BATCH))
            self.done = len(batch) < BATCH
            if not batch:
                return
            at = 0
            while at < len(batch) and self.hv.stopped is None and not self.findings:
                reached = self._do(batch[at:])
                self._look(reached)
                at += reached
                self.performed += reached
                if self.hv.reports or (self._off() and not self._again()):
                    return

    def _do(self, batch: list[bytes]) -> int:
        """Have the guest do some steps; how many of them it has done, at least one."""
        hostile = self.guest
        hostile.load(b"".join(batch) + step(Op.REWIND), self.laps)
        hostile.wake()
        broken_off = not self._wait((1 + self.laps) * STEP_TICKS * len(batch) + SECOND // 1000)
        reached = max(1, min(hostile.get(Field.POSITION), len(batch)))
        if not self._off() and not broken_off and hostile.get(Field.IDLE) == 1:
            reached = len(batch)
        elif broken_off and self.hv.stopped is None and not self._off():
            hostile.rescue()
        hostile.collect(reached * (1 + self.laps - min(self.laps, hostile.get(Field.LAPS))))
        return reached

    def _look(self, reached: int) -> None:
        hostile = self.guest
        if not self._off() and hostile.get(Field.IDLE) == 2 and hostile.get(Field.SEEN) == self._secret:
            self.findings.append(f"the guest read a page of another owner, at the latest {reached} steps into a batch")

    def _judge(self) -> None:
        super()._judge()
        if self.hv.stopped is None:
            self.findings += self.canaries.check(self._own_memory())

    def attackers(self) -> Iterable[Vcpu]:
        vcpu = self.guest.vcpu()
        return [] if vcpu is None else [vcpu]


class NativePrimaryAttack(NativeAttack):
    """The guest is the primary VM; in the end RM must still answer it."""

    memory = 32 * MIB
    vcpus = 1

    def __init__(self, acts: Iterable[bytes], *, seed: int = 1) -> None:
        super().__init__(acts, seed=seed)
        primary = NativePrimary(kernel=guest.image())
        self.system = System(primary, seed=seed, clock="virtual", memory=self.memory, vcpus=self.vcpus)
        self.hv = self.system.hypervisor
        self.bystander = Bystander(self.hv)
        self.system.start()
        assert primary.placement is not None
        entry = primary.placement.entry
        self._vcpu = min(
            (vcpu for vcpu in self.hv.vcpus.values() if vcpu.vmid == VMID_HLOS), key=lambda vcpu: vcpu.vic_index
        )
        self.guest = NativeGuest(self.hv.memory, entry, entry, lambda: self._vcpu)
        self.hv.run(lambda: self.bystander.beats > 1 and self.guest.idle, self.hv.clock.ticks() + SECOND)
        self.canaries = Canaries(self.hv, Canaries.places(self.hv), self._secret)
        assert self._vcpu.cspace is not None
        listed = values(self._vcpu.cspace, entry, guest.SIZE, self.canaries.pages)
        self._queues = self._link(primary)
        self._equip(self.guest, listed)
        self.before = ledger_of(self.hv)

    def _link(self, primary: NativePrimary) -> tuple[int, int]:
        from gunyah.guest import fdt

        assert primary.placement is not None
        address = primary.placement.tree
        memory = self.hv.memory
        tree = fdt.parse(memory.read(address, fdt.total_size(memory.read(address, 40))))
        send, receive = next(tree.find_compatible("gunyah-resource-manager")).u64s("reg")[:2]
        return send, receive

    def _again(self) -> bool:
        return False

    def _own_memory(self) -> list[tuple[int, int]]:
        return [(board.HLOS.base, self.memory)]

    def _judge(self) -> None:
        if self.hv.stopped in ("off", "reset"):
            # A primary VM may do that.
            return
        super()._judge()
        self.findings += [f"RM: {line}" for line in self.system.rm.log.errors()]
        if not self.findings:
            answer = self._ask()
            if answer != VMID_HLOS:
                last = list(self.system.rm.log.lines)[-3:]
                self.findings.append(f"the Resource Manager answers {answer}: {last}")

    def _ask(self) -> int | None:
        """Drain RM's queue, ask for the own VMID, and give the answer; None when none comes."""
        hostile, sequence = self.guest, 0xBEEF
        packet = Header(MessageType.REQUEST, MessageId.VM_GET_VMID, sequence).pack()
        hostile.rescue()
        room = hostile.entry + DATA
        take = b"".join([number(1, room), number(2, PACKET_MAX), number(3, 0), step(Op.CALL, RECEIVE)])
        send = b"".join([number(1, len(packet)), number(2, room), number(3, 1), number(4, 0), step(Op.CALL, SEND)])
        rest = b"".join([number(0, 0), number(1, 0), number(2, 0), number(3, 0), step(Op.CALL, YIELD)])
        for attempt in range(400):
            if attempt == 100:
                hostile.put(0, packet)
                self._call(self._queues[0], send)
            error, size = self._call(self._queues[1], take)
            reply = hostile.data(0, PACKET_MAX)[:size]
            if error == 0 and size >= HEADER_SIZE + 8:
                header = Header.unpack(reply)
                if header.type == MessageType.REPLY and header.seq == sequence:
                    return int.from_bytes(reply[HEADER_SIZE + 4 : HEADER_SIZE + 8], "little")
            self._call(0, rest)
        return None

    def _call(self, capability: int, program: bytes) -> tuple[int, int]:
        self.guest.set_x(0, capability)
        self.guest.load(program)
        self.guest.wake()
        self._wait(SECOND)
        x = self.guest.x
        return x[0] & 0xFFFF_FFFF, x[1]

    def bury(self) -> None:
        """Nothing was made, so nothing has to go: what is there is what was there before."""
        if self.hv.stopped is None:
            self._compare()


class NativeCallsAttack(NativePrimaryAttack):
    """A primary VM that makes nothing but calls, the same ones again and again: what each time meets another state."""

    laps = 15

    @staticmethod
    def stream(seed: int, count: int) -> Iterator[bytes]:
        """``count`` acts of a seed."""
        return steps(seed, count, calls=True)


class NativeSmpAttack(NativePrimaryAttack):
    """A primary VM with two vCPUs: a second guest, beside the first one in the same memory, does half of the steps."""

    vcpus = 2
    offset = MIB
    """Where the second guest is, from the first one."""

    def __init__(self, acts: Iterable[bytes], *, seed: int = 1) -> None:
        super().__init__(acts, seed=seed)
        entry = self.guest.entry + self.offset
        other = max((v for v in self.hv.vcpus.values() if v.vmid == VMID_HLOS), key=lambda vcpu: vcpu.vic_index)
        self._guests = (self.guest, NativeGuest(self.hv.memory, entry, entry, lambda: other))
        assert other.cspace is not None
        foreign = [*self.canaries.pages, self.guest.entry, self.guest.entry + guest.CONTROL]
        second = self._guests[1]
        self._switch_on(1)
        self._equip(second, values(other.cspace, entry, guest.SIZE, foreign))
        self.before = ledger_of(self.hv)

    def _switch_on(self, index: int) -> None:
        """PSCI CPU_ON of one by the other."""
        target, by = self._guests[index], self._guests[1 - index]
        by.rescue()
        target.stamp()
        ask = b"".join([number(0, PSCI_CPU_ON_64), number(1, index), number(2, target.entry), number(3, 0)])
        target.load(b"")
        by.load(ask + step(Op.CALL, guest.OTHER_WAYS))
        by.wake()
        self.hv.run(lambda: by.idle and target.idle, self.hv.clock.ticks() + SECOND // 10)
        if by.x[0]:
            self.findings.append(f"CPU_ON of vCPU {index} is refused: {by.x[0]:#x}")

    def _do(self, batch: list[bytes]) -> int:
        second = self._guests[1]
        for index, each in enumerate(self._guests):
            vcpu = each.vcpu()
            if vcpu is not None and vcpu.powered_off:
                self._switch_on(index)
        # The same acts in another order: so a batch says it all.
        middle = len(batch) // 2
        second.load(b"".join(batch[middle:] + batch[:middle]))
        second.wake()
        reached = super()._do(batch)
        if self.hv.stopped is None and not self.hv.reports:
            if not second.idle:
                second.rescue()
            seen = second.get(Field.IDLE) == 2 and second.get(Field.SEEN) == self._secret
            if seen:
                self.findings.append(f"the second vCPU read a page of another owner, {reached} steps into a batch")
            second.collect(min(second.get(Field.POSITION), len(batch)))
        return reached

    def _again(self) -> bool:
        # The other one switches it on, with the next batch.
        return self.hv.stopped is None and not all(v.powered_off for v in self._own_vcpus())

    def _own_vcpus(self) -> list[Vcpu]:
        return [vcpu for vcpu in self.hv.vcpus.values() if vcpu.vmid == VMID_HLOS]

    @property
    def calls(self) -> int:
        return sum(each.calls for each in self._guests)

    def _judge(self) -> None:
        if self.hv.stopped is None and self._off():
            self._switch_on(0)
        super()._judge()


class NativePairAttack(NativeAttack):
    """The guest is a secondary VM of a Linux primary VM, which runs it or leaves that to the hypervisor; another
    secondary VM goes its steady way. What the guest had comes back when it is taken down.
    """

    size = 4 * MIB

    def __init__(self, acts: Iterable[bytes], *, seed: int = 1) -> None:
        super().__init__(acts, seed=seed)
        self.system = System(seed=seed, clock="virtual", memory=64 * MIB, vcpus=2)
        self.hv = self.system.hypervisor
        self.bystander = Bystander(self.hv)
        self.system.start()
        self.steady = Steady(self.system)
        self._settings = VmSettings(
            name="hostile",
            image=guest.image(),
            memory=self.size,
            console="uart" if seed & 1 else "none",
            queues=(QueuePair(0x44),),
            doorbells=(0x42,),
            doorbell_sources=(0x43,),
        )
        # One life before anything is counted: whoever makes room for the first VM keeps it.
        self.vm: PrimaryVm = self.system.primary.vm(self._settings)
        self.vm.start()
        self.vm.deallocate()
        self.hv.run(lambda: self.bystander.beats > 1, self.hv.clock.ticks() + SECOND)
        self.before = ledger_of(self.hv)
        self.canaries = Canaries(self.hv, [*Canaries.places(self.hv), *self.steady.pages], self._secret)
        self.vm.start()
        self._found()

    def _found(self) -> None:
        """Find the guest's memory and vCPU, and equip it."""
        inside = self.vm.inside
        memory = inside._memory
        assert memory is not None
        placement = inside._placement
        base = memory.address + placement.entry - placement.memory[0]
        self._range = memory.address, self.size
        vmid = self.vm.vmid
        vcpu = next(vcpu for vcpu in self.hv.vcpus.values() if vcpu.vmid == vmid)
        self.guest_vcpu = vcpu
        counted = getattr(self, "guest", None)
        self.guest = NativeGuest(
            self.hv.memory, base, placement.entry, lambda: vcpu if vcpu.serial in self.hv.vcpus else None
        )
        if counted is not None:
            self.guest.take_over(counted)
        self.hv.run(lambda: self.guest.idle, self.hv.clock.ticks() + SECOND)
        assert vcpu.cspace is not None
        own = placement.entry
        # What is next to it, what the primary VM has, its own memory where the primary VM has it, and the canaries.
        foreign = [*self.canaries.pages, base, self._range[0] - 4096, board.HLOS.base, placement.memory[0] + self.size]
        self._equip(self.guest, values(vcpu.cspace, own, guest.SIZE, foreign))

    def _again(self) -> bool:
        if self.hv.stopped is not None:
            return False
        # CPU_OFF of the only vCPU tells nobody anything (reference.md 4.2): then it is stopped.
        self.hv.run(lambda: self.vm.exit is not None, self.hv.clock.ticks() + SECOND // 100)
        self.vm.restart()
        self._found()
        return True

    def _own_memory(self) -> list[tuple[int, int]]:
        return [self._range]

    def _judge(self) -> None:
        super()._judge()
        self.findings += [f"RM: {line}" for line in self.system.rm.log.errors()]
        self.findings += [f"Linux: {oops}" for oops in self.system.primary.kernel.oopses]
        if not self.findings:
            self.findings += self.steady.check()
            vmid = self.system.primary.rm.vm_get_vmid()
            if vmid != VMID_HLOS:
                self.findings.append(f"the Resource Manager answers {vmid}")

    def bury(self) -> None:
        """Take the hostile VM down; whatever it had has to come back."""
        self.vm.deallocate()
        if self.vm.status is not VmStatus.NONE:
            self.findings.append(f"the hostile VM does not go: {self.vm}")
        self._compare()
