"""Payloads of the VM query messages (rm-rpc.md 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from gunyah.abi.errors import RmError
from gunyah.abi.layout import Blob, Field, ListOf, Payload, PayloadError, Raw

__all__ = [
    "GUID_SIZE",
    "GetIdReply",
    "HypResource",
    "HypResourcesReply",
    "Identity",
    "LookupGuid",
    "LookupReply",
    "LookupText",
    "NAME_MAX",
    "PeersReply",
]

NAME_MAX = 79
"""Bytes of a VM name or URI."""
GUID_SIZE = 16


class Identity(NamedTuple):
    """One entry of VM_GET_ID; names are not NUL-terminated."""

    type: int
    """IdType."""
    data: bytes


class _Identities(Field):
    """u32 count, then per entry u8 type, u8 pad, u16 length, data padded to a multiple of 4."""

    names = ("identities",)

    def write(self, payload: object, out: bytearray) -> None:
        identities: tuple[Identity, ...] = getattr(payload, self.names[0])
        out += len(identities).to_bytes(4, "little")
        for kind, data in identities:
            if not 0 <= kind < 256 or len(data) > 0xFFFF:
                raise PayloadError(f"identity of type {kind:#x} with {len(data)} bytes cannot be packed")
            out += bytes([kind, 0]) + len(data).to_bytes(2, "little") + data + bytes(-len(data) % 4)

    def read(self, data: bytes, offset: int, values: dict[str, Any]) -> int:
        if len(data) - offset < 4:
            raise PayloadError(f"count of identities is missing, the payload ends at {len(data)}")
        count = int.from_bytes(data[offset : offset + 4], "little")
        offset += 4
        identities: list[Identity] = []
        for i in range(count):
            length = int.from_bytes(data[offset + 2 : offset + 4], "little")
            end = offset + 4 + length
            padded = end + -length % 4
            if len(data) < max(offset + 4, padded):
                raise PayloadError(f"identity {i} of {count} reaches past the payload's end at {len(data)}")
            identities.append(Identity(data[offset], bytes(data[offset + 4 : end])))
            offset = padded
        values["identities"] = tuple(identities)
        return offset


@dataclass(frozen=True, slots=True)
class GetIdReply(Payload):
    """Reply of VM_GET_ID, in the order GUID, name, URI, signing authority."""

    identities: tuple[Identity, ...]

    LAYOUT: ClassVar[tuple[Field, ...]] = (_Identities(),)


@dataclass(frozen=True, slots=True)
class LookupText(Payload):
    """VM_LOOKUP_URI and VM_LOOKUP_NAME: at most 79 bytes, padded to a multiple of 4."""

    text: bytes

    LAYOUT: ClassVar[tuple[Field, ...]] = (Blob("text", head=4, align=4, limit=NAME_MAX),)
    EMPTY_ERROR: ClassVar[RmError] = RmError.ARGUMENT_INVALID


@dataclass(frozen=True, slots=True)
class LookupGuid(Payload):
    """VM_LOOKUP_GUID."""

    guid: bytes

    LAYOUT: ClassVar[tuple[Field, ...]] = (Raw("guid", GUID_SIZE),)
    EMPTY_ERROR: ClassVar[RmError] = RmError.ARGUMENT_INVALID


@dataclass(frozen=True, slots=True)
class LookupReply(Payload):
    """Reply of the three lookups: VMIDs, each u16 and u16 pad."""

    vmids: tuple[int, ...] = ()

    LAYOUT: ClassVar[tuple[Field, ...]] = (ListOf("vmids", "<Hxx", count="<I", optional=False),)


@dataclass(frozen=True, slots=True)
class PeersReply(Payload):
    """Reply of VM_GET_PEERS: u32 VMIDs."""

    vmids: tuple[int, ...] = ()

    LAYOUT: ClassVar[tuple[Field, ...]] = (ListOf("vmids", "<I", count="<I", optional=False),)


class HypResource(NamedTuple):
    """One entry of VM_GET_HYP_RESOURCES, 44 bytes."""

    type: int
    """ResourceType."""
    partner_vmid: int
    """The VMID asked about; 0 for vCPUs."""
    handle: int
    label: int
    cap_id: int
    """Capability id in the caller's capability space."""
    virq_handle: int
    virq: int
    """GIC INTID; 0 for doorbell sources, all ones for a vCPU without run-wakeup interrupt."""
    base: int
    """IPA of a virtio-mmio backend's registers, else 0."""
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class HypResourcesReply(Payload):
    """Reply of VM_GET_HYP_RESOURCES."""

    resources: tuple[HypResource, ...] = ()

    LAYOUT: ClassVar[tuple[Field, ...]] = (
        ListOf("resources", "<BxHIIQIIQQ", HypResource, count="<I", optional=False),
    )
