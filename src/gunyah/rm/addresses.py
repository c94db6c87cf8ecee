"""IPA_RESERVE and VM_SET_TIME_BASE: services about a VM's addresses and its clock (rm-rpc.md 11)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from gunyah.abi.errors import Error, RmError
from gunyah.abi.rm import (
    HypErrorReply,
    IpaAllocateList,
    IpaAllocateReply,
    IpaFixedList,
    IpaReserve,
    IpaReserveKind,
    MessageId,
    SetTimeBase,
    VmStatus,
)
from gunyah.abi.types import PAGE_MASK, PAGE_SIZE, U64, VMID_HLOS
from gunyah.rm.address import AddressUnavailable, Tag
from gunyah.rm.errors import RmFailure
from gunyah.rm.vm import Vm
from gunyah.rm.vm_objects import VmObjects

if TYPE_CHECKING:
    from gunyah.rm.manager import Handler, ResourceManager

__all__ = ["HANDLERS"]

_ECC, _TAGGED, _NORMAL, _BASE_COMPATIBLE = 1, 2, 4, 0x40


def _ipa_reserve(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    objects = client.objects
    if objects is None:
        raise RmFailure(RmError.DENIED, f"VM {client.vmid} has no address allocator")
    request = IpaReserve.unpack(payload)
    if request.kind not in (IpaReserveKind.FIXED, IpaReserveKind.ALLOCATE):
        raise RmFailure(RmError.MSG_INVALID, f"kind {request.kind} is neither fixed (0) nor allocate (1)")
    _check_constraints(client, request.generic_constraints, request.platform_constraints)
    tag = Tag(request.generic_constraints, request.platform_constraints)
    if request.kind == IpaReserveKind.FIXED:
        ranges = IpaFixedList.unpack(request.rest).entries
        _reserve(client, objects, [(base, size, size, PAGE_SIZE) for base, size in ranges], tag, fixed=True)
        return b""
    entries = IpaAllocateList.unpack(request.rest).entries
    return IpaAllocateReply(tuple(_reserve(client, objects, list(map(tuple, entries)), tag, fixed=False))).pack()


def _check_constraints(client: Vm, generic: int, platform: int) -> None:
    if not platform and (generic == 0 or (generic == _BASE_COMPATIBLE and client.image is not None)):
        return
    if generic & ~(_ECC | _TAGGED | _NORMAL) or not generic & _NORMAL or platform:
        raise RmFailure(RmError.ARGUMENT_INVALID, f"constraints {generic:#x}, {platform:#x} cannot be met here")


def _reserve(client: Vm, objects: VmObjects, entries: list[tuple[int, ...]], tag: Tag, *, fixed: bool) -> list[int]:
    """Tag every range or none; the bases. Of the primary VM only an empty list can be reserved."""
    allocator = objects.memory.allocator
    done: list[tuple[int, int]] = []
    try:
        for base, region, size, alignment in entries:
            if client.vmid == VMID_HLOS:
                raise AddressUnavailable("the primary VM's addresses are not RM's to reserve")
            if base == U64 and not fixed:
                base, region = allocator.space.base, allocator.space.end - allocator.space.base
            if alignment < PAGE_SIZE or alignment & alignment - 1:
                raise AddressUnavailable(f"alignment {alignment:#x} is no power of two of at least a page")
            if (base | region | size) & PAGE_MASK:
                raise AddressUnavailable(f"{base:#x}+{region:#x} is not of whole pages")
            if fixed:
                allocator.tag(base, size, tag)
                done.append((base, size))
            else:
                done.append((allocator.tag_any(base, region, size, alignment, tag), size))
    except AddressUnavailable as unavailable:
        for base, size in done:
            allocator.untag(base, size)
        raise RmFailure(RmError.DENIED, str(unavailable)) from unavailable
    return [base for base, _ in done]


def _set_time_base(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    request = SetTimeBase.unpack(payload)
    try:
        vm = rm.vms.queried(request.vmid, client, RmError.NORESOURCE, RmError.DENIED)
        if vm.state not in (VmStatus.INIT, VmStatus.READY):
            raise RmFailure(RmError.VM_STATE, f"VM {vm.vmid} is {vm.state.name}, INIT or READY is needed")
    except RmFailure as failure:
        raise RmFailure(failure.code, str(failure), HypErrorReply(Error.ARGUMENT_INVALID).pack()) from failure
    # The vRTC calls have no public numbers, so no VM of this platform has one (hypercalls.md 3.17).
    raise RmFailure(RmError.ARGUMENT_INVALID, f"VM {vm.vmid} has no vRTC", HypErrorReply(Error.DENIED).pack())


HANDLERS: Mapping[int, Handler] = MappingProxyType(
    {MessageId.IPA_RESERVE: _ipa_reserve, MessageId.VM_SET_TIME_BASE: _set_time_base}
)
