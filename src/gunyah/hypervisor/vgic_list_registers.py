"""Which of several equal interrupts comes first: list registers behind a CPU interface (boot.md 1, objects.md 10.6).

The hardware looks at its four list registers only, and takes the first of those with the highest priority; a level that
is asserted again keeps its register. So the order among interrupts of one priority is that in which they were listed,
not that of their numbers. What is kept here is that order and nothing else: whether an interrupt is pending or active
stands in the interrupt.

An interrupt gets the first register that nobody has, else one whose edge is over and done with, else that of the active
interrupt or of the pending one that matters least. Those without a register wait for one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gunyah.hypervisor.vgic_cpu_interface import CpuInterface
    from gunyah.hypervisor.vgic_state import Interrupt

__all__ = ["COUNT", "ListRegisters"]

COUNT = 4


class ListRegisters:
    """The registers of one vCPU. ``crowded``: an interrupt may wait that has none."""

    __slots__ = ("_registers", "crowded", "owner")

    def __init__(self, owner: CpuInterface) -> None:
        self.owner = owner
        self.crowded = False
        self._registers: list[Interrupt | None] = [None] * COUNT

    def enter(self, irq: Interrupt) -> None:
        """An interrupt starts to wait at the owner; it keeps the register that it has."""
        home = irq.listed_in
        if home is self:
            return
        if home is not None:
            home.leave(irq)
        registers = self._registers
        if registers[0] is None:
            # Nearly always: on the path of every interrupt.
            registers[0] = irq
            irq.listed_in = self
            return
        number = registers.index(None) if None in registers else self._choose(irq)
        if number < 0:
            self.crowded = True
            return
        before = registers[number]
        if before is not None:
            before.listed_in = None
            if before.queue is self.owner:
                self.crowded = True
        registers[number] = irq
        irq.listed_in = self

    def _choose(self, irq: Interrupt) -> int:
        """The register to take from somebody, -1 when all of them matter more."""
        owner = self.owner
        active, lowest_active = -1, -1
        pending, lowest_pending = -1, irq.rank
        for number, other in enumerate(self._registers):
            assert other is not None
            if other.queue is owner:
                if other.rank > irq.rank and other.rank >= lowest_pending:
                    pending, lowest_pending = number, other.rank
            elif other.active_on is not owner:
                return number
            elif other.rank >= lowest_active:
                active, lowest_active = number, other.rank
        return active if active >= 0 else pending

    def leave(self, irq: Interrupt) -> None:
        """The register of an interrupt is free again."""
        if irq.listed_in is self:
            irq.listed_in = None
            registers = self._registers
            registers[0 if registers[0] is irq else registers.index(irq)] = None

    def drop_waiting(self) -> None:
        """What waits has no register any more; what is active keeps its own."""
        for irq in self._registers:
            if irq is not None and irq.queue is self.owner:
                self.leave(irq)

    def clear(self) -> None:
        """All registers are free."""
        for irq in self._registers:
            if irq is not None:
                irq.listed_in = None
        self._registers[:] = [None] * COUNT
        self.crowded = False

    def first(self, group: int, rank: int) -> int | None:
        """INTID of the listed interrupt of ``group`` (0 or 1) and ``rank`` that comes first; None if none waits."""
        owner = self.owner
        for irq in self._registers:
            if irq is not None and irq.rank == rank and irq.queue is owner and irq.group == group:
                return irq.intid
        return None

    def any_pending(self) -> bool:
        """Something that is listed waits."""
        owner = self.owner
        return any(irq is not None and irq.queue is owner for irq in self._registers)
