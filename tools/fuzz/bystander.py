"""A VM that has nothing to do with a hostile one, and notices if anything of it changes.

It owns memory, a message queue with messages in it, a doorbell and a vCPU, all under capabilities that nobody else
has. Its code wakes up every millisecond of the machine's clock and looks whether all is as it left it.
"""

from __future__ import annotations

from gunyah.abi import pyimage
from gunyah.abi.hypercalls import BY_NAME
from gunyah.abi.memory import (
    Access,
    MapMemtype,
    MappingAttributes,
    MemextentAttributes,
    MemextentMemtype,
    MemextentType,
)
from gunyah.guest.cpu import Cpu, GuestAbort, GuestUndefined
from gunyah.hypervisor.addrspace import Addrspace
from gunyah.hypervisor.cspace import CSpace
from gunyah.hypervisor.doorbell import Doorbell
from gunyah.hypervisor.hypervisor import Hypervisor
from gunyah.hypervisor.memextent import MemExtent
from gunyah.hypervisor.msgqueue import MsgQueue
from gunyah.hypervisor.objects import KernelObject
from gunyah.hypervisor.python_executor import Program
from gunyah.hypervisor.vcpu import Vcpu
from gunyah.hypervisor.vic import Vic

__all__ = ["Bystander"]

VMID = 254
MEMORY, SIZE = 0xA000_0000, 0x4_0000
IPA = 0x4000_0000
DATA = IPA + 0x1000
BUFFER = IPA + SIZE - 0x1000
PRIORITY = 62
CORE = 7
PERIOD_TICKS = 62_500
TIMER_PPI = 27
FLAGS = 0x5A5A_0000_1234_4321
MESSAGES = tuple(bytes([number]) * (8 * number + 8) for number in range(4))


def _pattern(size: int) -> bytes:
    return bytes((at * 7 + (at >> 8) * 13) & 0xFF for at in range(256)) * (size // 256)


class Bystander:
    """Built by hand as the root VM is, so that no capability to any of it exists outside its own space."""

    def __init__(self, hv: Hypervisor) -> None:
        self.hv = hv
        self.beats = 0
        self.pattern = _pattern(SIZE - 0x2000)
        root = hv.root_partition
        program = Program("bystander", self._main, lambda esr, far, text: GuestAbort(esr, far, text), GuestUndefined)
        image = pyimage.pack(hv.register_program(program))
        self.space = CSpace(root, bytes(range(32)))
        self.space.configure(16)
        self.space.activate()
        self.extent = MemExtent(root)
        self.extent.configure(
            MEMORY, SIZE, MemextentAttributes(Access.RWX, MemextentMemtype.ANY, MemextentType.BASIC).pack()
        )
        self.extent.activate()
        self.addrspace = Addrspace(root)
        self.addrspace.configure(VMID)
        self.addrspace.activate()
        self.extent.map(self.addrspace, IPA, MappingAttributes(Access.RWX, Access.RWX, MapMemtype.NORMAL_WB))
        self.vic = Vic(root, hv)
        self.vic.configure(1, 8, 0, 0)
        self.vic.activate()
        self.queue = MsgQueue(root)
        self.queue.configure(240 << 16 | 8)
        self.queue.activate()
        self.doorbell = Doorbell(root)
        self.doorbell.activate()
        self.vcpu = Vcpu(root, hv)
        self.vcpu.name = "bystander"
        self.vcpu.affinity = CORE
        self.vcpu.priority = PRIORITY
        self.vcpu.attach_cspace(self.space)
        self.addrspace.attach_thread(self.vcpu)
        self.vic.attach_vcpu(self.vcpu, 0)
        self.vcpu.activate()
        self.queue_id = self._give(self.queue)
        self.doorbell_id = self._give(self.doorbell)
        hv.memory.write(MEMORY, image)
        self.vcpu.power_on(IPA, 0)
        self._extent_state = self._state_of_memory()

    def _give(self, obj: KernelObject) -> int:
        obj.get()
        return self.space.create_master(obj)

    # -- its code ------------------------------------------------------------------------------------------------------

    def _main(self, cpu: Cpu, x0: int) -> None:
        cpu.write(DATA, self.pattern)
        for message in MESSAGES:
            self._send(cpu, message)
        self._call(cpu, "doorbell_send", self.doorbell_id, FLAGS, 0)
        self._enable_timer(cpu)
        kept = [(number << 32) * 0x1111 + number for number in range(31)]
        while True:
            cpu.x[:] = kept
            cpu.msr("CNTV_TVAL_EL0", PERIOD_TICKS)
            cpu.msr("CNTV_CTL_EL0", 1)
            cpu.wfi()
            cpu.msr("CNTV_CTL_EL0", 0)
            while (intid := cpu.mrs("ICC_IAR1_EL1")) < 1020:
                assert intid == TIMER_PPI, f"interrupt {intid} that nobody of this VM raised"
                cpu.msr("ICC_EOIR1_EL1", intid)
            assert list(cpu.x) == kept, "registers changed"
            self._look(cpu)
            self.beats += 1

    @staticmethod
    def _enable_timer(cpu: Cpu) -> None:
        sgi = 0x080A_0000 + 0x1_0000
        cpu.store(0x0800_0000, 2, 4)
        cpu.store(sgi + 0x80, 0xFFFF_FFFF, 4)
        cpu.store(sgi + 0x400 + TIMER_PPI, 0x80, 1)
        cpu.store(sgi + 0x100, 1 << TIMER_PPI, 4)
        cpu.msr("ICC_PMR_EL1", 0xFF)
        cpu.msr("ICC_IGRPEN1_EL1", 1)

    def _look(self, cpu: Cpu) -> None:
        start = self.beats * 0x1000 % len(self.pattern)
        assert cpu.read(DATA + start, 0x1000) == self.pattern[start : start + 0x1000], "memory changed"
        message = MESSAGES[self.beats % len(MESSAGES)]
        error, size, more = self._call(cpu, "msgqueue_receive", self.queue_id, BUFFER, 240, 0)
        assert (error, size, more) == (0, len(message), 1), f"receive answers {error}, {size}, {more}"
        assert cpu.read(BUFFER, size) == message, "a message changed"
        self._send(cpu, message)
        error, flags, _ = self._call(cpu, "doorbell_receive", self.doorbell_id, 1 << 63, 0)
        assert (error, flags) == (0, FLAGS), f"the doorbell answers {error}, {flags:#x}"

    def _send(self, cpu: Cpu, message: bytes) -> None:
        cpu.write(BUFFER, message)
        answer = self._call(cpu, "msgqueue_send", self.queue_id, len(message), BUFFER, 0, 0)
        assert answer[:2] == (0, 1), f"send answers {answer}"

    @staticmethod
    def _call(cpu: Cpu, name: str, *arguments: int) -> tuple[int, int, int]:
        cpu.x[: len(arguments)] = arguments
        cpu.hvc(BY_NAME[name].hvc)
        x = cpu.x
        return x[0], x[1], x[2]

    # -- from outside --------------------------------------------------------------------------------------------------

    def _state_of_memory(self) -> object:
        leaves = tuple((leaf.ipa, leaf.pa, leaf.size, leaf.attributes) for leaf in self.addrspace.tables.leaves())
        return tuple(self.extent.owned()), leaves, self.addrspace.devices, tuple(self.addrspace.threads)

    def check(self) -> list[str]:
        """What is not as it was, in sentences."""
        wrong = []
        if self.hv.memory.read(MEMORY + 0x1000, len(self.pattern)) != self.pattern:
            wrong.append("the bystander's memory changed")
        if self._state_of_memory() != self._extent_state:
            wrong.append("ownership or mappings of the bystander's memory changed")
        if sorted(self.queue.messages) != sorted(MESSAGES):
            wrong.append("the bystander's queue changed")
        if self.doorbell.flags != FLAGS:
            wrong.append(f"the bystander's doorbell has flags {self.doorbell.flags:#x}")
        if len(self.space.capabilities_held) != 2:
            wrong.append("the bystander's capabilities changed")
        if self.vcpu.powered_off or self.vcpu.killed or self.vcpu.affinity != CORE:
            wrong.append("the bystander's vCPU was touched")
        return wrong
