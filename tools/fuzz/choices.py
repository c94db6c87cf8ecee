"""Records of bytes from which a hostile VM draws what it does: the same bytes give the same acts.

One record is one act. Records are of fixed size, so taking one out of a failing run leaves all others what they were:
that is what makes a run shrinkable, mutable and replayable, whoever made the bytes (a seed, a corpus, a coverage-guided
engine).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

__all__ = ["RECORD", "Choices", "records", "split"]

T = TypeVar("T")

RECORD = 32
"""Bytes of one record: act, call, and three bytes for each of eight arguments."""

_GOLDEN = 0x9E37_79B9_7F4A_7C15
_U64 = (1 << 64) - 1
_CHUNK = 512


class Choices:
    """Draws from one record; after its end every draw is 0."""

    __slots__ = ("_at", "_data")

    def __init__(self, record: bytes) -> None:
        self._data = record
        self._at = 0

    def byte(self) -> int:
        """0..255."""
        at = self._at
        self._at = at + 1
        return self._data[at] if at < len(self._data) else 0

    def half(self) -> int:
        """0..65535."""
        return self.byte() << 8 | self.byte()

    def word(self) -> int:
        """64 bits, spread from 16 drawn ones."""
        return (self.half() + 1) * _GOLDEN & _U64

    def pick(self, items: Sequence[T]) -> T:
        """One of ``items``, which must not be empty."""
        return items[self.half() % len(items)]


def records(seed: int, count: int) -> Iterator[bytes]:
    """``count`` random records of a seed."""
    source = random.Random(seed)
    while count > 0:
        many = min(count, _CHUNK)
        yield from split(source.randbytes(RECORD * many))
        count -= many


def split(data: bytes) -> list[bytes]:
    """The records in ``data``; a short last one counts."""
    return [data[at : at + RECORD] for at in range(0, len(data), RECORD)]
