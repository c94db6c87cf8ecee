"""The memory ownership database: exactly one owner for every physical page (objects.md 2).

A transfer names the old and the new owner and happens only if the old one owns the whole range; otherwise nothing
changes. The database is a sorted list of boundaries, each with the owner of everything up to the next one; neighbours
never have the same owner.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from enum import Enum
from itertools import pairwise
from typing import NamedTuple

from gunyah.abi.errors import Error
from gunyah.hypervisor.errors import HypervisorError

__all__ = ["NOBODY", "MemoryDatabase", "Owner", "OwnerKind"]


class OwnerKind(Enum):
    """memdb_type_t."""

    NONE = "none"
    PARTITION = "partition"
    PARTITION_UNMAPPABLE = "partition, not mappable"
    ALLOCATOR = "allocator"
    EXTENT = "extent"
    TRACE = "trace"


class Owner(NamedTuple):
    """An owner: its kind and the object that holds the memory (a partition, an extent, or None)."""

    kind: OwnerKind
    holder: object

    def __str__(self) -> str:
        return str(self.holder) if self.kind is OwnerKind.EXTENT else f"{self.kind.value} {self.holder or ''}".strip()


NOBODY = Owner(OwnerKind.NONE, None)
"""The owner of what is not RAM, or not known."""


class MemoryDatabase:
    """Owners of physical memory. Addresses are PA, sizes bytes; both are the caller's to keep page aligned."""

    def __init__(self) -> None:
        self._starts: list[int] = [0]
        self._owners: list[Owner] = [NOBODY]
        # The reference keeps a radix tree, four bits a level, over what it knows: an address outside the tree is
        # refused as an address (22), one inside it as not owned (111).
        self._bits = 4

    # -- queries -------------------------------------------------------------------------------------------------------

    def owner_at(self, pa: int) -> Owner:
        """Owner of the page that holds ``pa``."""
        return self._owners[bisect_right(self._starts, pa) - 1]

    def is_owned(self, pa: int, size: int, owner: Owner) -> bool:
        """True if ``owner`` owns all of [pa, pa + size)."""
        i = bisect_right(self._starts, pa) - 1
        return self._owners[i] == owner and (i + 1 == len(self._starts) or self._starts[i + 1] >= pa + size)

    def owned(self, owner: Owner, pa: int, size: int) -> Iterator[tuple[int, int]]:
        """(PA, bytes) of the parts of [pa, pa + size) that ``owner`` owns now, ascending.

        The parts are collected first: the caller may transfer while it goes through them.
        """
        end = pa + size
        first = bisect_right(self._starts, pa) - 1
        last = bisect_left(self._starts, end)
        parts: list[tuple[int, int]] = []
        for i in range(first, last):
            if self._owners[i] == owner:
                low = max(pa, self._starts[i])
                high = end if i + 1 == len(self._starts) else min(end, self._starts[i + 1])
                parts.append((low, high - low))
        return iter(parts)

    def ranges_of(self, owner: Owner) -> Iterator[tuple[int, int]]:
        """(PA, bytes) of everything that ``owner`` owns, ascending."""
        return ((pa, size) for pa, size, found in self.ranges() if found == owner)

    def ranges(self) -> Iterator[tuple[int, int, Owner]]:
        """(PA, bytes, owner) of all owned memory, ascending."""
        for i, owner in enumerate(self._owners):
            if owner != NOBODY:
                yield self._starts[i], self._starts[i + 1] - self._starts[i], owner

    # -- changes -------------------------------------------------------------------------------------------------------

    def insert(self, pa: int, size: int, owner: Owner) -> None:
        """Make memory known that nobody owns yet; raises MEMDB_NOT_OWNER if somebody does."""
        if size <= 0:
            raise ValueError(f"memory database: {size} bytes at {pa:#x}")
        if not self.is_owned(pa, size, NOBODY):
            raise self._not_owner(pa, size, NOBODY)
        while (pa + size - 1) >> self._bits:
            self._bits += 4
        self._assign(pa, size, owner)

    def transfer(self, pa: int, size: int, old: Owner, new: Owner) -> None:
        """Move the whole range from ``old`` to ``new``, or raise and change nothing.

        MEMDB_NOT_OWNER (111): somebody else owns part of it. ADDR_INVALID (22): it lies outside all known memory.
        """
        if size <= 0:
            raise ValueError(f"memory database: {size} bytes at {pa:#x}")
        if not self.is_owned(pa, size, old):
            if (pa + size - 1) >> self._bits or self.is_owned(pa, size, NOBODY):
                raise HypervisorError(
                    Error.ADDR_INVALID, f"physical memory {pa:#x}..{pa + size:#x} is not known to the hypervisor"
                )
            raise self._not_owner(pa, size, old)
        self._assign(pa, size, new)

    def _not_owner(self, pa: int, size: int, old: Owner) -> HypervisorError:
        at = pa
        while self.owner_at(at) == old:
            at = self._starts[bisect_right(self._starts, at)]
        return HypervisorError(
            Error.MEMDB_NOT_OWNER,
            f"physical memory {pa:#x}..{pa + size:#x}: {self.owner_at(at)} owns {at:#x}, not {old}",
        )

    def _assign(self, pa: int, size: int, owner: Owner) -> None:
        """Replace whatever covers [pa, pa + size) by one interval, and join it with equal neighbours."""
        starts, owners = self._starts, self._owners
        end = pa + size
        first = bisect_left(starts, pa)
        after = bisect_right(starts, end)
        tail = owners[after - 1]
        new_starts, new_owners = [], []
        if first == 0 or owners[first - 1] != owner:
            new_starts.append(pa)
            new_owners.append(owner)
        if tail != owner:
            new_starts.append(end)
            new_owners.append(tail)
        starts[first:after] = new_starts
        owners[first:after] = new_owners

    def check(self) -> None:
        """Raise AssertionError unless the invariants of the representation hold; for tests and ``--check`` runs."""
        assert self._starts[0] == 0
        assert all(a < b for a, b in pairwise(self._starts)), "boundaries not ascending"
        assert all(a != b for a, b in pairwise(self._owners)), "equal neighbours"
        assert self._owners[-1] == NOBODY, "memory without end"
