"""A typed client of the Resource Manager: one method per request, notifications in a queue (rm-rpc.md 5 to 13).

The methods pack the request, make the call and unpack the reply. How a call is made is the caller's: inside the VM it
is ``RscMgr.call``, at a prompt it is a process in the VM and the machine run until it has ended. A refusal raises
``RmRefused`` with RM's error and, where somebody can ask RM for it, RM's own sentence.

Addresses are IPAs of the VM that calls, sizes bytes; ``vmid`` 0 is the caller where a message says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from gunyah.abi.errors import RmError
from gunyah.abi.layout import Payload
from gunyah.abi.rm import (
    APPEND_DONE,
    RECLAIM_SANITIZE,
    RELEASE_SANITIZE,
    STOP_FORCE,
    AclEntry,
    AddressRange,
    AttributeEntry,
    AuthParameter,
    ConsoleWrite,
    CrashMessage,
    FwSetVmFirmware,
    GetIdReply,
    HandleReply,
    HostTypeReply,
    HypResource,
    HypResourcesReply,
    Identity,
    IpaAllocateEntry,
    IpaAllocateList,
    IpaAllocateReply,
    IpaFixedList,
    IpaReserve,
    IpaReserveKind,
    IrqAccept,
    IrqAcceptReply,
    IrqHandle,
    IrqLend,
    IrqNotify,
    IrqNotifyRequest,
    LookupGuid,
    LookupReply,
    LookupText,
    MemAccept,
    MemAcceptFlag,
    MemAcceptReply,
    MemAppend,
    MemCreate,
    MemLookupSgl,
    MemNotify,
    MemNotifyRequest,
    MemRelease,
    MessageId,
    NotifyVmids,
    PeersReply,
    SetAddressLayout,
    SetBootContext,
    SetDemandPaging,
    SetFirmwareMem,
    SetTimeBase,
    SglEntry,
    VmAuthImage,
    VmConfigImage,
    VmExit,
    VmidReply,
    VmidWord,
    VmInit,
    VmSetStatus,
    VmStateReply,
    VmStop,
)
from gunyah.linux.errno import error as os_error
from gunyah.linux.rsc_mgr import RmCallError, RscMgr

__all__ = ["RmClient", "RmRefused", "rm_calls_of"]

Invoke = Callable[[int, bytes], bytes]
"""Message id and payload to the reply's payload behind the error word; raises RmCallError."""
Reply = TypeVar("Reply", bound=Payload)
_M = MessageId
_ENODEV = 19


class RmRefused(Exception):
    """RM refused a request: ``error`` its error word, ``message`` the request, ``sentence`` RM's own words or ""."""

    def __init__(self, message: MessageId, error: RmError | int, sentence: str = "") -> None:
        name = error.name if isinstance(error, RmError) else f"{error:#x}"
        super().__init__(sentence or f"{message.name} → {name}")
        self.message = message
        self.error = error
        self.sentence = sentence


def rm_calls_of(managers: Callable[[], list[RscMgr]]) -> Invoke:
    """Calls over the kernel's first connection to RM, for code that runs inside the VM."""

    def call(message_id: int, payload: bytes) -> bytes:
        found = managers()
        if not found:
            raise os_error(_ENODEV, "there is no connection to the Resource Manager")
        return found[0].call(message_id, payload)

    return call


class RmClient:
    """RM's requests as methods. ``explain`` gives RM's sentence for the refusal that came last, or an empty one."""

    def __init__(self, invoke: Invoke, explain: Callable[[], str] = lambda: "") -> None:
        self._invoke = invoke
        self._explain = explain

    # -- calls in general ----------------------------------------------------------------------------------------------

    def call(self, message: MessageId | int, payload: Payload | bytes = b"") -> bytes:
        """Any request; what follows the error word. Raises RmRefused, OSError, PayloadError."""
        data = payload.pack() if isinstance(payload, Payload) else payload
        try:
            return self._invoke(int(message), data)
        except RmCallError as refused:
            code = refused.rm_error
            known = RmError(code) if code in RmError._value2member_map_ else code
            name = MessageId(message) if message in MessageId._value2member_map_ else None
            if name is None:
                raise
            raise RmRefused(name, known, self._explain()) from refused

    def _ask(self, message: MessageId, reply: type[Reply], payload: Payload | bytes = b"") -> Reply:
        return reply.unpack(self.call(message, payload))

    def _vm(self, message: MessageId, vmid: int) -> bytes:
        return self.call(message, VmidWord(vmid))

    # -- life of a VM --------------------------------------------------------------------------------------------------

    def vm_allocate(self, vmid: int = 0) -> int:
        """Make a VM record: with 0 RM picks the VMID from 0x80..0xbe, else one of 4..31 is asked for. The VMID."""
        data = self.call(_M.VM_ALLOCATE, VmidWord(vmid))
        return vmid or VmidReply.unpack(data).vmid & 0xFFFF

    def vm_deallocate(self, vmid: int) -> None:
        """Give the VM record of a VM in LOAD or RESET back."""
        self._vm(_M.VM_DEALLOCATE, vmid)

    def vm_config_image(
        self,
        vmid: int,
        handle: int,
        *,
        image: tuple[int, int] = (0, 0),
        dtb: tuple[int, int],
        auth_type: int = 0,
    ) -> None:
        """Say which memparcel is the VM's base memory, and the (offset, bytes) of image and device tree in it."""
        self.call(_M.VM_CONFIG_IMAGE, VmConfigImage(vmid, auth_type, handle, *image, *dtb))

    def vm_auth_image(self, vmid: int, parameters: Iterable[tuple[int, int]] = ()) -> None:
        """Let the platform check the image of a VM of authentication type PLATFORM."""
        self.call(_M.VM_AUTH_IMAGE, VmAuthImage(vmid, tuple(AuthParameter(*pair) for pair in parameters)))

    def vm_init(self, vmid: int) -> None:
        """Read the VM's configuration and make its objects: INIT to READY."""
        self.call(_M.VM_INIT, VmInit(vmid))

    def vm_start(self, vmid: int) -> None:
        """Accept its memory, write its device tree, power its boot vCPUs on: READY to RUNNING."""
        self._vm(_M.VM_START, vmid)

    def vm_stop(self, vmid: int, *, force: bool = True, reason: int = 3) -> None:
        """Stop a running VM: by force (VM_EXITED follows), or by asking it (VM_SHUTDOWN with ``reason``)."""
        self.call(_M.VM_STOP, VmStop(vmid, STOP_FORCE if force else 0, reason))

    def vm_reset(self, vmid: int) -> None:
        """Begin to take the VM's objects and memory away; VM_STATUS says RESET when that is done."""
        self._vm(_M.VM_RESET, vmid)

    def vm_suspend(self, vmid: int) -> None:
        """Take a running VM's vCPUs off their cores: PAUSED (an addition of this RM)."""
        self._vm(_M.VM_SUSPEND, vmid)

    def vm_resume(self, vmid: int) -> None:
        """Let a paused VM go on (an addition of this RM)."""
        self._vm(_M.VM_RESUME, vmid)

    def vm_set_context(self, vmid: int, register_set: int, index: int, value: int) -> None:
        """Set a register (0 X, 1 PC, 2 SP) that the boot vCPU starts with (an addition of this RM)."""
        self.call(_M.VM_SET_CONTEXT, SetBootContext(vmid, register_set, index, value))

    def vm_set_demand_paging(self, vmid: int, ranges: Iterable[tuple[int, int]]) -> None:
        """Name guest ranges that a host would page on demand: checked and kept, not paged (an addition of this RM)."""
        self.call(_M.VM_SET_DEMAND_PAGING, SetDemandPaging(vmid, tuple(AddressRange(*pair) for pair in ranges)))

    def vm_set_address_layout(self, vmid: int, range_id: int, base: int, size: int) -> None:
        """Say where the image (0) or the firmware (1) goes in the guest (an addition of this RM)."""
        self.call(_M.VM_SET_ADDRESS_LAYOUT, SetAddressLayout(vmid, range_id, base, size))

    # -- what a VM says of itself --------------------------------------------------------------------------------------

    def vm_exit(self, flags: int = 0, code: int = 0) -> None:
        """End the calling VM; for the primary VM this is refused."""
        self.call(_M.VM_EXIT, VmExit(flags, code))

    def vm_set_status(self, os_status: int, app_status: int = 0) -> None:
        """Tell peers the state of the calling VM's operating system; VMIDs 4..31 only."""
        self.call(_M.VM_SET_STATUS, VmSetStatus(0, os_status, app_status))

    def vm_set_crash_msg(self, message: bytes) -> None:
        """Leave a last message of at most 192 bytes for the owner."""
        self.call(_M.VM_SET_CRASH_MSG, CrashMessage(message))

    # -- queries -------------------------------------------------------------------------------------------------------

    def vm_get_state(self, vmid: int = 0) -> VmStateReply:
        """State of a VM: vm_status (VmStatus), os_status, app_status."""
        return self._ask(_M.VM_GET_STATE, VmStateReply, VmidWord(vmid))

    def vm_get_crash_msg(self, vmid: int) -> bytes:
        """The last message an own VM left."""
        return self._ask(_M.VM_GET_CRASH_MSG, CrashMessage, VmidWord(vmid)).message

    def vm_host_get_type(self) -> HostTypeReply:
        """Architecture, hypervisor and version of the host."""
        return self._ask(_M.VM_HOST_GET_TYPE, HostTypeReply)

    def vm_get_id(self, vmid: int = 0) -> tuple[Identity, ...]:
        """GUID, name, URI and signing authority of a VM that is READY, RUNNING or PAUSED."""
        return self._ask(_M.VM_GET_ID, GetIdReply, VmidWord(vmid)).identities

    def vm_lookup_uri(self, uri: str) -> tuple[int, ...]:
        """VMIDs of the VMs with that URI which the caller may ask about."""
        return self._ask(_M.VM_LOOKUP_URI, LookupReply, LookupText(uri.encode())).vmids

    def vm_lookup_guid(self, guid: bytes) -> tuple[int, ...]:
        """VMIDs of the VMs with that GUID (16 bytes)."""
        return self._ask(_M.VM_LOOKUP_GUID, LookupReply, LookupGuid(guid)).vmids

    def vm_lookup_name(self, name: str) -> tuple[int, ...]:
        """VMIDs of the VMs with that name."""
        return self._ask(_M.VM_LOOKUP_NAME, LookupReply, LookupText(name.encode())).vmids

    def vm_get_vmid(self) -> int:
        """The caller's own VMID."""
        return int.from_bytes(self.call(_M.VM_GET_VMID)[:2], "little")

    def vm_get_owner(self) -> int:
        """VMID of the caller's owner; 255 (RM) for the primary VM."""
        return self._ask(_M.VM_GET_OWNER, VmidReply).vmid

    def vm_get_peers(self) -> tuple[int, ...]:
        """VMIDs of the caller's peers."""
        return self._ask(_M.VM_GET_PEERS, PeersReply).vmids

    def vm_get_hyp_resources(self, vmid: int) -> tuple[HypResource, ...]:
        """What the caller shares with another VM: vCPUs, doorbells, queues, with capabilities and interrupts."""
        return self._ask(_M.VM_GET_HYP_RESOURCES, HypResourcesReply, VmidWord(vmid)).resources

    def vm_get_hyp_capids(self, vmid: int) -> bytes:
        """Always refused: the message has no handler."""
        return self._vm(_M.VM_GET_HYP_CAPIDS, vmid)

    def vm_get_hyp_irqs(self, vmid: int) -> bytes:
        """Always refused: the message has no handler."""
        return self._vm(_M.VM_GET_HYP_IRQS, vmid)

    def vm_set_time_base(self, time_base: int, sys_timer_ref: int, vmid: int = 0) -> None:
        """Set a VM's clock: nanoseconds, and the system counter (ticks) at that time."""
        self.call(_M.VM_SET_TIME_BASE, SetTimeBase(vmid, time_base, sys_timer_ref))

    # -- memory --------------------------------------------------------------------------------------------------------

    def mem_lend(
        self,
        acl: Iterable[tuple[int, int]],
        sgl: Iterable[tuple[int, int]],
        *,
        label: int = 0,
        flags: int = 0,
        mem_type: int = 0,
        attributes: Iterable[tuple[int, int]] = (),
    ) -> int:
        """Lend (address, bytes) ranges to the VMs of ``acl``, (VMID, MemRights) each; the owner loses access. The
        memparcel's handle.
        """
        return self._create(_M.MEM_LEND, acl, sgl, label, flags, mem_type, attributes)

    def mem_share(
        self,
        acl: Iterable[tuple[int, int]],
        sgl: Iterable[tuple[int, int]],
        *,
        label: int = 0,
        flags: int = 0,
        mem_type: int = 0,
        attributes: Iterable[tuple[int, int]] = (),
    ) -> int:
        """Share ranges; the owner is in ``acl`` too, with the rights it keeps. The memparcel's handle."""
        return self._create(_M.MEM_SHARE, acl, sgl, label, flags, mem_type, attributes)

    def mem_donate(
        self,
        acl: Iterable[tuple[int, int]],
        sgl: Iterable[tuple[int, int]],
        *,
        label: int = 0,
        flags: int = 0,
        mem_type: int = 0,
        attributes: Iterable[tuple[int, int]] = (),
    ) -> int:
        """Give ranges away for good, to exactly one VM. The memparcel's handle."""
        return self._create(_M.MEM_DONATE, acl, sgl, label, flags, mem_type, attributes)

    def _create(
        self,
        message: MessageId,
        acl: Iterable[tuple[int, int]],
        sgl: Iterable[tuple[int, int]],
        label: int,
        flags: int,
        mem_type: int,
        attributes: Iterable[tuple[int, int]],
    ) -> int:
        request = MemCreate(mem_type, flags, label, *_lists(acl, sgl, attributes))
        return self._ask(message, HandleReply, request).handle

    def mem_append(self, handle: int, sgl: Iterable[tuple[int, int]], *, done: bool = True) -> None:
        """Add ranges to a memparcel that was made with MemCreateFlag.APPEND; ``done`` finishes it."""
        self.call(_M.MEM_APPEND, MemAppend(handle, APPEND_DONE if done else 0, _lists((), sgl, ())[1]))

    def mem_accept(
        self,
        handle: int,
        trans_type: int,
        *,
        flags: int = MemAcceptFlag.DONE,
        mem_type: int = 0,
        label: int = 0,
        acl: Iterable[tuple[int, int]] = (),
        sgl: Iterable[tuple[int, int]] = (),
        attributes: Iterable[tuple[int, int]] = (),
    ) -> MemAcceptReply:
        """Map a memparcel, at the addresses of ``sgl`` or, without, where RM says: those come back."""
        lists = _lists(acl, sgl, attributes)
        request = MemAccept(handle, mem_type, trans_type, flags, label, lists[0], lists[1], 0, lists[2])
        data = self.call(_M.MEM_ACCEPT, request)
        return MemAcceptReply(()) if lists[1] else MemAcceptReply.unpack(data)

    def mem_release(self, handle: int, *, sanitize: bool = False) -> None:
        """Give an accepted memparcel back; ``sanitize`` has it zeroed before its owner gets it."""
        self.call(_M.MEM_RELEASE, MemRelease(handle, RELEASE_SANITIZE if sanitize else 0))

    def mem_reclaim(self, handle: int, *, sanitize: bool = False) -> None:
        """Take an own memparcel back that nobody has accepted any more; ``sanitize`` zeroes it."""
        self.call(_M.MEM_RECLAIM, MemRelease(handle, RECLAIM_SANITIZE if sanitize else 0))

    def mem_notify(self, handle: int, flag: int, *, tag: int = 0, vmids: Iterable[int] = ()) -> None:
        """Tell others about a memparcel: MemNotify SHARED and RECALL the VMs named, RELEASED and ACCEPTED its owner."""
        named = flag in (MemNotify.SHARED, MemNotify.RECALL)
        rest = NotifyVmids(tuple(vmids)).pack() if named else b""
        self.call(_M.MEM_NOTIFY, MemNotifyRequest(handle, flag, tag, rest))

    def mem_qcom_lookup_sgl(
        self,
        acl: Iterable[tuple[int, int]],
        sgl: Iterable[tuple[int, int]],
        *,
        label: int = 0,
        mem_type: int = 0,
        attributes: Iterable[tuple[int, int]] = (),
    ) -> int:
        """The handle of an own memparcel with exactly these lists that nobody has accepted."""
        request = MemLookupSgl(mem_type, label, *_lists(acl, sgl, attributes))
        return self._ask(_M.MEM_QCOM_LOOKUP_SGL, HandleReply, request).handle

    # -- firmware and addresses ----------------------------------------------------------------------------------------

    def fw_milestone(self) -> None:
        """No firmware is registered from now on."""
        self.call(_M.FW_MILESTONE)

    def fw_set_vm_firmware(self, auth_type: int, handle: int, offset: int, size: int) -> None:
        """Register the firmware of an authentication type, in a memparcel donated to RM."""
        self.call(_M.FW_SET_VM_FIRMWARE, FwSetVmFirmware(auth_type, handle, offset, size))

    def vm_set_firmware_mem(self, vmid: int, handle: int, offset: int, size: int) -> None:
        """Say where a VM's firmware goes."""
        self.call(_M.VM_SET_FIRMWARE_MEM, SetFirmwareMem(vmid, handle, offset, size))

    def ipa_reserve_fixed(self, ranges: Iterable[tuple[int, int]], *, generic: int = 0, platform: int = 0) -> None:
        """IPA_RESERVE of given (base, bytes) ranges."""
        rest = IpaFixedList(tuple(AddressRange(*pair) for pair in ranges)).pack()
        self.ipa_reserve(IpaReserveKind.FIXED, rest, generic=generic, platform=platform)

    def ipa_reserve_any(
        self, wanted: Iterable[tuple[int, int, int, int]], *, generic: int = 0, platform: int = 0
    ) -> tuple[int, ...]:
        """IPA_RESERVE of ranges RM finds: (region base, region bytes, bytes, alignment) each; their bases."""
        rest = IpaAllocateList(tuple(IpaAllocateEntry(*entry) for entry in wanted)).pack()
        data = self.ipa_reserve(IpaReserveKind.ALLOCATE, rest, generic=generic, platform=platform)
        return IpaAllocateReply.unpack(data).bases

    def ipa_reserve(self, kind: int, entries: bytes, *, generic: int = 0, platform: int = 0) -> bytes:
        """IPA_RESERVE with a packed list (IpaFixedList or IpaAllocateList by ``kind``)."""
        return self.call(_M.IPA_RESERVE, IpaReserve(kind, generic, platform, entries))

    def ipa_unreserve(self, kind: int, entries: bytes) -> bytes:
        """Always refused: the message has no handler."""
        return self.call(_M.IPA_UNRESERVE, IpaReserve(kind, 0, 0, entries))

    # -- interrupts ----------------------------------------------------------------------------------------------------

    def vm_irq_lend(self, borrower: int, irq: int, label: int = 0) -> int:
        """Lend hardware interrupt ``irq`` (INTID); its handle."""
        return self._ask(_M.VM_IRQ_LEND, HandleReply, IrqLend(borrower, irq, label)).handle

    def vm_irq_accept(self, handle: int, irq: int = 0xFFFF_FFFF) -> int:
        """Bind a lent interrupt, as ``irq`` or where RM says; the INTID."""
        return self._ask(_M.VM_IRQ_ACCEPT, IrqAcceptReply, IrqAccept(handle, irq)).irq

    def vm_irq_release(self, handle: int) -> None:
        """Give a borrowed interrupt back."""
        self.call(_M.VM_IRQ_RELEASE, IrqHandle(handle))

    def vm_irq_reclaim(self, handle: int) -> None:
        """Take a lent interrupt back."""
        self.call(_M.VM_IRQ_RECLAIM, IrqHandle(handle))

    def vm_irq_notify(self, handle: int, flag: int, vmids: Iterable[int] = ()) -> None:
        """Tell borrower (IrqNotify LENT) or owner (RELEASED, ACCEPTED) about an interrupt."""
        payload = IrqNotifyRequest(handle, flag, tuple(vmids)).pack()
        self.call(_M.VM_IRQ_NOTIFY, payload if flag == IrqNotify.LENT else payload[:8])

    def vm_irq_unmap(self, handle: int) -> bytes:
        """Always refused: the message has no handler."""
        return self.call(_M.VM_IRQ_UNMAP, IrqHandle(handle))

    # -- consoles ------------------------------------------------------------------------------------------------------

    def vm_console_open(self, vmid: int = 0) -> None:
        """Open the owner's end of a VM's console, or with 0 the own end of the own one."""
        self._vm(_M.VM_CONSOLE_OPEN, vmid)

    def vm_console_close(self, vmid: int = 0) -> None:
        """Close an end of a console."""
        self._vm(_M.VM_CONSOLE_CLOSE, vmid)

    def vm_console_write(self, vmid: int, data: bytes) -> None:
        """Write to the other end; lost when nobody has that open."""
        self.call(_M.VM_CONSOLE_WRITE, ConsoleWrite(vmid, data))

    def vm_console_flush(self, vmid: int = 0) -> None:
        """Nothing to wait for: what was written is on its way."""
        self._vm(_M.VM_CONSOLE_FLUSH, vmid)


def _lists(
    acl: Iterable[tuple[int, int]], sgl: Iterable[tuple[int, int]], attributes: Iterable[tuple[int, int]]
) -> tuple[tuple[AclEntry, ...], tuple[SglEntry, ...], tuple[AttributeEntry, ...]]:
    return (
        tuple(AclEntry(*entry) for entry in acl),
        tuple(SglEntry(*entry) for entry in sgl),
        tuple(AttributeEntry(*entry) for entry in attributes),
    )
