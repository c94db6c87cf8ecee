"""What RM writes into a secondary VM's device tree before the VM starts (rm-behaviour.md 7).

The nodes carry the names of both generations, so that a v4 guest and a later one find their hypervisor. Memory that the
tree itself reserves, and labelled memparcels nothing else has claimed, are accepted here, because their addresses end
up in the tree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from gunyah.abi.devicetree import (
    COMPATIBLE_CAPABILITY,
    COMPATIBLE_DOORBELL,
    COMPATIBLE_DOORBELL_SOURCE,
    COMPATIBLE_HYPERVISOR_SECONDARY,
    COMPATIBLE_MESSAGE_QUEUE,
    COMPATIBLE_RM_SECONDARY,
    COMPATIBLE_SHARED_MEMORY,
    COMPATIBLE_SHM_DOORBELL,
    COMPATIBLE_SIMPLE_BUS,
    COMPATIBLE_VIRTIO_MMIO,
    COMPATIBLE_VM_FIRMWARE,
    Property,
    VdeviceType,
)
from gunyah.abi.errors import RmError
from gunyah.abi.rm import MemType, ResourceType
from gunyah.guest.fdt import DeviceTree, FdtError, Node
from gunyah.guest.hypercall import HypercallFailed
from gunyah.rm import acceptance, overlay
from gunyah.rm.devices import find_peer
from gunyah.rm.errors import RmFailure
from gunyah.rm.memparcel import Memparcel
from gunyah.rm.vm import Vm
from gunyah.rm.vm_objects import GICD_SIZE, Device, End, VmObjects
from gunyah.rm.vmconfig import VmConfig
from gunyah.rm.vmconfig_devices import DeviceConfig

if TYPE_CHECKING:
    from gunyah.rm.manager import ResourceManager

__all__ = ["extend"]

_SEED_WORDS = 2


def extend(rm: ResourceManager, vm: Vm, tree: DeviceTree, config: VmConfig) -> None:
    """Add RM's nodes to the loader's tree; raises RmFailure or FdtError."""
    if vm.objects is None:
        raise RmFailure(RmError.VM_STATE, f"VM {vm.vmid} has no objects")
    if tree.root.child("hypervisor") is not None:
        raise RmFailure(RmError.DENIED, "the device tree has a node /hypervisor already")
    _Writer(rm, vm, tree, config, vm.objects).run()


class _Writer:
    def __init__(self, rm: ResourceManager, vm: Vm, tree: DeviceTree, config: VmConfig, objects: VmObjects) -> None:
        self.rm = rm
        self.vm = vm
        self.tree = tree
        self.config = config
        self.objects = objects
        self.handle = 0

    def run(self) -> None:
        self.reserved_memory()
        self.memory()
        self.chosen()
        self.cpus()
        self.gic()
        self.hypervisor()
        self.vsoc()
        for device in self.objects.devices:
            if device.config is not None:
                self.device(device, device.config)

    # -- memory --------------------------------------------------------------------------------------------------------

    def reserved_memory(self) -> None:
        root = self.tree.root
        node = root.child("reserved-memory")
        if node is not None:
            for child in list(node.children):
                self.reserved_child(child)
        acceptance.accept_remaining(self.rm, self.vm)
        if node is None:
            node = root.add("reserved-memory")
            node.set_cells("#address-cells", root.address_cells)
            node.set_cells("#size-cells", root.size_cells)
            node.set_flag("ranges")
        for handle in self.vm.accepted:
            parcel = self.rm.parcels.lookup(handle)
            member = parcel.member(self.vm.vmid)
            if member is not None and member.phandle is None and self.is_buffer(parcel):
                self.buffer(node, parcel)
        self.firmware(node)

    def is_buffer(self, parcel: Memparcel) -> bool:
        """Memory that is neither general RAM nor firmware nor IO."""
        image = self.vm.image
        own = image is not None and parcel.handle in (image.handle, image.firmware_handle)
        return not own and not parcel.is_private(self.vm.vmid) and parcel.mem_type is MemType.NORMAL

    def reserved_child(self, node: Node) -> None:
        """A range the loader reserved: memory of its own label or address is accepted there."""
        if "reg" not in node:
            return
        ranges = node.reg()
        if any(self.inside_base(base, size) for base, size in ranges):
            return
        parcel = self.find_reserved(node, ranges)
        if parcel is None:
            raise RmFailure(RmError.NORESOURCE, f"{node.path}: no memparcel is there for the reserved range {ranges}")
        if "reusable" in node and not parcel.is_exclusive(self.vm.vmid):
            raise RmFailure(RmError.NORESOURCE, f"{node.path}: reusable memory cannot be shared with other VMs")
        member = parcel.member(self.vm.vmid)
        if member is not None and not member.shared:
            acceptance.accept_at(self.rm, self.vm, parcel, ranges[0][0])
        node.set_cells(Property.RM_MEM_HANDLE, parcel.handle)
        if member is not None:
            member.phandle = self.tree.phandle_of(node)

    def find_reserved(self, node: Node, ranges: list[tuple[int, int]]) -> Memparcel | None:
        parcels = self.rm.parcels.targeting(self.vm.vmid)
        if Property.QCOM_LABEL in node:
            label = node.u32(Property.QCOM_LABEL)
            return next((parcel for parcel in parcels if parcel.label == label), None)
        for parcel in parcels:
            member = parcel.member(self.vm.vmid)
            if member is not None and member.shared and member.ipas and member.ipas[0] == ranges[0][0]:
                return parcel
        return None

    def inside_base(self, base: int, size: int) -> bool:
        ranges = acceptance.base_ranges(self.rm, self.vm)
        return any(start <= base and base + size <= start + length for start, length in ranges)

    def buffer(self, parent: Node, parcel: Memparcel) -> None:
        member = parcel.member(self.vm.vmid)
        if member is None or not member.ipas:
            return
        node = parent.add(f"buffer@{member.ipas[0]:x}")
        pieces = [(ipa, region.size) for ipa, region in parcel.ipas_of(member)]
        if member.contiguous:
            pieces = [(member.ipas[0], parcel.size)]
        _set_reg(node, parent, "reg", pieces)
        compatible = [word for config in self.devices_of(parcel) for word in config.push_compatible]
        if compatible:
            node.set_strings("compatible", *compatible)
        node.set_flag("no-map")
        node.set_flag(Property.SHARED_MEMORY)
        peers = [other.vmid for other in parcel.members if other.vmid != self.vm.vmid]
        if parcel.owner not in peers:
            peers.insert(0, parcel.owner)
        node.set_cells(Property.SHM_PEERS, *peers)
        node.set_cells(Property.RM_MEM_HANDLE, parcel.handle)
        node.set_cells(Property.QCOM_LABEL, parcel.label)
        member.phandle = self.tree.phandle_of(node)

    def devices_of(self, parcel: Memparcel) -> list[DeviceConfig]:
        return [
            config
            for config in self.config.devices
            if config.memory is not None and config.memory.label == parcel.label
        ]

    def firmware(self, parent: Node) -> None:
        image, base = self.vm.image, self.config.memory.firmware_base
        if image is None or base is None or image.firmware_handle in (None, image.handle):
            return
        node = parent.add(f"firmware@{base:x}")
        _set_reg(node, parent, "reg", [(base, image.firmware_size)])
        node.set_flag("no-map")
        node.set_strings("compatible", COMPATIBLE_VM_FIRMWARE)

    def memory(self) -> None:
        root = self.tree.root
        for old in [child for child in root.children if child.name.partition("@")[0] == "memory"]:
            old.remove()
        node = root.add("memory")
        node.set_strings("device_type", "memory")
        _set_reg(node, root, "reg", acceptance.base_ranges(self.rm, self.vm))

    def chosen(self) -> None:
        node = self.tree.root.ensure("chosen")
        image = self.vm.image
        if image is not None and image.ramdisk is not None:
            start = self.config.memory.base + image.ramdisk[0]
            for name, address in ((Property.INITRD_START, start), (Property.INITRD_END, start + image.ramdisk[1])):
                (node.set_u64s if address >> 32 else node.set_cells)(name, address)
        if image is not None and image.bootargs:
            given = node.string(Property.BOOTARGS) if Property.BOOTARGS in node else ""
            node.set_strings(Property.BOOTARGS, f"{given} {image.bootargs}".strip())
        try:
            words = self.rm.hyp.prng_get_entropy(8)[:_SEED_WORDS]
        except HypercallFailed as failure:
            # The rate limit: a guest without a seed boots, only less randomly.
            self.rm.log.warning(f"VM {self.vm.vmid}: no kaslr-seed: {failure}")
            return
        node.set_cells(Property.KASLR_SEED, *words)

    # -- processors and interrupts -------------------------------------------------------------------------------------

    def cpus(self) -> None:
        for vcpu in self.objects.vcpus:
            node = self.tree.find(vcpu.node)
            if node is not None and vcpu.own_capability:
                node.set_u64s(Property.CAPABILITY, vcpu.own_capability)

    def gic(self) -> None:
        gic = self.config.gic
        node = self.tree.find(gic.path) if gic.path else None
        if node is None or node.parent is None:
            return
        node.set_cells(Property.REDISTRIBUTOR_REGIONS, 1)
        node.set_u64s(Property.REDISTRIBUTOR_STRIDE, gic.stride)
        if not gic.has_reg:
            frames = gic.stride * len(self.objects.vcpus)
            _set_reg(node, node.parent, "reg", [(gic.distributor, GICD_SIZE), (gic.redistributor, frames)])

    # -- the hypervisor node -------------------------------------------------------------------------------------------

    def hypervisor(self) -> None:
        vm, config = self.vm, self.config
        node = self.tree.root.add("hypervisor")
        node.set_cells("#address-cells", 2)
        node.set_cells("#size-cells", 0)
        node.set_strings("compatible", *COMPATIBLE_HYPERVISOR_SECONDARY)
        identity = overlay.add_vm_id(node, vm.vmid)
        identity.set_cells(Property.OWNER_VMID, vm.owner)
        identity.set_strings(Property.IMAGE_NAME, vm.name)
        if vm.uri:
            identity.set_strings(Property.VM_URI, vm.uri)
        if any(vm.guid):
            identity.set_strings(Property.VM_GUID, str(UUID(bytes=vm.guid)))
        pairs = [device for device in config.devices if device.kind is VdeviceType.MESSAGE_QUEUE_PAIR]
        peers = dict.fromkeys(device.peer for device in pairs if device.peer)
        if peers:
            identity.set_strings(Property.PEERS, *peers)
        for device in config.devices:
            if device.kind is VdeviceType.RM_RPC:
                self.link(device)

    def generate(self, path: str, suffix: str) -> Node:
        """The node a device asks for: its path and, mostly, the capability as unit address."""
        parent_path, _, name = path.rpartition("/")
        parent = self.tree.root.ensure(parent_path)
        return parent.add(f"{name}{suffix}")

    def link(self, device: DeviceConfig) -> None:
        link = self.objects.link_ends
        if link is None:
            return
        node = self.generate(device.generate, f"@{link.rx:016x}")
        words = (*device.push_compatible, *COMPATIBLE_RM_SECONDARY, COMPATIBLE_MESSAGE_QUEUE, COMPATIBLE_CAPABILITY)
        node.set_strings("compatible", *words)
        overlay.link_properties(node, link, 0)
        self.vdevice_handle(node)

    def vdevice_handle(self, node: Node) -> None:
        node.set_cells(Property.VDEVICE_HANDLE, self.handle)
        self.handle += 1

    def vsoc(self) -> None:
        if self.tree.root.child("vsoc") is None:
            node = self.tree.root.add("vsoc")
            node.set_strings("compatible", COMPATIBLE_SIMPLE_BUS)
            node.set_cells("#address-cells", 2)
            node.set_cells("#size-cells", 2)
            node.set_flag("ranges")

    # -- devices -------------------------------------------------------------------------------------------------------

    def device(self, device: Device, config: DeviceConfig) -> None:
        ends = device.ends_of(self.vm.vmid)
        if config.kind in (VdeviceType.DOORBELL, VdeviceType.DOORBELL_SOURCE) and ends:
            self.doorbell(config.generate, config, ends[0])
        elif config.kind is VdeviceType.MESSAGE_QUEUE and ends:
            self.message_queue(config, ends[0])
        elif config.kind is VdeviceType.MESSAGE_QUEUE_PAIR and len(ends) == 2:
            self.queue_pair(config, ends)
        elif config.kind in (VdeviceType.SHM, VdeviceType.SHM_DOORBELL):
            self.shared_memory(device, config)
        elif config.kind is VdeviceType.VIRTIO_MMIO:
            self.virtio(device, config)
        elif config.kind is VdeviceType.IOMEM:
            self.io_memory(device, config)

    def labels(self, node: Node, config: DeviceConfig) -> None:
        node.set_cells(Property.QCOM_LABEL, config.label)
        node.set_cells(Property.LABEL, config.label)

    def interrupts(self, node: Node, config: DeviceConfig, *virqs: int) -> None:
        flags = {interrupt.virq: interrupt.flags for interrupt in config.interrupts}
        cells = [cell for virq in virqs for cell in overlay.interrupt_cells(virq, flags.get(virq, overlay.EDGE_RISING))]
        node.set_cells("interrupts", *cells)

    def doorbell(self, path: str, config: DeviceConfig, end: End) -> Node:
        node = self.generate(path, f"@{end.capability:016x}")
        source = end.type is ResourceType.DOORBELL_SRC
        kind = COMPATIBLE_DOORBELL_SOURCE if source else COMPATIBLE_DOORBELL
        node.set_strings("compatible", *config.push_compatible, kind, COMPATIBLE_CAPABILITY)
        node.set_u64s("reg", end.capability)
        if not source:
            self.interrupts(node, config, end.virq)
        self.labels(node, config)
        return node

    def message_queue(self, config: DeviceConfig, end: End) -> None:
        node = self.generate(config.generate, f"@{end.capability:016x}")
        node.set_strings("compatible", *config.push_compatible, COMPATIBLE_MESSAGE_QUEUE, COMPATIBLE_CAPABILITY)
        node.set_u64s("reg", end.capability)
        self.interrupts(node, config, end.virq)
        node.set_flag(Property.IS_SENDER if config.is_sender else Property.IS_RECEIVER)
        node.set_cells(Property.ONE_WAY_MESSAGE_SIZE, config.message_size)
        node.set_cells(Property.ONE_WAY_QUEUE_DEPTH, config.queue_depth)
        self.labels(node, config)

    def queue_pair(self, config: DeviceConfig, ends: list[End]) -> None:
        tx, rx = ends
        node = self.generate(config.generate, f"@{rx.capability:016x}")
        node.set_strings("compatible", *config.push_compatible, COMPATIBLE_MESSAGE_QUEUE, COMPATIBLE_CAPABILITY)
        node.set_u64s("reg", tx.capability, rx.capability)
        self.interrupts(node, config, tx.virq, rx.virq)
        node.set_flag(Property.IS_FULL_DUPLEX)
        for name, value in (
            (Property.TX_MESSAGE_SIZE, config.message_size),
            (Property.RX_MESSAGE_SIZE, config.message_size),
            (Property.TX_QUEUE_DEPTH, config.queue_depth),
            (Property.RX_QUEUE_DEPTH, config.queue_depth),
            (Property.FREE_IRQ_START, 0),
        ):
            node.set_cells(name, value)
        self.vdevice_handle(node)
        peer = find_peer(self.rm, config.peer) if config.peer else self.rm.vms.get(self.vm.owner)
        if peer is not None:
            node.set_cells(Property.PEER_VMID, peer.vmid)
            node.set_strings(Property.PEER, config.peer or f"vm-name:{peer.name}")
        self.labels(node, config)

    def _buffer(self, node: Node, config: DeviceConfig) -> None:
        """Reference to the memory of a device: the node of the memparcel with its label."""
        for handle in self.vm.accepted:
            parcel = self.rm.parcels.lookup(handle)
            member = parcel.member(self.vm.vmid)
            if (
                config.memory is not None
                and parcel.label == config.memory.label
                and member is not None
                and member.phandle
            ):
                node.set_cells(Property.BUFFER, member.phandle)
                node.set_cells(Property.MEMORY_REGION, member.phandle)
                return
        if config.memory is not None and not config.memory.optional:
            raise FdtError(f"{config.path}: no memparcel with label {config.memory.label:#x} was lent or shared")

    def shared_memory(self, device: Device, config: DeviceConfig) -> None:
        node = self.generate(config.generate, "")
        bells = config.kind is VdeviceType.SHM_DOORBELL
        kind = COMPATIBLE_SHM_DOORBELL if bells else COMPATIBLE_SHARED_MEMORY
        node.set_strings("compatible", *config.push_compatible, kind)
        self._buffer(node, config)
        node.set_cells(Property.PEER, device.peer)
        if config.dma_base is not None:
            node.set_u64s(Property.DMA_BASE, config.dma_base)
        self.labels(node, config)
        if bells:
            for end in device.ends_of(self.vm.vmid):
                source = end.type is ResourceType.DOORBELL_SRC
                path = f"{config.generate}-{'tx' if source else 'rx'}-doorbell"
                bell = self.doorbell(path, config, end)
                name = Property.TX_DOORBELL if source else Property.RX_DOORBELL
                node.set_cells(name, self.tree.phandle_of(bell))

    def virtio(self, device: Device, config: DeviceConfig) -> None:
        if device.frontend is None:
            return
        ipa, virq = device.frontend
        node = self.generate(config.generate, f"@{ipa:x}")
        node.set_strings("compatible", *config.push_compatible, COMPATIBLE_VIRTIO_MMIO)
        node.set_u64s("reg", ipa, 0x1000)
        self.interrupts(node, config, virq)
        self._buffer(node, config)
        node.set_cells(Property.PEER, device.peer)
        node.set_u64s(Property.DMA_BASE, config.dma_base or 0)
        if config.dma_coherent:
            node.set_flag(Property.DMA_COHERENT)
        self.labels(node, config)

    def io_memory(self, device: Device, config: DeviceConfig) -> None:
        node = self.tree.find(config.patch) if config.patch else self.generate(config.generate, "")
        if node is None:
            raise FdtError(f"{config.path}: there is no node {config.patch} to patch")
        if config.push_compatible:
            node.set_strings("compatible", *config.push_compatible)
        for handle in self.vm.accepted:
            parcel = self.rm.parcels.lookup(handle)
            if config.memory is not None and parcel.label == config.memory.label:
                node.set_u64s("reg", *(number for region in parcel.regions for number in (region.pa, region.size)))
                node.set_u64s(Property.RM_MEM_HANDLE, parcel.handle)
        node.set_cells(Property.PEER, device.peer)
        node.set_cells(Property.RM_ACL, *(number for entry in config.acl for number in entry))
        node.set_cells(Property.RM_ATTRIBUTES, *(number for entry in config.attributes for number in entry))
        node.set_cells(Property.QCOM_LABEL, config.label)


def _set_reg(node: Node, parent: Node, name: str, ranges: list[tuple[int, int]]) -> None:
    """(address, size) entries by the parent's cell counts."""
    cells: list[int] = []
    for address, size in ranges:
        for value, count in ((address, parent.address_cells), (size, parent.size_cells)):
            if value >> 32 * count:
                raise FdtError(f"{node.path}: {value:#x} does not fit in {count} cells")
            cells += [value >> 32 * shift & 0xFFFF_FFFF for shift in reversed(range(count))]
    node.set_cells(name, *cells)
