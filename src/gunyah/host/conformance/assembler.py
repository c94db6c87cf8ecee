"""The few AArch64 instructions that the native monitor is made of, as words (Arm ARM C6)."""

from __future__ import annotations

__all__ = [
    "Encoding",
    "add",
    "adr",
    "branch",
    "cbz",
    "eret",
    "exception_call",
    "load",
    "load_pair",
    "move",
    "mrs",
    "msr",
    "store",
    "store_pair",
    "wfi",
]

Encoding = tuple[int, int, int, int, int]
"""op0, op1, CRn, CRm, op2 of a system register."""

SIZES = {1: 0, 2: 1, 4: 2, 8: 3}


def exception_call(name: str, immediate: int) -> int:
    """``hvc #immediate`` or ``smc #immediate``."""
    return 0xD400_0000 | immediate << 5 | (2 if name == "hvc" else 3)


def load(target: int, base: int, offset: int = 0, width: int = 8) -> int:
    """LDR{B,H} of ``width`` bytes, zero-extending, unsigned offset in bytes."""
    return 0x3940_0000 | SIZES[width] << 30 | offset // width << 10 | base << 5 | target


def store(source: int, base: int, offset: int = 0, width: int = 8) -> int:
    """STR{B,H} of ``width`` bytes; register 31 is XZR."""
    return 0x3900_0000 | SIZES[width] << 30 | offset // width << 10 | base << 5 | source


def load_pair(first: int, second: int, base: int, offset: int) -> int:
    """LDP of two X registers."""
    return 0xA940_0000 | (offset // 8 & 0x7F) << 15 | second << 10 | base << 5 | first


def store_pair(first: int, second: int, base: int, offset: int) -> int:
    """STP of two X registers."""
    return 0xA900_0000 | (offset // 8 & 0x7F) << 15 | second << 10 | base << 5 | first


def _system(register: Encoding) -> int:
    op0, op1, crn, crm, op2 = register
    return (op0 & 1) << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5


def mrs(target: int, register: Encoding) -> int:
    return 0xD530_0000 | _system(register) | target


def msr(register: Encoding, source: int) -> int:
    return 0xD510_0000 | _system(register) | source


def adr(target: int, offset: int) -> int:
    """ADR to ``offset`` bytes from this instruction."""
    return 0x1000_0000 | (offset & 3) << 29 | (offset >> 2 & 0x7_FFFF) << 5 | target


def cbz(register: int, offset: int) -> int:
    """CBZ of a W register."""
    return 0x3400_0000 | (offset >> 2 & 0x7_FFFF) << 5 | register


def move(target: int, value: int) -> list[int]:
    """MOVZ and as many MOVK as a 64-bit value takes."""
    words = [0xD280_0000 | (value & 0xFFFF) << 5 | target]
    for part in range(1, 4):
        half = value >> 16 * part & 0xFFFF
        if half:
            words.append(0xF280_0000 | part << 21 | half << 5 | target)
    return words


def branch(offset: int) -> int:
    return 0x1400_0000 | offset >> 2 & 0x3FF_FFFF


def add(target: int, source: int, immediate: int) -> int:
    """ADD of a 12-bit immediate."""
    return 0x9100_0000 | immediate << 10 | source << 5 | target


def wfi() -> int:
    return 0xD503_207F


def eret() -> int:
    return 0xD69F_03E0
