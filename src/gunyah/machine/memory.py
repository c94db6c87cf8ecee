"""Physical memory of the machine: RAM regions in private anonymous host memory.

Pages are touched lazily, so a 2 GiB machine costs what its guests use; the mapping is private, so `os.fork()` copies
the whole machine on write. Every host-side write is announced to `listeners`, because the CPU engine does not see it
otherwise and would go on running code it has translated from the old bytes (engine.md 1.3.3).
"""

from __future__ import annotations

import ctypes
import mmap
import struct
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

PAGE_SIZE: Final = 4096

_MAP_NORESERVE: Final[int] = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
_MADV_NOHUGEPAGE: Final[int | None] = getattr(mmap, "MADV_NOHUGEPAGE", None)
_MADV_DONTNEED: Final[int | None] = getattr(mmap, "MADV_DONTNEED", None)

_U16: Final = struct.Struct("<H")
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")

WriteListener = Callable[[int, int], None]
"""Called with physical address and size in bytes after the host wrote there."""


class BusError(Exception):
    """An access to physical addresses that are not RAM; the sentence says which."""


class _Region:
    """One contiguous piece of RAM."""

    __slots__ = ("base", "size", "end", "map", "view", "address", "_anchor")

    def __init__(self, base: int, size: int) -> None:
        self.base = base
        self.size = size
        self.end = base + size
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        self.map = mmap.mmap(-1, size, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        if _MADV_NOHUGEPAGE is not None:
            # Huge pages would make a sparse guest resident in steps of 2 MiB and a fork copy as much at a time.
            self.map.madvise(_MADV_NOHUGEPAGE)
        self.view = memoryview(self.map)
        self._anchor = ctypes.c_char.from_buffer(self.map)
        self.address = ctypes.addressof(self._anchor)


class PhysicalMemory:
    """RAM of the machine at fixed physical addresses.

    `regions` are (base, size) pairs in bytes, page aligned, not overlapping. All addresses given to the methods are
    physical; an access that does not lie wholly in one region raises `BusError` and changes nothing. Values are
    little-endian and need no alignment.
    """

    def __init__(self, regions: Iterable[tuple[int, int]]) -> None:
        """Map the regions; raises `ValueError` for empty, unaligned or overlapping ones."""
        wanted = sorted(regions)
        if not wanted:
            raise ValueError("a machine needs at least one region of memory")
        end = 0
        for base, size in wanted:
            if size <= 0 or base < 0 or base % PAGE_SIZE or size % PAGE_SIZE:
                raise ValueError(f"memory region {base:#x}+{size:#x}: base and size must be multiples of {PAGE_SIZE}")
            if base < end:
                raise ValueError(f"memory region {base:#x}+{size:#x} overlaps the one that ends at {end:#x}")
            end = base + size
        self._regions: Final = tuple(_Region(base, size) for base, size in wanted)
        self._main = max(self._regions, key=lambda region: region.size)
        self._base = self._main.base
        self._size = self._main.size
        self._view = self._main.view
        self._words = self._view.cast("Q") if sys.byteorder == "little" else None
        self.listeners: list[WriteListener] = []

    @property
    def regions(self) -> tuple[tuple[int, int], ...]:
        """(base, size) of each region in bytes, ascending."""
        return tuple((region.base, region.size) for region in self._regions)

    @property
    def size(self) -> int:
        """All RAM in bytes."""
        return sum(region.size for region in self._regions)

    def contains(self, pa: int, size: int = 1) -> bool:
        """True if [pa, pa+size) lies wholly in one region."""
        return any(region.base <= pa and size >= 0 and pa + size <= region.end for region in self._regions)

    def _locate(self, pa: int, size: int) -> tuple[memoryview, int]:
        offset = pa - self._base
        if offset >= 0 and 0 <= size <= self._size - offset:
            return self._view, offset
        for region in self._regions:
            if region.base <= pa and size >= 0 and pa + size <= region.end:
                return region.view, pa - region.base
        ram = ", ".join(f"{region.base:#x}..{region.end:#x}" for region in self._regions)
        raise BusError(f"physical address {pa:#x}, {size} bytes: not in RAM ({ram})")

    def read(self, pa: int, size: int) -> bytes:
        """Copy `size` bytes out."""
        view, offset = self._locate(pa, size)
        return bytes(view[offset : offset + size])

    def write(self, pa: int, data: bytes | bytearray | memoryview) -> None:
        """Copy `data` in."""
        size = len(data)
        view, offset = self._locate(pa, size)
        view[offset : offset + size] = data
        for listener in self.listeners:
            listener(pa, size)

    def view(self, pa: int, size: int) -> memoryview:
        """Give a writable window on RAM without a copy; whoever writes through it calls `written` afterwards."""
        view, offset = self._locate(pa, size)
        return view[offset : offset + size]

    def written(self, pa: int, size: int) -> None:
        """Announce that the host wrote [pa, pa+size) through `view` or `host_address`."""
        for listener in self.listeners:
            listener(pa, size)

    def fill(self, pa: int, size: int, value: int = 0) -> None:
        """Set `size` bytes to `value`; whole pages of zeroes go back to the host."""
        view, offset = self._locate(pa, size)
        if value == 0 and size >= 16 * PAGE_SIZE and _MADV_DONTNEED is not None and sys.platform == "linux":
            region = next(region for region in self._regions if region.view is view)
            first = -(-offset // PAGE_SIZE) * PAGE_SIZE
            last = (offset + size) // PAGE_SIZE * PAGE_SIZE
            region.map.madvise(_MADV_DONTNEED, first, last - first)
            view[offset:first] = bytes(first - offset)
            view[last : offset + size] = bytes(offset + size - last)
        else:
            ctypes.memset(self.host_address(pa), value & 0xFF, size)
        for listener in self.listeners:
            listener(pa, size)

    def copy(self, destination: int, source: int, size: int) -> None:
        """Copy `size` bytes from `source` to `destination`, which may overlap."""
        from_view, from_offset = self._locate(source, size)
        to_view, to_offset = self._locate(destination, size)
        to_view[to_offset : to_offset + size] = from_view[from_offset : from_offset + size]
        for listener in self.listeners:
            listener(destination, size)

    def read_u8(self, pa: int) -> int:
        """Read one byte."""
        view, offset = self._locate(pa, 1)
        return view[offset]

    def read_u16(self, pa: int) -> int:
        """Read 16 bits."""
        view, offset = self._locate(pa, 2)
        value: int = _U16.unpack_from(view, offset)[0]
        return value

    def read_u32(self, pa: int) -> int:
        """Read 32 bits."""
        view, offset = self._locate(pa, 4)
        value: int = _U32.unpack_from(view, offset)[0]
        return value

    def read_u64(self, pa: int) -> int:
        """Read 64 bits."""
        offset = pa - self._base
        if self._words is not None and not offset & 7 and 0 <= offset < self._size:
            return self._words[offset >> 3]
        view, offset = self._locate(pa, 8)
        value: int = _U64.unpack_from(view, offset)[0]
        return value

    def write_u8(self, pa: int, value: int) -> None:
        """Write the low 8 bits of `value`."""
        view, offset = self._locate(pa, 1)
        view[offset] = value & 0xFF
        for listener in self.listeners:
            listener(pa, 1)

    def write_u16(self, pa: int, value: int) -> None:
        """Write the low 16 bits of `value`."""
        view, offset = self._locate(pa, 2)
        _U16.pack_into(view, offset, value & 0xFFFF)
        for listener in self.listeners:
            listener(pa, 2)

    def write_u32(self, pa: int, value: int) -> None:
        """Write the low 32 bits of `value`."""
        view, offset = self._locate(pa, 4)
        _U32.pack_into(view, offset, value & 0xFFFF_FFFF)
        for listener in self.listeners:
            listener(pa, 4)

    def write_u64(self, pa: int, value: int) -> None:
        """Write the low 64 bits of `value`."""
        view, offset = self._locate(pa, 8)
        _U64.pack_into(view, offset, value & 0xFFFF_FFFF_FFFF_FFFF)
        for listener in self.listeners:
            listener(pa, 8)

    def host_address(self, pa: int) -> int:
        """Give the host address (`void *`) of a physical address; valid as long as this object lives."""
        for region in self._regions:
            if region.base <= pa < region.end:
                return region.address + pa - region.base
        self._locate(pa, 1)
        raise AssertionError("unreachable: _locate raises for an address outside RAM")

    def resident_bytes(self) -> int | None:
        """Host memory that RAM occupies now, in bytes; None where the host does not tell."""
        smaps = Path("/proc/self/smaps")
        if not smaps.exists():
            return None
        resident = 0
        inside = False
        for line in smaps.read_text().splitlines():
            head = line.split(maxsplit=1)[0]
            if "-" in head and not head.endswith(":"):
                start, end = (int(part, 16) for part in head.split("-"))
                inside = any(region.address < end and start < region.address + region.size for region in self._regions)
            elif inside and head == "Rss:":
                resident += int(line.split()[1]) * 1024
        return resident
