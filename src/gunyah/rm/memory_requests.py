"""Memory messages on the wire: donate, lend, share, append, accept, release, reclaim, notify, lookup (rm-rpc.md 8)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from gunyah.abi.errors import RmError
from gunyah.abi.rm import (
    APPEND_DONE,
    LIST_MAX,
    RECLAIM_SANITIZE,
    RELEASE_SANITIZE,
    AclEntry,
    HandleReply,
    MemAccept,
    MemAcceptReply,
    MemAcceptReplyFlag,
    MemAppend,
    MemCreate,
    MemLookupSgl,
    MemNotify,
    MemNotifyRequest,
    MemOwner,
    MemRecall,
    MemRelease,
    MemShared,
    MemTrans,
    MessageId,
    NotificationId,
    NotifyVmids,
    VmStatus,
)
from gunyah.rm.acceptance import process_memparcel
from gunyah.rm.errors import RmFailure
from gunyah.rm.memparcel import Memparcel
from gunyah.rm.vm import Vm

if TYPE_CHECKING:
    from gunyah.rm.manager import Handler, ResourceManager

__all__ = ["HANDLERS", "notify_owner"]


def _create(trans_type: MemTrans) -> Handler:
    def handle(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
        request = MemCreate.unpack(payload)
        parcel = rm.parcels.create(
            client,
            trans_type,
            request.mem_type,
            request.flags,
            request.label,
            request.acl,
            request.sgl,
            request.attributes,
        )
        return HandleReply(parcel.handle).pack()

    return handle


def _append(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    request = MemAppend.unpack(payload)
    rm.parcels.append(client, request.handle, done=bool(request.flags & APPEND_DONE), sgl=request.sgl)
    return b""


def _accept(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    request = MemAccept.unpack(payload)
    assigned, incomplete = rm.parcels.accept(
        client,
        request.handle,
        request.mem_type,
        request.trans_type,
        request.flags,
        label=request.label,
        acl=request.acl,
        sgl=request.sgl,
        attributes=request.attributes,
        map_vmid=request.map_vmid,
    )
    if request.sgl:
        return b""
    return MemAcceptReply(tuple(assigned), MemAcceptReplyFlag.INCOMPLETE if incomplete else 0).pack()


def _release(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    request = MemRelease.unpack(payload)
    rm.parcels.release(client, request.handle, sanitize=bool(request.flags & RELEASE_SANITIZE))
    return b""


def _reclaim(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    request = MemRelease.unpack(payload)
    rm.parcels.reclaim(client, request.handle, sanitize=bool(request.flags & RECLAIM_SANITIZE))
    return b""


def _lookup(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    request = MemLookupSgl.unpack(payload)
    parcel = rm.parcels.find(client, request.mem_type, request.label, request.acl, request.sgl, request.attributes)
    return HandleReply(parcel.handle).pack()


# -- notify ------------------------------------------------------------------------------------------------------------


def _notify(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    request = MemNotifyRequest.unpack(payload)
    parcel = rm.parcels.lookup(request.handle)
    if parcel.tag_set and parcel.tag != request.mem_info_tag:
        raise RmFailure(
            RmError.ARGUMENT_INVALID, f"{parcel} has tag {parcel.tag:#x}, the request {request.mem_info_tag:#x}"
        )
    if request.flags == MemNotify.SHARED:
        _notify_shared(rm, client, parcel, request)
    elif request.flags == MemNotify.RELEASED:
        notify_owner(rm, parcel, client.vmid, accepted=False)
    elif request.flags == MemNotify.ACCEPTED:
        notify_owner(rm, parcel, client.vmid, accepted=True)
    elif request.flags == MemNotify.RECALL:
        recall = MemRecall(parcel.handle, parcel.tag).pack()
        for vmid in _targets(rm, client, parcel, request):
            rm.notify(vmid, NotificationId.MEM_RECALL, recall)
    else:
        raise RmFailure(RmError.ARGUMENT_INVALID, f"notify flag {request.flags:#x} is not one of 1, 2, 4, 8")
    return b""


def _targets(rm: ResourceManager, client: Vm, parcel: Memparcel, request: MemNotifyRequest) -> tuple[int, ...]:
    """Whom a notification from the owner names; raises RmFailure."""
    if client.vmid != parcel.owner:
        raise RmFailure(RmError.DENIED, f"VM {client.vmid} does not own {parcel}")
    vmids = NotifyVmids.unpack(request.rest).vmids
    if not vmids:
        raise RmFailure(RmError.ARGUMENT_INVALID, "the list of VMs to notify is empty")
    if len(vmids) > len(parcel.members):
        raise RmFailure(
            RmError.ARGUMENT_INVALID,
            f"{len(vmids)} VMs to notify, {parcel} has {len(parcel.members)} in its access list",
        )
    for vmid in vmids:
        rm.vms.lookup(vmid)
        if parcel.member(vmid) is None:
            raise RmFailure(RmError.ARGUMENT_INVALID, f"VM {vmid} is not in the access list of {parcel}")
    return vmids


def _notify_shared(rm: ResourceManager, client: Vm, parcel: Memparcel, request: MemNotifyRequest) -> None:
    vmids = _targets(rm, client, parcel, request)
    if not parcel.tag_set:
        parcel.tag, parcel.tag_set = request.mem_info_tag, True
    payload = MemShared(
        parcel.handle,
        parcel.type_code,
        parcel.trans_type,
        int(parcel.sanitize_create),
        parcel.owner,
        parcel.label,
        parcel.tag,
        tuple(AclEntry(member.vmid, member.rights) for member in parcel.members),
        tuple(region.size for region in parcel.regions[:LIST_MAX]),
        tuple(parcel.attributes),
    ).pack()
    refusal: RmFailure | None = None
    for vmid in vmids:
        vm = rm.vms.lookup(vmid)
        if vm.state is VmStatus.READY:
            refusal = _process_for(rm, vm, parcel)
        else:
            rm.notify(vmid, NotificationId.MEM_SHARED, payload)
    if refusal is not None:
        raise refusal


def _process_for(rm: ResourceManager, vm: Vm, parcel: Memparcel) -> RmFailure | None:
    """A VM that is READY cannot act for itself: RM accepts for it what matches its configuration, and tells the owner
    (rm-rpc.md 8.6). The failure when nothing matched: then there is nothing true to tell."""
    try:
        process_memparcel(rm, vm, parcel)
        accepted = True
    except RmFailure as failure:
        rm.log.warning(f"VM {vm.vmid}: {failure}")
        accepted = False
    try:
        notify_owner(rm, parcel, vm.vmid, accepted=accepted)
    except RmFailure as untrue:
        return untrue
    return None


def notify_owner(rm: ResourceManager, parcel: Memparcel, vmid: int, *, accepted: bool) -> None:
    """MEM_ACCEPTED or MEM_RELEASED to the owner; refused when it does not match the real state."""
    member = parcel.member(vmid)
    if member is None:
        raise RmFailure(RmError.HANDLE_INVALID, f"VM {vmid} is not in the access list of {parcel}")
    if accepted != member.shared:
        code = RmError.MEM_INUSE if member.shared else RmError.MEM_RELEASED
        raise RmFailure(code, f"VM {vmid} has {'' if member.shared else 'not '}accepted {parcel}")
    notification = NotificationId.MEM_ACCEPTED if accepted else NotificationId.MEM_RELEASED
    rm.notify(parcel.owner, notification, MemOwner(parcel.handle, vmid, parcel.tag).pack())


HANDLERS: Mapping[int, Handler] = MappingProxyType(
    {
        MessageId.MEM_DONATE: _create(MemTrans.DONATE),
        MessageId.MEM_LEND: _create(MemTrans.LEND),
        MessageId.MEM_SHARE: _create(MemTrans.SHARE),
        MessageId.MEM_APPEND: _append,
        MessageId.MEM_ACCEPT: _accept,
        MessageId.MEM_RELEASE: _release,
        MessageId.MEM_RECLAIM: _reclaim,
        MessageId.MEM_NOTIFY: _notify,
        MessageId.MEM_QCOM_LOOKUP_SGL: _lookup,
    }
)
