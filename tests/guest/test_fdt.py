import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gunyah.guest.dts import parse_dts, to_dts
from gunyah.guest.fdt import MAGIC, DeviceTree, FdtError, Node, apply_overlay, merge, parse, total_size

SOURCE = """
/dts-v1/;
/memreserve/ 0x40000000 0x1000;
/ {
	#address-cells = <2>;
	#size-cells = <2>;
	model = "test"; // a comment
	compatible = "a,b", "c";
	gic: intc@8000000 { interrupt-controller; #interrupt-cells = <3>; };
	hypervisor {
		#address-cells = <2>; /* capability ids */
		#size-cells = <0>;
		gunyah-resource-mgr@0 {
			reg = <0x00000000 0x00000000>, <0x12345678 0x9abcdef0>;
			interrupts = <GIC_SPI 3 IRQ_TYPE_EDGE_RISING>, <GIC_SPI 4 IRQ_TYPE_EDGE_RISING>;
			interrupt-parent = <&gic>;
			mac = [00 11 22];
			wide = /bits/ 64 <0x123456789abcdef0>;
		};
	};
	memory@40000000 { device_type = "memory"; reg = <0 0x40000000 0x1 0x00000000>; };
	aliases { rm = "/hypervisor/gunyah-resource-mgr@0"; };
};
"""


@pytest.fixture
def tree() -> DeviceTree:
    return parse_dts(SOURCE)


def test_source_text_becomes_a_tree_with_typed_properties(tree):
    rm = tree.node("rm")
    assert rm.path == "/hypervisor/gunyah-resource-mgr@0"
    assert rm.u64s("reg") == [0, 0x1234_5678_9ABC_DEF0]
    assert rm.reg() == [(0, 0), (0x1234_5678_9ABC_DEF0, 0)]
    assert rm.cells("interrupts") == [0, 3, 1, 0, 4, 1]
    gic = tree.by_phandle(rm.u32("interrupt-parent"))
    assert gic is not None and gic.path == "/intc@8000000"
    assert rm.raw("mac") == b"\x00\x11\x22"
    assert rm.u64("wide") == 0x1234_5678_9ABC_DEF0
    assert tree.node("/memory").reg() == [(0x4000_0000, 0x1_0000_0000)]
    assert tree.root.compatible == ["a,b", "c"]
    assert [node.path for node in tree.find_compatible("c")] == ["/"]
    assert tree.reservations == [(0x4000_0000, 0x1000)]


def test_a_blob_and_a_text_carry_the_same_tree(tree):
    again = parse(tree.pack(padding=100))
    assert to_dts(again) == to_dts(tree)
    assert parse_dts(to_dts(tree)).pack() == tree.pack()
    assert total_size(tree.pack()[:40]) == len(tree.pack())


def test_the_blob_is_what_the_reference_library_reads(tree):
    import libfdt

    fdt = libfdt.Fdt(tree.pack())
    node = fdt.path_offset("/hypervisor/gunyah-resource-mgr@0")
    assert bytes(fdt.getprop(node, "reg")) == tree.node("rm").raw("reg")
    assert fdt.get_mem_rsv(0) == [0x4000_0000, 0x1000]


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda n: n.u32("interrupts"), "holds 6 cells, one is expected"),
        (lambda n: n.raw("nothing"), "/hypervisor/gunyah-resource-mgr@0: property nothing is missing"),
        (lambda n: n.cells("mac"), "3 bytes, not a multiple of 4"),
        (lambda n: n.u64s("mac"), "not a multiple of 8"),
        (lambda n: n.strings("mac"), "not a string list"),
        (lambda n: n.u64("mac"), "4 or 8 are expected"),
        (lambda n: n.parent.parent.string("compatible"), "holds 2 strings"),
        (lambda n: n.add("a b"), "no name for a node"),
        (lambda n: n.parent.add("gunyah-resource-mgr@0"), "there is a child"),
    ],
)
def test_a_wrong_property_is_told_with_path_and_values(tree, read, words):
    with pytest.raises(FdtError, match=words):
        read(tree.node("rm"))


def test_merge_and_overlay_replace_properties_and_add_nodes(tree):
    addition = Node()
    addition.ensure("hypervisor/vm").set_cells("qcom,vmid", 3)
    addition.ensure("hypervisor").set_strings("compatible", "gunyah-hypervisor", "simple-bus")
    merge(tree.root, addition)
    assert tree.node("/hypervisor/vm").u32("qcom,vmid") == 3
    assert tree.node("/hypervisor").u32("#size-cells") == 0
    overlay = parse_dts('/ { f@0 { target-path = "/hypervisor"; __overlay__ { vm { qcom,vmid = <45>; }; }; }; };')
    apply_overlay(tree, overlay)
    assert tree.node("/hypervisor/vm").u32("qcom,vmid") == 45
    bad = parse_dts('/ { a { target-path = "/"; __overlay__ { x; }; }; b { target = <99>; __overlay__ { }; }; };')
    with pytest.raises(FdtError, match="phandle 99 does not exist"):
        apply_overlay(tree, bad)
    assert "x" not in tree.root


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("/ { a = <1>", "line 1: ';' is expected"),
        ("/ { a = <0x1ffffffff>; };", "does not fit in 32 bits"),
        ("\n\n/ { a = <&nobody>; };", "line 3: &nobody refers to nothing"),
        ("/ { a = <x>; };", "'x' is not a number"),
        ("/ { $ };", "line 1: '\\$ };' is not understood"),
        ("/ {" + "a {" * 100, "nested deeper than 64"),
    ],
)
def test_wrong_source_text_is_told_with_its_line(text, words):
    with pytest.raises(FdtError, match=words):
        parse_dts(text)


@pytest.mark.parametrize(
    ("blob", "words"),
    [
        (b"", "at least 40 bytes"),
        (bytes(40), "magic is 0x00000000"),
        (struct.pack(">10I", MAGIC, 41, *[0] * 8), "announces 41 bytes, only 40"),
        (struct.pack(">10I", MAGIC, 0xFFFF_FFFF, *[0] * 8), "announces 4294967295 bytes"),
        (struct.pack(">10I", MAGIC, 40, 0, 0, 0, 99, 99, 0, 0, 0), "version 99"),
        (struct.pack(">10I", MAGIC, 40, 0xFFFF_FFF0, 0, 0, 17, 16, 0, 0, 0x20), "structure block"),
        (struct.pack(">10I", MAGIC, 40, 0, 0, 32, 17, 16, 0, 0, 0), "no end"),
    ],
)
def test_a_hostile_header_is_refused_in_one_sentence(blob, words):
    with pytest.raises(FdtError, match=words):
        parse(blob)


names = st.text("abcdefgh,._+-@#", min_size=1, max_size=8)
properties = st.dictionaries(names, st.binary(max_size=24), max_size=4)
trees = st.recursive(
    st.tuples(properties, st.just({})), lambda below: st.tuples(properties, st.dictionaries(names, below, max_size=3))
)


def build(description, node: Node) -> Node:
    node.properties.update(description[0])
    for name, below in description[1].items():
        build(below, node.add(name))
    return node


@settings(max_examples=80, deadline=None)
@given(trees)
def test_any_tree_survives_packing_and_printing(description):
    tree = DeviceTree(root=build(description, Node()))
    blob = tree.pack()
    assert parse(blob).pack() == blob
    assert parse_dts(to_dts(tree)).pack() == blob


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_blob_gives_a_tree_or_an_fdt_error_and_nothing_else(data):
    blob = bytearray(parse_dts(SOURCE).pack())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(blob) - 1))
        blob[at] = data.draw(st.sampled_from([0, 1, 2, 3, 4, 9, 0x2F, 0x7F, 0xFF]))
    cut = data.draw(st.integers(0, len(blob)))
    for candidate in (bytes(blob), bytes(blob[:cut])):
        try:
            tree = parse(candidate)
            for node in tree.root.walk():
                assert isinstance(node.path, str)
            tree.pack()
        except FdtError as error:
            assert "\n" not in str(error)


def test_a_blob_with_very_many_nodes_is_refused_or_read_quickly():
    root = Node()
    root.children = [Node(f"n{number}", root) for number in range(70_000)]
    blob = DeviceTree(root=root).pack()
    with pytest.raises(FdtError, match="more than 65536 nodes"):
        parse(blob)
    twice = Node()
    twice.children = [Node("same", twice), Node("same", twice)]
    with pytest.raises(FdtError, match="two children same"):
        parse(DeviceTree(root=twice).pack())
