"""Concept types for the integers that cross the boundaries, and the constants that belong to them.

Sizes and special values are those of errors-and-types.md 2 and 6; the fixed VMIDs those of rm-behaviour.md.
"""

from __future__ import annotations

from typing import NewType

__all__ = [
    "CAP_INVALID",
    "CPU_INDEX_INVALID",
    "CapID",
    "INDEX_INVALID",
    "IPA",
    "PA",
    "PAGE_MASK",
    "PAGE_SIZE",
    "U16",
    "U32",
    "U64",
    "VA",
    "VIRQ",
    "VIRQ_INVALID",
    "VMID",
    "VMID_HLOS",
    "VMID_HYPERVISOR",
    "VMID_RM",
]

CapID = NewType("CapID", int)
"""``cap_id_t``: opaque 64-bit capability id, valid in one capability space."""

VMID = NewType("VMID", int)
"""``vmid_t``: 16-bit VM id, usable values 1..255."""

IPA = NewType("IPA", int)
"""``vmaddr_t``: 64-bit intermediate physical address, what a VM takes for physical."""

PA = NewType("PA", int)
"""``paddr_t``: 64-bit physical address of the machine."""

VA = NewType("VA", int)
"""64-bit virtual address in a VM's EL1 translation regime."""

VIRQ = NewType("VIRQ", int)
"""``virq_t``: 32-bit GIC interrupt id as a VM sees it."""

U16 = 0xFFFF
U32 = 0xFFFF_FFFF
U64 = 0xFFFF_FFFF_FFFF_FFFF

PAGE_SIZE = 4096
"""Bytes; granule of every mapping (errors-and-types.md 6.4)."""
PAGE_MASK = PAGE_SIZE - 1

CAP_INVALID = CapID(U64)
"""-1, never issued."""
INDEX_INVALID = U32
"""-1 of a 32-bit count or index: invalid, or "leave unchanged"."""
CPU_INDEX_INVALID = U16
"""-1 of a 16-bit CPU index: no CPU."""
VIRQ_INVALID = VIRQ(U32)
"""-1 of a 32-bit interrupt number: none."""

VMID_HYPERVISOR = VMID(0)
"""RM's pseudo-client for the hypervisor itself."""
VMID_HLOS = VMID(3)
"""The primary VM."""
VMID_RM = VMID(255)
"""The Resource Manager (root VM)."""
