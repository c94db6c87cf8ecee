"""The trees that RM gives its VMs, against the schema that describes them (rm-behaviour.md 7)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import gunyah
from gunyah.abi import pyimage
from gunyah.guest.cpu import Cpu
from gunyah.guest.fdt import DeviceTree, parse, total_size
from gunyah.host.lint_schema import schema_available, schema_complaints
from gunyah.vmm.images import parse_image
from gunyah.vmm.virtio_devices import BlockDevice, MemoryStorage
from gunyah.vmm.vm_config import Doorbell, QueuePair, SharedMemory, Virtio, VmSettings

MIB = 1 << 20


@pytest.fixture(scope="module")
def trees() -> dict[str, DeviceTree]:
    """The trees of two siblings with every kind of device, and the primary VM's."""
    found: dict[str, bytes] = {}

    def guest(name: str) -> Callable[[Cpu, int], None]:
        def program(cpu: Cpu, x0: int) -> None:
            found[name] = cpu.read(x0, total_size(cpu.read(x0, 40)))
            while True:
                cpu.wfi()

        return program

    with gunyah.System(clock="virtual", seed=1) as system:
        vms = []
        for name, other in (("left", "right"), ("right", "left")):
            first = name == "left"
            settings = VmSettings(
                name=name,
                image=parse_image(pyimage.pack(system.load_program(name, guest(name))), name),
                memory=4 * MIB,
                console="rm",
                queues=(QueuePair(9), QueuePair(10, other)),
                doorbells=(5,) if first else (5, Doorbell(6, other)),
                doorbell_sources=(7, Doorbell(6, other)) if first else (7,),
                shared=(SharedMemory(3, 0x4000), SharedMemory(4, 0x2000, peers=(other,))),
                virtio=(Virtio(0x20, BlockDevice(MemoryStorage(bytes(512))), pool=0x1000),),
            )
            vms.append(system.primary.vm(settings))
        for vm in vms:
            vm.start()
        assert system.run(lambda: len(found) == 2, 5)
        own = system.primary.kernel.services.device_tree
    return {name: parse(blob) for name, blob in found.items()} | {"primary": own}


@pytest.mark.parametrize("name", ["left", "right", "primary"])
def test_a_tree_that_rm_made_is_what_the_schema_describes(trees: dict[str, DeviceTree], name: str) -> None:
    assert schema_available()
    assert not list(schema_complaints(trees[name], 3))


@pytest.mark.parametrize(
    ("damage", "place"),
    [
        (lambda node: node.properties.pop("compatible"), "compatible"),
        (lambda node: node.set_strings("compatible", "somebody,else"), "compatible"),
        (lambda node: node.set_u64s("reg", 1, 2, 3), "reg"),
    ],
)
def test_a_node_that_is_not_is_told_with_its_path(
    trees: dict[str, DeviceTree], damage: Callable[[object], None], place: str
) -> None:
    tree = parse(trees["left"].pack())
    node = next(node for node in tree.node("/hypervisor").children if node.name.startswith("message-queue-9"))
    damage(node)
    complaints = list(schema_complaints(tree, 3))
    assert any(path.startswith("/hypervisor") and place in f"{name} {words}" for path, name, words in complaints)


def test_a_stray_property_of_the_hypervisor_node_is_told(trees: dict[str, DeviceTree]) -> None:
    tree = parse(trees["left"].pack())
    tree.node("/hypervisor").set_cells("colour", 1)
    assert ("/hypervisor", "colour", "is not allowed here by the schema") in schema_complaints(tree, 3)
