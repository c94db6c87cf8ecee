"""The /dev/gunyah interface of later Linux series: ioctls, structures and the vCPU run page (vm-loader.md 2 to 5).

Structures are little-endian with natural alignment. Generation A lends user memory, generation B binds guest memory
files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from types import MappingProxyType
from typing import ClassVar

from gunyah.abi.layout import U8, U16, U32, U64, Field, Pad, Payload, Raw

__all__ = [
    "ANDROID_TYPE",
    "AddressSize",
    "BootContext",
    "CreateGuestMem",
    "DEVICE",
    "ExitReason",
    "FUNCTION_ARGUMENT_MAX",
    "FunctionDescriptor",
    "FunctionType",
    "GuestMemFlag",
    "IOCTLS",
    "IOCTL_TYPE",
    "IOEVENTFD_LENGTHS",
    "Ioctl",
    "IoeventfdArgument",
    "IoeventfdFlag",
    "IrqfdArgument",
    "IrqfdFlag",
    "MapMem",
    "MapMemFlag",
    "MapMemFlagAndroid",
    "MemRegionFlag",
    "MmioExit",
    "PageFaultExit",
    "RESOURCE_LABELS_B",
    "RUN_PAGE_EXIT_REASON",
    "RUN_PAGE_IMMEDIATE_EXIT",
    "RUN_PAGE_MMIO_ACTION",
    "RUN_PAGE_MMIO_DATA",
    "RUN_PAGE_PAGE_FAULT_ACTION",
    "RUN_PAGE_PAYLOAD",
    "RUN_PAGE_SIZE",
    "ResumeAction",
    "STOP_REASON",
    "StatusExit",
    "UserMemRegion",
    "VcpuArgument",
    "VmExitStatus",
    "boot_register",
]

DEVICE = "/dev/gunyah"
IOCTL_TYPE = ord("G")
ANDROID_TYPE = ord("A")


def _io(kind: int, number: int) -> int:
    return kind << 8 | number


def _iow(kind: int, number: int, size: int) -> int:
    return 1 << 30 | size << 16 | kind << 8 | number


class Ioctl(IntEnum):
    """Request numbers in the arm64 encoding: direction 31:30, size 29:16, type 15:8, number 7:0."""

    CREATE_VM = _io(IOCTL_TYPE, 0x0)
    VM_SET_USER_MEM_REGION = _iow(IOCTL_TYPE, 0x1, 32)
    VM_SET_DTB_CONFIG = _iow(IOCTL_TYPE, 0x2, 16)
    VM_START = _io(IOCTL_TYPE, 0x3)
    VM_ADD_FUNCTION = _iow(IOCTL_TYPE, 0x4, 16)
    VCPU_RUN = _io(IOCTL_TYPE, 0x5)
    VCPU_MMAP_SIZE = _io(IOCTL_TYPE, 0x6)
    VM_REMOVE_FUNCTION = _iow(IOCTL_TYPE, 0x7, 16)
    CREATE_GUEST_MEM = _iow(IOCTL_TYPE, 0x8, 64)
    VM_MAP_MEM = _iow(IOCTL_TYPE, 0x9, 32)
    VM_SET_BOOT_CONTEXT = _iow(IOCTL_TYPE, 0xA, 16)
    ANDROID_CHECK_EXTENSION = _io(ANDROID_TYPE, 0x10)
    ANDROID_LEND_USER_MEM = _iow(ANDROID_TYPE, 0x11, 32)
    ANDROID_SET_FW_CONFIG = _iow(ANDROID_TYPE, 0x12, 16)
    ANDROID_CREATE_CMA_MEM_FD = _io(ANDROID_TYPE, 0x14)


# Structures (vm-loader.md 4)


class MemRegionFlag(IntFlag):
    """Flags of a user memory region: the guest's rights."""

    ALLOW_READ = 1 << 0
    ALLOW_WRITE = 1 << 1
    ALLOW_EXEC = 1 << 2
    LENT = 1 << 3
    """Early revisions only; later ones refuse it."""


@dataclass(frozen=True, slots=True)
class UserMemRegion(Payload):
    """``struct gh_userspace_memory_region``, 32 bytes."""

    label: int
    flags: int
    guest_phys_addr: int
    """IPA."""
    memory_size: int
    """Bytes."""
    userspace_addr: int

    LAYOUT: ClassVar[tuple[Field, ...]] = (
        U32("label"),
        U32("flags"),
        U64("guest_phys_addr"),
        U64("memory_size"),
        U64("userspace_addr"),
    )


@dataclass(frozen=True, slots=True)
class AddressSize(Payload):
    """Argument of VM_SET_DTB_CONFIG and ANDROID_SET_FW_CONFIG: IPA and bytes, 16 bytes."""

    guest_phys_addr: int
    size: int

    LAYOUT: ClassVar[tuple[Field, ...]] = (U64("guest_phys_addr"), U64("size"))


class FunctionType(IntEnum):
    """Type of a function descriptor."""

    VCPU = 1
    IRQFD = 2
    IOEVENTFD = 3


FUNCTION_ARGUMENT_MAX = 256
"""Bytes."""


@dataclass(frozen=True, slots=True)
class FunctionDescriptor(Payload):
    """``struct gh_fn_desc``, 16 bytes: type, size of the argument, user pointer to it."""

    type: int
    arg_size: int
    arg: int

    LAYOUT: ClassVar[tuple[Field, ...]] = (U32("type"), U32("arg_size"), U64("arg"))


@dataclass(frozen=True, slots=True)
class VcpuArgument(Payload):
    """``struct gh_fn_vcpu_arg``, 4 bytes; ticket: resource type VIRTUAL_CPU, label = id."""

    id: int

    LAYOUT: ClassVar[tuple[Field, ...]] = (U32("id"),)


class IrqfdFlag(IntFlag):
    """Flags of an irqfd."""

    LEVEL = 1 << 0


@dataclass(frozen=True, slots=True)
class IrqfdArgument(Payload):
    """``struct gh_fn_irqfd_arg``, 16 bytes; ticket: resource type DOORBELL_SRC, label."""

    fd: int
    label: int
    flags: int = 0

    LAYOUT: ClassVar[tuple[Field, ...]] = (U32("fd"), U32("label"), U32("flags"), Pad(4))


class IoeventfdFlag(IntFlag):
    """Flags of an ioeventfd."""

    DATAMATCH = 1 << 0


IOEVENTFD_LENGTHS = frozenset({0, 1, 2, 4, 8})


@dataclass(frozen=True, slots=True)
class IoeventfdArgument(Payload):
    """``struct gh_fn_ioeventfd_arg``, 32 bytes; ``fd`` is an int32 as two's complement."""

    datamatch: int
    addr: int
    """IPA."""
    len: int
    fd: int
    flags: int = 0

    LAYOUT: ClassVar[tuple[Field, ...]] = (
        U64("datamatch"),
        U64("addr"),
        U32("len"),
        U32("fd"),
        U32("flags"),
        Pad(4),
    )


class GuestMemFlag(IntFlag):
    """Flags of CREATE_GUEST_MEM."""

    CLOEXEC = 1 << 0
    ALLOW_HUGEPAGE = 1 << 1


@dataclass(frozen=True, slots=True)
class CreateGuestMem(Payload):
    """Argument of CREATE_GUEST_MEM, 64 bytes."""

    flags: int
    size: int
    """Bytes."""

    LAYOUT: ClassVar[tuple[Field, ...]] = (U64("flags"), U64("size"), Pad(48, zero=True))


class MapMemFlag(IntFlag):
    """Flags of VM_MAP_MEM in the mailing-list headers."""

    FORCE_LEND = 0x01
    FORCE_SHARE = 0x02
    ALLOW_READ = 0x10
    ALLOW_WRITE = 0x20
    ALLOW_EXEC = 0x40
    UNMAP = 0x100


class MapMemFlagAndroid(IntFlag):
    """Flags of VM_MAP_MEM in the Android headers."""

    FORCE_LEND = 0x10
    FORCE_SHARE = 0x20
    ALLOW_READ = 0x01
    ALLOW_WRITE = 0x02
    ALLOW_EXEC = 0x04
    UNMAP = 0x100


@dataclass(frozen=True, slots=True)
class MapMem(Payload):
    """Argument of VM_MAP_MEM, 32 bytes."""

    guest_addr: int
    """IPA."""
    flags: int
    guest_mem_fd: int
    offset: int
    """Bytes into the memory file."""
    size: int

    LAYOUT: ClassVar[tuple[Field, ...]] = (
        U64("guest_addr"),
        U32("flags"),
        U32("guest_mem_fd"),
        U64("offset"),
        U64("size"),
    )


@dataclass(frozen=True, slots=True)
class BootContext(Payload):
    """Argument of VM_SET_BOOT_CONTEXT, 16 bytes; ``register`` from boot_register()."""

    register: int
    value: int

    LAYOUT: ClassVar[tuple[Field, ...]] = (U32("register"), Pad(4), U64("value"))


def boot_register(register_set: int, index: int) -> int:
    """Register word of a boot context: set 0 X (index 0..31), 1 PC (0), 2 SP (0..2)."""
    return register_set << 8 | index


# vCPU run page (vm-loader.md 4.6)

RUN_PAGE_SIZE = 4096
RUN_PAGE_IMMEDIATE_EXIT = 0
"""Offset of a u8 that makes the next run return -EINTR."""
RUN_PAGE_EXIT_REASON = 8
"""Offset of the u32 exit reason."""
RUN_PAGE_PAYLOAD = 16
"""Offset of the structure that belongs to the exit reason."""
RUN_PAGE_MMIO_DATA = 24
"""Offset of the eight data bytes of an MMIO exit."""
RUN_PAGE_MMIO_ACTION = 37
"""Offset of the u8 resume action of an MMIO exit (generation B)."""
RUN_PAGE_PAGE_FAULT_ACTION = 28
"""Offset of the u8 resume action of a page-fault exit."""


class ExitReason(IntEnum):
    """Why VCPU_RUN returned; generation A knows the first three."""

    UNKNOWN = 0
    MMIO = 1
    STATUS = 2
    PAGE_FAULT = 3


class ResumeAction(IntEnum):
    """What the next run does with the access."""

    HANDLED = 0
    FAULT = 1
    RETRY = 2


class VmExitStatus(IntEnum):
    """Status of a STATUS exit."""

    LOAD_FAILED = 1
    EXITED = 2
    CRASHED = 3


@dataclass(frozen=True, slots=True)
class MmioExit(Payload):
    """Payload of an MMIO exit."""

    phys_addr: int
    """IPA."""
    data: bytes
    """Eight bytes."""
    len: int
    """Bytes of the access."""
    is_write: int
    resume_action: int = 0

    LAYOUT: ClassVar[tuple[Field, ...]] = (
        U64("phys_addr"),
        Raw("data", 8),
        U32("len"),
        U8("is_write"),
        U8("resume_action"),
        Pad(2),
    )
    TRAILING: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class StatusExit(Payload):
    """Payload of a STATUS exit: status, and type and first eight bytes of RM's exit reason."""

    status: int
    exit_type: int
    reason_size: int
    """Bytes."""
    reason: bytes
    """Eight bytes."""

    LAYOUT: ClassVar[tuple[Field, ...]] = (
        U32("status"),
        U16("exit_type"),
        Pad(2),
        U32("reason_size"),
        Raw("reason", 8),
    )
    TRAILING: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class PageFaultExit(Payload):
    """Payload of a PAGE_FAULT exit; ``attempt`` is an int32 errno as two's complement."""

    phys_addr: int
    attempt: int
    resume_action: int = 1

    LAYOUT: ClassVar[tuple[Field, ...]] = (U64("phys_addr"), U32("attempt"), U8("resume_action"), Pad(3))
    TRAILING: ClassVar[bool] = True


STOP_REASON = 3
"""Stop reason that the driver passes to VM_STOP."""

RESOURCE_LABELS_B: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "addrspace": (10, 0),
        "guest_private_extent": (9, 0),
        "host_shared_extent": (9, 1),
        "host_private_extent": (9, 2),
        "guest_shared_extent": (9, 3),
    }
)
"""(resource type, label) of what generation B needs of RM (vm-loader.md 7.2)."""

# Ioctls and what they take

IOCTLS: Mapping[int, type[Payload] | None] = MappingProxyType(
    {
        Ioctl.CREATE_VM.value: None,
        Ioctl.VM_SET_USER_MEM_REGION.value: UserMemRegion,
        Ioctl.VM_SET_DTB_CONFIG.value: AddressSize,
        Ioctl.VM_START.value: None,
        Ioctl.VM_ADD_FUNCTION.value: FunctionDescriptor,
        Ioctl.VCPU_RUN.value: None,
        Ioctl.VCPU_MMAP_SIZE.value: None,
        Ioctl.VM_REMOVE_FUNCTION.value: FunctionDescriptor,
        Ioctl.CREATE_GUEST_MEM.value: CreateGuestMem,
        Ioctl.VM_MAP_MEM.value: MapMem,
        Ioctl.VM_SET_BOOT_CONTEXT.value: BootContext,
        Ioctl.ANDROID_CHECK_EXTENSION.value: None,
        Ioctl.ANDROID_LEND_USER_MEM.value: UserMemRegion,
        Ioctl.ANDROID_SET_FW_CONFIG.value: AddressSize,
        Ioctl.ANDROID_CREATE_CMA_MEM_FD.value: None,
    }
)
"""Argument structure of each ioctl; None: an integer or nothing."""
