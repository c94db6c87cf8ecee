"""Kinds of hypervisor objects, their states, and the rights a capability to them can carry.

Right bits are those of the implementation where the API document differs (errors-and-types.md 4); the numbering of
object types is never visible to VMs, so it is by name here (errors-and-types.md 5).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum, IntFlag
from types import MappingProxyType

__all__ = [
    "ALL_RIGHTS",
    "AddrspaceRight",
    "CSpaceRight",
    "CapabilityState",
    "DoorbellRight",
    "HwirqRight",
    "MemextentRight",
    "MsgqueueRight",
    "OBJECT_ACTIVATE",
    "ObjectState",
    "ObjectType",
    "PartitionRight",
    "RIGHTS",
    "ThreadRight",
    "VicRight",
    "VirtioMmioRight",
    "VpmGroupRight",
    "VrtcRight",
    "WatchdogRight",
    "describe_rights",
]


class ObjectType(Enum):
    """Object types of the QEMU configuration (errors-and-types.md 5)."""

    PARTITION = "partition"
    CSPACE = "cspace"
    ADDRSPACE = "addrspace"
    MEMEXTENT = "memextent"
    THREAD = "thread"
    DOORBELL = "doorbell"
    MSGQUEUE = "msgqueue"
    VIC = "vic"
    HWIRQ = "hwirq"
    VPM_GROUP = "vpm_group"
    VIRTIO_MMIO = "virtio_mmio"
    VRTC = "vrtc"


class ObjectState(IntEnum):
    """Life of an object (errors-and-types.md 5)."""

    NONE = 0
    INIT = 1
    ACTIVE = 2
    FAILED = 3
    DESTROYING = 4


class CapabilityState(IntEnum):
    """State of a capability slot (errors-and-types.md 5)."""

    EMPTY = 0
    VALID = 1
    REVOKED = 2


OBJECT_ACTIVATE = 0x8000_0000
"""The one right that every object type has: activate it, and configure it before that."""


class PartitionRight(IntFlag):
    """Rights to a partition."""

    OBJECT_CREATE = 0x1
    DONATE = 0x2


class CSpaceRight(IntFlag):
    """Rights to a capability space."""

    CAP_CREATE = 0x1
    CAP_DELETE = 0x2
    CAP_COPY = 0x4
    ATTACH = 0x8
    CAP_REVOKE = 0x10


class AddrspaceRight(IntFlag):
    """Rights to an address space."""

    ATTACH = 0x1
    MAP = 0x2
    LOOKUP = 0x4
    ADD_VMMIO_RANGE = 0x8


class MemextentRight(IntFlag):
    """Rights to a memory extent."""

    MAP = 0x1
    DERIVE = 0x2
    ATTACH = 0x4
    LOOKUP = 0x8
    DONATE = 0x10


class ThreadRight(IntFlag):
    """Rights to a thread (vCPU)."""

    POWER = 0x1
    AFFINITY = 0x2
    PRIORITY = 0x4
    TIMESLICE = 0x8
    YIELD_TO = 0x10
    BIND_VIRQ = 0x20
    STATE = 0x40
    LIFECYCLE = 0x80
    WRITE_CONTEXT = 0x100
    DISABLE = 0x200


class DoorbellRight(IntFlag):
    """Rights to a doorbell."""

    SEND = 0x1
    RECEIVE = 0x2
    BIND = 0x4


class MsgqueueRight(IntFlag):
    """Rights to a message queue."""

    SEND = 0x1
    RECEIVE = 0x2
    BIND_SEND = 0x4
    BIND_RECEIVE = 0x8


class VicRight(IntFlag):
    """Rights to a virtual interrupt controller."""

    BIND_SOURCE = 0x1
    ATTACH_VCPU = 0x2
    ATTACH_VDEVICE = 0x4


class HwirqRight(IntFlag):
    """Rights to a hardware interrupt. Bit 0 is unused; the API document's 0x1 for binding is wrong."""

    BIND_VIC = 0x2


class VpmGroupRight(IntFlag):
    """Rights to a virtual power-management group."""

    ATTACH_VCPU = 0x1
    BIND_VIRQ = 0x2
    QUERY = 0x4


class VirtioMmioRight(IntFlag):
    """Rights to a virtio-MMIO device."""

    BIND_BACKEND_VIRQ = 0x1
    BIND_FRONTEND_VIRQ = 0x2
    ASSERT_VIRQ = 0x4
    CONFIG = 0x8


class VrtcRight(IntFlag):
    """Rights to a virtual real-time clock."""

    CONFIGURE = 0x1
    ATTACH_ADDRSPACE = 0x2
    SET_TIME_BASE = 0x4


class WatchdogRight(IntFlag):
    """Rights to a watchdog; named by the API document only, no such object is ever created."""

    ATTACH_VCPU = 0x1
    BIND_VIRQ = 0x2


RIGHTS: Mapping[ObjectType, type[IntFlag]] = MappingProxyType(
    {
        ObjectType.PARTITION: PartitionRight,
        ObjectType.CSPACE: CSpaceRight,
        ObjectType.ADDRSPACE: AddrspaceRight,
        ObjectType.MEMEXTENT: MemextentRight,
        ObjectType.THREAD: ThreadRight,
        ObjectType.DOORBELL: DoorbellRight,
        ObjectType.MSGQUEUE: MsgqueueRight,
        ObjectType.VIC: VicRight,
        ObjectType.HWIRQ: HwirqRight,
        ObjectType.VPM_GROUP: VpmGroupRight,
        ObjectType.VIRTIO_MMIO: VirtioMmioRight,
        ObjectType.VRTC: VrtcRight,
    }
)
"""The flag class of each object type."""

ALL_RIGHTS: Mapping[ObjectType, int] = MappingProxyType(
    {kind: sum(int(right) for right in rights) | OBJECT_ACTIVATE for kind, rights in RIGHTS.items()}
)
"""Rights of a master capability: all that are defined for the type, and OBJECT_ACTIVATE (errors-and-types.md 4)."""


def describe_rights(kind: ObjectType | None, rights: int) -> str:
    """``rights`` (32 bits) to an object of type ``kind`` in words: ``send|receive|0x40``, or ``none``."""
    words: list[str] = []
    left = rights
    for right in RIGHTS[kind] if kind is not None else ():
        if left & right.value:
            words.append(str(right.name).lower())
            left &= ~right.value
    if left & OBJECT_ACTIVATE:
        words.append("object_activate")
        left &= ~OBJECT_ACTIVATE
    if left:
        words.append(hex(left))
    return "|".join(words) or "none"
