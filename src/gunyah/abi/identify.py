"""Who the hypervisor says it is: the identify words and the UID (errors-and-types.md 3, hypercalls.md 1.4)."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import NamedTuple

__all__ = [
    "API_FLAGS_0",
    "API_FLAGS_1",
    "API_FLAGS_2",
    "API_INFO",
    "API_VERSION",
    "ApiFlags0",
    "ApiInfo",
    "SchedulerVariant",
    "UID_PUBLIC",
    "UID_QUALCOMM_V4",
    "UID_V4",
    "UUID_TEXT",
    "Variant",
    "scheduler_variant",
]


class Variant(IntEnum):
    """Bits 63:56 of the Hyp API Info word."""

    UNKNOWN = 0x00
    GUNYAH = 0x48
    QUALCOMM = 0x51


class ApiInfo(NamedTuple):
    """Hyp API Info word (64 bits), X0 of ``hypervisor_identify``."""

    version: int
    big_endian: bool
    is_64bit: bool
    variant: int

    def pack(self) -> int:
        """The word."""
        return self.version | self.big_endian << 14 | self.is_64bit << 15 | self.variant << 56

    @classmethod
    def unpack(cls, word: int) -> ApiInfo:
        """Fields of ``word``; reserved bits are ignored."""
        return cls(word & 0x3FFF, bool(word >> 14 & 1), bool(word >> 15 & 1), word >> 56 & 0xFF)


class ApiFlags0(IntFlag):
    """Feature bits of flags word 0, X1 of ``hypervisor_identify``; bits 31:28 are the scheduler variant."""

    PARTITION_CSPACE = 1 << 0
    DOORBELL = 1 << 1
    MSGQUEUE = 1 << 2
    VIC = 1 << 3
    VPM = 1 << 4
    VCPU = 1 << 5
    MEMEXTENT = 1 << 6
    TRACE_CTRL = 1 << 7
    WATCHDOG = 1 << 8
    VIRTIO_MMIO = 1 << 9
    PRNG = 1 << 10
    VCPU_RUN = 1 << 11


class SchedulerVariant(IntEnum):
    """Bits 31:28 of flags word 0."""

    TRIVIAL = 0
    FPRR = 1


API_VERSION = 1

API_INFO = ApiInfo(API_VERSION, big_endian=False, is_64bit=True, variant=Variant.QUALCOMM).pack()
"""0x5100000000008001: what the public source reports."""

API_FLAGS_0 = int(
    ApiFlags0.PARTITION_CSPACE
    | ApiFlags0.DOORBELL
    | ApiFlags0.MSGQUEUE
    | ApiFlags0.VIC
    | ApiFlags0.VPM
    | ApiFlags0.VCPU
    | ApiFlags0.MEMEXTENT
    | ApiFlags0.TRACE_CTRL
    | ApiFlags0.VIRTIO_MMIO
    | ApiFlags0.PRNG
    | ApiFlags0.VCPU_RUN
) | (SchedulerVariant.FPRR << 28)
"""0x10000eff: the QEMU configuration."""

API_FLAGS_1 = 0
API_FLAGS_2 = 0

UUID_TEXT = "c1d58fcd-a453-5fdb-9265-ce36673d5f14"

UID_PUBLIC = (0xCD8F_D5C1, 0xDB5F_53A4, 0x36CE_6592, 0x145F_3D67)
"""W0..W3 of CALL_UID in SMCCC byte order: the public stack and later Linux (linux-drivers.md 5)."""

UID_V4 = (0x673D_5F14, 0x9265_CE36, 0xA453_5FDB, 0xC1D5_8FCD)
"""The same UUID as the v4 series spells it: words reversed, bytes not swapped (linux-clients.md 1)."""

UID_QUALCOMM_V4 = (0x19BD_54BD, 0x0B37_571B, 0x946F_609B, 0x5453_9DE6)
"""The second UID that v4 guests accept."""


def scheduler_variant(flags_0: int) -> int:
    """Bits 31:28 of flags word 0."""
    return flags_0 >> 28 & 0xF
