"""VM_START: accept memory, write the device tree, power the boot vCPUs on (rm-behaviour.md 5.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gunyah.abi.errors import RmError
from gunyah.abi.rm import AuthType
from gunyah.abi.vcpu import POWERON_PRESERVE_CONTEXT, POWERON_PRESERVE_ENTRY_POINT, VcpuRegisterSet
from gunyah.guest import fdt
from gunyah.guest.hypercall import HypercallFailed
from gunyah.rm import acceptance, firmware, vm_devicetree
from gunyah.rm.errors import RmFailure, failure_of
from gunyah.rm.image import tree_window
from gunyah.rm.vm import Image, Vm
from gunyah.rm.vm_objects import VcpuObject, VmObjects
from gunyah.rm.vmconfig import VmConfig

if TYPE_CHECKING:
    from gunyah.rm.manager import ResourceManager

__all__ = ["run"]


def run(rm: ResourceManager, vm: Vm) -> None:
    """Everything between READY and RUNNING; raises RmFailure."""
    if vm.objects is None or vm.image is None:
        raise RmFailure(RmError.VM_STATE, f"VM {vm.vmid} has no objects")
    config = acceptance.config_of(vm)
    try:
        _accept_memory(rm, vm)
        _write_device_tree(rm, vm, vm.image, config)
    except (RmFailure, HypercallFailed, fdt.FdtError) as failure:
        # Whatever went wrong, the owner is told NORESOURCE; the sentence says more (rm-rpc.md 6).
        raise RmFailure(RmError.NORESOURCE, f"VM {vm.vmid}: {failure}") from failure
    if vm.image.auth is AuthType.ANDROID:
        firmware.copy_to(rm, vm)
    try:
        _power_on(rm, vm, vm.image, vm.objects, config)
    except HypercallFailed as failure:
        raise failure_of(failure.error, f"VM {vm.vmid} cannot be powered on") from failure


def _accept_memory(rm: ResourceManager, vm: Vm) -> None:
    acceptance.accept_image(rm, vm)
    acceptance.accept_firmware(rm, vm)
    for parcel in rm.parcels.targeting(vm.vmid):
        acceptance.process_memparcel(rm, vm, parcel)
    image = rm.parcels.lookup(vm.image.handle) if vm.image else None
    acceptance.accept_private(rm, vm, image.size if image else 0)


def _write_device_tree(rm: ResourceManager, vm: Vm, image: Image, config: VmConfig) -> None:
    """The loader's tree, read again, with RM's nodes laid over it, written back to the same place."""
    with tree_window(rm, vm) as (loaded, address, room):
        tree = fdt.parse(loaded)
        vm_devicetree.extend(rm, vm, tree, config)
        blob = tree.pack()
        if len(blob) > room:
            raise RmFailure(
                RmError.NORESOURCE, f"the device tree grew to {len(blob):#x} bytes, {room:#x} are left for it"
            )
        if len(blob) > image.dt_size:
            rm.log.warning(f"VM {vm.vmid}: the device tree grew past its {image.dt_size:#x} bytes to {len(blob):#x}")
        rm.cpu.write(address, blob)


def _power_on(rm: ResourceManager, vm: Vm, image: Image, objects: VmObjects, config: VmConfig) -> None:
    base, tree = config.memory.base, config.memory.base + image.dt_offset
    offset = image.offset if config.entry_offset is None else config.entry_offset
    entry = base + (offset if image.entry is None else image.entry)
    boot = [vcpu for vcpu in objects.vcpus if vcpu.boot]
    if image.auth is AuthType.ANDROID:
        if len(boot) != 1 or entry != base + image.offset:
            raise RmFailure(
                RmError.ARGUMENT_INVALID, "with firmware one vCPU starts, and the entry is the image's offset"
            )
        rm.hyp.vcpu_register_write(boot[0].capability, VcpuRegisterSet.X, 1, entry)
        rm.hyp.vcpu_register_write(boot[0].capability, VcpuRegisterSet.X, 2, image.size)
        entry = (config.memory.firmware_base or 0) + image.firmware_offset
    for vcpu in boot:
        flags = _boot_registers(rm, vm, vcpu)
        rm.hyp.vcpu_poweron(vcpu.capability, entry, tree, flags)


def _boot_registers(rm: ResourceManager, vm: Vm, vcpu: VcpuObject) -> int:
    """Registers a later Linux host asked for; flags that keep them (rm-rpc.md 13)."""
    flags = 0
    for register_set, index, value in vm.boot_registers:
        rm.hyp.vcpu_register_write(vcpu.capability, register_set, index, value)
        if register_set == VcpuRegisterSet.PC:
            flags |= POWERON_PRESERVE_ENTRY_POINT
        elif (register_set, index) == (VcpuRegisterSet.X, 0):
            flags |= POWERON_PRESERVE_CONTEXT
    return flags
