"""Payloads of the VM management messages (rm-rpc.md 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from gunyah.abi.layout import U8, U16, U32, U64, Blob, Field, ListOf, Pad, Payload

__all__ = [
    "AuthParameter",
    "CrashMessage",
    "Empty",
    "HOST_TYPE",
    "HostTypeReply",
    "VmAuthImage",
    "VmConfigImage",
    "VmExit",
    "VmInit",
    "VmSetStatus",
    "VmStateReply",
    "VmStop",
    "VmidReply",
    "VmidReply16",
    "VmidWord",
]


@dataclass(frozen=True, slots=True)
class Empty(Payload):
    """No payload."""


@dataclass(frozen=True, slots=True)
class VmidWord(Payload):
    """The request of many messages: u16 vmid, u16 pad."""

    vmid: int

    LAYOUT: ClassVar[tuple[Field, ...]] = (U16("vmid"), Pad(2))


@dataclass(frozen=True, slots=True)
class VmidReply(Payload):
    """u32 VMID, low 16 bits meaningful: reply of VM_ALLOCATE, VM_GET_VMID and VM_GET_OWNER."""

    vmid: int

    LAYOUT: ClassVar[tuple[Field, ...]] = (U32("vmid"),)


@dataclass(frozen=True, slots=True)
class VmidReply16(Payload):
    """u16 VMID: the reply to VM_GET_VMID that the v4 series insists on (linux-clients.md 1)."""

    vmid: int

    LAYOUT: ClassVar[tuple[Field, ...]] = (U16("vmid"),)


@dataclass(frozen=True, slots=True)
class VmConfigImage(Payload):
    """VM_CONFIG_IMAGE; offsets and sizes in bytes, offsets from the start of the memparcel."""

    vmid: int
    auth_type: int
    handle: int
    image_offset: int
    image_size: int
    dtb_offset: int
    dtb_size: int

    LAYOUT: ClassVar[tuple[Field, ...]] = (
        U16("vmid"),
        U16("auth_type"),
        U32("handle"),
        U64("image_offset"),
        U64("image_size"),
        U64("dtb_offset"),
        U64("dtb_size"),
    )


class AuthParameter(NamedTuple):
    """One parameter of VM_AUTH_IMAGE: two u32."""

    type: int
    value: int


@dataclass(frozen=True, slots=True)
class VmAuthImage(Payload):
    """VM_AUTH_IMAGE."""

    vmid: int
    parameters: tuple[AuthParameter, ...] = ()

    LAYOUT: ClassVar[tuple[Field, ...]] = (
        U16("vmid"),
        ListOf("parameters", "<II", AuthParameter, count="<H", limit=0xFFFF, optional=False),
    )


@dataclass(frozen=True, slots=True)
class VmInit(Payload):
    """VM_INIT: like VmidWord, but the padding is checked."""

    vmid: int

    LAYOUT: ClassVar[tuple[Field, ...]] = (U16("vmid"), Pad(2, zero=True))


@dataclass(frozen=True, slots=True)
class VmStop(Payload):
    """VM_STOP."""

    vmid: int
    flags: int = 0
    reason: int = 0

    LAYOUT: ClassVar[tuple[Field, ...]] = (U16("vmid"), U8("flags"), Pad(1), U32("reason"))


@dataclass(frozen=True, slots=True)
class VmSetStatus(Payload):
    """VM_SET_STATUS; vm_status is ignored, os_status 0 means unchanged."""

    vm_status: int
    os_status: int
    app_status: int

    LAYOUT: ClassVar[tuple[Field, ...]] = (U8("vm_status"), U8("os_status"), U16("app_status"))


@dataclass(frozen=True, slots=True)
class VmExit(Payload):
    """VM_EXIT."""

    exit_flags: int = 0
    exit_code: int = 0

    LAYOUT: ClassVar[tuple[Field, ...]] = (U16("exit_flags"), U8("exit_code"), Pad(1, zero=True))


@dataclass(frozen=True, slots=True)
class VmStateReply(Payload):
    """Reply of VM_GET_STATE."""

    vm_status: int
    os_status: int
    app_status: int

    LAYOUT: ClassVar[tuple[Field, ...]] = (U8("vm_status"), U8("os_status"), U16("app_status"))


@dataclass(frozen=True, slots=True)
class CrashMessage(Payload):
    """VM_SET_CRASH_MSG, and the reply of VM_GET_CRASH_MSG: bytes padded to a multiple of 4."""

    message: bytes

    LAYOUT: ClassVar[tuple[Field, ...]] = (Blob("message", head=4, align=4),)


@dataclass(frozen=True, slots=True)
class HostTypeReply(Payload):
    """Reply of VM_HOST_GET_TYPE."""

    architecture: int
    hypervisor: int
    version: int

    LAYOUT: ClassVar[tuple[Field, ...]] = (U8("architecture"), U8("hypervisor"), Pad(1), U8("version"))


HOST_TYPE = HostTypeReply(architecture=0x64, hypervisor=0x01, version=0x01)
"""AArch64, Gunyah with RM, version 1."""
