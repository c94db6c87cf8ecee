"""A hostile primary VM beside the real Resource Manager: what an ordinary guest can do to everybody else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gunyah.abi import smccc
from gunyah.abi.hypercalls import BY_NAME, Hypercall
from gunyah.abi.rm import HEADER_SIZE, PACKET_MAX, Header, MessageId, MessageType
from gunyah.abi.types import VMID_HLOS
from gunyah.guest import fdt
from gunyah.guest.cpu import Cpu
from gunyah.hypervisor.ledger import ledger_of
from gunyah.hypervisor.vcpu import Vcpu
from gunyah.primary import ProgramPrimary
from gunyah.system import System
from tools.fuzz.attack import Attack
from tools.fuzz.bystander import Bystander
from tools.fuzz.choices import Choices
from tools.fuzz.hostile import Hostile, Objects

__all__ = ["PrimaryAttack"]

BUFFER = 0x4200_0000
_QUESTIONS = ("VM_GET", "VM_LOOKUP", "VM_CONSOLE", "VM_IRQ", "VM_HOST_GET", "VM_SET_STATUS")
_HARMLESS = tuple(message for message in MessageId if message.name.startswith(_QUESTIONS))
"""Requests by which RM makes nothing that would stay."""
_ENDS = (
    smccc.PSCI_SYSTEM_OFF,
    smccc.PSCI_SYSTEM_RESET,
    smccc.PSCI_CPU_SUSPEND_32,
    smccc.PSCI_CPU_SUSPEND_64,
    smccc.PSCI_CPU_DEFAULT_SUSPEND_32,
    smccc.PSCI_CPU_DEFAULT_SUSPEND_64,
)


class PrimaryAttack(Attack):
    """The primary VM makes calls of all kinds and talks nonsense to RM; in the end RM must still answer."""

    def __init__(self, acts: Iterable[bytes], *, seed: int = 1) -> None:
        super().__init__(acts)
        self.system = System(ProgramPrimary(self._main, name="hostile"), seed=seed, clock="virtual")
        self.hv = self.system.hypervisor
        self.bystander = Bystander(self.hv)
        self.started = False
        self.answer: int | None = None
        self._queues = (0, 0)
        self.system.start()
        self.vcpu = next(vcpu for vcpu in self.hv.vcpus.values() if vcpu.vmid == VMID_HLOS)
        assert self.vcpu.cspace is not None
        self._mind = Hostile(self.vcpu.cspace, self._guard)
        self._mind.special = self._nonsense
        self.minds.append(self._mind)
        self.hv.run(lambda: self.bystander.beats > 1, self.hv.clock.ticks() + 62_500_000)
        self.before = ledger_of(self.hv)
        self.started = True

    def attackers(self) -> Iterable[Vcpu]:
        return [self.vcpu]

    @staticmethod
    def _guard(call: Hypercall, objects: Objects, values: Sequence[int]) -> bool:
        """The primary VM may switch off the machine, and its own vCPU."""
        return call.name != "vcpu_poweroff" and (call.number >= 0 or values[0] not in _ENDS)

    # -- its code ------------------------------------------------------------------------------------------------------

    def _main(self, cpu: Cpu, x0: int) -> None:
        tree = fdt.parse(cpu.read(x0, fdt.total_size(cpu.read(x0, 40))))
        send, receive = next(tree.find_compatible("gunyah-resource-manager")).u64s("reg")[:2]
        self._queues = (send, receive)
        while not self.started:
            cpu.wfi()
        mind = self._mind
        cpu.set_vector(lambda: mind.serve(cpu))
        while (record := self.next_act()) is not None:
            mind.act(cpu, record)
        cpu.irq_masked = True
        self.answer = self._ask(cpu)
        while True:
            cpu.wfi()

    @staticmethod
    def _call(cpu: Cpu, name: str, *values: int) -> tuple[int, int]:
        cpu.x[0:8] = [0] * 8
        cpu.x[: len(values)] = values
        cpu.hvc(BY_NAME[name].hvc)
        return cpu.x[0] & 0xFFFF_FFFF, cpu.x[1]

    def _nonsense(self, cpu: Cpu, choices: Choices) -> None:
        """A packet to RM: a header that is right, nearly right or not at all, and any payload; or take one from RM."""
        self._mind.calls += 1
        if choices.byte() < 100:
            self._call(cpu, "msgqueue_receive", self._queues[1], BUFFER, PACKET_MAX)
            return
        kind = choices.byte()
        if kind < 200:
            header = Header(
                choices.pick((MessageType.REQUEST, MessageType.REQUEST, *MessageType)),
                int(choices.pick(_HARMLESS)) if kind < 150 else choices.word() & 0xFFFF_FFFF,
                choices.half(),
                choices.byte() % 4 if kind & 1 else 0,
            ).pack()
        else:
            header = choices.word().to_bytes(8, "little")
        size = choices.pick((0, 0, 1, 4, 8, 12, 16, 64, 232))
        payload = choices.word().to_bytes(8, "little") * 29
        cpu.write(BUFFER, header + payload[:size])
        self._call(cpu, "msgqueue_send", self._queues[0], HEADER_SIZE + size, BUFFER, choices.byte() & 1)

    def _ask(self, cpu: Cpu) -> int | None:
        """Drain RM's queue, ask for the own VMID, and give the answer; None when none comes."""
        sequence = 0xBEEF
        packet = Header(MessageType.REQUEST, MessageId.VM_GET_VMID, sequence).pack()
        for attempt in range(2000):
            if attempt == 100:
                cpu.write(BUFFER, packet)
                self._call(cpu, "msgqueue_send", self._queues[0], len(packet), BUFFER, 1)
            error, size = self._call(cpu, "msgqueue_receive", self._queues[1], BUFFER, PACKET_MAX)
            if error == 0 and size >= HEADER_SIZE + 8:
                reply = cpu.read(BUFFER, size)
                header = Header.unpack(reply)
                if header.type == MessageType.REPLY and header.seq == sequence:
                    return int.from_bytes(reply[HEADER_SIZE + 4 : HEADER_SIZE + 8], "little")
            self._call(cpu, "scheduler_yield")
        return None

    # -- judgement -----------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        super()._judge()
        self.findings += [f"RM: {line}" for line in self.system.rm.log.errors()]
        if not self.findings:
            self.hv.run(lambda: self.answer is not None, self.hv.clock.ticks() + 6_250_000)
            if self.answer != VMID_HLOS:
                last = list(self.system.rm.log.lines)[-3:]
                self.findings.append(f"the Resource Manager answers {self.answer}: {last}")

    def bury(self) -> None:
        """Nothing was made, so nothing has to go: what is there is what was there before."""
        self._compare()
