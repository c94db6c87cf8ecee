"""Guest images: arm64 Linux Image (plain, gzip, zstd, xz, or in an EFI zboot wrapper), ELF64, flat binary.

What a file is shows in its bytes, never in its name. Sources: Linux Documentation/arch/arm64/booting.rst for the Image
header, the ELF64 and PE/COFF headers for the rest. An image says where its parts go relative to the address it is
loaded at; the loader (`gunyah.vmm.loader`) chooses that address.
"""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

__all__ = ["Image", "ImageError", "Segment", "parse_image"]

SIZE_MAX: Final = 1 << 30
"""An image that unpacks to more than the primary VM's largest memory is refused before it fills the host's."""

_CHUNK: Final = 1 << 16

_ARM64_MAGIC: Final = b"ARM\x64"
_ARM64_HEADER: Final = struct.Struct("<IIQQQQQQ4sI")
_ARM64_BIG_ENDIAN: Final = 1
_OLD_TEXT_OFFSET: Final = 0x8_0000
"""text_offset of an Image whose image_size is 0 (kernels before 3.17)."""
_ALIGNMENT: Final = 0x20_0000

_ELF_HEADER: Final = struct.Struct("<4sBBBBB7xHHIQQQIHHHHHH")
_ELF_SEGMENT: Final = struct.Struct("<IIQQQQQQ")
_EM_AARCH64: Final = 183
_ET_EXEC: Final = 2
_ET_DYN: Final = 3
_PT_LOAD: Final = 1
_MACHINES: Final = {3: "i386", 8: "MIPS", 20: "PowerPC", 21: "PowerPC64", 22: "S390", 40: "Arm (32 bit)", 62: "x86-64",
                    243: "RISC-V", 258: "LoongArch"}  # fmt: skip

_PE_MACHINES: Final = {0x14C: "i386", 0x8664: "x86-64", 0x1C2: "Arm (32 bit)", 0x5032: "RISC-V", 0x6264: "LoongArch"}
_PE_AARCH64: Final = 0xAA64


class ImageError(ValueError):
    """A file that cannot be a guest image; one sentence that says why."""


@dataclass(frozen=True)
class Segment:
    """Bytes at an address: physical if the image is fixed, else relative to where it is loaded."""

    address: int
    data: bytes
    size: int
    """Bytes it takes in memory, at least ``len(data)``; the rest is zero."""


@dataclass(frozen=True)
class Image:
    """A guest image, ready to be placed."""

    kind: str
    """``"Image"``, ``"ELF"`` or ``"binary"``."""
    segments: tuple[Segment, ...]
    entry: int
    """Address of the first instruction, physical or relative as the segments are."""
    fixed: bool
    """Segments have physical addresses of their own (ELF executables)."""
    alignment: int = 4096
    """What the load address must be a multiple of, if the image is not fixed."""

    @property
    def start(self) -> int:
        """Lowest address."""
        return min(segment.address for segment in self.segments)

    @property
    def end(self) -> int:
        """First address behind the image."""
        return max(segment.address + segment.size for segment in self.segments)

    def emptied(self) -> Image:
        """The same without its bytes, for who only has to know where it lies."""
        return replace(self, segments=tuple(replace(segment, data=b"") for segment in self.segments))


def parse_image(data: bytes, name: str = "the image") -> Image:
    """Find out what ``data`` is and unpack it; raises ImageError."""
    for _ in range(3):
        unpacked = _unpack(data, name)
        if unpacked is None:
            break
        data = unpacked
    if len(data) < 4:
        raise ImageError(f"{name}: {len(data)} bytes are no image")
    if data[:4] == b"\x7fELF":
        return _elf(data, name)
    if data[56:60] == _ARM64_MAGIC:
        return _arm64(data, name)
    _refuse_foreign(data, name)
    return Image("binary", (Segment(0, data, len(data)),), 0, False)


# -- compression -------------------------------------------------------------------------------------------------------


def _unpack(data: bytes, name: str) -> bytes | None:
    """What is inside a compressed file; None if it is not one."""
    if data[:3] == b"\x1f\x8b\x08":
        return _inflate(data, name)
    if data[:4] == b"\x28\xb5\x2f\xfd":
        return _zstd(data, name)
    if data[:6] == b"\xfd7zXZ\0":
        return _xz(data, name)
    if data[:2] == b"MZ" and data[4:8] == b"zimg":
        offset, size = struct.unpack_from("<II", data.ljust(64, b"\0"), 8)
        if offset + size > len(data):
            raise ImageError(f"{name}: the EFI zboot payload at {offset:#x}+{size:#x} is cut off at {len(data):#x}")
        return data[offset : offset + size]
    return None


def _bounded(name: str, method: str, data: bytes, decompress: Callable[[bytes, int], bytes]) -> bytes:
    unpacked = decompress(data, SIZE_MAX + 1)
    if len(unpacked) > SIZE_MAX:
        raise ImageError(f"{name}: it unpacks to more than {SIZE_MAX >> 20} MiB ({method})")
    return unpacked


def _inflate(data: bytes, name: str) -> bytes:
    inflater = zlib.decompressobj(31)
    try:
        unpacked = _bounded(name, "gzip", data, inflater.decompress)
    except zlib.error as error:
        raise ImageError(f"{name}: the gzip data is damaged: {error}") from error
    if not inflater.eof:
        raise ImageError(f"{name}: the gzip data ends after {len(data)} bytes, in the middle")
    return unpacked


def _xz(data: bytes, name: str) -> bytes:
    unpacker = lzma.LZMADecompressor()
    try:
        unpacked = _bounded(name, "xz", data, unpacker.decompress)
    except lzma.LZMAError as error:
        raise ImageError(f"{name}: the xz data is damaged: {error}") from error
    if not unpacker.eof:
        raise ImageError(f"{name}: the xz data ends after {len(data)} bytes, in the middle")
    return unpacked


def _zstd(data: bytes, name: str) -> bytes:
    try:
        import zstandard
    except ModuleNotFoundError:
        raise ImageError(f"{name} is compressed with zstd: install gunyah[zstd], or unpack it with `zstd -d`") from None
    unpacked = bytearray()
    unpacker = zstandard.ZstdDecompressor().decompressobj()
    for start in range(0, len(data), _CHUNK):
        try:
            unpacked += unpacker.decompress(data[start : start + _CHUNK])
        except zstandard.ZstdError as error:
            raise ImageError(f"{name}: the zstd data is damaged: {error}") from error
        if len(unpacked) > SIZE_MAX:
            raise ImageError(f"{name}: it unpacks to more than {SIZE_MAX >> 20} MiB (zstd)")
        if unpacker.eof:
            return bytes(unpacked)
    raise ImageError(f"{name}: the zstd data ends after {len(data)} bytes, in the middle")


# -- arm64 Image -------------------------------------------------------------------------------------------------------


def _arm64(data: bytes, name: str) -> Image:
    if len(data) < _ARM64_HEADER.size:
        raise ImageError(f"{name}: the arm64 Image ends after {len(data)} bytes, in its header")
    _, _, text_offset, image_size, flags, *_ = _ARM64_HEADER.unpack_from(data)
    if flags & _ARM64_BIG_ENDIAN:
        raise ImageError(f"{name}: the arm64 Image is big-endian; this machine starts little-endian guests")
    if image_size == 0:
        text_offset, image_size = _OLD_TEXT_OFFSET, len(data)
    if text_offset >= _ALIGNMENT or image_size > SIZE_MAX:
        raise ImageError(
            f"{name}: the arm64 Image header is damaged: text_offset {text_offset:#x}, image_size {image_size:#x}"
        )
    wanted = _pe_end(data)
    if wanted > len(data):
        raise ImageError(f"{name}: the arm64 Image is cut off: {len(data):#x} of {wanted:#x} bytes are there")
    return Image("Image", (Segment(text_offset, data, max(image_size, len(data))),), text_offset, False, _ALIGNMENT)


def _pe_end(data: bytes) -> int:
    """Bytes that the PE header of an EFI stub promises; 0 without one."""
    if data[:2] != b"MZ":
        return 0
    header: int = struct.unpack_from("<I", data, 60)[0]
    if header + 24 > len(data) or data[header : header + 4] != b"PE\0\0":
        return header + 24
    _, sections, _, _, _, optional = struct.unpack_from("<HHIIIH", data, header + 4)
    first = header + 24 + optional
    end: int = first + 40 * sections
    if end > len(data):
        return end
    for index in range(sections):
        size, offset = struct.unpack_from("<II", data, first + 40 * index + 16)
        end = max(end, offset + size)
    return end


def _refuse_foreign(data: bytes, name: str) -> None:
    """Raise for what is a kernel of another architecture, or no code at all."""
    if data[:2] == b"MZ" and len(data) >= 64:
        header = struct.unpack_from("<I", data, 60)[0]
        machine = struct.unpack_from("<H", data, header + 4)[0] if header + 6 <= len(data) else 0
        if data[0x202:0x206] == b"HdrS":
            machine = 0x8664
        what = "AArch64" if machine == _PE_AARCH64 else _PE_MACHINES.get(machine, f"machine {machine:#x}")
        raise ImageError(f"{name} is an EFI program for {what} and no arm64 Image")
    if data[0x202:0x206] == b"HdrS":
        raise ImageError(f"{name} is a kernel for x86, not for arm64")
    if data[0x24:0x28] == b"\x18\x28\x6f\x01":
        raise ImageError(f"{name} is a kernel for Arm (32 bit), not for arm64")
    if data[0x30:0x38] == b"RISCV\0\0\0":
        raise ImageError(f"{name} is a kernel for RISC-V, not for arm64")
    if data[:4] == b"\xd0\x0d\xfe\xed":
        raise ImageError(f"{name} is a device tree, not a kernel")
    if data[:4] == b"\x27\x05\x19\x56":
        raise ImageError(f"{name} is a U-Boot image; give the Image inside")
    if not any(data[:4096]):
        raise ImageError(f"{name} begins with {min(len(data), 4096)} zero bytes and cannot be code")


# -- ELF ---------------------------------------------------------------------------------------------------------------


def _elf(data: bytes, name: str) -> Image:
    if len(data) < _ELF_HEADER.size:
        raise ImageError(f"{name}: the ELF file ends after {len(data)} bytes, in its header")
    fields = _ELF_HEADER.unpack_from(data)
    width, order, kind, machine, entry, table = fields[1], fields[2], fields[6], fields[7], fields[9], fields[10]
    entry_size, count = fields[14], fields[15]
    if width != 2 or order != 1:
        raise ImageError(f"{name}: the ELF file is not a little-endian 64-bit one")
    if machine != _EM_AARCH64:
        raise ImageError(f"{name} is an ELF file for {_MACHINES.get(machine, f'machine {machine}')}, not for AArch64")
    if kind not in (_ET_EXEC, _ET_DYN):
        raise ImageError(f"{name}: the ELF file is of type {kind}, neither an executable nor position independent")
    if entry_size != _ELF_SEGMENT.size or table + count * entry_size > len(data):
        raise ImageError(
            f"{name}: the ELF file is cut off: program headers at {table:#x}, {len(data):#x} bytes are there"
        )
    segments: list[Segment] = []
    start: int | None = None
    for index in range(count):
        kind_of, _, offset, va, pa, in_file, in_memory, _ = _ELF_SEGMENT.unpack_from(data, table + index * entry_size)
        if kind_of != _PT_LOAD or not in_memory:
            continue
        if offset + in_file > len(data) or in_file > in_memory:
            raise ImageError(
                f"{name}: the ELF file is cut off: segment {index} at {offset:#x}+{in_file:#x}, "
                f"{len(data):#x} bytes are there"
            )
        segments.append(Segment(pa, data[offset : offset + in_file], in_memory))
        if va <= entry < va + in_memory:
            start = pa + entry - va
    if not segments:
        raise ImageError(f"{name}: the ELF file has nothing to load")
    if start is None:
        raise ImageError(f"{name}: the ELF file's entry point {entry:#x} is in none of its segments")
    return Image("ELF", tuple(segments), start, kind == _ET_EXEC)
