"""What a recording of a secondary VM's own requests tells of that VM, and of what its owner did meanwhile.

Such a recording holds the VM's requests and what RM sent it, not the owner's part. The VM is made as it says of itself
(VMID, names, devices); the owner does what RM's notifications and acceptances presuppose: it writes to the console,
asks for a shutdown, hands memory over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gunyah.abi.errors import RmError
from gunyah.abi.layout import Payload, PayloadError
from gunyah.abi.rm.enums import IdType, MemAcceptFlag, MemNotify, MemTrans, ResourceType
from gunyah.abi.rm.memory import (
    AclEntry,
    HandleReply,
    MemAccept,
    MemAcceptReply,
    MemCreate,
    MemNotifyRequest,
    MemRecall,
    MemShared,
    NotifyVmids,
    SglEntry,
)
from gunyah.abi.rm.messages import MessageId, NotificationId
from gunyah.abi.rm.notifications import VmShutdown
from gunyah.abi.rm.query import GetIdReply, HypResource, HypResourcesReply
from gunyah.abi.rm.services import ConsoleWrite
from gunyah.abi.rm.vm import VmidWord, VmStop
from gunyah.abi.types import VMID_HLOS
from gunyah.host.conformance.rpc import RmClient
from gunyah.host.conformance.vectors import RmStep, Step
from gunyah.host.conformance.vm_image import RECORDED_DEVICES

__all__ = ["Desk", "Order", "SecondaryVm", "describe_self", "orders"]

FIRST_DYNAMIC = 0x80
POOL = 0x6000_0000
"""IPA in the primary VM of the memory that the owner hands over, piece by piece."""
GAP = 0x1000
RWX = 7

_CREATE = {
    MemTrans.DONATE: MessageId.MEM_DONATE,
    MemTrans.LEND: MessageId.MEM_LEND,
    MemTrans.SHARE: MessageId.MEM_SHARE,
}
_OWNER_SEES = {
    ResourceType.DOORBELL: ResourceType.DOORBELL_SRC,
    ResourceType.DOORBELL_SRC: ResourceType.DOORBELL,
}


@dataclass(frozen=True)
class SecondaryVm:
    """One secondary VM as recordings know it: ``resources`` as its owner sees them."""

    vmid: int = FIRST_DYNAMIC
    name: str = "recorded"
    uri: str = ""
    guid: bytes = bytes(16)
    resources: Sequence[HypResource] = RECORDED_DEVICES


def _answers(steps: Sequence[Step], message: int) -> list[tuple[bytes, bytes]]:
    """(payload, data after the error word) of every request ``message`` that was answered OK."""
    return [
        (step.payload, step.reply[4:])
        for step in steps
        if isinstance(step, RmStep)
        and step.kind == "request"
        and step.message == message
        and step.reply is not None
        and step.reply[:4] == bytes(4)
    ]


def describe_self(steps: Sequence[Step]) -> SecondaryVm:
    """The VM that made these requests."""
    vmid, name, uri, guid = FIRST_DYNAMIC, "recorded", "", bytes(16)
    for _, data in _answers(steps, MessageId.VM_GET_VMID):
        vmid = int.from_bytes(data[:2], "little") or vmid
    own = (bytes(2), vmid.to_bytes(2, "little"))
    for payload, data in _answers(steps, MessageId.VM_GET_ID):
        try:
            identities = GetIdReply.unpack(data).identities if payload[:2] in own else ()
            for identity in identities:
                name = identity.data.decode() if identity.type == IdType.NAME else name
                uri = identity.data.decode() if identity.type == IdType.URI else uri
                guid = identity.data if identity.type == IdType.GUID else guid
        except (PayloadError, UnicodeDecodeError):
            continue
    resources: Sequence[HypResource] = RECORDED_DEVICES
    for payload, data in _answers(steps, MessageId.VM_GET_HYP_RESOURCES):
        if payload[:2] == VMID_HLOS.to_bytes(2, "little"):
            try:
                resources = _as_owner(HypResourcesReply.unpack(data).resources)
            except PayloadError:
                continue
    return SecondaryVm(vmid, name, uri, guid, resources)


def _as_owner(own: Sequence[HypResource]) -> list[HypResource]:
    """The owner's list that belongs to a VM's: vCPUs first, the other end of each doorbell."""
    vcpus = [entry for entry in RECORDED_DEVICES if entry.type == ResourceType.VIRTUAL_CPU]
    ends = [
        HypResource(_OWNER_SEES.get(ResourceType(e.type), e.type), 0, 0, e.label, 0, 0, 0, 0, 0)
        for e in own
        if e.type in ResourceType._value2member_map_
    ]
    return vcpus + ends


# -- the owner's part --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """One request of the owner. ``creates`` is the handle by which the recording knows the memparcel it makes."""

    message: int
    payload: bytes
    creates: int | None = None


@dataclass
class Desk:
    """Between the VM that replays and its owner: orders one way, handles of memparcels the other."""

    waiting: deque[Order] = field(default_factory=deque)
    handles: dict[int, int] = field(default_factory=dict)
    """Handle in the recording -> handle here."""
    refusals: list[str] = field(default_factory=list)

    def serve(self, client: RmClient) -> None:
        """The owner's side: make every request that waits."""
        while self.waiting:
            order = self.waiting[0]
            payload = order.payload
            if order.message == MessageId.MEM_NOTIFY:
                payload = self.translate(payload)
            reply = client.request(order.message, payload).payload
            error = int.from_bytes(reply[:4], "little")
            if error != RmError.OK:
                self.refusals.append(f"the owner's request {order.message:#x} was answered {error:#x}")
            elif order.creates is not None:
                self.handles[order.creates] = HandleReply.unpack(reply[4:]).handle
            self.waiting.popleft()

    def translate(self, payload: bytes) -> bytes:
        """``payload`` with the memparcel handle at its start as it is here."""
        handle = self.handles.get(int.from_bytes(payload[:4], "little"))
        return payload if handle is None or len(payload) < 4 else handle.to_bytes(4, "little") + payload[4:]


class _Plan:
    def __init__(self, vmid: int) -> None:
        self.vmid = vmid
        self.before: dict[int, list[Order]] = {}
        self._free = POOL
        self._made: set[int] = set()
        self._console = False

    def add(self, index: int, message: MessageId, request: Payload, creates: int | None = None) -> None:
        self.before.setdefault(index, []).append(Order(message, request.pack(), creates))

    def pieces(self, sizes: Sequence[int]) -> tuple[SglEntry, ...]:
        """Memory of the owner in pieces of these sizes, none next to another."""
        found = []
        for size in sizes:
            found.append(SglEntry(self._free, size))
            self._free += size + GAP
        return tuple(found)

    def memory(self, index: int, handle: int, trans: int, request: MemCreate) -> None:
        if trans in MemTrans._value2member_map_ and handle not in self._made and request.sgl:
            self._made.add(handle)
            self.add(index, _CREATE[MemTrans(trans)], request, handle)

    def notification(self, index: int, step: RmStep) -> None:
        if step.message == NotificationId.VM_CONSOLE_CHARS:
            if not self._console:
                self._console = True
                self.add(index, MessageId.VM_CONSOLE_OPEN, VmidWord(self.vmid))
            chars = ConsoleWrite.unpack(step.payload)
            self.add(index, MessageId.VM_CONSOLE_WRITE, ConsoleWrite(self.vmid, chars.data))
        elif step.message == NotificationId.VM_SHUTDOWN:
            self.add(index, MessageId.VM_STOP, VmStop(self.vmid, 0, VmShutdown.unpack(step.payload).reason))
        elif step.message == NotificationId.MEM_SHARED:
            shared = MemShared.unpack(step.payload)
            request = MemCreate(
                shared.mem_type,
                shared.flags & 1,
                shared.label,
                shared.acl,
                self.pieces(shared.sizes),
                shared.attributes,
            )
            self.memory(index, shared.handle, shared.trans_type, request)
            self.notify(index, shared.handle, MemNotify.SHARED, shared.mem_info_tag)
        elif step.message == NotificationId.MEM_RECALL:
            recall = MemRecall.unpack(step.payload)
            self.notify(index, recall.handle, MemNotify.RECALL, recall.mem_info_tag)

    def notify(self, index: int, handle: int, flag: MemNotify, tag: int) -> None:
        rest = NotifyVmids((self.vmid,)).pack()
        self.add(index, MessageId.MEM_NOTIFY, MemNotifyRequest(handle, flag, tag, rest))

    def acceptance(self, index: int, step: RmStep) -> None:
        """What must have been handed over for this acceptance to succeed."""
        accept = MemAccept.unpack(step.payload)
        sizes = [entry.size for entry in accept.sgl]
        if not sizes and step.reply is not None:
            sizes = [entry.size for entry in MemAcceptReply.unpack(step.reply[4:]).sgl]
        acl: tuple[AclEntry, ...] = (AclEntry(self.vmid, RWX),)
        if accept.trans_type == MemTrans.SHARE:
            acl += (AclEntry(VMID_HLOS, RWX),)
        checked = accept.flags & MemAcceptFlag.VALIDATE_ACL_ATTR
        request = MemCreate(
            accept.mem_type,
            1 if accept.flags & MemAcceptFlag.VALIDATE_SANITIZED else 0,
            accept.label,
            accept.acl if checked else acl,
            self.pieces(sizes),
            accept.attributes if checked else (),
        )
        self.memory(index, accept.handle, accept.trans_type, request)


def orders(steps: Sequence[Step], vmid: int) -> Mapping[int, Sequence[Order]]:
    """Index of a request -> what the owner of VM ``vmid`` must do before it."""
    plan = _Plan(vmid)
    requests = [i for i, step in enumerate(steps) if isinstance(step, RmStep) and step.kind == "request"]
    for index, step in enumerate(steps):
        if not isinstance(step, RmStep):
            continue
        try:
            if step.kind == "notification":
                plan.notification(next((i for i in requests if i > index), len(steps)), step)
            elif step.message == MessageId.MEM_ACCEPT and step.reply is not None and step.reply[:4] == bytes(4):
                plan.acceptance(requests[0], step)
        except PayloadError:
            # A notification or request that is no such message is compared as it stands; nothing can be learnt of it.
            continue
    return plan.before
