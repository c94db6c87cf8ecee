"""Address translation in software: a vCPU's stage-1 tables read as the hardware reads them, loaded or not.

`Core.physical` asks the engine, which is fast, for the loaded vCPU only. This module walks for anybody: a debugger that
looks at a sleeping vCPU, a buffer of one that was switched out. Architecture: VMSAv8-64 translation (Arm DDI 0487,
D8), EL1&0 regime, granules of 4, 16 and 64 KiB, no FEAT_LPA.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final, NamedTuple

from ..memory import BusError, PhysicalMemory
from .state import Registers

PSTATE_PAN: Final = 1 << 22
SCTLR_M: Final = 1 << 0
SCTLR_WXN: Final = 1 << 19


class Access(enum.Enum):
    """What the memory is wanted for."""

    READ = "read"
    WRITE = "write"
    EXECUTE = "execute"


class Kind(enum.Enum):
    """Why a translation failed, with its fault status code without level."""

    ADDRESS_SIZE = 0x00
    TRANSLATION = 0x04
    ACCESS_FLAG = 0x08
    PERMISSION = 0x0C
    EXTERNAL = 0x14
    """A table is where no memory is."""


class TranslationFault(Exception):
    """A translation that the hardware would refuse."""

    def __init__(self, kind: Kind, level: int, address: int, stage: int, reason: str) -> None:
        """`address` is the VA for stage 1, the IPA for stage 2."""
        super().__init__(
            f"stage {stage} {kind.name.lower().replace('_', ' ')} fault at level {level} for {address:#x}: {reason}"
        )
        self.kind = kind
        self.level = level
        self.address = address
        self.stage = stage

    @property
    def status(self) -> int:
        """Fault status code as ESR_ELx holds it."""
        return self.kind.value | self.level


class Translation(NamedTuple):
    """Where a page or block of virtual memory is."""

    address: int
    """IPA (stage 1) or PA (stage 2) of the address asked for."""
    size: int
    """Bytes of the page or block."""
    writable: bool
    executable: bool
    user: bool
    """Whether EL0 may read it (stage 1)."""


_GRANULE_TG0: Final = {0: 12, 1: 16, 2: 14}
_GRANULE_TG1: Final = {1: 14, 2: 12, 3: 16}
_OUTPUT: Final = (1 << 48) - 1


def translate(
    memory: PhysicalMemory,
    registers: Registers,
    va: int,
    access: Access = Access.READ,
    *,
    el: int = 1,
    stage2: Callable[[int], int] | None = None,
) -> Translation:
    """Walk stage 1 of the EL1&0 regime for `va`; raises `TranslationFault`.

    `stage2` maps the IPA of a table entry to a PA (raising what it likes); without it IPA is PA. The result's address
    is an IPA.
    """
    sctlr = registers.read("SCTLR_EL1")
    if not sctlr & SCTLR_M:
        if va >> 48:
            raise TranslationFault(Kind.ADDRESS_SIZE, 0, va, 1, "the MMU is off and the address is above 48 bits")
        return Translation(va, 4096, True, True, True)
    tcr = registers.read("TCR_EL1")
    upper = va >> 55 & 1
    size_bits = 64 - (tcr >> 16 & 63 if upper else tcr & 63)
    granule = _GRANULE_TG1.get(tcr >> 30 & 3) if upper else _GRANULE_TG0.get(tcr >> 14 & 3)
    top_byte_ignored = tcr >> (38 if upper else 37) & 1
    extension = va >> size_bits & (1 << (56 if top_byte_ignored else 64) - size_bits) - 1
    expected = (1 << (56 if top_byte_ignored else 64) - size_bits) - 1 if upper else 0
    if granule is None or size_bits < 25 or size_bits > 48 or extension != expected:
        raise TranslationFault(Kind.TRANSLATION, 0, va, 1, f"outside the {size_bits}-bit half of TTBR{upper}_EL1")
    if tcr >> (23 if upper else 7) & 1:
        raise TranslationFault(Kind.TRANSLATION, 0, va, 1, f"walks from TTBR{upper}_EL1 are off")
    table = registers.read("TTBR1_EL1" if upper else "TTBR0_EL1") & _OUTPUT & ~1
    stride = granule - 3
    levels = -(-(size_bits - granule) // stride)
    level = 4 - levels
    top = size_bits - granule - stride * (levels - 1)
    table &= ~((1 << max(top + 3, 6)) - 1)
    no_write = no_user = no_exec_user = no_exec_kernel = False
    while True:
        shift = granule + stride * (3 - level)
        bits = top if level == 4 - levels else stride
        slot = table + (va >> shift & (1 << bits) - 1) * 8
        entry = _fetch(memory, slot, stage2, level, va)
        if not entry & 1 or (level == 3 and not entry & 2):
            raise TranslationFault(Kind.TRANSLATION, level, va, 1, f"entry {entry:#x} at {slot:#x}")
        if level == 3 or not entry & 2:
            break
        no_write |= bool(entry >> 62 & 1)
        no_user |= bool(entry >> 61 & 1)
        no_exec_user |= bool(entry >> 60 & 1)
        no_exec_kernel |= bool(entry >> 59 & 1)
        table = entry & _OUTPUT & ~((1 << granule) - 1)
        level += 1
    if level < 3 and (level == 0 or (granule != 12 and level == 1)):
        raise TranslationFault(Kind.TRANSLATION, level, va, 1, f"entry {entry:#x} is a block where none may be")
    if not entry >> 10 & 1:
        raise TranslationFault(Kind.ACCESS_FLAG, level, va, 1, f"entry {entry:#x}")
    writable = not entry >> 7 & 1 and not no_write
    user = bool(entry >> 6 & 1) and not no_user
    if el == 0:
        readable, executable = user, not (entry >> 54 & 1 or no_exec_user)
        writable = writable and user
    else:
        readable = not (user and registers.pstate & PSTATE_PAN)
        executable = not (entry >> 53 & 1 or no_exec_kernel or (user and writable))
    if sctlr & SCTLR_WXN and writable:
        executable = False
    allowed = {Access.READ: readable, Access.WRITE: writable and readable, Access.EXECUTE: executable}
    if not allowed[access]:
        raise TranslationFault(Kind.PERMISSION, level, va, 1, f"entry {entry:#x} does not let EL{el} {access.value}")
    mask = (1 << shift) - 1
    return Translation(entry & _OUTPUT & ~mask | va & mask, 1 << shift, writable, executable, user)


def translate_stage2(
    memory: PhysicalMemory, registers: Registers, ipa: int, access: Access = Access.READ
) -> Translation:
    """Walk stage 2 of a vCPU (VTTBR_EL2, VTCR_EL2, 4 KiB granule) for an IPA; raises `TranslationFault`."""
    vtcr = registers.read("VTCR_EL2")
    size_bits = 64 - (vtcr & 63)
    if not registers.read("HCR_EL2") & 1:
        return Translation(ipa, 4096, True, True, True)
    if vtcr >> 14 & 3:
        raise ValueError(f"VTCR_EL2 {vtcr:#x}: only the 4 KiB granule is walked in software")
    level = 2 - (vtcr >> 6 & 3)
    if ipa >> size_bits:
        raise TranslationFault(Kind.TRANSLATION, level, ipa, 2, f"above {size_bits} bits")
    table = registers.read("VTTBR_EL2") & _OUTPUT & ~1
    first = True
    while True:
        shift = 39 - 9 * level
        index = ipa >> shift if first else ipa >> shift & 511
        first = False
        entry = _fetch(memory, table + index * 8, None, level, ipa)
        if not entry & 1 or (level == 3 and not entry & 2) or (level == 0 and not entry & 2):
            raise TranslationFault(Kind.TRANSLATION, level, ipa, 2, f"entry {entry:#x} at {table + index * 8:#x}")
        if level == 3 or not entry & 2:
            break
        table = entry & _OUTPUT & ~0xFFF
        level += 1
    if not entry >> 10 & 1:
        raise TranslationFault(Kind.ACCESS_FLAG, level, ipa, 2, f"entry {entry:#x}")
    readable, writable = bool(entry >> 6 & 1), bool(entry >> 7 & 1)
    executable = not entry >> 54 & 1
    allowed = {Access.READ: readable, Access.WRITE: writable, Access.EXECUTE: executable}
    if not allowed[access]:
        raise TranslationFault(Kind.PERMISSION, level, ipa, 2, f"entry {entry:#x} does not let the VM {access.value}")
    mask = (1 << shift) - 1
    return Translation(entry & _OUTPUT & ~mask | ipa & mask, 1 << shift, writable, executable, True)


def translate_both(
    memory: PhysicalMemory, registers: Registers, va: int, access: Access = Access.READ, *, el: int = 1
) -> int:
    """Walk both stages of a vCPU, table walks included, to a PA; raises `TranslationFault`."""

    def table(ipa: int) -> int:
        return translate_stage2(memory, registers, ipa).address

    ipa = translate(memory, registers, va, access, el=el, stage2=table).address
    return translate_stage2(memory, registers, ipa, access).address


def _fetch(memory: PhysicalMemory, slot: int, stage2: Callable[[int], int] | None, level: int, address: int) -> int:
    try:
        return memory.read_u64(slot if stage2 is None else stage2(slot))
    except BusError as error:
        raise TranslationFault(Kind.EXTERNAL, level, address, 1 if stage2 else 2, str(error)) from error


__all__ = [
    "Access",
    "Kind",
    "Translation",
    "TranslationFault",
    "translate",
    "translate_both",
    "translate_stage2",
]
