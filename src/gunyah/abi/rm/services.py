"""Payloads of interrupt lending, console, clock, firmware and address services (rm-rpc.md 9, 10, 11 and 13)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from gunyah.abi.errors import RmError
from gunyah.abi.layout import U8, U16, U32, U64, Blob, Field, ListOf, Pad, Payload, Tail

__all__ = [
    "AddressRange",
    "ConsoleWrite",
    "FwSetVmFirmware",
    "HypErrorReply",
    "IPA_ENTRIES_MAX",
    "IpaAllocateEntry",
    "IpaAllocateList",
    "IpaAllocateReply",
    "IpaFixedList",
    "IpaReserve",
    "IrqAccept",
    "IrqAcceptReply",
    "IrqHandle",
    "IrqLend",
    "IrqLent",
    "IrqNotifyRequest",
    "SetAddressLayout",
    "SetBootContext",
    "SetDemandPaging",
    "SetFirmwareMem",
    "SetTimeBase",
]


@dataclass(frozen=True, slots=True)
class IrqLend(Payload):
    """VM_IRQ_LEND; ``irq`` is the GIC INTID as the lender sees it."""

    borrower_vmid: int
    irq: int
    label: int

    LAYOUT: ClassVar[tuple[Field, ...]] = (U16("borrower_vmid"), Pad(2), U32("irq"), U32("label"))


@dataclass(frozen=True, slots=True)
class IrqAccept(Payload):
    """VM_IRQ_ACCEPT; ``irq`` all ones lets RM choose."""

    handle: int
    irq: int = 0xFFFF_FFFF

    LAYOUT: ClassVar[tuple[Field, ...]] = (U32("handle"), U32("irq"))


@dataclass(frozen=True, slots=True)
class IrqAcceptReply(Payload):
    """Reply of VM_IRQ_ACCEPT."""

    irq: int

    LAYOUT: ClassVar[tuple[Field, ...]] = (U32("irq"),)


@dataclass(frozen=True, slots=True)
class IrqHandle(Payload):
    """VM_IRQ_RELEASE, VM_IRQ_RECLAIM, and the notifications VM_IRQ_RELEASED and VM_IRQ_ACCEPTED."""

    handle: int

    LAYOUT: ClassVar[tuple[Field, ...]] = (U32("handle"),)


@dataclass(frozen=True, slots=True)
class IrqNotifyRequest(Payload):
    """VM_IRQ_NOTIFY; the VMIDs belong to the flag LENT."""

    handle: int
    flag: int
    vmids: tuple[int, ...] = ()

    LAYOUT: ClassVar[tuple[Field, ...]] = (U32("handle"), U32("flag"), ListOf("vmids", "<Hxx", limit=0xFFFF))


@dataclass(frozen=True, slots=True)
class IrqLent(Payload):
    """VM_IRQ_LENT notification."""

    owner_vmid: int
    handle: int
    label: int

    LAYOUT: ClassVar[tuple[Field, ...]] = (U16("owner_vmid"), Pad(2), U32("handle"), U32("label"))


@dataclass(frozen=True, slots=True)
class ConsoleWrite(Payload):
    """VM_CONSOLE_WRITE and the notification VM_CONSOLE_CHARS: u16 vmid, u16 count, the bytes."""

    vmid: int
    data: bytes

    LAYOUT: ClassVar[tuple[Field, ...]] = (U16("vmid"), Blob("data"))


@dataclass(frozen=True, slots=True)
class SetTimeBase(Payload):
    """VM_SET_TIME_BASE: nanoseconds, and the system counter (ticks) at that time."""

    vmid: int
    time_base: int
    sys_timer_ref: int

    LAYOUT: ClassVar[tuple[Field, ...]] = (U16("vmid"), Pad(2), U64("time_base"), U64("sys_timer_ref"))


@dataclass(frozen=True, slots=True)
class HypErrorReply(Payload):
    """What follows the error word when VM_SET_TIME_BASE or VM_SET_FIRMWARE_MEM fails: a hypercall's error (int32)."""

    hyp_error: int

    LAYOUT: ClassVar[tuple[Field, ...]] = (U32("hyp_error"),)


@dataclass(frozen=True, slots=True)
class SetFirmwareMem(Payload):
    """VM_SET_FIRMWARE_MEM; offset and size in bytes inside the memparcel."""

    vmid: int
    handle: int
    offset: int
    size: int

    LAYOUT: ClassVar[tuple[Field, ...]] = (
        U16("vmid"),
        Pad(2, zero=True),
        U32("handle"),
        U64("offset"),
        U64("size"),
    )


@dataclass(frozen=True, slots=True)
class FwSetVmFirmware(Payload):
    """FW_SET_VM_FIRMWARE; ``reserved`` other than 0 is answered UNIMPLEMENTED."""

    auth_type: int
    handle: int
    offset: int
    size: int
    reserved: int = 0

    LAYOUT: ClassVar[tuple[Field, ...]] = (
        U16("auth_type"),
        U16("reserved"),
        U32("handle"),
        U64("offset"),
        U64("size"),
    )
    EMPTY_ERROR: ClassVar[RmError] = RmError.DENIED


IPA_ENTRIES_MAX = 30
"""Entries of one IPA_RESERVE."""


class AddressRange(NamedTuple):
    """u64 base, u64 size."""

    base: int
    size: int


class IpaAllocateEntry(NamedTuple):
    """Four u64: where to search, how much, how aligned."""

    region_base: int
    region_size: int
    size: int
    alignment: int


@dataclass(frozen=True, slots=True)
class IpaReserve(Payload):
    """IPA_RESERVE; ``rest`` is an IpaFixedList or an IpaAllocateList by kind (IpaReserveKind)."""

    kind: int
    generic_constraints: int
    platform_constraints: int
    rest: bytes

    LAYOUT: ClassVar[tuple[Field, ...]] = (
        U8("kind"),
        Pad(3),
        U32("generic_constraints"),
        U32("platform_constraints"),
        Tail("rest"),
    )
    MIN_LENGTH: ClassVar[int] = 16


@dataclass(frozen=True, slots=True)
class IpaFixedList(Payload):
    """Ranges to reserve."""

    entries: tuple[AddressRange, ...]

    LAYOUT: ClassVar[tuple[Field, ...]] = (ListOf("entries", "<QQ", AddressRange, limit=IPA_ENTRIES_MAX),)


@dataclass(frozen=True, slots=True)
class IpaAllocateList(Payload):
    """Ranges to find."""

    entries: tuple[IpaAllocateEntry, ...]

    LAYOUT: ClassVar[tuple[Field, ...]] = (ListOf("entries", "<QQQQ", IpaAllocateEntry, limit=IPA_ENTRIES_MAX),)


@dataclass(frozen=True, slots=True)
class IpaAllocateReply(Payload):
    """Reply of IPA_RESERVE that allocates: u64 bases."""

    bases: tuple[int, ...]

    LAYOUT: ClassVar[tuple[Field, ...]] = (ListOf("bases", "<Q", count="<I", optional=False),)


@dataclass(frozen=True, slots=True)
class SetBootContext(Payload):
    """VM_SET_CONTEXT as later Linux sends it: register set (0 X, 1 PC, 2 SP), index, value."""

    vmid: int
    register_set: int
    index: int
    value: int

    LAYOUT: ClassVar[tuple[Field, ...]] = (U16("vmid"), U8("register_set"), U8("index"), Pad(4), U64("value"))


@dataclass(frozen=True, slots=True)
class SetDemandPaging(Payload):
    """VM_SET_DEMAND_PAGING of later Linux: the guest's IPA ranges."""

    vmid: int
    ranges: tuple[AddressRange, ...]

    LAYOUT: ClassVar[tuple[Field, ...]] = (
        U16("vmid"),
        Pad(2),
        ListOf("ranges", "<QQ", AddressRange, count="<I", optional=False),
    )


@dataclass(frozen=True, slots=True)
class SetAddressLayout(Payload):
    """VM_SET_ADDRESS_LAYOUT of later Linux: range id (0 image, 1 firmware) and its IPA range."""

    vmid: int
    range_id: int
    base: int
    size: int

    LAYOUT: ClassVar[tuple[Field, ...]] = (U16("vmid"), Pad(2), U32("range_id"), U64("base"), U64("size"))
