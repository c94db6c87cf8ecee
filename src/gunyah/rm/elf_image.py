"""ELF images in a VM's memory: where its segments are, what its entry is, and the configuration archive in one of them
(rm-behaviour.md 5.4 and 6.1).

Segments are counted as the configuration counts them: loadable ones only. They stand where the loader put them, at
their physical address, or that far behind the start of the memparcel if they are marked relocatable.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gunyah.abi.errors import RmError
from gunyah.abi.memory import Access
from gunyah.abi.types import PAGE_MASK
from gunyah.guest import fdt
from gunyah.guest.hypercall import HypercallFailed
from gunyah.rm.errors import RmFailure
from gunyah.rm.image import image_of
from gunyah.rm.vm import Vm

if TYPE_CHECKING:
    from gunyah.rm.manager import ResourceManager
    from gunyah.rm.vmconfig import VmConfig

__all__ = ["ElfImage", "Segment", "apply", "command_line_of", "find_tree", "read_elf"]

MAGIC: Final = b"\x7fELF"
SEGMENTS_MAX: Final = 64
ARCHIVE_MAX: Final = 1 << 20
"""Bytes of a configuration archive that RM looks at."""
COMMAND_LINE_MAX: Final = 2048
_HEADER, _PROGRAM = struct.Struct("<16sHHIQQQIHHHHHH"), struct.Struct("<IIQQQQQQ")
_LOAD: Final = 1
_RELOCATABLE: Final = 1 << 27
_CPIO_HEADER: Final = 110
_CPIO_END: Final = "TRAILER!!!"
_COMMAND_LINE: Final = "cmdline"


@dataclass(frozen=True, slots=True)
class Segment:
    """``size`` bytes at ``offset`` of the image memparcel."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class ElfImage:
    """Loadable segments in order, and the entry point as an offset in the memparcel."""

    segments: tuple[Segment, ...]
    entry: int

    def segment(self, index: int, what: str) -> Segment:
        """Segment ``index``; raises RmFailure ARGUMENT_INVALID."""
        if not 0 <= index < len(self.segments):
            count = len(self.segments)
            raise RmFailure(RmError.ARGUMENT_INVALID, f"{what} is segment {index}, the image has {count} loadable ones")
        return self.segments[index]


def _read(rm: ResourceManager, vm: Vm, offset: int, size: int) -> bytes:
    """Bytes of the image memparcel, as far as it goes; raises RmFailure MEM_INVALID."""
    parcel = rm.parcels.for_target(image_of(vm).handle, vm.vmid)
    if parcel is None:
        raise RmFailure(RmError.MEM_INVALID, f"the memparcel with the image of VM {vm.vmid} is gone")
    size = max(0, min(size, parcel.size - offset))
    if not size:
        return b""
    try:
        with rm.memory.window(parcel.extent, rm.parcels.pieces(parcel, offset, size), Access.R) as window:
            return rm.cpu.read(window.address + (offset & PAGE_MASK), size)
    except HypercallFailed as failure:
        raise RmFailure(RmError.MEM_INVALID, f"the image cannot be mapped: {failure}") from failure


def read_elf(rm: ResourceManager, vm: Vm) -> ElfImage | None:
    """The image's segments, None if it is no ELF file. Raises RmFailure MEM_INVALID for one that makes no sense."""
    image = image_of(vm)
    head = _read(rm, vm, image.offset, _HEADER.size)
    if head[: len(MAGIC)] != MAGIC or len(head) < _HEADER.size:
        return None
    ident, _, _, _, entry, at, _, _, _, size, count, *_ = _HEADER.unpack(head)
    if ident[4:6] != b"\2\1" or size != _PROGRAM.size or not 0 < count <= SEGMENTS_MAX:
        why = f"the image is an ELF file with {count} program headers of {size} bytes, not a 64-bit one"
        raise RmFailure(RmError.MEM_INVALID, why)
    table = _read(rm, vm, image.offset + at, size * count)
    if len(table) < size * count:
        raise RmFailure(RmError.MEM_INVALID, "the program headers of the ELF image reach past its memparcel")
    parcel = rm.parcels.lookup(image.handle)
    base = parcel.regions[0].pa
    segments: list[Segment] = []
    relocatable = False
    for kind, flags, _, _, address, _, length, _ in _PROGRAM.iter_unpack(table):
        if kind != _LOAD:
            continue
        relocatable = bool(flags & _RELOCATABLE)
        offset = address if relocatable else address - base
        if not 0 <= offset <= parcel.size - length:
            raise RmFailure(
                RmError.MEM_INVALID,
                f"segment {len(segments)} of the ELF image at {address:#x}+{length:#x} is not in the "
                f"{parcel.size:#x}-byte {parcel}",
            )
        segments.append(Segment(offset, length))
    return ElfImage(tuple(segments), entry if relocatable else entry - base)


def find_tree(rm: ResourceManager, vm: Vm, elf: ElfImage) -> None:
    """A loader that has not said where the device tree is has put it into a segment of its own."""
    image = image_of(vm)
    if image.dt_size:
        return
    for segment in elf.segments:
        if int.from_bytes(_read(rm, vm, segment.offset, 4), "big") == fdt.MAGIC:
            image.dt_offset, image.dt_size = segment.offset, segment.size
            return
    raise RmFailure(RmError.MEM_INVALID, "no segment of the ELF image is a device tree")


def apply(rm: ResourceManager, vm: Vm, elf: ElfImage | None, config: VmConfig) -> None:
    """Entry, RAM disk and command line that the configuration takes from the image's segments."""
    image, named = image_of(vm), config.segments
    if elf is None:
        if named or config.entry_segment:
            raise RmFailure(RmError.ARGUMENT_INVALID, "the configuration names segments, but the image is no ELF file")
        return
    start = elf.entry
    if config.entry_segment:
        if config.entry_segment in named:
            start = elf.segment(named[config.entry_segment], config.entry_segment).offset
        else:
            start = next((s.offset for s in elf.segments if s.offset <= elf.entry < s.offset + s.size), elf.entry)
        start += config.entry_offset or 0
    elif config.entry_offset is not None:
        start = config.entry_offset
    image.entry = start
    if "ramdisk" in named:
        disk = elf.segment(named["ramdisk"], "ramdisk")
        image.ramdisk = (disk.offset, disk.size)
    if "config_cpio" in named:
        archive = elf.segment(named["config_cpio"], "config_cpio")
        image.bootargs = command_line_of(_read(rm, vm, archive.offset, min(archive.size, ARCHIVE_MAX)))


def command_line_of(archive: bytes) -> str:
    """Every file of a cpio archive ("newc") whose name ends with cmdline, joined by spaces.

    Raises RmFailure MEM_INVALID for what is no such archive.
    """
    words: list[str] = []
    at = 0
    while True:
        head = archive[at : at + _CPIO_HEADER]
        try:
            if len(head) < _CPIO_HEADER or head[:6] not in (b"070701", b"070702"):
                raise ValueError
            fields = [int(head[index : index + 8], 16) for index in range(6, _CPIO_HEADER, 8)]
        except ValueError:
            raise RmFailure(RmError.MEM_INVALID, f"config_cpio: there is no cpio header at {at:#x}") from None
        size, name_size = fields[6], fields[11]
        name_at = at + _CPIO_HEADER
        data_at = name_at + name_size + 3 & ~3
        if not name_size or data_at + size > len(archive):
            raise RmFailure(RmError.MEM_INVALID, f"config_cpio: the file at {at:#x} reaches past the archive")
        name = archive[name_at : name_at + name_size - 1].decode("utf-8", "replace")
        if name == _CPIO_END:
            break
        if name.endswith(_COMMAND_LINE):
            text = archive[data_at : data_at + size].split(b"\0")[0].decode("utf-8", "replace").strip()
            words += [text] if text else []
        at = data_at + size + 3 & ~3
    line = " ".join(words)
    if len(line) > COMMAND_LINE_MAX:
        raise RmFailure(RmError.MEM_INVALID, f"config_cpio: {len(line)} characters are too long a command line")
    return line
