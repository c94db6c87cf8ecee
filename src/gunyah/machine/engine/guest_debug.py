"""A vCPU's own debugger: breakpoints, watchpoints and software steps that EL1 takes (Arm DDI 0487, D2).

The engine has breakpoints. Its watchpoints are empty functions, and it notices late that MSR DAIFSet or DAIFClr has
changed PSTATE.D, on which software steps depend. Both are put right here when a vCPU first sets a watchpoint (`watch`)
or asks for steps, so that nobody else pays for it.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from . import unicorn_private as private
from .decode import decode_instruction, effective_address
from .host_code import install
from .registers import EC, ESR_IL, MDCR, SYSTEM_REGISTERS, Encoding
from .watch import WATCHPOINTS, Watches, field_of, watch_pages

if TYPE_CHECKING:
    from .core import Core
    from .intercept import Intercepts
    from .state import Context

__all__ = ["BREAKPOINTS", "WATCHPOINTS", "GuestDebug", "Watchpoint"]

BREAKPOINTS: Final = 6
"""Register pairs of a Cortex-A72."""
_CONTEXT_AWARE: Final = 4
"""The first breakpoint that can compare a context id."""

_MDSCR: Final = SYSTEM_REGISTERS["MDSCR_EL1"]
_SS: Final = 1 << 0
_KDE: Final = 1 << 13
_MDE: Final = 1 << 15
_PSTATE_D: Final = 1 << 9
_LINKED_CONTEXT: Final = 3

# hook(uc, number, block), after an exception: what EL2 did for the vCPU is an instruction of its step
_STEPPED: Final = bytes.fromhex(
    "488b02"  # mov rax, [rdx]            address of target_el
    "833802"  # cmp dword [rax], 2
    "750a"  # jne done
    "488b4208"  # mov rax, [rdx + 8]      address of PSTATE
    "8120ffffdfff"  # and dword [rax], ~(1 << 21)
    "c3"  # done: ret
)

_steppers: list[private.Library] = []
"""Where the step helper has been put in."""


class Watchpoint:
    """What DBGWVR<n>_EL1 and DBGWCR<n>_EL1 ask for."""

    __slots__ = ("control", "first", "last")

    def __init__(self, value: int, control: int) -> None:
        """Reserved combinations watch nothing."""
        self.control = control
        mask = control >> 24 & 31
        if mask:
            self.first = value & ~((1 << mask) - 1)
            self.last = self.first | (1 << mask) - 1
            valid = mask > 2
        else:
            bytes_selected = control >> 5 & (0xF if value & 4 else 0xFF)
            start = (bytes_selected & -bytes_selected).bit_length() - 1
            run = bytes_selected >> start if bytes_selected else 0
            size = (~run & run + 1).bit_length() - 1
            self.first = (value & ~3) + start
            self.last = self.first + size - 1
            valid = bool(bytes_selected)
        if not valid or not control & 1:
            self.control = 0

    def hit(self, first: int, last: int, *, write: bool, user: bool) -> bool:
        """Whether an access to these bytes at EL1, or at EL0, is one to stop at; links are not looked at."""
        control = self.control
        kind, privilege, security = control >> 3 & 3, control >> 1 & 3, control >> 14 & 3
        return (
            bool(kind & (2 if write else 1))
            and bool(privilege & (2 if user else 1))
            and security != 2
            and first <= self.last
            and last >= self.first
        )


class GuestDebug:
    """Debug registers of the vCPUs of one core."""

    def __init__(self, core: Core, intercepts: Intercepts) -> None:
        self._core = core
        self._fault_address = private.u64_at(core.registers.address + core.library.offsets.env_vaddress)
        self._values = [field_of(core, Encoding(2, 0, 0, n, 6)) for n in range(WATCHPOINTS)]
        self._controls = [field_of(core, Encoding(2, 0, 0, n, 7)) for n in range(WATCHPOINTS)]
        self._breakpoints = [field_of(core, Encoding(2, 0, 0, n, 5)) for n in range(BREAKPOINTS)]
        self._stepping = False
        self._keep: list[object] = []
        self._watches: Watches | None = None
        intercepts.patch(_MDSCR, write=self._write_mdscr)
        for n in range(WATCHPOINTS):
            intercepts.patch(Encoding(2, 0, 0, n, 6), write=self._writer(self._values[n], value=True))
            intercepts.patch(Encoding(2, 0, 0, n, 7), write=self._writer(self._controls[n], value=False))

    @property
    def watches(self) -> Watches:
        """EL2's own watches on this core's memory; raises `EngineUnavailable`."""
        if self._watches is None:
            self._watches = Watches(self._core)
        return self._watches

    # -- registers -----------------------------------------------------------------------------------------------------

    def _write_mdscr(self, value: int) -> None:
        self._core.registers.write(_MDSCR, value)
        self.attend()

    def _writer(self, slot: int, *, value: bool) -> Callable[[int], None]:
        core = self._core

        def write(number: int) -> None:
            if value:
                # As if sign-extended from bit 48; a word's address.
                number = (number & 0x1_FFFF_FFFF_FFFC) - ((number & 1 << 48) << 1)
            core.registers.words[slot] = number
            self.attend()
            core.library.tlb_flush(core.cpu_state)

        return write

    def attend(self) -> None:
        """Do what the loaded vCPU's debug registers need; for whoever has written them from outside."""
        words = self._core.registers.words
        if any(words[slot] & 1 for slot in self._controls):
            watch_pages(self._core)
        if self._core.registers.read(_MDSCR) & _SS:
            self.follow_steps()

    # -- software steps ------------------------------------------------------------------------------------------------

    def follow_steps(self) -> None:
        """Let instructions that EL2 completes be steps, from now on; for EL2's own steps too."""
        if self._stepping:
            return
        self._stepping = True
        core = self._core
        library = core.library
        if library not in _steppers:
            _steppers.append(library)
            header = struct.pack("<QI", private.address_of(library.rebuild_hflags), library.offsets.fields[_MDSCR])
            install(library, "step_state", "cpu_get_tb_cpu_state_aarch64", header)
        env = core.registers.address
        block = (ctypes.c_uint64 * 2)(env + library.offsets.env_target_el, env + library.offsets.env_pstate)
        self._keep.append(block)
        core.check(
            library.hook_add(
                core.handle,
                ctypes.addressof(ctypes.c_size_t()),
                private.UC_HOOK_INTR,
                core.code.place(_STEPPED),
                ctypes.addressof(block),
                1,
                0,
            ),
            "software steps cannot be completed",
        )

    # -- watchpoints ---------------------------------------------------------------------------------------------------

    def syndrome(self, address: int, size: int, *, write: bool, unprivileged: bool) -> int:
        """ESR of the watchpoint exception that EL1 takes instead of this access, 0 if there is none."""
        core = self._core
        registers = core.registers
        mdscr = registers.read(_MDSCR)
        level = registers.current_el
        if not mdscr & _MDE or registers.read("MDCR_EL2") & MDCR.TDE:
            # Debug exceptions are off, or EL2's business.
            return 0
        if level and (not mdscr & _KDE or registers.read("DAIF") & _PSTATE_D):
            return 0
        if not write and registers.aarch64:
            # The two halves of an unaligned load come here as whole words.
            word = core.instruction(registers.pc)
            access = decode_instruction(word) if word is not None else None
            if word is not None and access is not None:
                address, size = effective_address(word, registers), access.size
        first, last = address, address + size - 1
        for n in range(WATCHPOINTS):
            watchpoint = Watchpoint(registers.words[self._values[n]], registers.words[self._controls[n]])
            user = unprivileged or not level
            if watchpoint.hit(first, last, write=write, user=user) and self._linked(watchpoint.control):
                self._fault_address.value = max(first, watchpoint.first)
                kind = EC.WATCHPOINT_LOWER + (1 if level else 0)
                return kind << 26 | ESR_IL | (1 << 6 if write else 0) | 0x22
        return 0

    def _linked(self, control: int) -> bool:
        """Whether the context is the one that a watchpoint's linked breakpoint wants, if it has one."""
        if not control >> 20 & 1:
            return True
        number = control >> 16 & 15
        if not _CONTEXT_AWARE <= number < BREAKPOINTS:
            return False
        value = self._core.read_sysreg(Encoding(2, 0, 0, number, 4))
        linked = self._core.read_sysreg(Encoding(2, 0, 0, number, 5))
        if not linked & 1 or linked >> 20 & 15 != _LINKED_CONTEXT:
            return False
        return (self._core.registers.read("CONTEXTIDR_EL1") ^ value) & 0xFFFF_FFFF == 0

    # -- the end -------------------------------------------------------------------------------------------------------

    def has_breakpoints(self, context: Context) -> bool:
        """Whether a vCPU has any that are enabled: the engine keeps a list of them, for all vCPUs."""
        return any(context.registers.words[slot] & 1 for slot in self._breakpoints)

    def forget_breakpoints(self) -> None:
        """Clear those of the loaded vCPU, which goes away."""
        core = self._core
        for n, slot in enumerate(self._breakpoints):
            core.registers.words[slot] = 0
            core.library.update_breakpoint(core.cpu_state, n)
