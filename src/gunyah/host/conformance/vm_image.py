"""The image of a recorded secondary VM, reconstructed from the resources that RM listed for it.

A recording says which memory was lent and where in it image and device tree lay, not what they were. The device tree
written here asks RM for the same vCPUs and devices (rm-behaviour.md 6), in the order in which RM listed them; the image
is a Python VM's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from gunyah.abi.errors import RmError
from gunyah.abi.layout import PayloadError
from gunyah.abi.rm.enums import IdType, ResourceType
from gunyah.abi.rm.memory import MemAppend, MemCreate
from gunyah.abi.rm.query import GetIdReply, HypResource, HypResourcesReply
from gunyah.abi.rm.vm import VmConfigImage
from gunyah.abi.types import U32
from gunyah.guest.fdt import DeviceTree, Node
from gunyah.host.conformance.recorded_guest import uses_psci
from gunyah.host.conformance.vectors import RmStep

__all__ = ["BASE", "CREATE_MESSAGES", "Placement", "describe_vm", "placement"]

CREATE_MESSAGES = frozenset({0x5100_0010, 0x5100_0012, 0x5100_0013})
"""MEM_DONATE, MEM_LEND, MEM_SHARE."""
APPEND = 0x5100_0018
CONFIG_IMAGE = 0x5600_0009
INIT = 0x5600_000B
GET_ID = 0x5600_0010
GET_HYP_RESOURCES = 0x5600_0020

BASE = 0x8000_0000
"""IPA of the VM's memory in the VM."""
IDLE_PHANDLE = 2
GIC_NODE = "intc@8000000"

RECORDED_DEVICES = (
    HypResource(ResourceType.VIRTUAL_CPU, 0, 0, 0, 0, 0, 0, 0, 0),
    HypResource(ResourceType.VIRTUAL_CPU, 0, 0, 1, 0, 0, 0, 0, 0),
    HypResource(ResourceType.DOORBELL_SRC, 0, 0, 0x42, 0, 0, 0, 0, 0),
    HypResource(ResourceType.DOORBELL, 0, 0, 0x43, 0, 0, 0, 0, 0),
    HypResource(ResourceType.MSG_QUEUE_SEND, 0, 0, 0x44, 0, 0, 0, 0, 0),
    HypResource(ResourceType.MSG_QUEUE_RECV, 0, 0, 0x44, 0, 0, 0, 0, 0),
)
"""What the recorder's own VM asked for; used where a recording does not list the resources."""


@dataclass(frozen=True)
class Placement:
    """A VM's memory before it is handed over: ``ranges`` are (IPA in the primary VM, bytes), in the memparcel's
    order."""

    vmid: int
    ranges: Sequence[tuple[int, int]]
    image_offset: int
    tree_offset: int
    tree: bytes

    def spread(self, offset: int, data: bytes) -> Iterator[tuple[int, bytes]]:
        """(IPA, bytes) that put ``data`` at ``offset`` of the memparcel; what reaches past its end is left out."""
        for address, size in self.ranges:
            if offset < size and data:
                part = data[: size - offset]
                yield address + offset, part
                data, offset = data[len(part) :], 0
            else:
                offset = max(0, offset - size)


def placement(steps: Sequence[RmStep], index: int) -> Placement | None:
    """What belongs into the memory that ``steps[index]`` hands over, None when no VM is made of it."""
    step = steps[index]
    if step.kind != "request" or step.message not in CREATE_MESSAGES or not _succeeded(step):
        return None
    handle = step.reply[4:8] if step.reply else b""
    ranges = _ranges(steps[index:], handle)
    for later in steps[index + 1 :]:
        if later.kind != "request" or later.message != CONFIG_IMAGE or not _succeeded(later):
            continue
        try:
            config = VmConfigImage.unpack(later.payload)
        except PayloadError:
            continue
        if config.handle == int.from_bytes(handle, "little") and _has_tree(steps, later.number, config.vmid):
            tree = _recorded_vm(steps, config.vmid).pack()[: config.dtb_size]
            return Placement(config.vmid, ranges, config.image_offset, config.dtb_offset, tree)
    return None


def _succeeded(step: RmStep) -> bool:
    return step.reply is not None and step.reply[:4] == bytes(4)


def _ranges(steps: Sequence[RmStep], handle: bytes) -> list[tuple[int, int]]:
    """The ranges of the memparcel that ``steps[0]`` makes, with those appended to it afterwards."""
    found: list[tuple[int, int]] = []
    for number, step in enumerate(steps):
        appended = step.message == APPEND and step.payload[:4] == handle and _succeeded(step)
        if number and (step.kind != "request" or not appended):
            continue
        try:
            request = MemAppend.unpack(step.payload) if number else MemCreate.unpack(step.payload)
        except PayloadError:
            continue
        found += [(entry.address, entry.size) for entry in request.sgl]
    return found


def _has_tree(steps: Sequence[RmStep], configured: int, vmid: int) -> bool:
    """Whether VM_INIT after the step ``configured`` found a device tree: RM says MEM_INVALID where it finds none."""
    for step in steps:
        if step.number <= configured or step.kind != "request" or step.payload[:2] != vmid.to_bytes(2, "little"):
            continue
        if step.message == CONFIG_IMAGE and _succeeded(step):
            break
        if step.message == INIT and step.reply is not None:
            if _succeeded(step):
                return True
            if int.from_bytes(step.reply[:4], "little") == RmError.MEM_INVALID:
                return False
    return True


def _recorded_vm(steps: Sequence[RmStep], vmid: int) -> DeviceTree:
    """The tree of VM ``vmid`` as its owner learnt of it: names, devices, and PSCI where the VM ended by it."""
    name, uri, guid = "recorded", "", b""
    resources: Sequence[HypResource] = RECORDED_DEVICES
    for step in steps:
        if not _succeeded(step) or step.reply is None or step.payload[:2] != vmid.to_bytes(2, "little"):
            continue
        try:
            if step.message == GET_ID:
                for identity in GetIdReply.unpack(step.reply[4:]).identities:
                    name = identity.data.decode() if identity.type == IdType.NAME else name
                    uri = identity.data.decode() if identity.type == IdType.URI else uri
                    guid = identity.data if identity.type == IdType.GUID else guid
            elif step.message == GET_HYP_RESOURCES:
                resources = HypResourcesReply.unpack(step.reply[4:]).resources or resources
        except (PayloadError, UnicodeDecodeError):
            continue
    return describe_vm(name, resources, psci=uses_psci(steps, vmid), uri=uri, guid=guid)


def describe_vm(
    name: str, resources: Sequence[HypResource], *, psci: bool = False, uri: str = "", guid: bytes = b""
) -> DeviceTree:
    """A device tree for a VM called ``name`` that leads to ``resources`` as its owner sees them; with PSCI if asked."""
    tree = DeviceTree()
    root = tree.root
    root.set_cells("#address-cells", 2)
    root.set_cells("#size-cells", 2)
    root.set_strings("compatible", "linux,dummy-virt")
    root.set_cells("interrupt-parent", 1)
    gic = root.add(GIC_NODE)
    gic.set_strings("compatible", "arm,gic-v3")
    gic.set_cells("#interrupt-cells", 3)
    gic.set_flag("interrupt-controller")
    gic.set_cells("#redistributor-regions", 1)
    gic.set_u64s("reg", 0x0800_0000, 0x1_0000, 0x080A_0000, 0x10_0000)
    gic.set_cells("phandle", 1)
    vcpus = [r for r in resources if r.type == ResourceType.VIRTUAL_CPU]
    _add_cpus(root, len(vcpus), psci)
    config = root.add("gunyah-vm-config")
    config.set_strings("image-name", name)
    config.set_strings("os-type", "linux")
    if uri:
        config.set_strings("vm-uri", uri)
    if any(guid):
        config.set_strings("vm-guid", str(UUID(bytes=guid)))
    memory = config.add("memory")
    memory.set_cells("#address-cells", 2)
    memory.set_cells("#size-cells", 0)
    memory.set_u64s("base-address", BASE)
    config.add("interrupts").set_strings("config", f"/{GIC_NODE}")
    scheduling = config.add("vcpus")
    scheduling.set_strings("config", "/cpus")
    if all(vcpu.virq == U32 for vcpu in vcpus):
        scheduling.set_strings("affinity", "static")
        scheduling.set_cells("affinity-map", *range(len(vcpus)))
    else:
        scheduling.set_strings("affinity", "proxy")
    devices = config.add("vdevices")
    devices.set_strings("generate", "/hypervisor")
    rpc = _device(devices, "rm-rpc", "rm-rpc", "/hypervisor/qcom,resource-mgr", 1)
    rpc.set_flag("console-dev")
    rpc.set_cells("message-size", 240)
    rpc.set_cells("queue-depth", 8)
    for resource in resources:
        _add_device(devices, resource)
    return tree


def _add_cpus(root: Node, count: int, psci: bool) -> None:
    cpus = root.add("cpus")
    cpus.set_cells("#address-cells", 2)
    cpus.set_cells("#size-cells", 0)
    if psci:
        firmware = root.add("psci")
        firmware.set_strings("compatible", "arm,psci-1.0", "arm,psci-0.2")
        firmware.set_strings("method", "hvc")
        idle = cpus.add("idle-states").add("cpu-sleep")
        idle.set_strings("compatible", "arm,idle-state")
        idle.set_cells("arm,psci-suspend-param", 0x1_0000)
        idle.set_cells("phandle", IDLE_PHANDLE)
    for number in range(count):
        cpu = cpus.add(f"cpu@{number:x}")
        cpu.set_strings("device_type", "cpu")
        cpu.set_strings("compatible", "arm,armv8")
        cpu.set_u64s("reg", number)
        cpu.set_strings("enable-method", "psci" if psci else "qcom,gunyah-hvc")
        if psci:
            cpu.set_cells("cpu-idle-states", IDLE_PHANDLE)


def _device(devices: Node, name: str, kind: str, generate: str, label: int) -> Node:
    node = devices.add(name)
    node.set_strings("vdevice-type", kind)
    node.set_strings("generate", generate)
    node.set_cells("qcom,label", label)
    return node


def _add_device(devices: Node, resource: HypResource) -> None:
    label = resource.label
    if resource.type == ResourceType.DOORBELL_SRC:
        node = _device(devices, f"doorbell-{label:x}", "doorbell", f"/hypervisor/bell-{label:x}", label)
    elif resource.type == ResourceType.DOORBELL:
        node = _device(devices, f"source-{label:x}", "doorbell-source", f"/hypervisor/bell-source-{label:x}", label)
    elif resource.type == ResourceType.MSG_QUEUE_SEND:
        node = _device(devices, f"pair-{label:x}", "message-queue-pair", f"/hypervisor/queues-{label:x}", label)
        node.set_cells("message-size", 240)
        node.set_cells("queue-depth", 8)
    else:
        return
    node.set_flag("peer-default")
