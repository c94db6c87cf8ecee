"""Allocator of a guest's own RAM: buffers that hypercalls and devices read and write.

A Python VM's objects live outside the machine; only what crosses a boundary (message buffers, shared memory, device
trees) needs guest memory. First fit over IPA ranges, neighbours merged on free, so that a long-lived VM doesn't
fragment.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType

from gunyah.guest.cpu import Cpu

__all__ = ["Buffer", "Heap", "OutOfMemory"]


class OutOfMemory(Exception):
    """No free range is large enough: -ENOMEM of the guest's own allocator."""


class Buffer:
    """One allocation: ``address`` is an IPA (= guest virtual, stage 1 is off), ``size`` bytes. Freed by ``free`` or a
    ``with`` block."""

    __slots__ = ("_heap", "address", "size")

    def __init__(self, heap: Heap, address: int, size: int) -> None:
        self._heap: Heap | None = heap
        self.address = address
        self.size = size

    def read(self, size: int | None = None, offset: int = 0) -> bytes:
        """Bytes ``offset`` .. ``offset + size`` of the buffer (all of it without ``size``)."""
        heap = self._live()
        wanted = self.size - offset if size is None else size
        self._check(offset, wanted)
        return heap.cpu.read(self.address + offset, wanted)

    def write(self, data: bytes | bytearray | memoryview, offset: int = 0) -> None:
        """Copy ``data`` into the buffer."""
        heap = self._live()
        self._check(offset, len(data))
        heap.cpu.write(self.address + offset, data)

    def free(self) -> None:
        """Give the range back; a second call does nothing."""
        heap, self._heap = self._heap, None
        if heap is not None:
            heap.release(self.address, self.size)

    def _live(self) -> Heap:
        if self._heap is None:
            raise ValueError(f"buffer at {self.address:#x} ({self.size} bytes) was freed")
        return self._heap

    def _check(self, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > self.size:
            raise ValueError(f"bytes {offset:#x}..{offset + size:#x} are outside a buffer of {self.size:#x} bytes")

    def __enter__(self) -> Buffer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.free()


class Heap:
    """Free IPA ranges of one VM. ``ranges`` are (base, size) in bytes, RAM that nothing else uses."""

    def __init__(self, cpu: Cpu, ranges: Iterable[tuple[int, int]]) -> None:
        self.cpu = cpu
        self._free: list[tuple[int, int]] = sorted((base, base + size) for base, size in ranges if size > 0)
        for (_, end), (base, _) in zip(self._free, self._free[1:], strict=False):
            if base < end:
                raise ValueError(f"heap ranges overlap at {base:#x}")
        self.total = sum(end - base for base, end in self._free)

    @property
    def free_bytes(self) -> int:
        """Bytes not allocated."""
        return sum(end - base for base, end in self._free)

    def allocate(self, size: int, align: int = 64) -> Buffer:
        """``size`` bytes aligned to ``align`` (a power of two); contents undefined. Raises OutOfMemory."""
        if size <= 0 or align <= 0 or align & (align - 1):
            raise ValueError(f"cannot allocate {size} bytes aligned to {align}")
        # Rounding to 16 bytes keeps the free list short when many odd sizes come and go.
        rounded = (size + 15) & ~15
        for index, (base, end) in enumerate(self._free):
            start = (base + align - 1) & ~(align - 1)
            if start + rounded <= end:
                pieces = [(base, start), (start + rounded, end)]
                self._free[index : index + 1] = [piece for piece in pieces if piece[0] < piece[1]]
                return Buffer(self, start, size)
        raise OutOfMemory(
            f"no {size:#x} bytes aligned to {align:#x} left: {self.free_bytes:#x} of {self.total:#x} are free"
        )

    def release(self, address: int, size: int) -> None:
        """Return a range that ``allocate`` gave out (``Buffer.free`` calls this)."""
        start, end = address, address + ((size + 15) & ~15)
        index = 0
        while index < len(self._free) and self._free[index][0] < start:
            index += 1
        if (index and self._free[index - 1][1] > start) or (index < len(self._free) and self._free[index][0] < end):
            raise ValueError(f"{start:#x}..{end:#x} is already free")
        if index < len(self._free) and self._free[index][0] == end:
            end = self._free.pop(index)[1]
        if index and self._free[index - 1][1] == start:
            start = self._free.pop(index - 1)[0]
            index -= 1
        self._free.insert(index, (start, end))
