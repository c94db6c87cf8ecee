"""What the hypervisor tells the root VM at start: two blocks in memory and a CBOR map (boot.md 5).

X0 of the root VM's vCPU holds the address of the runtime block. The resource-manager block stands behind it and says
where its CBOR payload is. Both use natural alignment, little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from gunyah.abi.layout import U16, U32, U64, Field, Pad, Payload

__all__ = [
    "CAP_ABSENT",
    "EnvKey",
    "RM_SIGNATURE",
    "RM_VERSION",
    "RUNTIME_AREA_SIZE",
    "RUNTIME_SIGNATURE",
    "RUNTIME_SIZE",
    "RUNTIME_VERSION",
    "ResourceManagerBlock",
    "RM_SIZE",
    "RuntimeBlock",
]

RUNTIME_SIGNATURE = 0x454D_5652
RUNTIME_VERSION = 1
RUNTIME_SIZE = 88
"""Bytes of the runtime block; the resource-manager block follows it."""
RUNTIME_AREA_SIZE = 0x4000
"""Bytes of the area both blocks and the payload share."""

RM_SIGNATURE = 0x524D_4544
RM_VERSION = 1
RM_SIZE = 16
"""Bytes of the resource-manager block; its payload follows."""


@dataclass(frozen=True, slots=True)
class RuntimeBlock(Payload):
    """``rt_env_data_t`` (boot.md 5.1). Addresses are the root VM's IPAs, sizes bytes."""

    runtime_ipa: int
    app_ipa: int
    app_heap_ipa: int
    app_heap_size: int
    vcpu_capid: int
    timer_freq: int
    """Hz."""
    gicd_base: int
    gicr_base: int
    rm_offset: int = RUNTIME_SIZE
    """Bytes from the start of this block to the resource-manager block."""
    rm_size: int = RUNTIME_AREA_SIZE - RUNTIME_SIZE
    """Bytes available there."""
    signature: int = RUNTIME_SIGNATURE
    version: int = RUNTIME_VERSION

    LAYOUT: ClassVar[tuple[Field, ...]] = (
        U32("signature"),
        U16("version"),
        Pad(2),
        U64("runtime_ipa"),
        U64("app_ipa"),
        U64("app_heap_ipa"),
        U64("app_heap_size"),
        U64("vcpu_capid"),
        U64("timer_freq"),
        U64("gicd_base"),
        U64("gicr_base"),
        U64("rm_offset"),
        U64("rm_size"),
    )
    TRAILING: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class ResourceManagerBlock(Payload):
    """``rm_env_data_hdr_t`` (boot.md 5.2)."""

    payload_size: int
    """Bytes of CBOR."""
    payload_offset: int = RM_SIZE
    """Bytes from the start of this block."""
    signature: int = RM_SIGNATURE
    version: int = RM_VERSION

    LAYOUT: ClassVar[tuple[Field, ...]] = (
        U32("signature"),
        U16("version"),
        Pad(2),
        U32("payload_offset"),
        U32("payload_size"),
    )
    TRAILING: ClassVar[bool] = True


class EnvKey(StrEnum):
    """Keys of the CBOR map (boot.md 5.3). Values are unsigned integers unless stated."""

    CSPACE_CAPID = "cspace_capid"
    PARTITION_CAPID = "partition_capid"
    VCPU_CAPID = "vcpu_capid"
    ADDRSPACE_CAPID = "addrspace_capid"
    VIC = "vic"
    VIC_HWIRQ = "vic_hwirq"
    """Array by physical interrupt number; CAP_ABSENT where there is none."""
    FREE_RANGES = "free_ranges"
    """Array of [base, size]: physical memory of the root partition."""
    ME_CAPID = "me_capid"
    ME_IPA_BASE = "me_ipa_base"
    ME_SIZE = "me_size"
    IPA_OFFSET = "ipa_offset"
    DEVICE_ME_CAPID = "device_me_capid"
    DEVICE_ME_BASE = "device_me_base"
    DEVICE_ME_SIZE = "device_me_size"
    UART_ME_CAPID = "uart_me_capid"
    UART_ADDRESS = "uart_address"
    GICD_BASE = "gicd_base"
    GICR_STRIDE = "gicr_stride"
    GICR_RANGES = "gicr_ranges"
    """Array of [base, count]."""
    BOOT_CORE = "boot_core"
    USABLE_CORES = "usable_cores"
    """Bit mask."""
    HLOS_VM_BASE = "hlos_vm_base"
    HLOS_VM_SIZE = "hlos_vm_size"
    ENTRY_HLOS = "entry_hlos"
    HLOS_DT_BASE = "hlos_dt_base"
    HLOS_RAMFS_BASE = "hlos_ramfs_base"
    WATCHDOG_SUPPORTED = "watchdog_supported"
    SVE_SUPPORTED = "sve_supported"
    """Boolean."""


CAP_ABSENT = 0xFFFF_FFFF_FFFF_FFFF
"""Entry of vic_hwirq without a HW IRQ object."""
