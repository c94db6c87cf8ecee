"""What a debugger needs of a core: breakpoints at virtual addresses, and watchpoints on physical memory.

Breakpoints are the architecture's own (DBGBVR<n>_EL1, DBGBCR<n>_EL1), which the engine honours while it translates, so
they cost nothing elsewhere and work before memory is mapped. An access that touches watched memory becomes a watchpoint
exception for EL2 before it happens (`watch`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from .decode import decode_instruction, effective_address
from .guest_debug import BREAKPOINTS
from .registers import Encoding
from .watch import READ, WRITE, Watches

if TYPE_CHECKING:
    from .core import Core

_PAGE: Final = 0xFFF
_ENABLED_FOR_EL0_AND_EL1: Final = 0xF << 5 | 3 << 1 | 1


class Range(NamedTuple):
    """Physical memory to watch: bytes ``address`` to ``address + size - 1``."""

    address: int
    size: int
    read: bool
    write: bool


class Hit(NamedTuple):
    """The access that a watchpoint kept from happening, by physical address."""

    address: int
    size: int
    write: bool


class Debug:
    """Debug facilities of one core."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._lib = core.library
        self._watches: Watches | None = None
        self._ranges: list[Range] = []

    def set_breakpoint(self, number: int, value: int, control: int) -> None:
        """Write a breakpoint register pair (0..5) of the loaded context, with all that follows from it."""
        core = self._core
        core.write_sysreg(Encoding(2, 0, 0, number, 4), value)
        core.write_sysreg(Encoding(2, 0, 0, number, 5), control)
        self._lib.update_breakpoint(core.cpu_state, number)

    def break_at(self, number: int, address: int | None) -> None:
        """Stop the loaded context at virtual ``address``, at EL1 and EL0; None clears the register pair."""
        self.set_breakpoint(number, address or 0, _ENABLED_FOR_EL0_AND_EL1 if address is not None else 0)

    def breakpoint_registers(self, number: int) -> tuple[int, int]:
        """DBGBVR<n>_EL1 and DBGBCR<n>_EL1 of the loaded context."""
        core = self._core
        return core.read_sysreg(Encoding(2, 0, 0, number, 4)), core.read_sysreg(Encoding(2, 0, 0, number, 5))

    def watch(self, ranges: Sequence[Range]) -> None:
        """Watch these ranges and no others, whoever runs, while ``armed``. Not for use while the core runs."""
        if list(ranges) == self._ranges:
            return
        if self._watches is None:
            self._watches = self._core.guest_debug.watches
        self._watches.set(
            [
                (each.address, each.address + each.size - 1, (READ if each.read else 0) | (WRITE if each.write else 0))
                for each in ranges
            ]
        )
        self._ranges = list(ranges)

    @property
    def armed(self) -> bool:
        """Whether watched accesses stop the guest."""
        return self._watches is not None and self._watches.armed

    @armed.setter
    def armed(self, armed: bool) -> None:
        if self._watches is not None:
            self._watches.armed = armed

    def take_hit(self) -> Hit | None:
        """The access of the present watchpoint exception, once; None if none was made here. PC is at it."""
        touch = self._watches.take() if self._watches is not None else None
        if touch is None:
            return None
        registers = self._core.registers
        word = self._core.instruction(registers.pc) if registers.aarch64 else None
        access = decode_instruction(word) if word is not None else None
        if word is None or access is None:
            return Hit(touch.physical, touch.size, touch.write)
        # An unaligned access comes in pieces, bytes or aligned words; what is in the same page is told.
        start = effective_address(word, registers)
        page = touch.address & ~_PAGE
        first, end = max(start, page), min(start + access.size, page + _PAGE + 1)
        return Hit(touch.physical + first - touch.address, max(0, end - first), touch.write)


__all__ = ["BREAKPOINTS", "Debug", "Hit", "Range"]
