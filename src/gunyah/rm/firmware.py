"""VM firmware: registered once by the primary VM, copied into VMs that are started with it (rm-rpc.md 11)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from gunyah.abi.errors import Error, RmError
from gunyah.abi.memory import Access
from gunyah.abi.rm import (
    AclEntry,
    AuthType,
    Empty,
    FwSetVmFirmware,
    HypErrorReply,
    MemAcceptFlag,
    MemRights,
    MemTrans,
    MemType,
    MessageId,
    SetFirmwareMem,
    VmStatus,
)
from gunyah.abi.types import PAGE_MASK, VMID_HLOS, VMID_RM
from gunyah.guest.hypercall import HypercallFailed
from gunyah.rm.errors import RmFailure
from gunyah.rm.vm import Vm

if TYPE_CHECKING:
    from gunyah.rm.manager import Handler, ResourceManager

__all__ = ["HANDLERS", "Firmware", "copy_to"]

_HYP_ERROR = HypErrorReply(Error.ARGUMENT_INVALID).pack()


class Firmware:
    """RM's store: one image for ANDROID VMs, and whether the time to register is over."""

    def __init__(self) -> None:
        self.closed = False
        self.address = 0
        self.size = 0


def _require_open(rm: ResourceManager, client: Vm) -> None:
    if rm.firmware.closed:
        raise RmFailure(RmError.DENIED, "the time to register firmware is over")
    if client.vmid != VMID_HLOS:
        raise RmFailure(RmError.DENIED, f"VM {client.vmid} is not the primary VM")


def _milestone(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    _require_open(rm, client)
    Empty.unpack(payload)
    rm.firmware.closed = True
    return b""


def _set_vm_firmware(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    _require_open(rm, client)
    if not payload:
        # As recorded from the reference, which refuses an empty request before it looks at lengths.
        raise RmFailure(RmError.DENIED, "the request is empty")
    request = FwSetVmFirmware.unpack(payload)
    if request.reserved:
        raise RmFailure(RmError.UNIMPLEMENTED, f"reserved field is {request.reserved:#x}")
    if request.auth_type != AuthType.ANDROID:
        raise RmFailure(RmError.ARGUMENT_INVALID, f"authentication type {request.auth_type} has no firmware")
    if rm.firmware.size:
        raise RmFailure(RmError.BUSY, "firmware is registered already")
    parcel = rm.parcels.for_target(request.handle, VMID_RM)
    if parcel is None:
        raise RmFailure(RmError.HANDLE_INVALID, f"memparcel {request.handle:#x} is not donated to RM")
    if not request.size or request.offset or request.size > parcel.size:
        raise RmFailure(
            RmError.ARGUMENT_INVALID,
            f"{request.offset:#x}+{request.size:#x} is no firmware in the {parcel.size:#x}-byte {parcel}",
        )
    size = parcel.size
    flags = int(MemAcceptFlag.DONE | MemAcceptFlag.MAP_CONTIGUOUS | MemAcceptFlag.VALIDATE_ACL_ATTR)
    own = rm.vms.lookup(VMID_RM)
    acl = [AclEntry(VMID_RM, MemRights.R | MemRights.W | MemRights.X)]
    assigned, _ = rm.parcels.accept(own, request.handle, MemType.NORMAL, MemTrans.DONATE, flags, acl=acl)
    rm.firmware.address, rm.firmware.size = assigned[0].address, min(request.size, size)
    return b""


def _set_firmware_mem(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    request = SetFirmwareMem.unpack(payload)
    try:
        _remember(rm, client, request)
    except RmFailure as failure:
        raise RmFailure(failure.code, str(failure), _HYP_ERROR) from failure
    return b""


def _remember(rm: ResourceManager, client: Vm, request: SetFirmwareMem) -> None:
    vm = rm.vms.lookup(request.vmid, RmError.NORESOURCE)
    rm.vms.queried(request.vmid, client, RmError.NORESOURCE, RmError.DENIED)
    if vm.state is not VmStatus.INIT or vm.image is None:
        raise RmFailure(RmError.VM_STATE, f"VM {vm.vmid} is {vm.state.name}, INIT is needed")
    if vm.image.auth is not AuthType.ANDROID:
        raise RmFailure(RmError.ARGUMENT_INVALID, f"authentication type {vm.image.auth.name} has no firmware")
    if not rm.firmware.size:
        raise RmFailure(RmError.DENIED, "no firmware is registered")
    parcel = rm.parcels.for_target(request.handle, vm.vmid)
    if parcel is None:
        raise RmFailure(RmError.MEM_INVALID, f"memparcel {request.handle:#x} is not one that VM {vm.vmid} may accept")
    if request.offset + request.size > parcel.size:
        raise RmFailure(
            RmError.ARGUMENT_INVALID,
            f"{request.offset:#x}+{request.size:#x} reaches past the {parcel.size:#x}-byte {parcel}",
        )
    image = vm.image
    image.firmware_handle, image.firmware_offset, image.firmware_size = request.handle, request.offset, request.size


def copy_to(rm: ResourceManager, vm: Vm) -> None:
    """Put the firmware into a VM that starts with it; raises RmFailure."""
    image, store = vm.image, rm.firmware
    if not store.closed:
        raise RmFailure(RmError.DENIED, "firmware can still be registered; FW_MILESTONE is missing")
    if not store.size:
        raise RmFailure(RmError.NORESOURCE, "no firmware is registered")
    if image is None or image.firmware_handle is None or store.size > image.firmware_size:
        raise RmFailure(RmError.MEM_INVALID, f"VM {vm.vmid} has no room for {store.size:#x} bytes of firmware")
    parcel = rm.parcels.lookup(image.firmware_handle)
    shift = image.firmware_offset & PAGE_MASK
    pieces = rm.parcels.pieces(parcel, image.firmware_offset, image.firmware_size)
    try:
        with rm.memory.window(parcel.extent, pieces, Access.RW) as window:
            content = rm.cpu.read(store.address, store.size)
            rm.cpu.write(window.address + shift, content.ljust(image.firmware_size, b"\0"))
    except HypercallFailed as failure:
        raise RmFailure(RmError.MAP_FAILED, f"firmware cannot be copied: {failure}") from failure


HANDLERS: Mapping[int, Handler] = MappingProxyType(
    {
        MessageId.FW_MILESTONE: _milestone,
        MessageId.FW_SET_VM_FIRMWARE: _set_vm_firmware,
        MessageId.VM_SET_FIRMWARE_MEM: _set_firmware_mem,
    }
)
