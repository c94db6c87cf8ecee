"""The binding schema: sound by the devicetree project's own checker, and judging trees as the drivers would."""

import subprocess
import sys
from pathlib import Path

import dtschema
import pytest
import ruamel.yaml

from gunyah.abi.profile import PROFILES
from gunyah.guest.dts import parse_dts
from gunyah.guest.fdt import parse
from gunyah.linux.bindings import schema_path
from gunyah.linux.kernel import Kernel
from gunyah.primary import ProgramPrimary
from gunyah.system import System

BOARD = """
/dts-v1/;
/ {
	compatible = "test,board";
	model = "test";
	#address-cells = <2>; #size-cells = <2>; interrupt-parent = <&gic>;
	gic: interrupt-controller@8000000 { compatible = "arm,gic-v3"; interrupt-controller; #interrupt-cells = <3>;
		reg = <0 0x08000000 0 0x10000>, <0 0x080a0000 0 0xf60000>; };
	@NODE@
};
"""

LATER = """
hypervisor {
	compatible = "gunyah-hypervisor";
	#address-cells = <2>;
	#size-cells = <0>;
	gunyah-resource-mgr@0 {
		compatible = "gunyah-resource-manager";
		interrupts = <0 3 1>, <0 4 1>;
		reg = <0 0>, <0 1>;
	};
};
"""


@pytest.fixture(scope="module")
def validator():
    return dtschema.DTValidator([str(schema_path())])


def examples():
    text = schema_path().read_text()
    return ruamel.yaml.YAML(typ="safe").load(text)["examples"]


def verdict(validator, blob):
    """Messages about the hypervisor node of a tree."""
    tree = dtschema.dtb.fdt_unflatten(validator, blob)
    node = tree["hypervisor"]
    node["$nodename"] = ["hypervisor"]
    return [error.message for error in validator.iter_errors(node, filter=["gunyah-hypervisor"])]


def judge(validator, node):
    return verdict(validator, parse_dts(BOARD.replace("@NODE@", node)).pack())


def test_the_schema_is_valid_by_the_meta_schema():
    tool = Path(sys.executable).with_name("dt-doc-validate")
    run = subprocess.run([tool, str(schema_path())], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout + run.stderr) == (0, "")


@pytest.mark.parametrize("number", range(len(examples())))
def test_the_examples_of_the_schema_pass_it(validator, number):
    assert judge(validator, examples()[number]) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"gunyah-hypervisor"', '"gunyah-hypervisor-1.0", "gunyah-hypervisor"'),
        ('"gunyah-hypervisor"', '"gunyah-hypervisor", "simple-bus"'),
        ('"gunyah-resource-manager"', '"gunyah-resource-manager-1-0", "gunyah-resource-manager"'),
        ("gunyah-resource-mgr@0", "gunyah-resource-mgr"),
    ],
)
def test_the_forms_of_both_generations_pass(validator, old, new):
    assert judge(validator, LATER.replace(old, new)) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"gunyah-hypervisor"', '"gunyah-hypervisor", "gunyah-hypervisor-1.0"'),
        ('compatible = "gunyah-hypervisor";', 'compatible = "gunyah-hypervisor"; extra;'),
        ("#size-cells = <0>", "#size-cells = <1>"),
        ("#address-cells = <2>", "#address-cells = <1>"),
        ("#size-cells = <0>;", ""),
        ('"gunyah-resource-manager"', '"gunyah-resource-manager", "gunyah-resource-manager-1-0"'),
        ("reg = <0 0>, <0 1>;", "reg = <0 0>;"),
        ("reg = <0 0>, <0 1>;", "reg = <0 0>, <0 1>, <0 2>;"),
        ("reg = <0 0>, <0 1>;", ""),
        ("interrupts = <0 3 1>, <0 4 1>;", "interrupts = <0 3 1>;"),
        ("interrupts = <0 3 1>, <0 4 1>;", ""),
        ("reg = <0 0>", "unknown; reg = <0 0>"),
        ("gunyah-resource-mgr@0", "resource-mgr@0"),
        ("reg = <0 0>", "qcom,tx-message-size = <1024>; reg = <0 0>"),
    ],
)
def test_what_no_driver_would_accept_is_refused(validator, old, new):
    assert old in LATER
    assert judge(validator, LATER.replace(old, new)) != []


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_the_tree_that_the_resource_manager_hands_over_passes(validator, profile):
    trees = []
    kernel = Kernel(PROFILES[profile])

    def program(cpu, x0):
        trees.append(cpu.read(x0, int.from_bytes(cpu.read(x0 + 4, 4), "big")))
        kernel.main(cpu, x0)

    with System(ProgramPrimary(program), profile=profile, clock="virtual", seed=1):
        assert parse(trees[0]).find("/hypervisor") is not None
        assert verdict(validator, trees[0]) == []
