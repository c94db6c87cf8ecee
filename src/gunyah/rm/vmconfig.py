"""The VM configuration a loader hands over in the device tree, one sentence per refusal (rm-behaviour.md 6).

``check`` is pure: a tree and a policy give a configuration or the reasons why there is none, so the same sentences can
be had before anything is started. RM answers MEM_INVALID for a tree it cannot make sense of, ARGUMENT_INVALID for one
that asks for what it may not have, NORESOURCE for objects that cannot be made (rm-rpc.md 6).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from gunyah.abi.devicetree import (
    AFFINITIES,
    COMPATIBLE_GIC_V3,
    COMPATIBLE_PSCI,
    DEFAULT_BASE_ADDRESS,
    DEFAULT_FIRMWARE_SIZE_MAX,
    DEFAULT_SIZE_MAX,
    DEFAULT_SIZE_MIN,
    GUEST_TYPE_AARCH64,
    NODE_VM_CONFIGS,
    OS_TYPE_LINUX,
    ConfigProperty,
    Property,
    VmAttr,
)
from gunyah.abi.errors import RmError
from gunyah.abi.profile import PROFILES, PUBLIC_2023
from gunyah.abi.rm import NAME_MAX, AuthType
from gunyah.abi.types import PAGE_MASK
from gunyah.abi.vcpu import DEFAULT_PRIORITY, TIMESLICE_DEFAULT, TIMESLICE_MAX, TIMESLICE_MIN, VCPU_PRIORITY_MAX
from gunyah.guest.fdt import DeviceTree, FdtError, Node, parse
from gunyah.rm.errors import RmFailure
from gunyah.rm.vmconfig_devices import DeviceConfig, read_devices
from gunyah.rm.vmconfig_reader import NodeReader, Refusal

__all__ = [
    "Checked",
    "GicConfig",
    "IoRange",
    "MemoryConfig",
    "Policy",
    "Refusal",
    "VcpuConfig",
    "VmConfig",
    "check",
    "parse_config",
]

MEGABYTES_2 = 0x20_0000
SPACE = 1 << 36
"""IPA space of a VM on this board (bytes)."""
PARSER_DEPTH = 16
PROFILE = "abi-profile"
GICD_BASE, GICR_BASE, GICR_STRIDE = 0x0800_0000, 0x080A_0000, 0x2_0000


@dataclass(frozen=True, slots=True)
class Policy:
    """What the authentication type and the owner allow (rm-behaviour.md 5.2)."""

    auth: AuthType = AuthType.NONE
    owner_priority: int = DEFAULT_PRIORITY
    cores: int = 8
    """vCPUs a VM may have."""
    usable_cores: int = 0xFF
    """Physical cores by bit."""

    @property
    def trusted(self) -> bool:
        """Options that could hurt the system are allowed."""
        return self.auth is AuthType.PLATFORM


@dataclass(frozen=True, slots=True)
class IoRange:
    """Fixed IO memory: physical address and size; ``access`` in mapping rights bits (X 1, W 2, R 4)."""

    pa: int
    size: int
    access: int


@dataclass(slots=True)
class MemoryConfig:
    """Where general memory and firmware go (IPAs, bytes)."""

    base: int = DEFAULT_BASE_ADDRESS
    size_min: int = DEFAULT_SIZE_MIN
    size_max: int = DEFAULT_SIZE_MAX
    direct: bool = False
    firmware_base: int | None = None
    firmware_size_max: int = DEFAULT_FIRMWARE_SIZE_MAX
    constraints: tuple[int, int] | None = None


@dataclass(slots=True)
class GicConfig:
    """The VM's interrupt controller node and frames; ``has_reg`` False: RM writes the addresses into the node."""

    path: str = ""
    distributor: int = GICD_BASE
    redistributor: int = GICR_BASE
    stride: int = GICR_STRIDE
    has_reg: bool = False


@dataclass(frozen=True, slots=True)
class VcpuConfig:
    """One vCPU: its CPU node, whether it starts with the VM, and its core (None: proxy-scheduled)."""

    path: str
    boot: bool
    core: int | None


@dataclass(slots=True)
class VmConfig:
    """Everything a loader may ask for."""

    name: str = ""
    uri: str = ""
    guid: bytes = bytes(16)
    attributes: frozenset[VmAttr] = frozenset()
    profile: str = PUBLIC_2023.name
    """ABI generation of the guest: property ``abi-profile``, this system's own."""
    entry_segment: str = ""
    entry_offset: int | None = None
    segments: dict[str, int] = field(default_factory=dict)
    """Which loadable segment of an ELF image is what: "ramdisk", "config_cpio", or what kernel-entry-segment names."""
    sensitive: bool = False
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    gic: GicConfig = field(default_factory=GicConfig)
    vcpus: list[VcpuConfig] = field(default_factory=list)
    affinity: str = "static"
    priority: int = DEFAULT_PRIORITY
    timeslice: int = TIMESLICE_DEFAULT
    """Nanoseconds."""
    psci: bool = False
    io_ranges: list[IoRange] = field(default_factory=list)
    irq_ranges: list[tuple[int, int]] = field(default_factory=list)
    """(hardware number, virtual number)."""
    devices: list[DeviceConfig] = field(default_factory=list)

    @property
    def proxy(self) -> bool:
        """vCPUs run only when the owner runs them."""
        return self.affinity == "proxy"


@dataclass(slots=True)
class Checked:
    """Outcome of a check: ``config`` is None when there are refusals."""

    config: VmConfig | None
    refusals: list[Refusal]
    warnings: list[str]


class _Checker(NodeReader):
    def __init__(self, tree: DeviceTree, policy: Policy) -> None:
        super().__init__(tree)
        self.policy = policy
        self.config = VmConfig()

    # -- the parts -----------------------------------------------------------------------------------------------------

    def run(self) -> Checked:
        root = self.tree.root
        node = next((child for child in map(root.child, NODE_VM_CONFIGS) if child is not None), None)
        if node is None:
            self.refuse(root, f"there is none of the nodes /{' and /'.join(NODE_VM_CONFIGS)}")
            return Checked(None, self.refusals, self.warnings)
        if root.child("hypervisor") is not None:
            self.warnings.append("/hypervisor: VM_START fails when the tree has this node already")
        for part in (
            self.depth,
            lambda: self.identity(node),
            lambda: self.trusted_lists(node),
            lambda: self.memory(node.child("memory")),
            self.stray_memory,
            lambda: self.interrupts(node.child("interrupts")),
            lambda: self.vcpus(node.child("vcpus") or node),
            self.devices,
        ):
            try:
                part()
            except FdtError as error:
                # A search over the whole tree met a property that is not what its name says.
                self.refuse(root, str(error))
        return Checked(None if self.refusals else self.config, self.refusals, self.warnings)

    def devices(self) -> None:
        self.config.devices = read_devices(self)

    def depth(self) -> None:
        for node in self.tree.root.walk():
            if node.path.count("/") > PARSER_DEPTH:
                self.refuse(node, f"the node lies deeper than {PARSER_DEPTH} levels")
                return

    def identity(self, node: Node) -> None:
        config, key = self.config, ConfigProperty
        if key.IMAGE_NAME not in node:
            self.refuse(node, "image-name is missing")
        config.name = self.get(node, key.IMAGE_NAME, node.string, "")
        config.uri = self.get(node, key.VM_URI, node.string, "")
        for name, value in ((key.IMAGE_NAME, config.name), (key.VM_URI, config.uri)):
            if len(value) > NAME_MAX:
                self.refuse(node, f"{name} has {len(value)} characters, {NAME_MAX} are possible")
        if not config.name and key.IMAGE_NAME in node:
            self.refuse(node, "image-name is empty")
        for name, known in ((key.VM_TYPE, GUEST_TYPE_AARCH64), (key.OS_TYPE, OS_TYPE_LINUX)):
            value = self.get(node, name, node.string, known)
            if value != known:
                self.refuse(node, f'{name} "{value}" is unknown, only "{known}" is')
        guid = self.get(node, key.VM_GUID, node.string, "")
        if guid:
            try:
                config.guid = UUID(guid).bytes
            except ValueError:
                self.refuse(node, f'vm-guid "{guid}" is not 8-4-4-4-12 hexadecimal digits')
            if len(guid) != 36:
                self.refuse(node, f'vm-guid "{guid}" is not 8-4-4-4-12 hexadecimal digits')
        config.profile = self.get(node, PROFILE, node.string, config.profile)
        if config.profile not in PROFILES:
            self.refuse(node, f'{PROFILE} "{config.profile}" is unknown, there are {", ".join(PROFILES)}')
        self.attributes(node)
        config.entry_segment = self.get(node, key.KERNEL_ENTRY_SEGMENT, node.string, "")
        config.entry_offset = (
            self.get(node, key.KERNEL_ENTRY_OFFSET, node.u64, 0) if key.KERNEL_ENTRY_OFFSET in node else None
        )
        segments = node.child("segments")
        if segments is not None:
            config.segments = {word: self.get(segments, word, segments.u32, 0) for word in segments.properties}
        config.sensitive = key.SENSITIVE in node or self.policy.auth is AuthType.ANDROID

    def attributes(self, node: Node) -> None:
        known: set[VmAttr] = set()
        for word in self.items(node, ConfigProperty.VM_ATTRS, node.strings):
            try:
                known.add(VmAttr(word))
            except ValueError:
                self.warnings.append(f'{node.path}: vm-attrs word "{word}" is unknown and has no effect')
        if VmAttr.CRASH_FATAL in known:
            if not self.policy.trusted:
                self.refuse(node, "vm-attrs crash-fatal is for platform-authenticated VMs", RmError.ARGUMENT_INVALID)
            known |= {VmAttr.NO_SHUTDOWN, VmAttr.NO_RESET}
        self.config.attributes = frozenset(known)

    def trusted_lists(self, node: Node) -> None:
        access_words = (6, 4, 7, 2, 1, 5, 0)
        cells = self.items(node, ConfigProperty.IOMEMORY_RANGES, node.cells)
        if cells and not self.policy.trusted:
            self.refuse(node, "iomemory-ranges is for platform-authenticated VMs", RmError.ARGUMENT_INVALID)
        if len(cells) % 7:
            self.refuse(node, f"iomemory-ranges has {len(cells)} cells, not a multiple of 7")
            cells = []
        for at in range(0, len(cells), 7):
            pa, ipa, size = (cells[i] << 32 | cells[i + 1] for i in (at, at + 2, at + 4))
            if pa != ipa:
                self.refuse(node, f"iomemory-ranges maps {pa:#x} at {ipa:#x}, only one to one is possible")
            if cells[at + 6] >= len(access_words):
                self.refuse(node, f"iomemory-ranges has access {cells[at + 6]}, 0 to 6 are possible")
                continue
            self.config.io_ranges.append(IoRange(pa, size, access_words[cells[at + 6]]))
        cells = self.items(node, ConfigProperty.GIC_IRQ_RANGES, node.cells)
        if cells and not self.policy.trusted:
            self.refuse(node, "gic-irq-ranges is for platform-authenticated VMs", RmError.ARGUMENT_INVALID)
        if len(cells) % 2:
            self.refuse(node, f"gic-irq-ranges has {len(cells)} cells, pairs are expected")
        self.config.irq_ranges = list(zip(cells[::2], cells[1::2], strict=False))

    def memory(self, node: Node | None) -> None:
        memory, key = self.config.memory, ConfigProperty
        if node is None:
            return
        memory.direct = key.IS_DIRECT in node
        if memory.direct:
            memory.size_max = SPACE
            if not self.policy.trusted:
                self.refuse(node, "is-direct is for platform-authenticated VMs", RmError.ARGUMENT_INVALID)
        if key.BASE_ADDRESS in node:
            base = self.page(node, key.BASE_ADDRESS, DEFAULT_BASE_ADDRESS)
            if base % MEGABYTES_2 and not base & PAGE_MASK:
                raised = (base + MEGABYTES_2 - 1) // MEGABYTES_2 * MEGABYTES_2
                self.warnings.append(
                    f"{node.path}: base-address {base:#x} is raised to {raised:#x}, a multiple of 2 MiB"
                )
                base = raised
            memory.base = base
            memory.size_max = max(0, SPACE - base)
        memory.size_min = self.page(node, key.SIZE_MIN, memory.size_min)
        memory.size_max = self.page(node, key.SIZE_MAX, memory.size_max)
        if memory.base >= SPACE:
            self.refuse(node, f"base-address {memory.base:#x} is outside the 36-bit address space", RmError.MEM_INVALID)
        if memory.size_min > memory.size_max:
            self.refuse(node, f"size-min {memory.size_min:#x} exceeds size-max {memory.size_max:#x}")
        if key.FIRMWARE_ADDRESS in node:
            memory.firmware_base = self.page(node, key.FIRMWARE_ADDRESS, 0)
        memory.firmware_size_max = self.page(node, key.FIRMWARE_SIZE_MAX, memory.firmware_size_max)
        words = self.items(node, key.BASE_MEM_CONSTRAINTS, node.cells)
        if key.BASE_MEM_CONSTRAINTS in node:
            if len(words) != 2:
                self.refuse(node, f"base-mem-constraints has {len(words)} cells, two are expected")
            else:
                memory.constraints = words[0], words[1]

    def stray_memory(self) -> None:
        for node in self.tree.root.walk():
            if "device_type" not in node or node.raw("device_type") != b"memory\0":
                continue
            if node.parent is not self.tree.root or node.name != "memory":
                self.refuse(node, 'device_type "memory" is allowed for the node /memory only')

    def interrupts(self, node: Node | None) -> None:
        gic = self._gic_node(node)
        if gic is None:
            if node is not None and ConfigProperty.CONFIG in node:
                self.refuse(node, "config does not name a node of the tree")
            else:
                self.warnings.append(
                    "the tree names no interrupt controller: the platform's default addresses are used"
                )
            return
        if COMPATIBLE_GIC_V3 not in self.items(gic, "compatible", gic.strings):
            self.refuse(gic, f'the interrupt controller is not "{COMPATIBLE_GIC_V3}"')
        if self.get(gic, "#interrupt-cells", gic.u32, 3) != 3:
            self.refuse(gic, "#interrupt-cells is not 3")
        if self.get(gic, Property.REDISTRIBUTOR_REGIONS, gic.u32, 1) != 1:
            self.refuse(gic, "#redistributor-regions is not 1")
        config = self.config.gic
        config.path = gic.path
        config.stride = self.get(gic, Property.REDISTRIBUTOR_STRIDE, gic.u64, GICR_STRIDE)
        if config.stride < GICR_STRIDE or config.stride % 0x1_0000:
            self.refuse(gic, f"redistributor-stride {config.stride:#x} is smaller than 0x20000 or not of 64 KiB frames")
        if "reg" not in gic:
            return
        frames = self.items(gic, "reg", gic.reg)
        if len(frames) < 2:
            self.refuse(gic, f"reg has {len(frames)} entries, distributor and redistributors are expected")
            return
        config.distributor, config.redistributor, config.has_reg = frames[0][0], frames[1][0], True

    def _gic_node(self, node: Node | None) -> Node | None:
        if node is not None and ConfigProperty.CONFIG in node:
            value = node.raw(ConfigProperty.CONFIG)
            if len(value) == 4 and not value.endswith(b"\0"):
                self.warnings.append(f"{node.path}: config is a phandle, a path is expected")
                return self.tree.by_phandle(int.from_bytes(value, "big"))
            return self.tree.find(self.get(node, ConfigProperty.CONFIG, node.string, ""))
        root = self.tree.root
        if "interrupt-parent" in root:
            return self.tree.by_phandle(self.get(root, "interrupt-parent", root.u32, 0))
        return None

    # -- vCPUs ---------------------------------------------------------------------------------------------------------

    def vcpus(self, node: Node) -> None:
        config, key = self.config, ConfigProperty
        affinity = self.get(node, key.AFFINITY, node.string, AFFINITIES[0])
        if affinity not in AFFINITIES:
            self.warnings.append(f'{node.path}: affinity "{affinity}" is unknown, "{AFFINITIES[0]}" is taken')
            affinity = AFFINITIES[0]
        config.affinity = affinity
        path = self.get(node, key.CONFIG, node.string, "/cpus")
        cpus = self.tree.find(path)
        if cpus is None:
            self.refuse(node, f"config: there is no node {path}")
            return
        cores = None if config.proxy else self._affinity_map(node)
        self._cpu_nodes(cpus, cores)
        if not config.proxy:
            self._scheduling(node)
        else:
            config.priority, config.timeslice = 0, TIMESLICE_MIN
        if any(self.tree.find_compatible(*COMPATIBLE_PSCI)):
            config.psci = True

    def _affinity_map(self, node: Node) -> list[int]:
        key = ConfigProperty.AFFINITY_MAP
        if key not in node:
            self.refuse(node, f'affinity-map is missing, it is needed with affinity "{self.config.affinity}"')
        cores = self.items(node, key, node.cells)
        for core in cores:
            if core >= 64 or not self.policy.usable_cores >> core & 1:
                self.refuse(node, f"affinity-map names core {core}, which cannot be used", RmError.NORESOURCE)
        return cores

    def _scheduling(self, node: Node) -> None:
        config, policy, key = self.config, self.policy, ConfigProperty
        raw = self.get(node, key.SCHED_PRIORITY, node.u32, 0)
        offset = raw - (1 << 32) if raw >> 31 else raw
        if key.SCHED_PRIORITY not in node and not policy.trusted:
            # Nothing asked for: the highest that an untrusted VM may have.
            offset = -1
        config.priority = policy.owner_priority + offset
        if not 0 <= config.priority <= VCPU_PRIORITY_MAX:
            self.refuse(node, f"sched-priority {offset} gives priority {config.priority}", RmError.NORESOURCE)
        elif config.priority >= policy.owner_priority and not policy.trusted:
            self.refuse(
                node,
                f"sched-priority {offset} is not below the owner's priority {policy.owner_priority}",
                RmError.NORESOURCE,
            )
        config.timeslice = self.get(node, key.SCHED_TIMESLICE, node.u32, TIMESLICE_DEFAULT // 1000) * 1000
        if not TIMESLICE_MIN <= config.timeslice <= TIMESLICE_MAX:
            self.refuse(
                node,
                f"sched-timeslice {config.timeslice // 1000} us is not within 100 us and 100 ms",
                RmError.NORESOURCE,
            )

    def _cpu_nodes(self, cpus: Node, cores: list[int] | None) -> None:
        config = self.config
        default_method = self.get(cpus, "enable-method", cpus.string, "")
        idle = psci = enabled = 0
        for node in cpus.children:
            if self.get(node, "device_type", node.string, "") != "cpu":
                continue
            status = self.get(node, "status", node.string, "okay" if not enabled else "disabled")
            if status == "fail" or status.startswith("fail-"):
                continue
            if status not in ("okay", "disabled"):
                self.refuse(node, f'status "{status}" is unknown')
            boot = status == "okay"
            idle += "cpu-idle-states" in node
            method = self.get(node, "enable-method", node.string, default_method)
            enabled += boot
            if not boot:
                if method not in ("psci", "qcom,gunyah-hvc"):
                    self.refuse(node, f'enable-method is {method or "missing"}, "psci" or "qcom,gunyah-hvc" is needed')
                psci += method == "psci"
            number = len(config.vcpus)
            core = None if cores is None else cores[number] if number < len(cores) else 0
            config.vcpus.append(VcpuConfig(node.path, boot, core))
        count = len(config.vcpus)
        if not enabled:
            self.refuse(cpus, "no CPU is enabled at start")
        if cores is not None and len(cores) != count:
            self.refuse(cpus, f"affinity-map names {len(cores)} cores for {count} CPUs")
        if count > self.policy.cores:
            self.refuse(cpus, f"{count} CPUs, {self.policy.cores} are possible", RmError.NORESOURCE)
        config.psci = bool(psci or idle)
        if config.psci and cores is not None and idle != count:
            self.refuse(
                cpus, f"PSCI without proxy scheduling needs cpu-idle-states on all {count} CPUs, {idle} have it"
            )


def check(tree: DeviceTree, policy: Policy | None = None) -> Checked:
    """Read the configuration in ``tree``; never raises for what the tree holds."""
    return _Checker(tree, policy or Policy()).run()


def parse_config(blob: bytes, policy: Policy) -> tuple[VmConfig, list[str]]:
    """The configuration in a flattened tree and warnings; raises RmFailure with the first reason against it."""
    try:
        tree = parse(blob)
    except FdtError as error:
        raise RmFailure(RmError.MEM_INVALID, f"device tree: {error}") from error
    checked = check(tree, policy)
    if checked.config is None:
        first = checked.refusals[0]
        more = f" (and {len(checked.refusals) - 1} more)" if len(checked.refusals) > 1 else ""
        raise RmFailure(first.code, f"{first}{more}")
    return checked.config, checked.warnings
