"""Lint names the property and the reason for all that the binding or RM would refuse, and is silent on good trees."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gunyah.guest.dts import parse_dts
from gunyah.guest.fdt import DeviceTree
from gunyah.host.errors import HostError
from gunyah.host.lint import check_tree, lint_file, load_tree
from gunyah.host.lint_schema import schema_available
from gunyah.system import System

HEAD = '/dts-v1/; / { interrupt-parent = <&gic>; gic: gic { compatible = "arm,gic-v3"; #interrupt-cells = <3>; };'
HYPERVISOR = {
    "compatible": '"gunyah-hypervisor-1.0", "gunyah-hypervisor"',
    "#address-cells": "<2>",
    "#size-cells": "<0>",
}
MANAGER = {
    "compatible": '"gunyah-resource-manager-1-0", "gunyah-resource-manager"',
    "interrupts": "<GIC_SPI 3 IRQ_TYPE_EDGE_RISING>, <GIC_SPI 4 IRQ_TYPE_EDGE_RISING>",
    "reg": "<0 0>, <0 1>",
}


def properties(values: dict[str, str | None]) -> str:
    kept = {name: value for name, value in values.items() if value is not None}
    return " ".join(f"{name} = {value};" if value else f"{name};" for name, value in kept.items())


def tree(
    hypervisor: dict[str, str | None] | None = None,
    manager: dict[str, str | None] | None = None,
    name: str = "gunyah-resource-mgr@0",
) -> DeviceTree:
    """The binding's example with some properties replaced (None: left out)."""
    above = properties({**HYPERVISOR, **(hypervisor or {})})
    below = properties({**MANAGER, **(manager or {})})
    return parse_dts(f"{HEAD} hypervisor {{ {above} {name} {{ {below} }}; }}; }};")


def said(tree: DeviceTree) -> str:
    return "\n".join(map(str, check_tree(tree)))


def test_the_bindings_example_is_good() -> None:
    assert said(tree()) == ""


@pytest.mark.parametrize(
    "hypervisor",
    [
        '"gunyah-hypervisor"',
        '"gunyah-hypervisor", "qcom,gunyah-hypervisor-1.0", "qcom,gunyah-hypervisor", "simple-bus"',
        '"gunyah-hypervisor-1.0", "gunyah-hypervisor", "simple-bus"',
    ],
)
def test_nodes_of_both_generations_are_good(hypervisor: str) -> None:
    manager = {
        "compatible": '"gunyah-resource-manager", "qcom,resource-manager-1-0", "qcom,resource-manager"',
        "qcom,free-irq-start": "<960>",
        "qcom,is-full-duplex": "",
        "qcom,tx-message-size": "<240>",
        "qcom,rx-message-size": "<240>",
        "qcom,tx-queue-depth": "<8>",
        "qcom,rx-queue-depth": "<8>",
    }
    assert said(tree({"compatible": hypervisor}, manager, "qcom,resource-manager-rpc@1234")) == ""


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"compatible": None}, '/hypervisor: compatible: is missing; it must have "gunyah-hypervisor"'),
        ({"compatible": '"gunyah"'}, '"gunyah" does not have "gunyah-hypervisor"'),
        ({"compatible": '"gunyah-hypervisor", "acme,hv"'}, '/hypervisor: compatible: has "acme,hv"'),
        ({"compatible": '"gunyah-hypervisor", "gunyah-hypervisor-1.0"'}, "compatible: the order has to be"),
        ({"#address-cells": "<1>"}, "/hypervisor: #address-cells: is 1, it must be 2: a capability id is 64 bits"),
        ({"#address-cells": None}, "/hypervisor: #address-cells: is missing"),
        ({"#size-cells": "<1>"}, "/hypervisor: #size-cells: is 1, it must be 0: capabilities have no size"),
        ({"status": '"okay"'}, "/hypervisor: status: is a property that the binding does not allow here"),
        ({"#size-cells": "[00]"}, "/hypervisor: #size-cells: is 1 bytes, not a multiple of 4"),
    ],
)
def test_a_wrong_hypervisor_node_is_named_with_its_property(change: dict[str, str | None], sentence: str) -> None:
    assert sentence in said(tree(hypervisor=change))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"compatible": '"gunyah-resource-manager-1-0"'}, 'does not have "gunyah-resource-manager"'),
        ({"reg": None}, "reg: is missing; it must name the TX and the RX queue's capability"),
        ({"reg": "<0 0>"}, "reg: has 8 bytes, it must be two capabilities of 2 cells each (16 bytes): TX, RX"),
        ({"reg": "<0 7>, <0 7>"}, "reg: TX and RX are the same capability 0x7"),
        ({"reg": "<0 1>, <0xffffffff 0xffffffff>"}, "reg: the RX capability is 0xffffffffffffffff, the invalid one"),
        ({"interrupts": None}, "interrupts: is missing; it must name the TX and the RX interrupt"),
        ({"interrupts": "<0 3 1>"}, "interrupts: has 3 cells, it must be two interrupts of 3 cells each: TX, RX"),
        ({"interrupts": "<0 3 1>, <1 4 1>"}, "interrupts: the RX interrupt has type 1, queues have SPIs (0)"),
        ({"interrupts": "<0 988 1>, <0 4 1>"}, "interrupts: the TX interrupt is SPI 988, a VM has 0 to 987"),
        ({"interrupts": "<0 3 1>, <0 4 8>"}, "interrupts: the RX interrupt has flags 8, it must be 1 (edge"),
        ({"interrupts": "<0 3 1>, <0 3 1>"}, "interrupts: TX and RX are the same interrupt, SPI 3"),
        ({"acme,fast": ""}, "acme,fast: is a property that the binding does not allow here"),
    ],
)
def test_a_wrong_resource_manager_node_is_named_with_its_property(
    change: dict[str, str | None], sentence: str
) -> None:
    assert f"/hypervisor/gunyah-resource-mgr@0: {sentence}" in said(tree(manager=change)) or sentence in said(
        tree(manager=change)
    )


def test_every_mistake_is_said_not_only_the_first() -> None:
    findings = check_tree(tree({"#size-cells": "<2>"}, {"reg": "<0 0>", "interrupts": "<0 3 1>"}))
    assert [finding.property for finding in findings] == ["#size-cells", "reg", "interrupts"]


def test_a_hypervisor_node_without_resource_manager_is_said() -> None:
    bare = parse_dts(f"{HEAD} hypervisor {{ {properties(dict(HYPERVISOR))} }}; }};")
    assert "there is no gunyah-resource-mgr node" in said(bare)


def test_a_tree_that_has_to_do_with_nothing_is_said() -> None:
    assert "there is neither a /hypervisor node" in said(parse_dts("/dts-v1/; / { };"))


def test_a_vm_whose_tree_already_has_the_hypervisor_node_is_said() -> None:
    both = parse_dts(f'{HEAD} hypervisor {{ {properties(dict(HYPERVISOR))} }}; gunyah-vm-config {{ }}; }};')
    assert "RM makes this node itself" in said(both)


VM = """
cpus { #address-cells = <1>; #size-cells = <0>; cpu@0 { device_type = "cpu"; reg = <0>; enable-method = "psci"; }; };
gunyah-vm-config {
    image-name = "worker";
    memory { #address-cells = <2>; #size-cells = <2>; size-min = <0 0x2000000>; };
    interrupts { config = <&gic>; };
    vcpus { config = "/cpus"; affinity = "proxy"; };
    vdevices {
        generate = "/hypervisor";
        rm-rpc { vdevice-type = "rm-rpc"; generate = "/hypervisor/qcom,resource-manager"; console-dev; };
    };
};
"""


@pytest.mark.parametrize(
    ("old", "new", "where", "name"),
    [
        ('image-name = "worker";', "", "/gunyah-vm-config", "image-name"),
        ('affinity = "proxy"', 'affinity = "static"', "/gunyah-vm-config/vcpus", "affinity-map"),
        ('vdevice-type = "rm-rpc"', 'vdevice-type = "toaster"', "/gunyah-vm-config/vdevices/rm-rpc", "vdevice-type"),
    ],
)
def test_a_wrong_vm_configuration_is_said_in_the_resource_managers_own_words(
    old: str, new: str, where: str, name: str
) -> None:
    findings = check_tree(parse_dts(f"{HEAD} {VM.replace(old, new)} }};"))
    assert (where, name) in {(finding.where, finding.property) for finding in findings}, list(map(str, findings))


def test_what_only_the_schema_knows_is_said_too() -> None:
    assert schema_available()
    assert "qcom,tx-message-size: 2000 is greater than the maximum of 1023" in said(
        tree(manager={"qcom,tx-message-size": "<2000>"})
    )


def test_the_tree_that_the_primary_vm_gets_is_good() -> None:
    with System(clock="virtual", seed=1) as system:
        assert said(system.primary.kernel.services.device_tree) == ""


@pytest.mark.parametrize("form", ["dtb", "dts"])
def test_files_of_both_forms_are_read(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"guest.{form}"
    good = f"{HEAD} hypervisor {{ {properties(dict(HYPERVISOR))} }}; }};"
    path.write_bytes(parse_dts(good).pack() if form == "dtb" else good.encode())
    assert [finding.where for finding in lint_file(path)] == ["/hypervisor"]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("absent.dtb", None, r"absent.dtb cannot be read: No such file or directory"),
        ("junk.dtb", b"junk", r"junk.dtb is not a device tree: "),
        ("junk.dts", b"/ { ", r"junk.dts is not a device tree: "),
        ("junk.dts", b"\xff", r"junk.dts is not source text: byte 0 is not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence(
    tmp_path: Path, name: str, content: bytes | None, sentence: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(HostError, match=sentence):
        load_tree(tmp_path / name)


@settings(deadline=None)
@given(
    node=st.sampled_from(["hypervisor", "manager"]),
    name=st.sampled_from([*HYPERVISOR, *MANAGER, "interrupt-parent", "phandle", "status"]),
    value=st.binary(max_size=40),
)
def test_no_content_of_a_property_stops_lint(node: str, name: str, value: bytes) -> None:
    damaged = tree()
    where = "/hypervisor" if node == "hypervisor" else "/hypervisor/gunyah-resource-mgr@0"
    damaged.node(where).properties[name] = value
    check_tree(damaged)
