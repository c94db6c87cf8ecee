"""Noticing that a native guest is lost: it takes exceptions at its own exception vector, one after the other, for ever.

A vector that cannot be executed, or whose first instructions fault, never comes back: the guest spins until its time
is over and nobody knows why. The hypervisor keeps injecting, as the reference's production builds do (objects.md 4.1),
and says so once. Only what stands in the registers when a turn of the vCPU ends is looked at: a synchronous exception
was taken at EL1 from inside the vector entry for synchronous exceptions at EL1, and execution has not left it since.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from gunyah.machine.engine.state import Registers

__all__ = ["LostGuest"]

_ENTRY: Final = 0x200
"""Offset of the vector entry for synchronous exceptions from EL1 with SP_EL1; each entry is 0x80 bytes."""
_OFFSET: Final = 0x780
_TURNS: Final = 3
"""Turns in a row that have to end like this."""

_CLASSES: Final = MappingProxyType(
    {
        0x00: "undefined instruction",
        0x0E: "illegal execution state",
        0x15: "SVC",
        0x21: "instruction abort",
        0x22: "misaligned PC",
        0x25: "data abort",
        0x26: "misaligned SP",
        0x3C: "BRK",
    }
)


class LostGuest:
    """What is known of one vCPU since it was powered on."""

    __slots__ = ("_abort", "_told", "_turns")

    def __init__(self) -> None:
        self._abort: tuple[str, int, int] | None = None
        self._turns = 0
        self._told = False

    def abort(self, kind: str, pc: int, address: int) -> None:
        """The hypervisor lets the guest take an abort at ``pc`` for the virtual ``address``."""
        if pc & _OFFSET != _ENTRY:
            self._abort = kind, pc, address

    def look(self, registers: Registers) -> str | None:
        """A sentence, once, when the turn that has just ended shows that the guest is lost."""
        pc = registers.pc
        if pc & _OFFSET != _ENTRY or self._told:
            self._turns = 0
            return None
        vector = registers.read("VBAR_EL1")
        entry = vector + _ENTRY
        elr = registers.read("ELR_EL1")
        if not entry <= pc <= elr < entry + 0x80 or not registers.current_el:
            self._turns = 0
            return None
        self._turns += 1
        if self._turns < _TURNS:
            return None
        self._told = True
        esr, far = registers.read("ESR_EL1"), registers.read("FAR_EL1")
        kind = _CLASSES.get(esr >> 26, "exception")
        sentence = (
            f"is lost: its exception vector at {entry:#x} (VBAR_EL1 {vector:#x}) only leads to the next exception, "
            f"{kind} at {elr:#x}, ESR_EL1 {esr:#x}, FAR_EL1 {far:#x}"
        )
        if self._abort is not None:
            what, where, address = self._abort
            sentence += f"; before that came a refused {what} of {address:#x} at PC {where:#x}"
        return sentence
