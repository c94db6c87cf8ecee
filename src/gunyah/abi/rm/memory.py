"""Payloads of the memory messages and notifications (rm-rpc.md 8). Addresses are the caller's IPAs, sizes bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from gunyah.abi.layout import U8, U16, U32, Field, ListOf, Pad, Payload, Tail

__all__ = [
    "AclEntry",
    "AttributeEntry",
    "HandleReply",
    "MemAccept",
    "MemAcceptReply",
    "MemAppend",
    "MemCreate",
    "MemLookupSgl",
    "MemNotifyRequest",
    "MemOwner",
    "MemRecall",
    "MemRelease",
    "MemShared",
    "NotifyVmids",
    "SglEntry",
]


class AclEntry(NamedTuple):
    """u16 vmid, u8 rights, u8 pad."""

    vmid: int
    rights: int
    """MemRights."""


class SglEntry(NamedTuple):
    """u64 address, u64 size."""

    address: int
    size: int


class AttributeEntry(NamedTuple):
    """u16 attribute, u16 vmid: note the order."""

    attribute: int
    """MemAttribute."""
    vmid: int


_ACL = ListOf("acl", "<HBx", AclEntry)
_SGL = ListOf("sgl", "<QQ", SglEntry)
_ATTRIBUTES = ListOf("attributes", "<HH", AttributeEntry)


@dataclass(frozen=True, slots=True)
class MemCreate(Payload):
    """MEM_DONATE, MEM_LEND and MEM_SHARE."""

    mem_type: int
    flags: int
    label: int
    acl: tuple[AclEntry, ...]
    sgl: tuple[SglEntry, ...]
    attributes: tuple[AttributeEntry, ...] = ()

    LAYOUT: ClassVar[tuple[Field, ...]] = (
        U8("mem_type"),
        Pad(1),
        U8("flags"),
        Pad(1),
        U32("label"),
        _ACL,
        _SGL,
        _ATTRIBUTES,
    )
    MIN_LENGTH: ClassVar[int] = 20


@dataclass(frozen=True, slots=True)
class HandleReply(Payload):
    """Reply that is a memparcel or interrupt handle."""

    handle: int

    LAYOUT: ClassVar[tuple[Field, ...]] = (U32("handle"),)


@dataclass(frozen=True, slots=True)
class MemAppend(Payload):
    """MEM_APPEND."""

    handle: int
    flags: int
    sgl: tuple[SglEntry, ...]

    LAYOUT: ClassVar[tuple[Field, ...]] = (U32("handle"), U8("flags"), Pad(3), _SGL)
    MIN_LENGTH: ClassVar[int] = 12


@dataclass(frozen=True, slots=True)
class MemAccept(Payload):
    """MEM_ACCEPT."""

    handle: int
    mem_type: int
    trans_type: int
    flags: int
    label: int = 0
    acl: tuple[AclEntry, ...] = ()
    sgl: tuple[SglEntry, ...] = ()
    map_vmid: int = 0
    attributes: tuple[AttributeEntry, ...] = ()

    LAYOUT: ClassVar[tuple[Field, ...]] = (
        U32("handle"),
        U8("mem_type"),
        U8("trans_type"),
        U8("flags"),
        Pad(1),
        U32("label"),
        _ACL,
        ListOf("sgl", "<QQ", SglEntry, second="map_vmid"),
        _ATTRIBUTES,
    )
    MIN_LENGTH: ClassVar[int] = 24


@dataclass(frozen=True, slots=True)
class MemAcceptReply(Payload):
    """Reply of MEM_ACCEPT when the request named no addresses; flags (MemAcceptReplyFlag) is u8 and u8 pad."""

    sgl: tuple[SglEntry, ...]
    flags: int = 0

    LAYOUT: ClassVar[tuple[Field, ...]] = (ListOf("sgl", "<QQ", SglEntry, second="flags", optional=False),)


@dataclass(frozen=True, slots=True)
class MemRelease(Payload):
    """MEM_RELEASE and MEM_RECLAIM; more bytes are tolerated."""

    handle: int
    flags: int = 0

    LAYOUT: ClassVar[tuple[Field, ...]] = (U32("handle"), U8("flags"), Pad(3))
    TRAILING: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class MemNotifyRequest(Payload):
    """MEM_NOTIFY. ``rest`` is a NotifyVmids for the flags SHARED and RECALL and not looked at otherwise."""

    handle: int
    flags: int
    mem_info_tag: int = 0
    rest: bytes = b""

    LAYOUT: ClassVar[tuple[Field, ...]] = (U32("handle"), U8("flags"), Pad(3), U32("mem_info_tag"), Tail("rest"))


@dataclass(frozen=True, slots=True)
class NotifyVmids(Payload):
    """Who is to be notified; more bytes are tolerated, and RM has no limit of its own here."""

    vmids: tuple[int, ...]

    LAYOUT: ClassVar[tuple[Field, ...]] = (ListOf("vmids", "<Hxx", limit=0xFFFF, optional=False),)
    TRAILING: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class MemLookupSgl(Payload):
    """MEM_QCOM_LOOKUP_SGL."""

    mem_type: int
    label: int
    acl: tuple[AclEntry, ...]
    sgl: tuple[SglEntry, ...]
    attributes: tuple[AttributeEntry, ...] = ()

    LAYOUT: ClassVar[tuple[Field, ...]] = (U8("mem_type"), Pad(3), U32("label"), _ACL, _SGL, _ATTRIBUTES)
    MIN_LENGTH: ClassVar[int] = 16


@dataclass(frozen=True, slots=True)
class MemShared(Payload):
    """MEM_SHARED notification; sizes of the regions, without addresses."""

    handle: int
    mem_type: int
    trans_type: int
    flags: int
    """Bit 0: zeroed when created."""
    owner_vmid: int
    label: int
    mem_info_tag: int
    acl: tuple[AclEntry, ...] = ()
    sizes: tuple[int, ...] = ()
    attributes: tuple[AttributeEntry, ...] = ()

    LAYOUT: ClassVar[tuple[Field, ...]] = (
        U32("handle"),
        U8("mem_type"),
        U8("trans_type"),
        U8("flags"),
        Pad(1),
        U16("owner_vmid"),
        Pad(2),
        U32("label"),
        U32("mem_info_tag"),
        _ACL,
        ListOf("sizes", "<Q"),
        _ATTRIBUTES,
    )


@dataclass(frozen=True, slots=True)
class MemOwner(Payload):
    """MEM_RELEASED and MEM_ACCEPTED notifications."""

    handle: int
    vmid: int
    """Who released or accepted."""
    mem_info_tag: int

    LAYOUT: ClassVar[tuple[Field, ...]] = (U32("handle"), U16("vmid"), Pad(2), U32("mem_info_tag"))


@dataclass(frozen=True, slots=True)
class MemRecall(Payload):
    """MEM_RECALL notification."""

    handle: int
    mem_info_tag: int

    LAYOUT: ClassVar[tuple[Field, ...]] = (U32("handle"), U32("mem_info_tag"))
