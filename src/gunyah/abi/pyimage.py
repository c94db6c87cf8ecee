"""The image of a Python VM: 64 bytes that mark an entry point whose code is a Python function.

A loader copies them like any kernel image, so memory donation, lending and power-on work the same for Python and
native VMs.
Run on an AArch64 CPU the stub stops at its first instruction.

Layout, little-endian: u32 HLT #0xf0c5, u32 B . , char[8] "GUNYAHPY", u64 program id, zero padding to 64 bytes.
"""

from __future__ import annotations

import struct

__all__ = ["SIZE", "pack", "program_id"]

SIZE = 64
_LAYOUT = struct.Struct("<II8sQ")
_HLT = 0xD440_0000 | 0xF0C5 << 5
_BRANCH_TO_SELF = 0x1400_0000
_MAGIC = b"GUNYAHPY"


def pack(program: int) -> bytes:
    """The image of program number ``program`` (uint64_t)."""
    return _LAYOUT.pack(_HLT, _BRANCH_TO_SELF, _MAGIC, program).ljust(SIZE, b"\0")


def program_id(image: bytes) -> int | None:
    """The program number in the first bytes of an image, or None when it is not a Python VM's."""
    if len(image) < _LAYOUT.size:
        return None
    hlt, _, magic, program = _LAYOUT.unpack_from(image)
    return program if hlt == _HLT and magic == _MAGIC else None
