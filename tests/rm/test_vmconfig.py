"""VM configurations: what is read, and one sentence for each thing that is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tests.rm.trees import BASE, vdevice, vm_tree

from gunyah.abi.devicetree import VdeviceType
from gunyah.abi.errors import RmError
from gunyah.abi.rm import AuthType
from gunyah.guest.fdt import DeviceTree, Node
from gunyah.rm.errors import RmFailure
from gunyah.rm.vmconfig import Policy, check, parse_config

CONFIG = "/gunyah-vm-config"
TRUSTED = Policy(AuthType.PLATFORM)


def test_the_usual_configuration_is_read_whole() -> None:
    tree = vm_tree("name", vcpus=2, core=3)
    vdevice(tree, "pair", "message-queue-pair", label=5).set_cells("interrupts", 0, 10, 1, 0, 11, 4)
    checked = check(tree)
    assert checked.refusals == [] and checked.config is not None
    config = checked.config
    assert (config.name, config.memory.base, config.psci, config.proxy) == ("name", BASE, True, False)
    assert [(vcpu.path, vcpu.boot, vcpu.core) for vcpu in config.vcpus] == [
        ("/cpus/cpu@0", True, 3),
        ("/cpus/cpu@1", False, 3),
    ]
    assert config.priority == 31
    assert (config.gic.distributor, config.gic.redistributor, config.gic.has_reg) == (0x0800_0000, 0x080A_0000, True)
    rpc, pair = config.devices
    assert rpc.console and rpc.kind is VdeviceType.RM_RPC and (rpc.message_size, rpc.queue_depth) == (240, 8)
    assert [(interrupt.virq, interrupt.flags) for interrupt in pair.interrupts] == [(42, 1), (43, 4)]


def test_defaults_are_those_of_the_platform() -> None:
    tree = vm_tree(affinity="proxy")
    tree.node(f"{CONFIG}/memory").remove()
    tree.node(f"{CONFIG}/interrupts").remove()
    config = check(tree).config
    assert config is not None
    assert (config.memory.base, config.memory.size_max, config.memory.size_min) == (0x2880_0000, 0x07FF_FFFF, 0)
    assert config.gic.path == "/interrupt-controller@8000000"
    assert config.proxy and config.priority == 0 and config.timeslice == 100_000


def node(path: str) -> Callable[[DeviceTree], Node]:
    return lambda tree: tree.node(f"{CONFIG}{path}")


def sizes(tree: DeviceTree, least: int, most: int) -> None:
    tree.node(f"{CONFIG}/memory").set_u64s("size-min", least)
    tree.node(f"{CONFIG}/memory").set_u64s("size-max", most)


def add_cpu(tree: DeviceTree) -> None:
    cpu = tree.node("/cpus").add("cpu@1")
    cpu.set_strings("device_type", "cpu")
    cpu.set_strings("enable-method", "psci")
    tree.node(f"{CONFIG}/vcpus").set_cells("affinity-map", 0, 1)


Change = Callable[[DeviceTree], object]
BAD, NOT_ALLOWED, NONE = RmError.MEM_INVALID, RmError.ARGUMENT_INVALID, RmError.NORESOURCE
REFUSED: list[tuple[Change, str, RmError]] = [
    (lambda tree: node("")(tree).properties.pop("image-name"), "image-name is missing", BAD),
    (lambda tree: node("")(tree).set_strings("image-name", "x" * 80), "80 characters, 79", BAD),
    (lambda tree: node("")(tree).set_strings("image-name", "a", "b"), "2 strings, one", BAD),
    (lambda tree: node("")(tree).set_strings("os-type", "plan9"), 'os-type "plan9"', BAD),
    (lambda tree: node("")(tree).set_strings("vm-guid", "abc"), "vm-guid", BAD),
    (lambda tree: node("")(tree).set_strings("vm-attrs", "crash-fatal"), "crash-fatal", NOT_ALLOWED),
    (lambda tree: node("/memory")(tree).set_flag("is-direct"), "is-direct", NOT_ALLOWED),
    (lambda tree: node("")(tree).set_cells("gic-irq-ranges", 40, 40), "gic-irq-ranges", NOT_ALLOWED),
    (lambda tree: node("")(tree).set_cells("iomemory-ranges", 1), "iomemory-ranges", NOT_ALLOWED),
    (lambda tree: node("/memory")(tree).set_u64s("base-address", BASE + 8), "multiple of 4096", BAD),
    (lambda tree: node("/memory")(tree).set_u64s("base-address", 1 << 36), "outside the 36-bit", BAD),
    (lambda tree: sizes(tree, 0x2000, 0x1000), "size-min 0x2000 exceeds size-max 0x1000", BAD),
    (lambda tree: tree.root.add("ram@0").set_strings("device_type", "memory"), '"memory" is allowed', BAD),
    (lambda tree: node("/interrupts")(tree).set_strings("config", "/nowhere"), "does not name a node", BAD),
    (lambda tree: tree.node("/interrupt-controller@8000000").set_strings("compatible", "x"), "gic-v3", BAD),
    (lambda tree: node("/vcpus")(tree).set_strings("config", "/none"), "no node /none", BAD),
    (lambda tree: node("/vcpus")(tree).properties.pop("affinity-map"), "affinity-map is missing", BAD),
    (lambda tree: node("/vcpus")(tree).set_cells("affinity-map", 0, 1), "2 cores for 1 CPUs", BAD),
    (lambda tree: node("/vcpus")(tree).set_cells("affinity-map", 9), "core 9", NONE),
    (lambda tree: node("/vcpus")(tree).set_cells("sched-priority", 0), "not below the owner's", NONE),
    (lambda tree: node("/vcpus")(tree).set_cells("sched-timeslice", 1), "sched-timeslice 1 us", NONE),
    (lambda tree: tree.node("/cpus/cpu@0").set_strings("status", "disabled"), "no CPU is enabled", BAD),
    (lambda tree: tree.node("/cpus/cpu@0").set_strings("status", "odd"), 'status "odd"', BAD),
    (lambda tree: add_cpu(tree), "needs cpu-idle-states on all 2 CPUs, 1 have it", BAD),
    (lambda tree: vdevice(tree, "x", "toaster"), 'vdevice-type "toaster"', BAD),
    (lambda tree: vdevice(tree, "x", "vsmmu-v2"), "vsmmu-v2 is not supported", NONE),
    (lambda tree: vdevice(tree, "x", "rm-rpc", generate="/x"), "a second rm-rpc", BAD),
    (lambda tree: node("/vdevices/rm-rpc")(tree).properties.pop("generate"), "generate is missing", BAD),
    (lambda tree: vdevice(tree, "x", "message-queue"), "none of is-sender and is-receiver", BAD),
    (lambda tree: vdevice(tree, "x", "message-queue", peer="vm-name:y"), "peer-default is missing", BAD),
    (lambda tree: vdevice(tree, "x", "doorbell", peer="somebody"), "does not begin with vm-guid:", BAD),
    (lambda tree: vdevice(tree, "x", "doorbell").set_cells("interrupts", 0, 1), "2 cells, 3", BAD),
    (lambda tree: vdevice(tree, "x", "doorbell").set_cells("interrupts", 0, 1, 2), "neither edge", BAD),
    (lambda tree: vdevice(tree, "x", "doorbell").set_cells("interrupts", 0, 2000, 1), "number 2000", BAD),
    (lambda tree: vdevice(tree, "x", "message-queue-pair").set_cells("queue-depth", 256), "depth 256", NONE),
    (lambda tree: vdevice(tree, "x", "message-queue-pair").set_cells("message-size", 0), "size 0", NONE),
    (lambda tree: vdevice(tree, "x", "shm"), "sub-node memory is needed", BAD),
    (lambda tree: vdevice(tree, "x", "shm").add("memory").set_cells("label", 1), "base and allocate-base", BAD),
    (lambda tree: vdevice(tree, "x", "vrtc-pl031"), "none of base and allocate-base", BAD),
    (lambda tree: vdevice(tree, "x", "vrtc-pl031").set_flag("allocate-base"), "vrtc-pl031 is not supported", NONE),
    (lambda tree: node("")(tree).add("segments").set_strings("ramdisk", "three"), "ramdisk", BAD),
    (lambda tree: vdevice(tree, "x", "doorbell").set_strings("push-compatible", *"abcdefg"), "7 strings, 6", BAD),
    (lambda tree: tree.node(CONFIG).remove(), "none of the nodes", BAD),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words", "code"), REFUSED, ids=[words for _, words, _ in REFUSED])
def test_a_mistake_is_refused_with_its_sentence(change: Change, words: str, code: RmError) -> None:
    tree = vm_tree()
    change(tree)
    checked = check(tree)
    assert checked.config is None
    assert any(words in str(refusal) and refusal.code == code for refusal in checked.refusals), checked.refusals


def test_the_platforms_own_vms_may_ask_for_more() -> None:
    tree = vm_tree()
    tree.node(CONFIG).set_strings("vm-attrs", "crash-fatal", "something-new")
    tree.node(f"{CONFIG}/memory").set_flag("is-direct")
    tree.node(CONFIG).set_cells("gic-irq-ranges", 40, 41)
    tree.node(f"{CONFIG}/vcpus").set_cells("sched-priority", 0)
    checked = check(tree, TRUSTED)
    assert checked.config is not None and checked.config.irq_ranges == [(40, 41)]
    assert any("something-new" in warning for warning in checked.warnings)


def test_an_unaligned_base_is_raised_to_two_megabytes_with_a_warning() -> None:
    tree = vm_tree()
    tree.node(f"{CONFIG}/memory").set_u64s("base-address", BASE + 0x1000)
    checked = check(tree)
    assert checked.config is not None and checked.config.memory.base == BASE + 0x20_0000
    assert any("raised" in warning for warning in checked.warnings)


@settings(max_examples=40, deadline=None, phases=(Phase.generate,))
@given(st.data())
def test_a_damaged_tree_is_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    tree = vm_tree(vcpus=2)
    vdevice(tree, "shm", "shm", label=3).add("memory").set_cells("label", 3)
    vdevice(tree, "pair", "message-queue-pair", label=5)
    nodes = list(tree.root.walk())
    for _ in range(data.draw(st.integers(1, 4))):
        victim = data.draw(st.sampled_from(nodes))
        if victim.properties:
            name = data.draw(st.sampled_from(sorted(victim.properties)))
            victim.properties[name] = data.draw(st.binary(max_size=24))
    blob = bytearray(tree.pack())
    for _ in range(data.draw(st.integers(0, 3))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse_config(bytes(blob), Policy())
    except RmFailure as failure:
        assert str(failure)
