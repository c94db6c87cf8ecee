"""What a secondary VM is to be, and the device tree that says so to the guest and to RM
(rm-behaviour.md 6, vm-loader.md 10.3).

The guest's part is the board that a stock Linux expects: cores with PSCI, timer, GICv3, and a PL011 where the VM's
console is an emulated UART. RM's part is the node /gunyah-vm-config. A tree that is given is kept as it is; it gets the
configuration only if it has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from gunyah.abi.devicetree import GIC_SPI, IRQ_TYPE_EDGE_RISING, NODE_VM_CONFIGS, ConfigProperty, Property
from gunyah.abi.profile import PROFILES
from gunyah.abi.types import PAGE_SIZE
from gunyah.guest.fdt import DeviceTree, Node
from gunyah.vmm.board_tree import UART_SPI, board_tree
from gunyah.vmm.images import Image
from gunyah.vmm.loader import MIB, LoadError, Placement, place, tree_for
from gunyah.vmm.virtio_devices import VirtioDevice

__all__ = [
    "DEFAULT_BASE",
    "Doorbell",
    "QueuePair",
    "SharedMemory",
    "Virtio",
    "VmSettings",
    "configured_tree",
    "placement_of",
    "pool_of",
    "tree_span",
    "uart_address",
]

DEFAULT_BASE: Final = 0x8000_0000
"""IPA of a secondary VM's memory; GIC and UART lie below 0x4000_0000, in the window whose faults reach the VMM."""
RM_NODE: Final = "/hypervisor/qcom,resource-mgr"
_PROFILE: Final = "abi-profile"
"""A property of this system's own: what RM's replies to the guest look like."""
_CONSOLES: Final = ("rm", "uart", "none")
_AFFINITIES: Final = ("static", "sticky", "pinned", "proxy")
_K = ConfigProperty


@dataclass(frozen=True, slots=True)
class QueuePair:
    """A pair of message queues to ``peer`` (a VM's name), or to the owner without one; both ends name one label."""

    label: int
    peer: str | None = None
    message_size: int = 240
    depth: int = 8


@dataclass(frozen=True, slots=True)
class SharedMemory:
    """Memory that VM and owner share: label, bytes; RM picks the guest's address unless ``base`` (IPA) does.

    ``peers`` are names of other VMs of the owner that have it too; their settings name it in the same way.
    """

    label: int
    size: int
    base: int | None = None
    peers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Doorbell:
    """A doorbell between the VM and ``peer``, another VM of its owner; both ends name one label."""

    label: int
    peer: str


@dataclass(frozen=True, slots=True)
class Virtio:
    """A virtio-MMIO device whose backend is ``device``, in the owner.

    ``pool`` bytes of memory are shared for it, whatever else is. A guest whose memory is lent must keep its rings and
    its buffers there (Linux: CONFIG_DMA_RESTRICTED_POOL); one whose memory is shared may have them anywhere.
    """

    label: int
    device: VirtioDevice
    pool: int = 2 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class VmSettings:
    """One secondary VM. Raises LoadError with one sentence for settings that contradict each other.

    ``console`` is "rm" (RM's console service, for guests with Gunyah drivers), "uart" (an emulated PL011) or "none".
    ``affinity`` "" takes what the console needs: a UART needs the owner to run the vCPUs ("proxy"), else the hypervisor
    schedules them ("static"), on ``cores`` in turn: without any, on those that the owner does not use, or on its own.
    """

    name: str
    image: Image
    ramdisk: bytes | None = None
    tree: DeviceTree | None = None
    bootargs: str = ""
    memory: int = 64 * MIB
    """Bytes, whole pages."""
    base: int = DEFAULT_BASE
    vcpus: int = 1
    console: str = "uart"
    affinity: str = ""
    cores: tuple[int, ...] = ()
    share: bool = False
    """Share the memory with the owner instead of lending it."""
    queues: tuple[QueuePair, ...] = ()
    doorbells: tuple[int | Doorbell, ...] = ()
    """Doorbells that are rung for the VM, by the owner where only a label stands."""
    doorbell_sources: tuple[int | Doorbell, ...] = ()
    """Doorbells that the VM rings."""
    shared: tuple[SharedMemory, ...] = ()
    virtio: tuple[Virtio, ...] = ()
    profile: str = "2023"
    """ABI generation of the guest's drivers."""
    seed: bytes = b""
    """/chosen/rng-seed."""
    clear: bool = True
    """Have the memory zeroed when it comes back."""
    extra: tuple[str, ...] = field(default=())
    """Words of vm-attrs."""

    def __post_init__(self) -> None:
        if self.console not in _CONSOLES:
            raise LoadError(f"VM {self.name}: console {self.console!r} is not one of {', '.join(_CONSOLES)}")
        if self.affinity and self.affinity not in _AFFINITIES:
            raise LoadError(f"VM {self.name}: affinity {self.affinity!r} is not one of {', '.join(_AFFINITIES)}")
        if self.console == "uart" and self.affinity not in ("", "proxy"):
            raise LoadError(
                f'VM {self.name}: a UART is emulated by the owner, who must run the vCPUs: affinity "proxy", '
                f"not {self.affinity!r}"
            )
        if self.profile not in PROFILES:
            raise LoadError(f"VM {self.name}: profile {self.profile!r} is not one of {', '.join(PROFILES)}")
        for virtio in self.virtio:
            if virtio.pool <= 0 or virtio.pool % PAGE_SIZE:
                raise LoadError(f"VM {self.name}: a pool of {virtio.pool:#x} bytes is no whole number of pages")
        for what, labels in (
            ("pieces of shared memory", [*(s.label for s in self.shared), *(v.label for v in self.virtio)]),
            ("message queues", [queue.label for queue in self.queues]),
            ("doorbells", [_label(bell) for bell in self.doorbells]),
            ("doorbells that it rings", [_label(bell) for bell in self.doorbell_sources]),
        ):
            for label in labels:
                if labels.count(label) > 1:
                    raise LoadError(f"VM {self.name}: label {label} stands for two {what}")
        if self.memory <= 0 or self.memory % PAGE_SIZE:
            raise LoadError(f"VM {self.name}: {self.memory:#x} bytes of memory are no whole number of pages")

    @property
    def proxy(self) -> bool:
        """The owner runs the vCPUs."""
        return (self.affinity or ("proxy" if self.console == "uart" else "static")) == "proxy"


def _label(bell: int | Doorbell) -> int:
    return bell.label if isinstance(bell, Doorbell) else bell


def placement_of(settings: VmSettings) -> Placement:
    """Where image, RAM disk and tree go in the guest; raises LoadError when they do not fit."""
    image, base = settings.image, settings.base
    if settings.tree is not None:
        configured = _configured_base(settings.tree)
        base = base if configured is None else configured
    if image.fixed and not base <= image.start < base + settings.memory:
        base = image.start & ~(2 * MIB - 1)
    try:
        return place(image, len(settings.ramdisk or b""), (base, settings.memory))
    except LoadError as error:
        raise LoadError(f"VM {settings.name}: {error}") from None


def _configured_base(tree: DeviceTree) -> int | None:
    config = _config_node(tree)
    memory = config.child("memory") if config is not None else None
    return memory.u64(_K.BASE_ADDRESS) if memory is not None and _K.BASE_ADDRESS in memory else None


def _config_node(tree: DeviceTree) -> Node | None:
    return next((node for name in NODE_VM_CONFIGS if (node := tree.find(f"/{name.strip('/')}")) is not None), None)


def configured_tree(settings: VmSettings, placement: Placement) -> DeviceTree:
    """The tree to load: guest's part and RM's. Raises LoadError for a given tree that cannot be used."""
    given = settings.tree
    if given is None:
        tree = board_tree(
            memory=[],
            cores=settings.vcpus,
            bootargs=settings.bootargs,
            initrd=placement.ramdisk,
            seed=settings.seed,
        )
        _shape_board(tree, settings)
    else:
        configured = _config_node(given) is not None
        tree = tree_for(placement, cores=0, bootargs=settings.bootargs, seed=settings.seed, given=given)
        for node in [node for node in tree.root.children if node.name.split("@")[0] == "memory"]:
            node.remove()
        if configured:
            return tree
    _add_config(tree, settings, placement)
    return tree


def _shape_board(tree: DeviceTree, settings: VmSettings) -> None:
    """The board without what only the primary VM has, and with what RM asks for."""
    root = tree.root
    for node in [node for node in root.children if node.name.startswith("pl031@")]:
        node.remove()
    uart = next(node for node in root.children if node.name.startswith("pl011@"))
    if settings.console == "uart":
        # Its interrupt is a doorbell, and doorbells have edges.
        uart.set_cells("interrupts", GIC_SPI, UART_SPI, IRQ_TYPE_EDGE_RISING)
    else:
        uart.remove()
        del tree.node("/chosen").properties["stdout-path"]
    for cpu in tree.node("/cpus").children:
        # RM makes the group that PSCI needs for CPUs that could idle (rm-behaviour.md 6.4).
        cpu.set_flag("cpu-idle-states")


def _gic_path(tree: DeviceTree) -> str:
    gic = next(tree.find_compatible("arm,gic-v3"), None)
    if gic is None:
        raise LoadError('the device tree has no interrupt controller that is "arm,gic-v3"')
    return gic.path


def _add_config(tree: DeviceTree, settings: VmSettings, placement: Placement) -> None:
    config = tree.root.add(NODE_VM_CONFIGS[-1].strip("/"))
    config.set_strings(_K.IMAGE_NAME, settings.name)
    config.set_strings(_K.OS_TYPE, "linux")
    config.set_strings(_PROFILE, settings.profile)
    if settings.extra:
        config.set_strings(_K.VM_ATTRS, *settings.extra)
    config.set_u64s(_K.KERNEL_ENTRY_OFFSET, placement.entry - placement.memory[0])
    _cells(config)
    memory = config.add("memory")
    _cells(memory)
    memory.set_u64s(_K.BASE_ADDRESS, placement.memory[0])
    config.add("interrupts").set_strings(_K.CONFIG, _gic_path(tree))
    vcpus = config.add("vcpus")
    vcpus.set_strings(_K.CONFIG, "/cpus")
    vcpus.set_strings(_K.AFFINITY, "proxy" if settings.proxy else settings.affinity or "static")
    if not settings.proxy:
        count = len([node for node in tree.node("/cpus").children if node.name.startswith("cpu@")])
        cores = settings.cores or (0,)
        vcpus.set_cells(_K.AFFINITY_MAP, *(cores[i % len(cores)] for i in range(count)))
    _devices(config.add("vdevices"), settings, placement)


def _cells(node: Node) -> None:
    node.set_cells("#address-cells", 2)
    node.set_cells("#size-cells", 2)


def pool_of(settings: VmSettings, placement: Placement, virtio: Virtio) -> int:
    """IPA of the memory that is shared for a virtio device: behind the VM's own memory, in the order of the devices."""
    before = settings.virtio[: settings.virtio.index(virtio)]
    at = -(-sum(placement.memory) // (2 * MIB)) * 2 * MIB
    return at + sum(-(-other.pool // (2 * MIB)) * 2 * MIB for other in before)


def _virtio(parent: Node, settings: VmSettings, placement: Placement, virtio: Virtio) -> None:
    # Not below /hypervisor, whose nodes have addresses without sizes: Linux looks for registers on a bus.
    node = _device(parent, f"virtio-{virtio.label:x}", "virtio-mmio", virtio.label, "/vsoc/virtio")
    node.set_cells(_K.VQS_NUM, virtio.device.queues)
    node.set_flag(Property.DMA_COHERENT)
    if not settings.share:
        node.set_strings(_K.PUSH_COMPATIBLE, "restricted-dma-pool")
    memory = node.add("memory")
    _cells(memory)
    memory.set_cells(Property.QCOM_LABEL, virtio.label)
    memory.set_u64s(_K.BASE, pool_of(settings, placement, virtio))


def _devices(parent: Node, settings: VmSettings, placement: Placement) -> None:
    rpc = _device(parent, "rm-rpc", "rm-rpc", 0, RM_NODE)
    if settings.console == "rm":
        rpc.set_flag(_K.CONSOLE_DEV)
    if settings.console == "uart":
        _irqfd(parent, UART_SPI)
    for bells, kind in ((settings.doorbells, "doorbell"), (settings.doorbell_sources, "doorbell-source")):
        for bell in bells:
            label, peer = _label(bell), bell.peer if isinstance(bell, Doorbell) else None
            _device(parent, f"{kind}-{label:x}", kind, label, f"/hypervisor/{kind}-{label:x}", peer=peer)
    for pair in settings.queues:
        path = f"/hypervisor/message-queue-{pair.label:x}"
        node = _device(parent, f"queue-{pair.label:x}", "message-queue-pair", pair.label, path, peer=pair.peer)
        node.set_cells(_K.MESSAGE_SIZE, pair.message_size)
        node.set_cells(_K.QUEUE_DEPTH, pair.depth)
    for shared in settings.shared:
        node = _device(parent, f"shm-{shared.label:x}", "shm", shared.label, f"/hypervisor/shm-{shared.label:x}")
        memory = node.add("memory")
        _cells(memory)
        memory.set_cells(Property.QCOM_LABEL, shared.label)
        if shared.base is None:
            memory.set_flag(_K.ALLOCATE_BASE)
        else:
            memory.set_u64s(_K.BASE, shared.base)
    for virtio in settings.virtio:
        _virtio(parent, settings, placement, virtio)


def _irqfd(parent: Node, spi: int) -> None:
    """A doorbell whose guest end is shared interrupt ``spi``: how an emulated device interrupts (vm-loader.md 10.4)."""
    bell = _device(parent, f"bell-{spi:x}", "doorbell", spi, f"/hypervisor/bell-{spi:x}")
    bell.set_cells("interrupts", GIC_SPI, spi, IRQ_TYPE_EDGE_RISING)


def _device(parent: Node, name: str, kind: str, label: int, generate: str, *, peer: str | None = None) -> Node:
    node = parent.add(name)
    node.set_strings(_K.VDEVICE_TYPE, kind)
    node.set_strings(_K.GENERATE, generate)
    node.set_cells(Property.QCOM_LABEL, label)
    if peer is None:
        node.set_flag(_K.PEER_DEFAULT)
    else:
        node.set_strings(_K.PEER, f"vm-name:{peer}")
    return node


def tree_span(blob: bytes, placement: Placement) -> tuple[int, int]:
    """Offset and size of the tree for VM_CONFIG_IMAGE, with room for what RM adds."""
    end = sum(placement.memory)
    size = min(-(-(len(blob) + 0x4000) // 0x1000) * 0x1000, end - placement.tree)
    return placement.tree - placement.memory[0], size


def uart_address(tree: DeviceTree) -> tuple[int, int, int] | None:
    """(IPA, bytes, SPI) of the first PL011 of the tree, or None."""
    for node in tree.find_compatible("arm,pl011"):
        cells: Sequence[int] = node.cells("interrupts") if "interrupts" in node else (0, UART_SPI, 1)
        base, size = node.reg()[0]
        return base, size, cells[1]
    return None
