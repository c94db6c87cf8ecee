"""Mapping slots: where an extent is mapped, whether or not it owns every page at the moment (objects.md 3.2).

A slot belongs to one address space. It holds which parts of the extent's physical range stand at which IPA with which
attributes: for a basic extent the whole range at once, for a sparse one any pages as long as they do not overlap.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from gunyah.abi.memory import MappingAttributes

if TYPE_CHECKING:
    from gunyah.hypervisor.addrspace import Addrspace
    from gunyah.hypervisor.memextent import MemExtent

__all__ = ["PIECE_SIZE", "Piece", "Slot"]

PIECE_SIZE = 64
"""Heap bytes that one piece is charged."""


class Piece(NamedTuple):
    """[pa, end) stands at pa + delta, everywhere with the same attributes."""

    pa: int
    end: int
    delta: int
    attributes: MappingAttributes


class Slot:
    """One of an extent's mapping slots; free while ``addrspace`` is None. Physical addresses and bytes."""

    def __init__(self, extent: MemExtent) -> None:
        self.extent = extent
        self.addrspace: Addrspace | None = None
        self.pieces: list[Piece] = []
        # Where each piece starts: to be searched without a call for every comparison.
        self._starts: list[int] = []

    def _first(self, pa: int) -> int:
        """Index of the first piece that ends behind ``pa``."""
        i = bisect_right(self._starts, pa)
        return i - 1 if i and self.pieces[i - 1].end > pa else i

    def find(self, pa: int, size: int) -> tuple[Piece | None, int]:
        """The piece at ``pa`` (or None) and how many of ``size`` bytes are the same from there on."""
        i = self._first(pa)
        if i == len(self.pieces):
            return None, size
        piece = self.pieces[i]
        if piece.pa > pa:
            return None, min(size, piece.pa - pa)
        return piece, min(size, piece.end - pa)

    def overlaps(self, pa: int, size: int) -> bool:
        """True if any page of the range is mapped in this slot."""
        i = self._first(pa)
        return i < len(self.pieces) and self.pieces[i].pa < pa + size

    def matches(self, pa: int, size: int, ipa: int) -> bool:
        """True if all of [pa, pa + size) is mapped at [ipa, ...) in this slot."""
        at, end, delta = pa, pa + size, ipa - pa
        for piece in islice(self.pieces, self._first(pa), None):
            if piece.pa > at or piece.delta != delta:
                return False
            at = piece.end
            if at >= end:
                return True
        return False

    def insert(self, addrspace: Addrspace, pa: int, size: int, ipa: int, attributes: MappingAttributes) -> None:
        """Record a mapping where none overlaps, and take a free slot for ``addrspace``; raises NOMEM."""
        self.extent.charge(PIECE_SIZE)
        i = bisect_left(self._starts, pa)
        self.pieces.insert(i, Piece(pa, pa + size, ipa - pa, attributes))
        self._starts.insert(i, pa)
        if self.addrspace is None:
            self.addrspace = addrspace
            addrspace.slots.add(self)

    def _cut(self, pa: int, size: int) -> tuple[int, int, list[Piece], list[Piece]]:
        """Index range of the pieces that [pa, pa + size) touches, and what stays of the first and the last."""
        end = pa + size
        first = self._first(pa)
        last = bisect_left(self._starts, end)
        head, tail = [], []
        if first < last:
            if self.pieces[first].pa < pa:
                head.append(self.pieces[first]._replace(end=pa))
            if self.pieces[last - 1].end > end:
                tail.append(self.pieces[last - 1]._replace(pa=end))
        return first, last, head, tail

    def _replace(self, first: int, last: int, new: list[Piece]) -> None:
        more = len(new) - (last - first)
        if more > 0:
            self.extent.charge(more * PIECE_SIZE)
        self.pieces[first:last] = new
        self._starts[first:last] = [piece.pa for piece in new]
        if more < 0:
            self.extent.refund(-more * PIECE_SIZE)

    def remove(self, pa: int, size: int) -> None:
        """Forget the range; an empty slot becomes free. NOMEM when a piece has to become two and the heap is full."""
        first, last, head, tail = self._cut(pa, size)
        self._replace(first, last, head + tail)
        if not self.pieces:
            self._free()

    def update(self, pa: int, size: int, user: int, kernel: int) -> None:
        """Change the access of all that is mapped in the range, keeping memory types; raises NOMEM."""
        first, last, head, tail = self._cut(pa, size)
        end = pa + size
        changed = [
            Piece(max(p.pa, pa), min(p.end, end), p.delta, MappingAttributes(user, kernel, p.attributes.memtype))
            for p in self.pieces[first:last]
        ]
        self._replace(first, last, head + changed + tail)

    def clear(self) -> None:
        """Forget everything: the slot is free."""
        if self.pieces:
            self._replace(0, len(self.pieces), [])
        self._free()

    def _free(self) -> None:
        if self.addrspace is not None:
            self.addrspace.slots.discard(self)
            self.addrspace = None
