"""Heaps: what a partition's objects and page tables are allocated from (boot.md 1 and 3, objects.md 2).

A heap is a piece of RAM. Page tables take real pages of it, from its start up; the hypervisor's objects live in
Python, so they only book bytes against what is left. Both together never exceed the heap: past that every allocation
answers NOMEM.

The reference's root heap is 35 MiB, of which 32 MiB become its trace buffer. Here traces are instruments outside guest
memory, so the whole heap serves: enough for 100 VMs with 4 KiB mappings at once.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from gunyah.abi.errors import Error
from gunyah.abi.types import PAGE_SIZE
from gunyah.hypervisor.errors import HypervisorError

if TYPE_CHECKING:
    from gunyah.machine.memory import PhysicalMemory

__all__ = ["RESERVED_PAGES", "Heap"]

RESERVED_PAGES = 64
"""Pages kept for page-table work that must not fail: taking a mapping away may first have to split a block."""


class Heap:
    """A heap over the physical range [base, base + size); bytes, page aligned."""

    def __init__(self, ram: PhysicalMemory, base: int, size: int) -> None:
        if base % PAGE_SIZE or size % PAGE_SIZE or not ram.contains(base, size):
            raise ValueError(f"heap {base:#x}+{size:#x}: must be whole pages of RAM")
        self.ram = ram
        self.base = base
        self.size = size
        self.booked = 0
        """Bytes of objects."""
        self.pages = 0
        """Pages in use by page tables."""
        self._next = base
        self._free: list[int] = []
        self._runs: dict[int, list[int]] = {}

    @property
    def used(self) -> int:
        """Bytes in use, objects and pages."""
        return self.booked + self.pages * PAGE_SIZE

    @property
    def available(self) -> int:
        """Bytes that an ordinary allocation may still take."""
        return max(0, self.size - RESERVED_PAGES * PAGE_SIZE - self.used)

    def book(self, size: int) -> None:
        """Take ``size`` bytes for an object; raises NOMEM."""
        if size > self.available:
            raise HypervisorError(Error.NOMEM, f"heap: {size} bytes wanted, {self.available} of {self.size} are left")
        self.booked += size

    def unbook(self, size: int) -> None:
        """Give ``size`` booked bytes back."""
        if size > self.booked:
            raise ValueError(f"heap: {size} bytes returned, {self.booked} were booked")
        self.booked -= size

    def allocate(self, pages: int = 1, *, reserve: bool = False) -> int:
        """PA of ``pages`` zeroed pages, contiguous and aligned to their size (a power of two); raises NOMEM.

        ``reserve`` lets the allocation dip into the pages kept for work that must not fail.
        """
        size = pages * PAGE_SIZE
        left = self.size - self.used if reserve else self.available
        if size > left:
            raise HypervisorError(Error.NOMEM, f"heap: {pages} pages wanted, {left // PAGE_SIZE} are left")
        if pages == 1 and self._free:
            pa = heapq.heappop(self._free)
        elif pages > 1 and self._runs.get(pages):
            pa = self._runs[pages].pop()
        else:
            pa = -(-self._next // size) * size
            if pa + size > self.base + self.size:
                raise HypervisorError(Error.NOMEM, f"heap: no {pages} aligned pages are left")
            for gap in range(self._next, pa, PAGE_SIZE):
                heapq.heappush(self._free, gap)
            self._next = pa + size
        self.pages += pages
        self.ram.fill(pa, size)
        return pa

    def free(self, pa: int, pages: int = 1) -> None:
        """Return pages that ``allocate`` gave."""
        if pages == 1:
            heapq.heappush(self._free, pa)
        else:
            self._runs.setdefault(pages, []).append(pa)
        self.pages -= pages
