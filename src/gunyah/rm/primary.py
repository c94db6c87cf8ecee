"""RM's own record and the primary VM: objects, memory, interrupts, device tree, power-on.

What the primary VM gets is rm-behaviour.md 3; what it sees of it, reference.md 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gunyah.abi.memory import Access, MapMemtype, MappingAttributes
from gunyah.abi.objects import ThreadRight
from gunyah.abi.rm import MemType, VmStatus
from gunyah.abi.types import CAP_INVALID, PAGE_MASK, VMID_HLOS, VMID_RM
from gunyah.abi.vcpu import VcpuOption
from gunyah.abi.vic import SPI_BASE
from gunyah.guest import fdt
from gunyah.guest.hypercall import HypercallFailed
from gunyah.rm import overlay
from gunyah.rm.address import AddressAllocator
from gunyah.rm.environment import Environment
from gunyah.rm.memory import Region, VmMemory
from gunyah.rm.vm import Vm
from gunyah.rm.vm_objects import GICD_SIZE, VcpuObject, VmObjects

if TYPE_CHECKING:
    from gunyah.rm.manager import ResourceManager

__all__ = ["build"]

_PLATFORM_WINDOW = (0x3000_0000, 0x1000_0000)
"""Where RM places virtual devices of the primary VM (rm-behaviour.md 3)."""
_TREE_ROOM = 0x10_0000
"""Bytes the primary VM's device tree may grow to when nothing is known to lie behind it."""
_TREE_SPARE = 0x1000


def build(rm: ResourceManager) -> None:
    """Make RM's and the primary VM's records and objects, and start the primary VM."""
    _add_own_record(rm)
    environment = rm.environment
    vm = rm.vms.add(Vm(VMID_HLOS, VMID_RM, environment.profile, name="HLOS"))
    memory = VmMemory(0, AddressAllocator(*_PLATFORM_WINDOW), direct=True)
    objects = vm.objects = VmObjects(rm, vm, memory)
    objects.make_cspace()
    objects.make_addrspace(memory.allocator)
    cores = [core for core in range(environment.usable_cores.bit_length()) if environment.usable_cores >> core & 1]
    objects.make_vic(max(cores) + 1, mpidr=False)
    objects.make_vpm()
    options = VcpuOption.HLOS_VM | (VcpuOption.SVE_ALLOWED if environment.sve else VcpuOption(0))
    for core in cores:
        objects.make_vcpu(core, core, int(options), boot=core == environment.boot_core)
    objects.attach_gic(environment.gicd_base, environment.gicr_ranges[0][0], environment.gicr_stride)
    _bind_interrupts(rm, objects)
    _map_memory(rm, memory)
    _map_devices(rm, memory)
    objects.make_link(vm.profile.message_size, vm.profile.queue_depth)
    if environment.console_loopback:
        rm.consoles.create(vm.vmid, vm.vmid)
    _share_own_vcpu(rm, objects)
    device_tree = _write_device_tree(rm, vm, objects)
    boot = next(vcpu for vcpu in objects.vcpus if vcpu.boot)
    vm.state = VmStatus.RUNNING
    rm.hyp.vcpu_poweron(boot.capability, environment.hlos_entry, device_tree)
    rm.log.note(
        f"HLOS Mem Base : {environment.hlos_base:x} / Size : {environment.hlos_size:x} / IPA base : "
        f"{environment.hlos_base:x} / DT Ofst : {environment.hlos_dt_base - environment.hlos_base:x}"
    )


def _add_own_record(rm: ResourceManager) -> None:
    """RM as a VM, whose record stays in LOAD (rm-behaviour.md 2.2): it owns its memory, and the primary VM may ask for
    its vCPU."""
    environment = rm.environment
    vm = rm.vms.add(Vm(VMID_RM, VMID_RM, environment.profile, name="RM"))
    objects = vm.objects = VmObjects(rm, vm, VmMemory(environment.addrspace, rm.memory.windows, direct=False))
    objects.cspace, objects.vic = environment.cspace, environment.vic
    objects.vcpus.append(VcpuObject(environment.vcpu, 0, 0, False, True, wakeup_virq=0))
    objects.virqs = rm.own_virqs


def _share_own_vcpu(rm: ResourceManager, primary: VmObjects) -> None:
    """The primary VM may ask where RM's vCPU runs (affinity right only)."""
    own = rm.vms.lookup(VMID_RM).objects
    if own is not None:
        vcpu = own.vcpus[0]
        vcpu.owner_capability = primary.give(vcpu.capability, int(ThreadRight.AFFINITY))


def _bind_interrupts(rm: ResourceManager, objects: VmObjects) -> None:
    """Forward every usable hardware interrupt under its own number."""
    for number, capability in enumerate(rm.environment.hwirqs):
        if capability == CAP_INVALID:
            continue
        try:
            rm.hyp.hwirq_bind_virq(capability, objects.vic, number)
        except HypercallFailed as failure:
            rm.log.warning(f"hardware interrupt {number} stays unbound: {failure}")
            continue
        rm.irqs.own(number, VMID_HLOS)
        if number >= SPI_BASE:
            objects.virqs.taken.add(number)


def _map_memory(rm: ResourceManager, memory: VmMemory) -> None:
    """RAM one to one, read, write and execute."""
    environment = rm.environment
    first, last = environment.hlos_base, environment.hlos_base + environment.hlos_size
    for base, size in environment.free_ranges:
        start, end = max(base, first), min(base + size, last)
        if start >= end:
            continue
        rm.memory.give_from_partition(memory, start, end - start)
        region = Region(start, end - start, start)
        extent = memory.owned[MemType.NORMAL]
        rm.memory.map(memory, extent, MemType.NORMAL, start, region, Access.RWX, MapMemtype.NORMAL_WB)


def _device_pieces(environment: Environment) -> list[tuple[int, int]]:
    """(base, end) of device space without what was derived out of it: distributor, redistributors, UART (boot.md 6)."""
    holes = [(environment.gicd_base, GICD_SIZE), (environment.uart_address & ~PAGE_MASK, PAGE_MASK + 1)]
    holes += [(base, count * environment.gicr_stride) for base, count in environment.gicr_ranges]
    pieces: list[tuple[int, int]] = []
    at = environment.device_base
    for base, size in sorted(holes):
        if at < base:
            pieces.append((at, base))
        at = max(at, base + size)
    if at < environment.device_base + environment.device_size:
        pieces.append((at, environment.device_base + environment.device_size))
    return pieces


def _map_devices(rm: ResourceManager, memory: VmMemory) -> None:
    """Device space one to one except the GIC, and the UART page."""
    environment = rm.environment
    for base, end in _device_pieces(environment):
        rm.memory.give_device(memory, base, end - base)
        region = Region(base, end - base, base)
        extent = memory.owned[MemType.IO]
        rm.memory.map(memory, extent, MemType.IO, base, region, Access.RW, MapMemtype.DEVICE_NGNRE)
    attributes = MappingAttributes(Access.RW, Access.RW, MapMemtype.DEVICE_NGNRE).pack()
    rm.hyp.addrspace_map(memory.addrspace, environment.uart_extent, environment.uart_address & ~PAGE_MASK, attributes)


def _write_device_tree(rm: ResourceManager, vm: Vm, objects: VmObjects) -> int:
    """Apply the overlay to the tree that lies at hlos_dt_base, in place; the tree's address."""
    environment, base = rm.environment, rm.environment.hlos_dt_base
    room = _TREE_ROOM
    if base < environment.hlos_entry:
        room = min(room, environment.hlos_entry - base)
    room = min(room, environment.hlos_base + environment.hlos_size - base) & ~PAGE_MASK
    if objects.link_ends is None:
        raise RuntimeError("the primary VM has no link")
    with rm.memory.window(objects.memory.owned[MemType.NORMAL], [(base, room)]) as window:
        try:
            size = fdt.total_size(rm.cpu.read(window.address, 40))
            tree = fdt.parse(rm.cpu.read(window.address, min(size, room)))
        except fdt.FdtError as error:
            rm.log.warning(f"no device tree at {base:#x} ({error}): a new one is made")
            tree, size = fdt.DeviceTree(), 0
            tree.root.set_cells("#address-cells", 2)
            tree.root.set_cells("#size-cells", 2)
        overlay.add_primary_nodes(tree, vm.vmid, vm.profile, objects.link_ends)
        blob = tree.pack()
        # A guest may want to add to its tree in turn, as boot loaders do.
        blob = tree.pack(min(max(_TREE_SPARE, size - len(blob)), max(0, room - len(blob))))
        if len(blob) > room:
            raise fdt.FdtError(f"the device tree grew to {len(blob):#x} bytes, {room:#x} are free at {base:#x}")
        rm.cpu.write(window.address, blob)
    return base
