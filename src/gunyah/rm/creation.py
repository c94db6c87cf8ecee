"""VM_CONFIG_IMAGE, VM_AUTH_IMAGE, VM_INIT: from an empty record to a VM ready to start (rm-rpc.md 6)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from gunyah.abi.errors import RmError
from gunyah.abi.rm import AuthType, MessageId, VmAuthImage, VmConfigImage, VmInit, VmStatus
from gunyah.abi.types import VMID_HLOS
from gunyah.rm import secondary
from gunyah.rm.errors import RmFailure
from gunyah.rm.vm import Image, Vm

if TYPE_CHECKING:
    from gunyah.rm.manager import Handler, ResourceManager

__all__ = ["HANDLERS"]


def _require_primary(client: Vm) -> None:
    if client.vmid != VMID_HLOS:
        raise RmFailure(RmError.DENIED, f"VM {client.vmid} is not the primary VM, which alone creates VMs")


def _fail(rm: ResourceManager, vm: Vm) -> None:
    """Whatever went wrong, a defect of RM included: the owner hears of it and can reset the VM."""
    vm.state = VmStatus.INIT_FAILED
    rm.send_status(vm)


def _config_image(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    _require_primary(client)
    request = VmConfigImage.unpack(payload)
    vm = rm.vms.owned(request.vmid, client)
    if not vm.may_become(VmStatus.AUTH):
        raise RmFailure(RmError.VM_STATE, f"VM {vm.vmid} is {vm.state.name}, LOAD or RESET is needed")
    # After a reset the peer links are gone; a second life has its owner as a peer again, like the first.
    vm.add_peer(client)
    try:
        _configure(rm, vm, request)
    except Exception:
        _fail(rm, vm)
        raise
    vm.become(VmStatus.AUTH if request.auth_type == AuthType.PLATFORM else VmStatus.INIT)
    rm.send_status(vm)
    return b""


def _configure(rm: ResourceManager, vm: Vm, request: VmConfigImage) -> None:
    parcel = rm.parcels.for_target(request.handle, vm.vmid)
    if parcel is None or parcel.owner != vm.owner:
        raise RmFailure(RmError.MEM_INVALID, f"memparcel {request.handle:#x} is not one that VM {vm.vmid} may accept")
    ranges = (("image", request.image_offset, request.image_size), ("dtb", request.dtb_offset, request.dtb_size))
    for what, offset, size in ranges:
        if offset + size > parcel.size:
            raise RmFailure(
                RmError.ARGUMENT_INVALID,
                f"{what} at {offset:#x}+{size:#x} reaches past the {parcel.size:#x}-byte {parcel}",
            )
    if request.auth_type not in AuthType._value2member_map_:
        raise RmFailure(RmError.ARGUMENT_INVALID, f"authentication type {request.auth_type} is unknown")
    vm.image = Image(
        AuthType(request.auth_type),
        request.handle,
        request.image_offset,
        request.image_size,
        request.dtb_offset,
        request.dtb_size,
    )
    secondary.prepare(rm, vm)


def _auth_image(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    _require_primary(client)
    request = VmAuthImage.unpack(payload)
    vm = rm.vms.owned(request.vmid, client)
    if vm.state is not VmStatus.AUTH:
        raise RmFailure(RmError.VM_STATE, f"VM {vm.vmid} is {vm.state.name}, AUTH is needed")
    # QEMU's platform code accepts every image (rm-rpc.md 6).
    vm.become(VmStatus.INIT)
    rm.send_status(vm)
    return b""


def _init(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    _require_primary(client)
    vm = rm.vms.owned(VmInit.unpack(payload).vmid, client)
    if vm.state is not VmStatus.INIT:
        raise RmFailure(RmError.VM_STATE, f"VM {vm.vmid} is {vm.state.name}, INIT is needed")
    try:
        secondary.build(rm, vm)
    except Exception:
        _fail(rm, vm)
        raise
    vm.become(VmStatus.READY)
    rm.send_status(vm)
    return b""


HANDLERS: Mapping[int, Handler] = MappingProxyType(
    {
        MessageId.VM_CONFIG_IMAGE: _config_image,
        MessageId.VM_AUTH_IMAGE: _auth_image,
        MessageId.VM_INIT: _init,
    }
)
