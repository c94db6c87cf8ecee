"""Device trees for the rig: the board's, and those of secondary VMs with the configuration in them."""

from __future__ import annotations

from gunyah.guest.fdt import DeviceTree, Node

GIC = "interrupt-controller@8000000"
BASE = 0x8000_0000


def board_tree() -> DeviceTree:
    """What lies in memory before RM adds its node."""
    tree = DeviceTree()
    tree.root.set_cells("#address-cells", 2)
    tree.root.set_cells("#size-cells", 2)
    tree.root.set_strings("compatible", "linux,dummy-virt")
    memory = tree.root.add("memory@40000000")
    memory.set_strings("device_type", "memory")
    memory.set_u64s("reg", 0x4000_0000, 0x4000_0000)
    return tree


def vm_tree(
    name: str = "test-vm",
    *,
    vcpus: int = 1,
    affinity: str = "static",
    psci: bool = True,
    console: bool = True,
    core: int = 1,
) -> DeviceTree:
    """A VM with one vm-config, ready for more devices. It runs on a core of its own: its client polls on core 0."""
    tree = DeviceTree()
    root = tree.root
    root.set_cells("#address-cells", 2)
    root.set_cells("#size-cells", 2)
    root.set_cells("interrupt-parent", 1)
    gic = root.add(GIC)
    gic.set_strings("compatible", "arm,gic-v3")
    gic.set_cells("#interrupt-cells", 3)
    gic.set_flag("interrupt-controller")
    gic.set_u64s("reg", 0x0800_0000, 0x1_0000, 0x080A_0000, 0x10_0000)
    gic.set_cells("phandle", 1)
    cpus = root.add("cpus")
    cpus.set_cells("#address-cells", 1)
    cpus.set_cells("#size-cells", 0)
    for number in range(vcpus):
        cpu = cpus.add(f"cpu@{number:x}")
        cpu.set_strings("device_type", "cpu")
        cpu.set_strings("compatible", "arm,armv8")
        cpu.set_cells("reg", number)
        cpu.set_strings("enable-method", "psci" if psci else "qcom,gunyah-hvc")
        if psci:
            cpu.set_flag("cpu-idle-states")
    if psci:
        node = root.add("psci")
        node.set_strings("compatible", "arm,psci-1.0")
        node.set_strings("method", "hvc")
    config = root.add("gunyah-vm-config")
    config.set_strings("image-name", name)
    config.set_strings("os-type", "linux")
    memory = config.add("memory")
    memory.set_cells("#address-cells", 2)
    memory.set_cells("#size-cells", 2)
    memory.set_u64s("base-address", BASE)
    config.add("interrupts").set_strings("config", f"/{GIC}")
    scheduling = config.add("vcpus")
    scheduling.set_strings("config", "/cpus")
    scheduling.set_strings("affinity", affinity)
    if affinity != "proxy":
        scheduling.set_cells("affinity-map", *([core] * vcpus))
    config.add("vdevices")
    if console:
        rpc = vdevice(tree, "rm-rpc", "rm-rpc", label=1, generate="/hypervisor/qcom,resource-mgr")
        rpc.set_flag("console-dev")
    return tree


def vdevice(tree: DeviceTree, name: str, kind: str, *, label: int = 0, generate: str = "", peer: str = "") -> Node:
    """Add a virtual device."""
    node = tree.node("/gunyah-vm-config/vdevices").add(name)
    node.set_strings("vdevice-type", kind)
    if generate:
        node.set_strings("generate", generate)
    node.set_cells("qcom,label", label)
    if peer:
        node.set_strings("peer", peer)
    else:
        node.set_flag("peer-default")
    return node
