"""A native VM that goes its way beside a hostile one: it counts, calls and sleeps, and keeps what it was given."""

from __future__ import annotations

from gunyah.abi.hypercalls import BY_NAME
from gunyah.machine.engine import SYSTEM_REGISTERS
from gunyah.system import System
from gunyah.vmm.vm_config import VmSettings
from tools.fuzz import native_guest as guest
from tools.fuzz.native_guest import Field, NativeGuest, Op, step
from tools.fuzz.native_steps import number

__all__ = ["Steady"]

MIB = 1 << 20
SIZE = 4 * MIB
NOBODY = 0xD15E_A5ED_0B5E_55ED
"""A word that stands nowhere."""
PERIOD_TICKS = 62_500
COUNTER, KEPT = 19, range(20, 28)
IDENTITY = 0x5100_0000_0000_8001
"""X0 of hypervisor_identify (reference.md 2)."""
_IDENTIFY = BY_NAME["hypervisor_identify"].number
_WFI = 0x78
_CANARY_PAGES = (0x6_0000, 0x7_0000, 0x8_0000)
"""Offsets from its first instruction of pages that it never uses."""


def _msr(register: str, source: int) -> bytes:
    op0, op1, crn, crm, op2 = SYSTEM_REGISTERS[register]
    word = 0xD500_0000 | op0 << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5 | source
    return step(Op.RAW, 0, 0, word)


class Steady:
    """The VM, started. ``pages`` are PAs of pages of its own that it leaves alone."""

    def __init__(self, system: System) -> None:
        self._system = system
        settings = VmSettings(name="steady", image=guest.image(), memory=SIZE, console="none", cores=(1,))
        vm = system.primary.vm(settings)
        vm.start()
        memory, placement = vm.inside._memory, vm.inside._placement
        assert memory is not None
        self._base = memory.address + placement.entry - placement.memory[0]
        hv = system.hypervisor
        self._vcpu = next(vcpu for vcpu in hv.vcpus.values() if vcpu.vmid == vm.vmid)
        self._guest = NativeGuest(hv.memory, self._base, placement.entry, lambda: self._vcpu)
        hv.run(lambda: self._guest.idle, hv.clock.ticks() + 1_000_000)
        self._guest.equip([0], bytes(4), NOBODY)
        program = [*(number(register, register * 0x0101_0101) for register in KEPT), number(COUNTER, 0)]
        self._guest.load(b"".join(program))
        self._guest.wake()
        hv.run(lambda: self._guest.idle, hv.clock.ticks() + 1_000_000)
        lap = [step(Op.CALL, _IDENTIFY), step(Op.MOVE, 18, 0), step(Op.MOVE, COUNTER, COUNTER, 1)]
        lap += [number(0, PERIOD_TICKS), _msr("CNTV_TVAL_EL0", 0), number(0, 1), _msr("CNTV_CTL_EL0", 0)]
        lap += [step(Op.CALL, _WFI), _msr("CNTV_CTL_EL0", 31), step(Op.REWIND)]
        self._guest.load(b"".join(lap), laps=1 << 62)
        self._guest.wake()
        self.pages = [self._base + offset for offset in _CANARY_PAGES]
        hv.run(lambda: self.laps > 2, hv.clock.ticks() + 1_000_000)
        self._code = hv.memory.read(self._base, guest.SCRATCH)
        self._tables = hv.memory.read(self._base + guest.TABLES, 0x4000)

    @property
    def laps(self) -> int:
        """How often it has done its steps."""
        return (1 << 62) - self._guest.get(Field.LAPS)

    def check(self) -> list[str]:
        """What is not as it should be, in sentences."""
        hv = self._system.hypervisor
        before, wrong = self.laps, []
        if not hv.run(lambda: self.laps > before + 2, hv.clock.ticks() + 10_000_000):
            wrong.append(f"the steady VM stands still after {before} laps")
        x = self._guest.x
        if [x[register] for register in KEPT] != [register * 0x0101_0101 for register in KEPT]:
            wrong.append("registers of the steady VM changed")
        if x[18] != IDENTITY:
            wrong.append(f"the steady VM was told {x[18]:#x} by hypervisor_identify")
        if abs(x[COUNTER] - self.laps) > 1:
            wrong.append(f"the steady VM counts {x[COUNTER]} in {self.laps} laps")
        if self._guest.get(Field.EXCEPTIONS):
            wrong.append(f"the steady VM took {self._guest.get(Field.EXCEPTIONS)} exceptions")
        if hv.memory.read(self._base, guest.SCRATCH) != self._code:
            wrong.append("the steady VM's code changed")
        if hv.memory.read(self._base + guest.TABLES, 0x4000) != self._tables:
            wrong.append("the steady VM's tables changed")
        return wrong
