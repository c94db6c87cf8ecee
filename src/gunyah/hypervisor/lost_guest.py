"""Noticing that a native guest is lost: it spins for ever, and nobody would know why.

The hypervisor lets such a guest spin, as the reference's production builds do (objects.md 4.1), and says so once, in
one sentence. Only what stands in the registers when turns of the vCPU end is looked at, so this costs nothing while
guest code runs. Four things are known for what they are:

* the exception vector leads to the next exception: execution never leaves the entry for exceptions of EL1 itself;
* one and the same exception at EL1 is taken again and again, in whatever way handlers contribute to that;
* an interrupt is taken again as soon as its handler returns, and what it interrupts gets nowhere;
* interrupts are masked, and nothing happens any more: no exception, no register changes; or one is pending and the
  guest goes on without ever letting it in.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from gunyah.machine.board import COUNTER_FREQUENCY

if TYPE_CHECKING:
    from gunyah.machine.engine.state import Registers

__all__ = ["LostGuest"]

_ENTRY: Final = 0x200
"""Offset of the vector entry for synchronous exceptions from EL1 with SP_EL1; each entry is 0x80 bytes."""
_OFFSET: Final = 0x780
VECTOR_TURNS: Final = 3
"""Turns in a row that have to end in the vector entry."""
LOOP_TURNS: Final = 100
LOOP_SECONDS: Final = 2.0
"""Turns in a row, and run time of the vCPU in them, that have to end with the same exception."""
STILL_SECONDS: Final = 5.0
"""Run time with interrupts masked in which nothing happens."""
PENDING_SECONDS: Final = 15.0
"""Run time with interrupts masked although one is pending."""
_SPAN: Final = 64
"""Bytes of code that a guest which only waits may go round in."""

_SVC: Final = 0x15
_CLASSES: Final = MappingProxyType(
    {
        0x00: "undefined instruction",
        0x0E: "illegal execution state",
        _SVC: "SVC",
        0x21: "instruction abort",
        0x22: "misaligned PC",
        0x25: "data abort",
        0x26: "misaligned SP",
        0x3C: "BRK",
    }
)
_LOWER: Final = frozenset({0x20, 0x24})
"""Classes of exceptions that come from EL0 alone."""


class _Streak:
    """Turns in a row that look alike."""

    __slots__ = ("key", "since", "turns")

    def __init__(self) -> None:
        self.key: object = None
        self.since = 0
        self.turns = 0

    def lasts(self, key: object, run_ticks: int) -> int:
        """One more turn; run time in ticks since the first one that looked like it."""
        if key != self.key:
            self.key, self.since, self.turns = key, run_ticks, 0
        self.turns += 1
        return run_ticks - self.since

    def end(self) -> None:
        """This turn does not."""
        self.key = None


class LostGuest:
    """What is known of one vCPU since it was powered on."""

    __slots__ = ("_abort", "_loop", "_masked", "_pending", "_still", "_told", "_turns")

    def __init__(self) -> None:
        self._abort: tuple[str, int, int] | None = None
        self._turns = 0
        self._told = False
        self._masked = False
        self._loop, self._still, self._pending = _Streak(), _Streak(), _Streak()

    def abort(self, kind: str, pc: int, address: int) -> None:
        """The hypervisor lets the guest take an abort at ``pc`` for the virtual ``address``."""
        if pc & _OFFSET != _ENTRY:
            self._abort = kind, pc, address

    def look(self, registers: Registers, run_ticks: int, *, waits: bool, pending: bool) -> str | None:
        """A sentence, once, when the turn that has just ended shows that the guest is lost.

        ``run_ticks`` is the run time of the vCPU, ``waits`` whether it is blocked now, ``pending`` whether its
        interrupt line is high.
        """
        if waits or self._told or not registers.irq_masked:
            # A guest that lets interrupts in can help itself.
            self._turns = 0
            self._masked = False
            return None
        sentence = self._vector(registers)
        if not self._masked:
            self._masked = True
            for streak in (self._loop, self._still, self._pending):
                streak.end()
        elif sentence is None:
            sentence = (
                self._same_exception(registers, run_ticks)
                or self._nothing(registers, run_ticks)
                or self._interrupt(registers, run_ticks, pending)
            )
        registers.forget_exception()
        self._told = sentence is not None
        return sentence

    def _vector(self, registers: Registers) -> str | None:
        pc = registers.pc
        vector = registers.read("VBAR_EL1")
        entry = vector + _ENTRY
        elr = registers.elr_el1
        if not entry <= pc <= elr < entry + 0x80 or not registers.current_el:
            self._turns = 0
            return None
        self._turns += 1
        if self._turns < VECTOR_TURNS:
            return None
        return (
            f"is lost: its exception vector at {entry:#x} (VBAR_EL1 {vector:#x}) only leads to the next exception, "
            f"{self._exception(registers)}"
        )

    def _exception(self, registers: Registers) -> str:
        esr, far = registers.read("ESR_EL1"), registers.read("FAR_EL1")
        kind = _CLASSES.get(esr >> 26, "exception")
        words = f"{kind} at {registers.elr_el1:#x}, ESR_EL1 {esr:#x}, FAR_EL1 {far:#x}"
        if self._abort is not None:
            what, where, address = self._abort
            words += f"; before that came a refused {what} of {address:#x} at PC {where:#x}"
        return words

    def _same_exception(self, registers: Registers, run_ticks: int) -> str | None:
        esr, elr = registers.read("ESR_EL1"), registers.elr_el1
        synchronous = registers.exception_syndrome is not None
        kind = esr >> 26
        if (
            registers.exception_el != 1
            or not registers.spsr_el1 & 0xF
            or (synchronous and (kind in _LOWER or kind == _SVC))
        ):
            self._loop.end()
            return None
        time = self._loop.lasts((elr, esr, synchronous), run_ticks)
        if self._loop.turns < LOOP_TURNS or time < LOOP_SECONDS * COUNTER_FREQUENCY:
            return None
        if synchronous:
            return f"is lost: it takes the same exception again and again, {self._exception(registers)}"
        return f"is lost: it takes interrupts at {elr:#x} one after the other, and what they interrupt gets nowhere"

    def _nothing(self, registers: Registers, run_ticks: int) -> str | None:
        if registers.exception_el is not None:
            self._still.end()
            return None
        pc = registers.pc
        time = self._still.lasts((pc // _SPAN, registers.sp, bytes(registers.x)), run_ticks)
        if time < STILL_SECONDS * COUNTER_FREQUENCY:
            return None
        return f"spins at {pc:#x} with its interrupts masked, and only another vCPU's store could end that"

    def _interrupt(self, registers: Registers, run_ticks: int, pending: bool) -> str | None:
        if not pending:
            self._pending.end()
            return None
        time = self._pending.lasts(True, run_ticks)
        if time < PENDING_SECONDS * COUNTER_FREQUENCY:
            return None
        return (
            f"has run for {PENDING_SECONDS:g} s with its interrupts masked although one is pending; "
            f"it is at {registers.pc:#x} now"
        )
