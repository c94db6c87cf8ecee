"""AArch64 instructions worth executing in a hostile guest, as words whose two lowest register fields are 0
(Arm ARM C6).

A step that executes one of them may put any registers into these fields (bits 9:0), which for system instructions
picks a neighbour instead.
"""

from __future__ import annotations

import random
import struct

from gunyah.machine.engine import SYSTEM_REGISTERS

__all__ = ["LOADS_AND_STORES", "SYSTEM", "words"]

COUNT = 2048
"""Words in the guest's list."""
RN_X1 = 1 << 5

# Base register X0 plus nothing, in all widths: unsigned, signed to 64 and to 32 bits, and stores.
_PLAIN = tuple(
    0x3900_0000 | size << 30 | kind << 22 for size in range(4) for kind in range(4) if (size, kind) not in ((3, 3),)
)
# Not scaled by +1 and -1 (unaligned), post- and pre-indexed by 8 and by -16, unprivileged.
_NINE_BITS = tuple(
    0x3800_0000 | size << 30 | kind << 22 | (offset & 0x1FF) << 12 | mode << 10
    for size in range(4)
    for kind in (0, 1, 2)
    for offset, mode in ((1, 0), (-1, 0), (8, 1), (-16, 3), (3, 2))
    if (size, kind) != (3, 2)
)
# Pairs: W, signed, X, and of SIMD registers of 4, 8 and 16 bytes; post-indexed, with an offset, pre-indexed.
_PAIRS = tuple(
    0x2800_0000 | size << 30 | simd << 26 | mode << 23 | load << 22 | 2 << 15 | 2 << 10
    for size in range(3)
    for simd in range(2)
    for mode in range(4)
    for load in range(2)
    if (size, simd, load) != (1, 0, 0)
)
# Exclusives, acquire and release, of each width; pairs; compare and swap, atomics (not on every core).
_EXCLUSIVE = tuple(
    0x0800_0000 | size << 30 | rest << 21 | status << 16 | ordered << 15 | 31 << 10
    for size in range(4)
    for rest in (0, 2, 4, 6)
    for status in (5, 31)
    for ordered in range(2)
)
_EXCLUSIVE_PAIRS = tuple(
    0x8800_0000 | size << 30 | load << 22 | 1 << 21 | 5 << 16 | ordered << 15 | 2 << 10
    for size in range(2)
    for load in range(2)
    for ordered in range(2)
)
_ATOMICS = tuple(0x3820_0000 | size << 30 | 3 << 16 | kind << 12 for size in range(4) for kind in range(9))
# SIMD: one register of each width, structures of one to four registers, one lane, replicated.
_SIMD = tuple(0x3D00_0000 | size << 30 | kind << 22 for size in range(4) for kind in range(4))
_STRUCTURES = tuple(
    0x0C00_0000 | wide << 30 | load << 22 | shape << 12 | size << 10
    for wide in range(2)
    for load in range(2)
    for shape in (0, 2, 4, 7, 8, 10)
    for size in (0, 3)
) + (0x0D40_C000, 0x0D60_E000, 0x0D00_0000, 0x4D40_8400)
_OTHER_ACCESSES = (
    *(0x5800_0000, 0x9800_0000, 0xD800_0000, 0xF980_0000, 0xF862_6800, 0xF822_6800, 0xB862_4800),
    *(0x9AC0_4C00, 0x3862_6800),
)

LOADS_AND_STORES = (
    *_PLAIN,
    *_NINE_BITS,
    *_PAIRS,
    *_EXCLUSIVE,
    *_EXCLUSIVE_PAIRS,
    *_ATOMICS,
    *_SIMD,
    *_STRUCTURES,
    *_OTHER_ACCESSES,
)


def _system(op0: int, op1: int, crn: int, crm: int, op2: int, *, read: bool = False) -> int:
    return 0xD500_0000 | read << 21 | op0 << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5


_REGISTERS = tuple(
    _system(*encoding, read=read) for encoding in SYSTEM_REGISTERS.values() for read in (True, False, False)
)
# Break- and watchpoints, OS lock and other debug registers; performance monitors; a few of EL2 and EL3.
_DEBUG = tuple((2, 0, 0, number, op2) for number in range(16) for op2 in (4, 5, 6, 7)) + tuple(
    (2, 0, 1, crm, 4) for crm in (0, 1, 3, 4)
)
_OTHER_DEBUG = ((2, 0, 0, 2, 0), (2, 0, 7, 8, 6), (2, 0, 7, 9, 6), (2, 0, 7, 14, 6), (2, 3, 0, 1, 0), (2, 3, 0, 5, 0))
_MONITORS = (
    *((3, 3, 9, crm, op2) for crm in (12, 13, 14) for op2 in range(8)),
    *((3, 3, 14, crm, op2) for crm in range(8, 16) for op2 in (0, 5, 7)),
    *((3, 0, 9, 14, 1), (3, 0, 9, 14, 2)),
)
_ABOVE = tuple((3, op1, crn, crm, 0) for op1 in (4, 5, 6) for crn, crm in ((1, 0), (1, 1), (2, 0), (4, 0), (12, 0)))
_MORE_REGISTERS = tuple(
    _system(*encoding, read=read)
    for encoding in (*_DEBUG, *_OTHER_DEBUG, *_MONITORS, *_ABOVE)
    for read in (True, False)
)
# DAIFSet, DAIFClr, SPSel, PAN, UAO, DIT; hints; barriers.
_PSTATE = tuple(
    0xD500_401F | op1 << 16 | value << 8 | op2 << 5
    for op1, op2 in ((3, 6), (3, 7), (0, 5), (0, 4), (0, 3), (3, 2), (0, 2))
    for value in (0, 1, 2, 7, 15)
)
_HINTS = tuple(0xD503_201F | number << 5 for number in (0, 1, 2, 3, 4, 5, 7, 8, 16, 17, 20, 24, 31, 34, 127))
_BARRIERS = tuple(0xD503_309F | option << 8 | kind << 5 for option in (3, 11, 15) for kind in (0, 1, 2, 3))
# Cache, address translation and TLB maintenance, with Xt = X0.
_MAINTENANCE = tuple(
    _system(1, op1, 7, crm, op2)
    for op1, crm, op2 in (
        *((0, 1, 0), (0, 5, 0), (3, 5, 1), (0, 6, 1), (0, 6, 2), (0, 10, 2), (0, 14, 2), (3, 4, 1), (3, 10, 1)),
        *((3, 11, 1), (3, 12, 1), (3, 14, 1), (0, 8, 0), (0, 8, 1), (0, 8, 2), (0, 8, 3), (0, 9, 0), (0, 9, 1)),
        *((4, 8, 0), (4, 8, 1), (4, 8, 4), (4, 8, 6), (6, 8, 0)),
    )
) + tuple(_system(1, op1, 8, crm, op2) for op1 in (0, 4, 6) for crm in (3, 7, 4, 0, 1) for op2 in range(8))
_CALLS = tuple(0xD400_0000 | number << 5 | 2 for number in (0, 1, 0x5FFF, 0x6000, 0x601B, 0x606A, 0x61FF, 0xFFFF)) + (
    *(0xD400_0003, 0xD400_0023, 0xD41F_FFE3, 0xD400_0001, 0xD41F_FFE1, 0xD420_0000, 0xD43F_FFE0, 0xD440_0000),
    *(0xD4A0_0001, 0xD4A0_0002, 0xD4A0_0003, 0xD69F_03E0, 0xD6BF_03E0, 0, 0xFFFF_FFFF, 0x0000_0001),
)
_BRANCHES = (
    *(0xD61F_0000, 0xD63F_0000, 0xD65F_0000, 0x1400_0000, 0x1400_0004, 0x17FF_FFFC, 0x9400_0002, 0xB400_0040),
    *(0x3600_0040, 0x5400_0040, 0xD65F_0BFF, 0xD61F_081F, 0x1600_0000, 0x1500_0000),
)

SYSTEM = (*_REGISTERS, *_MORE_REGISTERS, *_PSTATE, *_HINTS, *_BARRIERS, *_MAINTENANCE, *_CALLS, *_BRANCHES)


def words(seed: int) -> bytes:
    """The guest's list for a seed: all of the above, and system instructions of any encoding."""
    source = random.Random(seed ^ 0xF022)
    chosen = [*LOADS_AND_STORES, *SYSTEM]
    if len(chosen) > COUNT:
        raise AssertionError(f"{len(chosen)} words are more than {COUNT}")
    while len(chosen) < COUNT:
        chosen.append(0xD500_0000 | source.getrandbits(22))
    return struct.pack(f"<{COUNT}I", *chosen)
