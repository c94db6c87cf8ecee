"""The hypercalls on address spaces (hypercalls.md 3.5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gunyah.abi.errors import Error
from gunyah.abi.memory import (
    MAP_PARTIAL,
    AccessAttributes,
    MappingAttributes,
    VmmioOp,
)
from gunyah.abi.objects import ObjectState, ObjectType, VicRight
from gunyah.hypervisor import memextent_mapping as mapping
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.vic import Vic

if TYPE_CHECKING:
    from gunyah.hypervisor.addrspace import Addrspace
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.memextent import MemExtent
    from gunyah.hypervisor.vcpu import Vcpu
    from gunyah.hypervisor.vdevice import VirtualDevice

__all__ = ["HANDLERS"]


def addrspace_attach_thread(hv: Hypervisor, vcpu: Vcpu, addrspace: Addrspace, thread: Vcpu) -> None:
    """Bind a vCPU to its stage-2 address space."""
    thread.require_init()
    addrspace.attach_thread(thread)


def addrspace_map(
    hv: Hypervisor,
    vcpu: Vcpu,
    addrspace: Addrspace,
    extent: MemExtent,
    vbase: int,
    attributes: int,
    flags: int,
    offset: int,
    size: int,
) -> None:
    """Map an extent, or part of a sparse one, at an IPA."""
    wanted = MappingAttributes.unpack(attributes)
    if flags & MAP_PARTIAL:
        mapping.map_partial(extent, addrspace, vbase, offset, size, wanted)
    else:
        mapping.map_extent(extent, addrspace, vbase, wanted)


def addrspace_unmap(
    hv: Hypervisor, vcpu: Vcpu, addrspace: Addrspace, extent: MemExtent, vbase: int, flags: int, offset: int, size: int
) -> None:
    """Take back a mapping."""
    if flags & MAP_PARTIAL:
        mapping.unmap_partial(extent, addrspace, vbase, offset, size)
    else:
        mapping.unmap(extent, addrspace, vbase)


def addrspace_update_access(
    hv: Hypervisor,
    vcpu: Vcpu,
    addrspace: Addrspace,
    extent: MemExtent,
    vbase: int,
    attributes: int,
    flags: int,
    offset: int,
    size: int,
) -> None:
    """Change the access of a mapping and keep its memory type."""
    user, kernel = AccessAttributes.unpack(attributes)
    if flags & MAP_PARTIAL:
        mapping.update_partial(extent, addrspace, vbase, offset, size, user, kernel)
    else:
        mapping.update(extent, addrspace, vbase, user, kernel)


def addrspace_configure(hv: Hypervisor, vcpu: Vcpu, addrspace: Addrspace, vmid: int) -> None:
    """Set the VMID."""
    addrspace.configure(vmid)


def addrspace_attach_vdma(hv: Hypervisor, vcpu: Vcpu, addrspace: Addrspace, device: int, index: int) -> None:
    """Attach a DMA port: no object has one (recorded: 52 whatever the object is)."""
    raise HypervisorError(Error.CSPACE_WRONG_OBJECT_TYPE, f"capability {device:#x}: no DMA port {index}")


def addrspace_lookup(
    hv: Hypervisor, vcpu: Vcpu, addrspace: Addrspace, extent: MemExtent, vbase: int, size: int
) -> tuple[int, int, int]:
    """Find which contiguous part of an extent stands at an IPA: offset, bytes, mapping attributes."""
    pa, length, attributes = addrspace.lookup(vbase, size)
    if not extent.owns(pa, length):
        raise HypervisorError(
            Error.MEMDB_NOT_OWNER, f"{extent} does not own all of {pa:#x}..{pa + length:#x}, which is at IPA {vbase:#x}"
        )
    return pa - extent.base, length, attributes.pack()


def addrspace_configure_info_area(
    hv: Hypervisor, vcpu: Vcpu, addrspace: Addrspace, extent: MemExtent, ipa: int
) -> None:
    """Choose extent and IPA of the VM's information page."""
    addrspace.configure_info_area(extent, ipa)


def addrspace_configure_vmmio(
    hv: Hypervisor, vcpu: Vcpu, addrspace: Addrspace, base: int, size: int, operation: int
) -> None:
    """Declare or withdraw an IPA window whose faults go to a proxy scheduler."""
    if addrspace.state not in (ObjectState.INIT, ObjectState.ACTIVE):
        raise HypervisorError(Error.OBJECT_STATE, f"{addrspace} is {ObjectState(addrspace.state).name}")
    if operation == VmmioOp.ADD_RANGE:
        addrspace.add_vmmio_range(base, size)
    elif operation == VmmioOp.REMOVE_RANGE:
        addrspace.remove_vmmio_range(base, size)
    else:
        raise HypervisorError(Error.UNIMPLEMENTED, f"VMMIO operation {operation} is not provided")


def addrspace_attach_vdevice(
    hv: Hypervisor, vcpu: Vcpu, addrspace: Addrspace, capid: int, index: int, base: int, size: int, flags: int
) -> None:
    """Place a register frame of a VIC at an IPA: index 0 the distributor, n the redistributor of vCPU n - 1."""
    assert vcpu.cspace is not None
    vic = vcpu.cspace.lookup(capid, ObjectType.VIC, int(VicRight.ATTACH_VDEVICE))
    assert isinstance(vic, Vic)

    def place(device: VirtualDevice) -> Callable[[], None]:
        attached = addrspace.attach_vdevice(device, base, size)
        return lambda: addrspace.detach_vdevice(attached)

    vic.attach_frame(index, flags, place)


HANDLERS: dict[str, Callable[..., tuple[int, ...] | None]] = {
    "addrspace_attach_thread": addrspace_attach_thread,
    "addrspace_attach_vdevice": addrspace_attach_vdevice,
    "addrspace_attach_vdma": addrspace_attach_vdma,
    "addrspace_configure": addrspace_configure,
    "addrspace_configure_info_area": addrspace_configure_info_area,
    "addrspace_configure_vmmio": addrspace_configure_vmmio,
    "addrspace_lookup": addrspace_lookup,
    "addrspace_map": addrspace_map,
    "addrspace_unmap": addrspace_unmap,
    "addrspace_update_access": addrspace_update_access,
}
