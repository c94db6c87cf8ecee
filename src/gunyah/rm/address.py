"""IPA ranges of one VM: which are taken, which are free, and which carry a tag from IPA_RESERVE (rm-rpc.md 11).

Addresses are IPAs, sizes bytes, both multiples of 4096. Automatic allocation stays out of the ranges reserved for
devices; a caller that names an address may use them (a VM's base memory or a device window may lie anywhere).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

__all__ = ["AddressAllocator", "AddressUnavailable", "MEGABYTES_2", "Tag", "default_alignment"]

MEGABYTES_2 = 0x20_0000
_PAGE = 4096
_ECC, _TAGGED = 1, 2
TAGS_MAX = 256
"""Reserved ranges of one VM."""


class AddressUnavailable(Exception):
    """The range is taken, outside the space, or no free range is large enough."""


class Range(NamedTuple):
    """``base`` inclusive, ``end`` exclusive."""

    base: int
    end: int


@dataclass(frozen=True, slots=True)
class Tag:
    """Properties the memory behind a reserved range must have: constraint words of IPA_RESERVE."""

    generic: int
    platform: int

    @property
    def demands_more_than_normal(self) -> bool:
        """ECC or tagged memory, which this board has not."""
        return bool(self.generic & (_ECC | _TAGGED))

    def __str__(self) -> str:
        return f"memory with constraints {self.generic:#x}, {self.platform:#x}"


def default_alignment(size: int) -> int:
    """2 MiB for ranges of at least that, else a page (rm-rpc.md 8.4)."""
    return MEGABYTES_2 if size >= MEGABYTES_2 else _PAGE


class AddressAllocator:
    """First-fit allocator over [base, base + size)."""

    def __init__(self, base: int, size: int, reserved: Iterable[tuple[int, int]] = ()) -> None:
        self.space = Range(base, base + size)
        self.reserved = [Range(start, start + length) for start, length in reserved]
        self._taken: list[Range] = []
        self._tags: dict[Range, Tag] = {}

    def keep_clear(self, base: int, size: int) -> None:
        """Leave a range to callers that name it: automatic allocation goes around it from now on."""
        if size > 0:
            self.reserved.append(Range(base, base + size))

    def _overlaps(self, wanted: Range) -> bool:
        index = bisect_left(self._taken, (wanted.base,))
        if index < len(self._taken) and self._taken[index].base < wanted.end:
            return True
        return index > 0 and self._taken[index - 1].end > wanted.base

    def _take(self, wanted: Range) -> None:
        """Enter a free range, merged with its neighbours: many pieces in a row stay one entry."""
        taken = self._taken
        index = bisect_left(taken, wanted)
        base, end = wanted
        if index < len(taken) and taken[index].base == end:
            end = taken.pop(index).end
        if index and taken[index - 1].end == base:
            index -= 1
            base = taken.pop(index).base
        taken.insert(index, Range(base, end))

    def is_free(self, base: int, size: int) -> bool:
        """Whether a fixed allocation of the range would succeed."""
        wanted = Range(base, base + size)
        return self.space.base <= base and size > 0 and wanted.end <= self.space.end and not self._overlaps(wanted)

    def _lowest(self, size: int, step: int) -> int:
        blocks = sorted([*self._taken, *self.reserved, *self._tags])
        at = self._align(self.space.base, step)
        for block in blocks:
            if at + size <= block.base:
                break
            at = max(at, self._align(block.end, step))
        if size <= 0 or at + size > self.space.end:
            raise AddressUnavailable(f"no free {size:#x} bytes aligned to {step:#x} in this VM's address space")
        return at

    def allocate(self, size: int, alignment: int | None = None) -> int:
        """The lowest free address that fits; raises AddressUnavailable."""
        at = self._lowest(size, alignment or default_alignment(size))
        self._take(Range(at, at + size))
        return at

    def allocate_each(self, sizes: Sequence[int]) -> list[int]:
        """What `allocate` would give for each size in turn, but all or none."""
        if len(sizes) > 1 and all(0 < size < MEGABYTES_2 for size in sizes):
            total = sum(sizes)
            with suppress(AddressUnavailable):
                at = self._lowest(total, _PAGE)
                if at == self._lowest(sizes[0], _PAGE):
                    # The first free range holds them all: they lie one behind the other.
                    self._take(Range(at, at + total))
                    return [at + before for before in accumulate(sizes[:-1], initial=0)]
        places: list[int] = []
        try:
            places.extend(map(self.allocate, sizes))
        except AddressUnavailable:
            for at, size in zip(places, sizes, strict=False):
                self.free(at, size)
            raise
        return places

    def allocate_in(self, base: int, region: int, size: int, alignment: int) -> int:
        """The lowest free address inside [base, base + region); raises AddressUnavailable."""
        step = max(alignment, _PAGE)
        at = self._align(max(base, self.space.base), step)
        limit = min(base + region, self.space.end)
        for block in sorted([*self._taken, *self._tags]):
            if at + size <= block.base:
                break
            at = max(at, self._align(block.end, step))
        if size <= 0 or at + size > limit:
            raise AddressUnavailable(f"no free {size:#x} bytes aligned to {step:#x} in {base:#x}+{region:#x}")
        self._take(Range(at, at + size))
        return at

    def allocate_fixed(self, base: int, size: int) -> None:
        """Take exactly this range; raises AddressUnavailable."""
        if not self.is_free(base, size):
            raise AddressUnavailable(f"{base:#x}..{base + size:#x} is taken or outside this VM's address space")
        self._take(Range(base, base + size))

    def free(self, base: int, size: int) -> None:
        """Give a whole allocation back, or a part of one."""
        wanted = Range(base, base + size)
        index = bisect_left(self._taken, (wanted.base,))
        if index and self._taken[index - 1].end > wanted.base:
            index -= 1
        if index >= len(self._taken) or self._taken[index].base > base or self._taken[index].end < wanted.end:
            raise ValueError(f"{base:#x}+{size:#x} is not allocated")
        whole = self._taken.pop(index)
        for piece in (Range(whole.base, base), Range(wanted.end, whole.end)):
            if piece.base < piece.end:
                self._take(piece)

    @property
    def taken(self) -> int:
        """Bytes allocated."""
        return sum(taken.end - taken.base for taken in self._taken)

    # -- tags ----------------------------------------------------------------------------------------------------------

    def tag(self, base: int, size: int, tag: Tag) -> None:
        """Reserve a free, untagged range for memory with these properties; raises AddressUnavailable."""
        wanted = Range(base, base + size)
        if len(self._tags) >= TAGS_MAX:
            raise AddressUnavailable(f"{TAGS_MAX} ranges are reserved already")
        if not self.is_free(base, size) or any(base < other.end and other.base < wanted.end for other in self._tags):
            raise AddressUnavailable(f"{base:#x}..{wanted.end:#x} is taken or tagged already")
        self._tags[wanted] = tag

    def tag_any(self, base: int, region: int, size: int, alignment: int, tag: Tag) -> int:
        """Reserve a range somewhere inside a region; its base."""
        at = self.allocate_in(base, region, size, alignment)
        self.free(at, size)
        self.tag(at, size, tag)
        return at

    def untag(self, base: int, size: int) -> None:
        """Forget a tag that ``tag`` or ``tag_any`` set."""
        self._tags.pop(Range(base, base + size), None)

    def tag_of(self, base: int, size: int) -> Tag | None:
        """The tag of a range that lies wholly or partly in a tagged one."""
        for other, tag in self._tags.items():
            if base < other.end and other.base < base + size:
                return tag
        return None

    @staticmethod
    def _align(address: int, step: int) -> int:
        return (address + step - 1) // step * step
