"""Virtual devices in a VM configuration: nodes anywhere in the tree with ``vdevice-type`` (rm-behaviour.md 6.5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from gunyah.abi.devicetree import (
    DEFAULT_GENERATE,
    GIC_PPI,
    GIC_SPI,
    IRQ_TYPE_EDGE_RISING,
    IRQ_TYPE_LEVEL_HIGH,
    PUSH_COMPATIBLE_MAX,
    ConfigProperty,
    Property,
    VdeviceType,
)
from gunyah.abi.errors import RmError
from gunyah.abi.msgqueue import DEPTH_MAX, MESSAGE_SIZE_MAX
from gunyah.abi.rm import AclEntry, AttributeEntry, SglEntry
from gunyah.abi.types import PAGE_MASK
from gunyah.guest.fdt import Node
from gunyah.rm.vmconfig_reader import NodeReader

__all__ = ["DeviceConfig", "DeviceMemory", "Interrupt", "read_devices"]

MESSAGE_SIZE_DEFAULT, QUEUE_DEPTH_DEFAULT = 240, 8
_RPC_COMPATIBLES = 3
_SPI_BASE, _PPI_BASE, _SPI_END, _PPI_END = 32, 16, 1020, 32
_PEER_FORMS = ("vm-guid:", "vm-name:", "vm-uri:")
_K = ConfigProperty


@dataclass(frozen=True, slots=True)
class Interrupt:
    """INTID as the VM sees it, and the flags cell (1 edge rising, 4 level high)."""

    virq: int
    flags: int


@dataclass(slots=True)
class DeviceMemory:
    """The memory sub-node: label of the memparcel, and its IPA (None: RM allocates)."""

    label: int
    base: int | None
    optional: bool = False
    tag: int | None = None


@dataclass(slots=True)
class DeviceConfig:
    """One virtual device as configured. ``peer`` None is the owner (peer-default), else a "vm-name:..." string."""

    kind: VdeviceType
    path: str
    generate: str = ""
    label: int = 0
    push_compatible: list[str] = field(default_factory=list)
    interrupts: list[Interrupt] = field(default_factory=list)
    peer: str | None = None
    message_size: int = MESSAGE_SIZE_DEFAULT
    queue_depth: int = QUEUE_DEPTH_DEFAULT
    console: bool = False
    source_can_clear: bool = False
    is_sender: bool = False
    memory: DeviceMemory | None = None
    dma_base: int | None = None
    dma_coherent: bool = False
    queues: int = 1
    virtio_type: int | None = None
    patch: str = ""
    acl: list[AclEntry] = field(default_factory=list)
    attributes: list[AttributeEntry] = field(default_factory=list)
    ranges: list[SglEntry] = field(default_factory=list)
    address: int | None = None


class _Reader:
    def __init__(self, reader: NodeReader) -> None:
        self.tree = reader.tree
        self.refuse = reader.refuse
        self.get = reader.get
        self.items = reader.items
        self.devices: list[DeviceConfig] = []

    def run(self) -> list[DeviceConfig]:
        for node in self.tree.root.walk():
            if _K.VDEVICE_TYPE not in node:
                continue
            word = self.get(node, _K.VDEVICE_TYPE, node.string, "")
            if word not in VdeviceType._value2member_map_:
                self.refuse(node, f'vdevice-type "{word}" is unknown')
                continue
            self.devices.append(self.device(node, VdeviceType(word)))
        return self.devices

    def device(self, node: Node, kind: VdeviceType) -> DeviceConfig:
        device = DeviceConfig(kind, node.path)
        self.common(node, device)
        if kind in _QUEUES:
            self.queue(node, device)
        if kind in _PEERS:
            self.peer(node, device, only_default=kind not in _ANY_PEER)
        reader = _READERS.get(kind)
        if reader is not None:
            reader(self, node, device)
        return device

    # -- common properties ---------------------------------------------------------------------------------------------

    def common(self, node: Node, device: DeviceConfig) -> None:
        kind = device.kind
        device.generate = self.get(node, _K.GENERATE, node.string, DEFAULT_GENERATE.get(kind, ""))
        if device.generate and not device.generate.startswith("/"):
            self.refuse(node, f'generate "{device.generate}" is not an absolute path')
        label_name = Property.QCOM_LABEL if Property.QCOM_LABEL in node else Property.LABEL
        device.label = self.get(node, label_name, node.u32, 0)
        device.push_compatible = self.items(node, _K.PUSH_COMPATIBLE, node.strings)
        room = PUSH_COMPATIBLE_MAX - (_RPC_COMPATIBLES if kind is VdeviceType.RM_RPC else 0)
        if len(device.push_compatible) > room:
            self.refuse(node, f"push-compatible has {len(device.push_compatible)} strings, {room} are possible")
        count = _INTERRUPTS.get(kind, 0)
        if count and "interrupts" in node:
            self.interrupts(node, device, count)

    def interrupts(self, node: Node, device: DeviceConfig, count: int) -> None:
        cells = self.items(node, "interrupts", node.cells)
        if len(cells) != 3 * count:
            self.refuse(node, f"interrupts has {len(cells)} cells, {3 * count} are expected")
            return
        for at in range(0, len(cells), 3):
            kind, number, flags = cells[at : at + 3]
            base, end = (_SPI_BASE, _SPI_END) if kind == GIC_SPI else (_PPI_BASE, _PPI_END)
            if kind not in (GIC_SPI, GIC_PPI) or not base <= base + number < end:
                self.refuse(node, f"interrupts: type {kind} number {number} is no interrupt of the controller")
            elif flags not in (IRQ_TYPE_EDGE_RISING, IRQ_TYPE_LEVEL_HIGH):
                self.refuse(node, f"interrupts: flags {flags} are neither edge rising (1) nor level high (4)")
            else:
                device.interrupts.append(Interrupt(base + number, flags))

    def peer(self, node: Node, device: DeviceConfig, *, only_default: bool) -> None:
        if _K.PEER_DEFAULT in node:
            return
        if only_default:
            self.refuse(node, f"peer-default is missing, a {device.kind.value} has the owner as its peer")
            return
        if _K.PEER not in node:
            self.refuse(node, "neither peer-default nor peer is there")
            return
        peer = self.get(node, _K.PEER, node.string, "")
        if not peer.startswith(_PEER_FORMS):
            self.refuse(node, f'peer "{peer}" does not begin with vm-guid:, vm-name: or vm-uri:')
        device.peer = peer

    def queue(self, node: Node, device: DeviceConfig) -> None:
        device.message_size = self.get(node, _K.MESSAGE_SIZE, node.u32, MESSAGE_SIZE_DEFAULT)
        device.queue_depth = self.get(node, _K.QUEUE_DEPTH, node.u32, QUEUE_DEPTH_DEFAULT)
        if not 1 <= device.message_size <= MESSAGE_SIZE_MAX:
            self.refuse(
                node, f"message-size {device.message_size} is not within 1 and {MESSAGE_SIZE_MAX}", RmError.NORESOURCE
            )
        if not 1 <= device.queue_depth <= DEPTH_MAX:
            self.refuse(node, f"queue-depth {device.queue_depth} is not within 1 and {DEPTH_MAX}", RmError.NORESOURCE)

    def memory(self, node: Node, device: DeviceConfig, *, only_child: bool) -> None:
        if only_child and [child.name for child in node.children] != ["memory"]:
            self.refuse(node, "a sub-node memory is needed, and nothing else")
            return
        sub = node.child("memory")
        if sub is None:
            self.refuse(node, "the sub-node memory is missing")
            return
        label_name = Property.QCOM_LABEL if Property.QCOM_LABEL in sub else Property.LABEL
        if label_name not in sub:
            self.refuse(sub, "label is missing")
        allocate, fixed = _K.ALLOCATE_BASE in sub, _K.BASE in sub
        if allocate == fixed:
            self.refuse(
                sub, f"{'both' if fixed else 'none'} of base and allocate-base {'are' if fixed else 'is'} there"
            )
        base = self.get(sub, _K.BASE, sub.u64, 0)
        if base & PAGE_MASK:
            self.refuse(sub, f"base {base:#x} is not a multiple of 4096")
        device.memory = DeviceMemory(
            self.get(sub, label_name, sub.u32, 0),
            base if fixed else None,
            _K.OPTIONAL in sub,
            self.get(sub, _K.MEM_INFO_TAG, sub.u32, 0) if _K.MEM_INFO_TAG in sub else None,
        )

    # -- by kind -------------------------------------------------------------------------------------------------------

    def rm_rpc(self, node: Node, device: DeviceConfig) -> None:
        device.console = _K.CONSOLE_DEV in node
        if not device.generate:
            self.refuse(node, "generate is missing, an rm-rpc has no default path")
        if any(other.kind is VdeviceType.RM_RPC for other in self.devices):
            self.refuse(node, "a second rm-rpc: a VM has one link to RM")
        if device.message_size < 16:
            self.refuse(node, f"message-size {device.message_size} leaves no room behind the 8-byte header")

    def doorbell(self, node: Node, device: DeviceConfig) -> None:
        device.source_can_clear = _K.SOURCE_CAN_CLEAR in node

    def message_queue(self, node: Node, device: DeviceConfig) -> None:
        sender, receiver = _K.IS_SENDER in node, _K.IS_RECEIVER in node
        if sender == receiver:
            self.refuse(
                node, f"{'both' if sender else 'none'} of is-sender and is-receiver {'are' if sender else 'is'} there"
            )
        device.is_sender = sender

    def shm(self, node: Node, device: DeviceConfig) -> None:
        self.memory(node, device, only_child=True)
        device.dma_base = self.get(node, Property.DMA_BASE, node.u64, 0) if Property.DMA_BASE in node else None

    def virtio(self, node: Node, device: DeviceConfig) -> None:
        self.memory(node, device, only_child=True)
        device.dma_base = self.get(node, Property.DMA_BASE, node.u64, 0)
        device.dma_coherent = Property.DMA_COHERENT in node
        device.queues = self.get(node, _K.VQS_NUM, node.u32, 1)
        if not 1 <= device.queues <= 16:
            self.refuse(node, f"vqs-num {device.queues} is not within 1 and 16", RmError.NORESOURCE)
        if _K.VIRTIO_DEVICE_TYPE in node:
            device.virtio_type = self.get(node, _K.VIRTIO_DEVICE_TYPE, node.u32, 0)

    def iomem(self, node: Node, device: DeviceConfig) -> None:
        self.memory(node, device, only_child=False)
        device.patch = self.get(node, _K.PATCH, node.string, "")
        if device.patch and self.tree.find(device.patch) is None:
            self.refuse(node, f"patch: there is no node {device.patch}")
        if not device.patch and not device.generate:
            self.refuse(node, "neither patch nor generate is there")
        acl = self.items(node, _K.RM_ACL, node.cells)
        attributes = self.items(node, _K.RM_ATTRIBUTES, node.cells)
        ranges = self.items(node, _K.RM_SGLIST, node.u64s)
        for name, values in ((_K.RM_ACL, acl), (_K.RM_ATTRIBUTES, attributes), (_K.RM_SGLIST, ranges)):
            if len(values) % 2:
                self.refuse(node, f"{name} has {len(values)} values, pairs are expected")
        device.acl = [AclEntry(*pair) for pair in zip(acl[::2], acl[1::2], strict=False)]
        device.attributes = [AttributeEntry(*pair) for pair in zip(attributes[::2], attributes[1::2], strict=False)]
        device.ranges = [SglEntry(*pair) for pair in zip(ranges[::2], ranges[1::2], strict=False)]

    def vsmmu(self, node: Node, device: DeviceConfig) -> None:
        self.refuse(node, "vsmmu-v2 is not supported on this platform", RmError.NORESOURCE)

    def vrtc(self, node: Node, device: DeviceConfig) -> None:
        allocate, fixed = _K.ALLOCATE_BASE in node, _K.BASE in node
        if allocate == fixed:
            self.refuse(
                node, f"{'both' if fixed else 'none'} of base and allocate-base {'are' if fixed else 'is'} there"
            )
        device.address = self.get(node, _K.BASE, node.u64, 0) if fixed else None
        if device.address is not None and device.address & PAGE_MASK:
            self.refuse(node, f"base {device.address:#x} is not a multiple of 4096")
        if any(other.kind is VdeviceType.VRTC_PL031 for other in self.devices):
            self.refuse(node, "a second vrtc-pl031: a VM has at most one")
        # The calls that would make one have no numbers on this platform (hypercalls.md 3.17).
        self.refuse(node, "vrtc-pl031 is not supported on this platform", RmError.NORESOURCE)


_V = VdeviceType
_QUEUES = frozenset({_V.RM_RPC, _V.MESSAGE_QUEUE, _V.MESSAGE_QUEUE_PAIR})
_ANY_PEER = frozenset({_V.DOORBELL, _V.DOORBELL_SOURCE, _V.MESSAGE_QUEUE_PAIR})
_PEERS = _ANY_PEER | {_V.MESSAGE_QUEUE, _V.SHM, _V.SHM_DOORBELL, _V.VIRTIO_MMIO, _V.IOMEM}
_INTERRUPTS = {_V.RM_RPC: 2, _V.DOORBELL: 1, _V.MESSAGE_QUEUE: 1, _V.MESSAGE_QUEUE_PAIR: 2, _V.VIRTIO_MMIO: 1}
_READERS: dict[VdeviceType, Callable[[_Reader, Node, DeviceConfig], None]] = {
    _V.RM_RPC: _Reader.rm_rpc,
    _V.DOORBELL: _Reader.doorbell,
    _V.DOORBELL_SOURCE: _Reader.doorbell,
    _V.MESSAGE_QUEUE: _Reader.message_queue,
    _V.SHM: _Reader.shm,
    _V.SHM_DOORBELL: _Reader.shm,
    _V.VIRTIO_MMIO: _Reader.virtio,
    _V.IOMEM: _Reader.iomem,
    _V.VSMMU_V2: _Reader.vsmmu,
    _V.VRTC_PL031: _Reader.vrtc,
}


def read_devices(reader: NodeReader) -> list[DeviceConfig]:
    """Every virtual device of the reader's tree, in order; what is wrong is refused there."""
    return _Reader(reader).run()
