"""Shared interrupts of one VIC: which SPIs RM has given out (rm-behaviour.md 10)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from gunyah.abi.errors import RmError
from gunyah.abi.vic import SPI_BASE, SPI_LAST
from gunyah.rm.errors import RmFailure

__all__ = ["FREE_IRQ_START", "VirqAllocator"]

FREE_IRQ_START = 960
"""Where RM starts choosing for a VM, upwards; below that from the top down."""


class VirqAllocator:
    """INTIDs first..last of one VIC. Numbers RM picks start at ``start``."""

    def __init__(
        self, *, first: int = SPI_BASE, last: int = SPI_LAST, start: int = FREE_IRQ_START, taken: Iterable[int] = ()
    ) -> None:
        self.first, self.last, self.start = first, last, start
        self.taken: set[int] = set(taken)

    def allocate(self) -> int:
        """A free INTID; raises RmFailure NORESOURCE."""
        for virq in chain(range(self.start, self.last + 1), range(self.start - 1, self.first - 1, -1)):
            if virq not in self.taken:
                self.taken.add(virq)
                return virq
        raise RmFailure(RmError.NORESOURCE, f"all interrupts {self.first}..{self.last} are taken")

    def reserve(self, virq: int) -> int:
        """Take a certain INTID; raises RmFailure NORESOURCE."""
        if not self.first <= virq <= self.last:
            raise RmFailure(RmError.NORESOURCE, f"interrupt {virq} is not one of {self.first}..{self.last}")
        if virq in self.taken:
            raise RmFailure(RmError.NORESOURCE, f"interrupt {virq} is taken")
        self.taken.add(virq)
        return virq

    def free(self, virq: int) -> None:
        """Give an INTID back."""
        self.taken.discard(virq)
