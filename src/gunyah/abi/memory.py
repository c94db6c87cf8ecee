"""Memory words: access rights, extent types, stage-2 memory types, and the bit fields of the memory hypercalls.

Every layout has a ``..._RESERVED`` mask of the bits that must be 0 (errors-and-types.md 6).
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import NamedTuple

__all__ = [
    "ACCESS_ATTRIBUTES_RESERVED",
    "ADDRSPACE_VMMIO_RANGES_MAX",
    "ATTACH_DISTRIBUTOR_RESERVED",
    "ATTACH_REDISTRIBUTOR_LAST",
    "ATTACH_REDISTRIBUTOR_LAST_VALID",
    "ATTACH_REDISTRIBUTOR_RESERVED",
    "Access",
    "AccessAttributes",
    "DONATE_OPTIONS_RESERVED",
    "DonateOptions",
    "DonateType",
    "EXTENT_ACCESSES",
    "IPA_BITS",
    "MAP_FLAGS_RESERVED",
    "MAP_PARTIAL",
    "MAPPING_ATTRIBUTES_RESERVED",
    "MEMEXTENT_ATTRIBUTES_APPEND",
    "MEMEXTENT_ATTRIBUTES_RESERVED",
    "MEMEXTENT_MAPPINGS_MAX",
    "MODIFY_FLAGS_RESERVED",
    "MapMemtype",
    "MappingAttributes",
    "MemextentAttributes",
    "MemextentMemtype",
    "MemextentModifyOp",
    "MemextentType",
    "ModifyFlags",
    "NO_SYNC",
    "PERMITTED_MEMTYPES",
    "SPARSE_IPA_BITS",
    "SPARSE_PA_BITS",
    "VmmioOp",
]


class Access(IntFlag):
    """``pgtable_access_t``: three bits (errors-and-types.md 6.1)."""

    NONE = 0
    X = 1
    W = 2
    R = 4
    RX = 5
    RW = 6
    RWX = 7


EXTENT_ACCESSES = frozenset({1, 2, 4, 5, 6, 7})
"""Accesses a memory extent may have; none (0) and W+X (3) are refused."""


class MemextentType(IntEnum):
    """``memextent_type_t`` (errors-and-types.md 6.2)."""

    BASIC = 0
    SPARSE = 1


class MemextentMemtype(IntEnum):
    """``memextent_memtype_t``: which mapping types an extent permits (errors-and-types.md 6.2)."""

    ANY = 0
    DEVICE = 1
    UNCACHED = 2
    CACHED = 3


class MapMemtype(IntEnum):
    """``pgtable_vm_memtype_t``: stage-2 MemAttr[3:0] encoding (errors-and-types.md 6.3)."""

    DEVICE_NGNRNE = 0x0
    DEVICE_NGNRE = 0x1
    DEVICE_NGRE = 0x2
    DEVICE_GRE = 0x3
    NORMAL_NC = 0x5
    NORMAL_ONC_IWT = 0x6
    NORMAL_ONC_IWB = 0x7
    NORMAL_OWT_INC = 0x9
    NORMAL_WT = 0xA
    NORMAL_OWT_IWB = 0xB
    NORMAL_OWB_INC = 0xD
    NORMAL_OWB_IWT = 0xE
    NORMAL_WB = 0xF


_DEVICE_MEMTYPES = frozenset({0x0, 0x1, 0x2, 0x3})

PERMITTED_MEMTYPES: dict[int, frozenset[int]] = {
    MemextentMemtype.ANY: frozenset(int(memtype) for memtype in MapMemtype),
    MemextentMemtype.DEVICE: _DEVICE_MEMTYPES,
    MemextentMemtype.UNCACHED: _DEVICE_MEMTYPES | {int(MapMemtype.NORMAL_NC)},
    MemextentMemtype.CACHED: frozenset({int(MapMemtype.NORMAL_WB)}),
}
"""Mapping types that each extent memtype lets through (errors-and-types.md 6.2)."""


class MemextentModifyOp(IntEnum):
    """Operation of ``memextent_modify`` (errors-and-types.md 6.4)."""

    UNMAP_ALL = 0
    ZERO_RANGE = 1
    CACHE_CLEAN_RANGE = 2
    CACHE_FLUSH_RANGE = 3
    SYNC_ALL = 255


class DonateType(IntEnum):
    """Direction of ``memextent_donate`` (errors-and-types.md 6.4)."""

    TO_CHILD = 0
    TO_PARENT = 1
    TO_SIBLING = 2


class VmmioOp(IntEnum):
    """Operation of ``addrspace_configure_vmmio`` (errors-and-types.md 6.4)."""

    ADD_RANGE = 0
    REMOVE_RANGE = 1


NO_SYNC = 1 << 31
"""Map, modify and donate flags: do not wait for other cores."""

MAPPING_ATTRIBUTES_RESERVED = 0xFF00_FF88


class MappingAttributes(NamedTuple):
    """Mapping attributes word (32 bits) of ``addrspace_map``: user access, kernel access, memory type."""

    user: int
    kernel: int
    memtype: int

    def pack(self) -> int:
        """The word."""
        return self.user | self.kernel << 4 | self.memtype << 16

    @classmethod
    def unpack(cls, word: int) -> MappingAttributes:
        """Fields of ``word``; reserved bits are the caller's to check."""
        return cls(word & 7, word >> 4 & 7, word >> 16 & 0xFF)


ACCESS_ATTRIBUTES_RESERVED = 0xFFFF_FF88


class AccessAttributes(NamedTuple):
    """Access attributes word (32 bits) of ``addrspace_update_access``."""

    user: int
    kernel: int

    def pack(self) -> int:
        """The word."""
        return self.user | self.kernel << 4

    @classmethod
    def unpack(cls, word: int) -> AccessAttributes:
        """Fields of ``word``; reserved bits are the caller's to check."""
        return cls(word & 7, word >> 4 & 7)


MAP_PARTIAL = 1 << 0
"""Map flags: use the offset and size arguments."""
MAP_FLAGS_RESERVED = 0x7FFF_FFFE

MEMEXTENT_ATTRIBUTES_APPEND = 1 << 31
"""List append: not provided, setting it is refused with 1."""
MEMEXTENT_ATTRIBUTES_RESERVED = 0x7FFC_FCF8


class MemextentAttributes(NamedTuple):
    """Memory extent attributes word (32 bits) of ``memextent_configure`` and ``memextent_configure_derive``."""

    access: int
    memtype: int
    type: int
    append: bool = False

    def pack(self) -> int:
        """The word."""
        return self.access | self.memtype << 8 | self.type << 16 | self.append << 31

    @classmethod
    def unpack(cls, word: int) -> MemextentAttributes:
        """Fields of ``word``; reserved bits are the caller's to check."""
        return cls(word & 7, word >> 8 & 3, word >> 16 & 3, bool(word >> 31 & 1))


MODIFY_FLAGS_RESERVED = 0x7FFF_FF00


class ModifyFlags(NamedTuple):
    """Flags word (32 bits) of ``memextent_modify``."""

    op: int
    no_sync: bool = False

    def pack(self) -> int:
        """The word."""
        return self.op | self.no_sync << 31

    @classmethod
    def unpack(cls, word: int) -> ModifyFlags:
        """Fields of ``word``; reserved bits are the caller's to check."""
        return cls(word & 0xFF, bool(word >> 31 & 1))


DONATE_OPTIONS_RESERVED = 0x7FFF_FF00


class DonateOptions(NamedTuple):
    """Options word (32 bits) of ``memextent_donate``."""

    type: int
    no_sync: bool = False

    def pack(self) -> int:
        """The word."""
        return self.type | self.no_sync << 31

    @classmethod
    def unpack(cls, word: int) -> DonateOptions:
        """Fields of ``word``; reserved bits are the caller's to check."""
        return cls(word & 0xFF, bool(word >> 31 & 1))


ATTACH_REDISTRIBUTOR_LAST_VALID = 1 << 0
"""``addrspace_attach_vdevice`` flags of a redistributor: the next bit means something."""
ATTACH_REDISTRIBUTOR_LAST = 1 << 1
"""Value of GICR_TYPER.Last."""
ATTACH_REDISTRIBUTOR_RESERVED = 0xFFFF_FFFF_FFFF_FFFC
ATTACH_DISTRIBUTOR_RESERVED = 0xFFFF_FFFF_FFFF_FFFF

MEMEXTENT_MAPPINGS_MAX = 4
"""Mapping slots of a basic extent."""
ADDRSPACE_VMMIO_RANGES_MAX = 128
IPA_BITS = 36
"""Width of an address space's IPA range on QEMU."""
SPARSE_IPA_BITS = 48
SPARSE_PA_BITS = 44
