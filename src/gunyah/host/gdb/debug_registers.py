"""The debug registers of one native vCPU while a debugger uses them, and what its guest reads there meanwhile.

With MDCR_EL2.TDE set, debug exceptions come to EL2 and the guest's accesses to its debug registers trap. MDSCR_EL1 and
the breakpoint registers are the debugger's then; the guest reads and writes copies, which go back when the debugger is
done. Its own breakpoints and single steps do not happen in that time (Arm DDI 0487, D2 and D12.3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gunyah.hypervisor.native_executor import NativeExecutor
from gunyah.machine.engine import MDCR, SYSTEM_REGISTERS, Core, Encoding
from gunyah.machine.engine.debug import BREAKPOINTS, Debug
from gunyah.machine.engine.decode import SysregAccess

__all__ = ["PSTATE_SS", "DebugRegisters"]

PSTATE_SS: Final = 1 << 21
_MDSCR_SS: Final = 1 << 0
_MDSCR_MDE: Final = 1 << 15
_MDSCR: Final = SYSTEM_REGISTERS["MDSCR_EL1"]


def _value(number: int) -> Encoding:
    return Encoding(2, 0, 0, number, 4)


def _control(number: int) -> Encoding:
    return Encoding(2, 0, 0, number, 5)


class DebugRegisters:
    """Taken by the debugger with ``take``, given back with ``give_back``; the vCPU is on the engine for both."""

    def __init__(self, executor: NativeExecutor, core: Core, debug: Debug) -> None:
        self._executor = executor
        self._core = core
        self._debug = debug
        self._guest: dict[Encoding, int] = {}
        self._addresses: list[int] = []
        self.taken = False

    def take(self, addresses: Sequence[int], *, step: bool) -> None:
        """Break at virtual ``addresses`` (at most 6), or execute one instruction and stop, ignoring them."""
        registers = self._executor.context.registers
        if not self.taken:
            self.taken = True
            self._guest[_MDSCR] = registers.read("MDSCR_EL1")
            registers.write("MDCR_EL2", registers.read("MDCR_EL2") | MDCR.TDE)
            self._core.resync()
        if list(addresses) != self._addresses:
            self._set(addresses)
        wanted = _MDSCR_SS if step else _MDSCR_MDE if addresses else 0
        if registers.read("MDSCR_EL1") != wanted or step:
            registers.write("MDSCR_EL1", wanted)
            if step:
                registers.pstate |= PSTATE_SS
                self._core.guest_debug.follow_steps()
            self._core.resync()

    def _set(self, addresses: Sequence[int]) -> None:
        for number in range(BREAKPOINTS):
            before = self._addresses[number] if number < len(self._addresses) else None
            after = addresses[number] if number < len(addresses) else None
            if before == after:
                continue
            if _value(number) not in self._guest:
                value, control = self._debug.breakpoint_registers(number)
                self._guest[_value(number)], self._guest[_control(number)] = value, control
            self._debug.break_at(number, after)
        self._addresses = list(addresses)

    @property
    def consumed(self) -> bool:
        """Whether the instruction of a step has been executed, by the engine or by EL2."""
        return not self._executor.context.registers.pstate & PSTATE_SS

    def stepped(self) -> None:
        """End a step: nothing of it is left in PSTATE."""
        registers = self._executor.context.registers
        registers.pstate &= ~PSTATE_SS
        registers.write("MDSCR_EL1", 0)
        self._core.resync()

    def give_back(self) -> None:
        """Put the guest's own values back; its debug exceptions are its own again."""
        if not self.taken:
            return
        self.taken = False
        registers = self._executor.context.registers
        registers.write("MDSCR_EL1", self._guest.pop(_MDSCR))
        registers.write("MDCR_EL2", registers.read("MDCR_EL2") & ~MDCR.TDE)
        for number in range(BREAKPOINTS):
            if _value(number) in self._guest:
                self._debug.set_breakpoint(number, self._guest[_value(number)], self._guest[_control(number)])
        self._guest.clear()
        self._addresses = []
        self._core.guest_debug.attend()
        self._core.resync()

    def access(self, access: SysregAccess) -> bool:
        """Do a trapped access to a debug register for the guest; False if it is none."""
        register = access.register
        core = self._core
        if register.op0 != 2 or not core.description(register):
            return False
        x = core.registers.x
        if access.is_read:
            value = self._guest[register] if register in self._guest else core.read_sysreg(register)
            if access.rt != 31:
                x[access.rt] = value
        else:
            value = x[access.rt] if access.rt != 31 else 0
            if register == _MDSCR or (register.crn == 0 and register.op1 == 0 and register.op2 in (4, 5)):
                # Kept, and put into the register when the debugger is done with it.
                self._remember(register, value)
            else:
                core.write_sysreg(register, value)
        core.registers.pc += 4
        return True

    def _remember(self, register: Encoding, value: int) -> None:
        if register != _MDSCR and register not in self._guest:
            number = register.crm
            first, second = self._debug.breakpoint_registers(number)
            self._guest[_value(number)], self._guest[_control(number)] = first, second
        self._guest[register] = value
