"""A secondary VM's objects, made from its configuration in the order of rm-behaviour.md 5.3."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gunyah.abi.devicetree import VdeviceType, VmAttr
from gunyah.abi.errors import RmError
from gunyah.abi.memory import IPA_BITS, MapMemtype
from gunyah.abi.profile import PROFILES
from gunyah.abi.rm import AuthType, MemType
from gunyah.abi.types import CPU_INDEX_INVALID, PAGE_SIZE
from gunyah.abi.vcpu import VcpuOption
from gunyah.abi.vic import VIC_OPTION_DISABLE_DEFAULT_ADDR, VPM_OPTION_NO_AGGREGATION
from gunyah.guest.hypercall import HypercallFailed
from gunyah.rm import devices, elf_image, lifecycle
from gunyah.rm.address import AddressAllocator
from gunyah.rm.errors import RmFailure
from gunyah.rm.image import image_of, tree_window
from gunyah.rm.memory import Region, VmMemory
from gunyah.rm.vm import Vm
from gunyah.rm.vm_objects import GICD_SIZE, VmObjects
from gunyah.rm.vmconfig import IoRange, Policy, VmConfig, parse_config

if TYPE_CHECKING:
    from gunyah.rm.manager import ResourceManager

__all__ = ["build", "objects_of", "prepare"]

_IMAGE_RANGE = 0
"""Range id of VM_SET_ADDRESS_LAYOUT."""
VMMIO_WINDOW = (0, 0x4000_0000)
"""Faults here go to the vcpu_run caller of VMs that the platform has not authenticated (rm-behaviour.md 5.2)."""


def objects_of(vm: Vm) -> VmObjects:
    """The VM's objects; raises RmFailure VM_STATE when there are none."""
    if vm.objects is None:
        raise RmFailure(RmError.VM_STATE, f"VM {vm.vmid} has no objects")
    return vm.objects


def _allocator(rm: ResourceManager) -> AddressAllocator:
    environment = rm.environment
    return AddressAllocator(0, 1 << IPA_BITS, [(environment.device_base, environment.device_size)])


def prepare(rm: ResourceManager, vm: Vm) -> None:
    """Capability space and empty record, at VM_CONFIG_IMAGE; raises HypercallFailed with nothing left behind."""
    objects = VmObjects(rm, vm, VmMemory(0, _allocator(rm), direct=False))
    try:
        objects.make_cspace()
    except HypercallFailed:
        objects.destroy()
        raise
    vm.objects = objects


def build(rm: ResourceManager, vm: Vm) -> None:
    """Everything up to READY; raises RmFailure."""
    image, objects = image_of(vm), objects_of(vm)
    elf = elf_image.read_elf(rm, vm)
    if elf is not None:
        elf_image.find_tree(rm, vm, elf)
    try:
        with tree_window(rm, vm) as (blob, _, _):
            pass
    except HypercallFailed as failure:
        raise RmFailure(RmError.MEM_INVALID, f"the device tree cannot be mapped: {failure}") from failure
    owner = rm.vms.lookup(vm.owner)
    policy = Policy(image.auth, cores=8, usable_cores=rm.environment.usable_cores)
    config, warnings = parse_config(blob, policy)
    for warning in warnings:
        rm.log.warning(f"VM {vm.vmid}: {warning}")
    _identify(vm, config)
    elf_image.apply(rm, vm, elf, config)
    try:
        _make_spaces(rm, vm, objects, config)
        _make_vcpus(rm, vm, objects, config, objects_of(owner))
        devices.make_link(rm, vm, config)
        devices.make_all(rm, vm, config)
    except HypercallFailed as failure:
        raise RmFailure(RmError.NORESOURCE, f"VM {vm.vmid}: {failure}") from failure
    vm.config = config


def _identify(vm: Vm, config: VmConfig) -> None:
    vm.name, vm.uri, vm.guid = config.name, config.uri, config.guid
    vm.sensitive = config.sensitive
    vm.no_shutdown = VmAttr.NO_SHUTDOWN in config.attributes
    vm.no_reset = VmAttr.NO_RESET in config.attributes
    vm.crash_fatal = VmAttr.CRASH_FATAL in config.attributes
    vm.profile = PROFILES[config.profile]


def _make_spaces(rm: ResourceManager, vm: Vm, objects: VmObjects, config: VmConfig) -> None:
    trusted = image_of(vm).auth is AuthType.PLATFORM
    if _IMAGE_RANGE in vm.layout:
        config.memory.base = vm.layout[_IMAGE_RANGE][0]
    if config.memory.direct:
        objects.memory.direct = True
        config.memory.base = rm.parcels.lookup(image_of(vm).handle).regions[0].pa
    _keep_clear(rm, vm, objects.memory.allocator, config)
    objects.make_addrspace(objects.memory.allocator, None if trusted else VMMIO_WINDOW)
    objects.make_vic(max(1, len(config.vcpus)), mpidr=not trusted, options=VIC_OPTION_DISABLE_DEFAULT_ADDR)
    for device in config.devices:
        # Interrupts a configuration names go first, so that none RM picks gets in their way.
        if device.kind is not VdeviceType.DOORBELL_SOURCE:
            for interrupt in device.interrupts:
                objects.virqs.reserve(interrupt.virq)
    owner = rm.vms.lookup(vm.owner)
    for number, virq in config.irq_ranges:
        rm.irqs.lend_static(owner, vm, number, virq)
    for io_range in config.io_ranges:
        _give_io(rm, vm, objects, io_range)


def _keep_clear(rm: ResourceManager, vm: Vm, allocator: AddressAllocator, config: VmConfig) -> None:
    """Addresses that the configuration names are taken at VM_START only: until then RM must pick others."""
    memory, gic = config.memory, config.gic
    allocator.keep_clear(memory.base, rm.parcels.lookup(image_of(vm).handle).size)
    if memory.firmware_base is not None:
        allocator.keep_clear(memory.firmware_base, memory.firmware_size_max)
    allocator.keep_clear(gic.distributor, GICD_SIZE)
    allocator.keep_clear(gic.redistributor, gic.stride * max(1, len(config.vcpus)))
    for device in config.devices:
        if device.memory is not None and device.memory.base is not None:
            sizes = [parcel.size for parcel in rm.parcels.targeting(vm.vmid) if parcel.label == device.memory.label]
            allocator.keep_clear(device.memory.base, max(sizes, default=PAGE_SIZE))


def _give_io(rm: ResourceManager, vm: Vm, objects: VmObjects, io_range: IoRange) -> None:
    """Move device pages from the owner to the VM, one to one, until it is destroyed."""
    memory, owner = rm.memory, objects_of(rm.vms.lookup(vm.owner)).memory
    region = Region(io_range.pa, io_range.size, io_range.pa)
    giver, taker = memory.owned_extent(owner, MemType.IO), memory.owned_extent(objects.memory, MemType.IO)
    memory.donate(MemType.IO, giver, taker, region.pa, region.size)
    objects.on_destroy(lambda: memory.donate(MemType.IO, taker, giver, region.pa, region.size))
    if io_range.access:
        memory.map(objects.memory, taker, MemType.IO, region.pa, region, io_range.access, int(MapMemtype.DEVICE_NGNRE))


def _make_vcpus(rm: ResourceManager, vm: Vm, objects: VmObjects, config: VmConfig, owner: VmObjects) -> None:
    if config.psci:
        objects.make_vpm(VPM_OPTION_NO_AGGREGATION if config.proxy else 0)
    options = VcpuOption(0)
    if config.proxy:
        options |= VcpuOption.VCPU_RUN_SCHEDULED
    if config.affinity == "pinned":
        options |= VcpuOption.PINNED
    if config.affinity and vm.crash_fatal:
        options |= VcpuOption.CRITICAL
    if VmAttr.AMU_COUNTING_DISABLED in config.attributes or vm.sensitive:
        options |= VcpuOption.AMU_COUNTING_DISABLED
    if VmAttr.RAS_ERROR_HANDLER in config.attributes:
        options |= VcpuOption.RAS_ERROR_HANDLER
    for index, wanted in enumerate(config.vcpus):
        vcpu = objects.make_vcpu(
            index,
            CPU_INDEX_INVALID if wanted.core is None else wanted.core,
            int(options),
            boot=wanted.boot,
            proxy=config.proxy,
            priority=config.priority,
            timeslice=config.timeslice,
        )
        vcpu.node = wanted.path
    for vcpu in objects.vcpus:
        objects.bind_halt(vcpu, lambda halted: lifecycle.vcpu_halted(rm, vm, halted))
        objects.share_vcpu(vcpu, owner)
    objects.attach_gic(config.gic.distributor, config.gic.redistributor, config.gic.stride)
