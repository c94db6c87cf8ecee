"""Guest images: what a file is shows in its bytes, and what cannot run is refused in one sentence."""

from __future__ import annotations

import gzip
import lzma
import struct
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from gunyah.vmm import images
from gunyah.vmm.images import ImageError, parse_image

TEXT = bytes(range(256)) * 32


def arm64_image(text: bytes = TEXT, *, text_offset: int = 0, image_size: int | None = None, flags: int = 0xA) -> bytes:
    size = len(text) + 0x1000 if image_size is None else image_size
    header = struct.pack("<IIQQQQQQ4sI", 0x14000010, 0, text_offset, size, flags, 0, 0, 0, b"ARM\x64", 0)
    return header + text


def efi_image(text: bytes = TEXT) -> bytes:
    """An Image with an EFI stub: a PE header at 64 whose one section is the text."""
    plain = bytearray(arm64_image(bytes(256) + text))
    plain[0:2] = b"MZ"
    struct.pack_into("<I", plain, 60, 64)
    struct.pack_into("<4sHHIIIHH", plain, 64, b"PE\0\0", 0xAA64, 1, 0, 0, 0, 0x20, 0)
    struct.pack_into("<8sIIII", plain, 64 + 24 + 0x20, b".text", len(text), 320, len(text), 320)
    return bytes(plain)


def elf(
    *,
    machine: int = 183,
    kind: int = 2,
    width: int = 2,
    entry: int = 0xFFFF_0000_0000_0040,
    va: int = 0xFFFF_0000_0000_0000,
    pa: int = 0x4008_0000,
    in_file: int = len(TEXT),
    in_memory: int = len(TEXT) + 0x2000,
) -> bytes:
    header = struct.pack(
        "<4sBBBBB7xHHIQQQIHHHHHH", b"\x7fELF", width, 1, 1, 0, 0, kind, machine, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 120, va, pa, in_file, in_memory, 0x1000)
    return header + segment + TEXT


def test_an_image_is_placed_by_its_header() -> None:
    image = parse_image(arm64_image(text_offset=0x8_0000, image_size=0x10_0000))
    (segment,) = image.segments
    assert (image.kind, image.entry, segment.address, segment.size) == ("Image", 0x8_0000, 0x8_0000, 0x10_0000)
    assert image.alignment == 0x20_0000 and not image.fixed


def test_an_image_of_an_old_kernel_has_the_offset_it_had_then() -> None:
    image = parse_image(arm64_image(image_size=0, text_offset=0))
    assert image.entry == 0x8_0000


@pytest.mark.parametrize(
    "pack",
    [gzip.compress, lzma.compress, zstandard.compress, lambda data: gzip.compress(lzma.compress(data))],
    ids=["gzip", "xz", "zstd", "xz in gzip"],
)
def test_compressed_images_are_unpacked(pack: Callable[[bytes], bytes]) -> None:
    assert parse_image(pack(arm64_image())) == parse_image(arm64_image())


def test_an_efi_zboot_image_is_unpacked() -> None:
    payload = gzip.compress(arm64_image())
    wrapper = (
        struct.pack("<2sH4sII8x32s", b"MZ", 0, b"zimg", 0x400, len(payload), b"gzip").ljust(0x400, b"\0") + payload
    )
    assert parse_image(wrapper) == parse_image(arm64_image())


def test_an_elf_executable_goes_to_its_physical_addresses() -> None:
    image = parse_image(elf())
    (segment,) = image.segments
    assert image.fixed and image.kind == "ELF"
    assert (segment.address, segment.size, segment.data) == (0x4008_0000, len(TEXT) + 0x2000, TEXT)
    assert image.entry == 0x4008_0040


def test_a_position_independent_elf_goes_anywhere() -> None:
    image = parse_image(elf(kind=3, va=0, pa=0, entry=0x40))
    assert not image.fixed and image.entry == 0x40


def test_anything_else_is_a_flat_binary() -> None:
    image = parse_image(b"\x1f\x20\x03\xd5" * 4)
    assert (image.kind, image.entry, image.start, image.end) == ("binary", 0, 0, 16)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes are no image"),
        (arm64_image()[:60], "ends after 60 bytes, in its header"),
        (efi_image()[:-100], "is cut off"),
        (efi_image()[:200], "is cut off"),
        (gzip.compress(arm64_image())[:-20], "gzip data ends"),
        (gzip.compress(arm64_image())[:-8] + bytes(8), "gzip data is damaged"),
        (lzma.compress(arm64_image())[:-40], "xz data ends"),
        (zstandard.compress(arm64_image())[:-4], "zstd data ends"),
        (b"\x28\xb5\x2f\xfd" + b"\xff" * 40, "zstd data is damaged"),
        (arm64_image(flags=0xB), "big-endian"),
        (arm64_image(text_offset=1 << 40), "header is damaged"),
        (arm64_image(image_size=1 << 50), "header is damaged"),
        (elf(machine=62), "for x86-64, not for AArch64"),
        (elf(machine=243), "for RISC-V"),
        (elf(machine=40, width=1), "not a little-endian 64-bit one"),
        (elf(kind=1), "of type 1"),
        (elf()[:100], "cut off"),
        (elf(in_file=1 << 20), "cut off"),
        (elf(entry=0), "entry point 0x0 is in none of its segments"),
        (elf(in_memory=0, in_file=0), "nothing to load"),
        (bytes(0x202) + b"HdrS" + bytes(512), "for x86"),
        (bytes(0x24) + b"\x18\x28\x6f\x01" + bytes(64), "Arm (32 bit)"),
        (b"\xd0\x0d\xfe\xed" + bytes(64), "a device tree, not a kernel"),
        (b"\x27\x05\x19\x56" + bytes(64), "U-Boot"),
        (bytes(8192), "zero bytes"),
        (b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0" + struct.pack("<H", 0x8664), "EFI program for x86-64"),
    ],
)
def test_what_cannot_run_is_refused_in_one_sentence(data: bytes, words: str) -> None:
    with pytest.raises(ImageError) as refused:
        parse_image(data, "kernel.bin")
    assert words in str(refused.value)
    assert "kernel.bin" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, zstandard.compress], ids=["gzip", "xz", "zstd"])
def test_a_file_that_unpacks_to_too_much_is_refused(
    pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "SIZE_MAX", 1 << 20)
    assert parse_image(pack(arm64_image(bytes((1 << 20) - 0x1000)))).kind == "Image"
    with pytest.raises(ImageError, match="unpacks to more than 1 MiB"):
        parse_image(pack(arm64_image(bytes(1 << 20))))


@given(st.binary(max_size=300), st.sampled_from([arm64_image(b"x"), efi_image(b"x"), elf(), b"MZ", b"\x7fELF"]))
def test_no_file_whatever_ends_in_anything_but_an_image_or_a_refusal(noise: bytes, start: bytes) -> None:
    for data in (noise, start[: len(noise)] + noise, start + noise):
        try:
            image = parse_image(data)
        except ImageError:
            continue
        assert image.end >= image.start
