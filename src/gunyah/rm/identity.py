"""Who am I, who is that: identity and look-up queries, VM and OS status, crash messages (rm-rpc.md 6 and 7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from gunyah.abi.errors import RmError
from gunyah.abi.rm import (
    HOST_TYPE,
    CrashMessage,
    Empty,
    GetIdReply,
    Identity,
    IdType,
    LookupGuid,
    LookupReply,
    LookupText,
    MessageId,
    OsStatus,
    PeersReply,
    VmidReply,
    VmidWord,
    VmSetStatus,
    VmStateReply,
    VmStatus,
)
from gunyah.rm.errors import RmFailure
from gunyah.rm.vm import CRASH_MESSAGE_MAX, SECONDARY_VMIDS, Vm

if TYPE_CHECKING:
    from gunyah.rm.manager import Handler, ResourceManager

__all__ = ["HANDLERS"]

_SIGNING_AUTHORITY = b"N/A"
"""What QEMU's platform code says (reference.md 4.1)."""


def _get_vmid(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    profile = client.profile
    if not profile.accepts_get_vmid(len(payload)):
        raise RmFailure(RmError.MSG_INVALID, f"GET_VMID has {len(payload)} bytes of payload, profile {profile.name}")
    return profile.pack_vmid(client.vmid)


def _get_owner(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    Empty.unpack(payload)
    return VmidReply(client.owner).pack()


def _get_peers(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    Empty.unpack(payload)
    return PeersReply(tuple(peer.vmid for peer in client.peers)).pack()


def _host_get_type(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    Empty.unpack(payload)
    return HOST_TYPE.pack()


def _get_id(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    vmid = VmidWord.unpack(payload).vmid
    vm = client if vmid == 0 else rm.vms.lookup(vmid, RmError.NORESOURCE)
    if vm.state not in (VmStatus.READY, VmStatus.RUNNING, VmStatus.PAUSED):
        raise RmFailure(RmError.VM_STATE, f"VM {vm.vmid} is {vm.state.name} and has no identity yet")
    rm.vms.queried(vmid, client, RmError.NORESOURCE, RmError.NORESOURCE)
    identities = [Identity(IdType.GUID, vm.guid)]
    if vm.name:
        identities.append(Identity(IdType.NAME, vm.name.encode()))
    if vm.uri:
        identities.append(Identity(IdType.URI, vm.uri.encode()))
    identities.append(Identity(IdType.SIGN_AUTH, _SIGNING_AUTHORITY))
    return GetIdReply(tuple(identities)).pack()


def _matching(rm: ResourceManager, client: Vm, matches: Callable[[Vm], bool]) -> bytes:
    found = (vm.vmid for vm in rm.vms if vm.may_be_queried_by(client) and matches(vm))
    return LookupReply(tuple(found)).pack()


def _lookup_uri(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    text = LookupText.unpack(payload).text
    return _matching(rm, client, lambda vm: vm.uri.encode() == text)


def _lookup_name(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    text = LookupText.unpack(payload).text
    return _matching(rm, client, lambda vm: vm.name.encode() == text)


def _lookup_guid(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    guid = LookupGuid.unpack(payload).guid
    return _matching(rm, client, lambda vm: vm.guid == guid)


def _get_state(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    vm = rm.vms.queried(VmidWord.unpack(payload).vmid, client, RmError.NORESOURCE, RmError.DENIED)
    return VmStateReply(vm.state, vm.os_state, vm.app_status).pack()


def _set_status(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    if client.vmid not in SECONDARY_VMIDS:
        raise RmFailure(RmError.DENIED, f"VM {client.vmid} has no secondary VMID 4..31 and may not set a status")
    request = VmSetStatus.unpack(payload)
    if request.os_status > OsStatus.CRASHED:
        raise RmFailure(RmError.ARGUMENT_INVALID, f"OS status {request.os_status} is not one of 0..7")
    if request.os_status != OsStatus.NONE:
        client.os_state = OsStatus(request.os_status)
    client.app_status = request.app_status
    rm.send_status(client)
    return b""


def _get_crash_message(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    vm = rm.vms.owned(VmidWord.unpack(payload).vmid, client, RmError.VMID_INVALID)
    return CrashMessage(vm.crash_message or b"").pack()


def _set_crash_message(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    client.crash_message = CrashMessage.unpack(payload).message[:CRASH_MESSAGE_MAX]
    return b""


HANDLERS: Mapping[int, Handler] = MappingProxyType(
    {
        MessageId.VM_GET_VMID: _get_vmid,
        MessageId.VM_GET_OWNER: _get_owner,
        MessageId.VM_GET_PEERS: _get_peers,
        MessageId.VM_HOST_GET_TYPE: _host_get_type,
        MessageId.VM_GET_ID: _get_id,
        MessageId.VM_LOOKUP_URI: _lookup_uri,
        MessageId.VM_LOOKUP_NAME: _lookup_name,
        MessageId.VM_LOOKUP_GUID: _lookup_guid,
        MessageId.VM_GET_STATE: _get_state,
        MessageId.VM_SET_STATUS: _set_status,
        MessageId.VM_GET_CRASH_MSG: _get_crash_message,
        MessageId.VM_SET_CRASH_MSG: _set_crash_message,
    }
)
