"""Where images go in the VM's memory, and the tree that tells it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gunyah.guest.fdt import DeviceTree, parse
from gunyah.vmm.images import Image, Segment
from gunyah.vmm.loader import (
    RAMDISK_OFFSET,
    TREE_OFFSET,
    TREE_ROOM,
    LoadError,
    place,
    read_image,
    read_ramdisk,
    read_tree,
    tree_for,
)

MIB = 1 << 20
START = 0x4000_0000


def kernel(size: int, text_offset: int = 0) -> Image:
    return Image("Image", (Segment(text_offset, b"code", size),), text_offset, False, 2 * MIB)


def fixed(address: int, size: int) -> Image:
    return Image("ELF", (Segment(address, b"code", size),), address, True)


def test_everything_goes_where_the_reference_puts_it_if_it_fits_there() -> None:
    placement = place(kernel(30 * MIB), 6 * MIB, (START, 256 * MIB))
    assert placement.entry == 0x4100_0000
    assert placement.tree == START + TREE_OFFSET
    assert placement.ramdisk == (START + RAMDISK_OFFSET, 6 * MIB)


def test_a_large_ramdisk_goes_behind_the_kernel() -> None:
    placement = place(kernel(30 * MIB), 40 * MIB, (START, 256 * MIB))
    assert placement.ramdisk is not None
    assert placement.ramdisk[0] >= placement.base + placement.image.end


def test_a_small_vm_takes_a_small_kernel() -> None:
    placement = place(kernel(3 * MIB, 0x8_0000), 1 * MIB, (START, 8 * MIB))
    assert placement.base >= START and placement.base % (2 * MIB) == 0
    assert placement.base + placement.image.end <= START + 8 * MIB


def test_an_elf_executable_stays_where_it_says() -> None:
    placement = place(fixed(START + 0x8_0000, MIB), 0, (START, 64 * MIB))
    assert placement.entry == START + 0x8_0000
    assert placement.tree == START + TREE_OFFSET


@pytest.mark.parametrize("memory", [16 * MIB, 64 * MIB, 256 * MIB, 1024 * MIB])
def test_the_tree_and_the_ramdisk_of_a_flat_binary_leave_room_behind_it(memory: int) -> None:
    binary = Image("binary", (Segment(0, b"code", 0x3_0000),), 0, False)
    placement = place(binary, 100, (START, memory))
    assert placement.ramdisk is not None
    for address in (placement.tree, placement.ramdisk[0]):
        assert address >= placement.base + placement.image.end + min(memory, 256 * MIB) // 8
        assert address % (2 * MIB) == 0


@pytest.mark.parametrize(
    ("image", "ramdisk", "memory", "words"),
    [
        (kernel(300 * MIB), 0, 256 * MIB, "256 MiB of memory are too small"),
        (kernel(30 * MIB), 300 * MIB, 256 * MIB, "RAM disk of 300.0 MiB does not fit"),
        (fixed(0x8000_0000, MIB), 0, 256 * MIB, "wants 0x80000000..0x80100000"),
        (fixed(START, 8 * MIB), 0, 8 * MIB, "no room for the device tree"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(image: Image, ramdisk: int, memory: int, words: str) -> None:
    with pytest.raises(LoadError) as refused:
        place(image, ramdisk, (START, memory))
    assert words in str(refused.value)


@given(
    st.integers(1, 64 * MIB),
    st.integers(0, 15).map(lambda n: n * 0x1_0000),
    st.integers(0, 80 * MIB),
    st.integers(1, 64).map(lambda n: n * 2 * MIB),
)
def test_no_two_parts_overlap_and_none_leaves_the_memory(size: int, offset: int, ramdisk: int, memory: int) -> None:
    try:
        placement = place(kernel(size, offset), ramdisk, (START, memory))
    except LoadError:
        return
    parts = [(placement.base + offset, size), (placement.tree, TREE_ROOM)]
    if placement.ramdisk is not None:
        parts.append(placement.ramdisk)
    parts.sort()
    for (first, length), (second, _) in pairwise(parts):
        assert first + length <= second
    assert parts[0][0] >= START
    assert sum(parts[-1]) <= START + memory
    assert placement.base % (2 * MIB) == 0


def test_the_made_tree_tells_of_memory_ramdisk_and_cores() -> None:
    placement = place(kernel(30 * MIB), 6 * MIB, (START, 256 * MIB))
    tree = parse(tree_for(placement, cores=3, bootargs="quiet", seed=b"s" * 64).pack())
    assert tree.node("/memory@40000000").reg() == [(START, 256 * MIB)]
    chosen = tree.node("/chosen")
    assert chosen.string("bootargs") == "quiet"
    assert (chosen.u64("linux,initrd-start"), chosen.u64("linux,initrd-end")) == (0x4080_0000, 0x40E0_0000)
    assert chosen.raw("rng-seed") == b"s" * 64
    assert [node.name for node in tree.node("/cpus").children] == ["cpu@0", "cpu@1", "cpu@2"]
    assert all(node.string("enable-method") == "psci" for node in tree.node("/cpus").children)


def test_a_given_tree_keeps_what_a_boot_loader_does_not_fill_in() -> None:
    placement = place(kernel(30 * MIB), 6 * MIB, (START, 256 * MIB))
    given_tree = tree_for(placement, cores=1, bootargs="old", seed=b"1" * 8)
    given_tree.root.add("my-device").set_strings("compatible", "me,device")
    given_tree.node("/memory@40000000").set_u64s("reg", START, 1 << 30)

    tree = tree_for(placement, cores=1, bootargs="new", seed=b"2" * 8, given=given_tree)

    assert tree.node("/my-device").string("compatible") == "me,device"
    assert tree.node("/memory@40000000").reg() == [(START, 256 * MIB)]
    assert tree.node("/chosen").string("bootargs") == "new"
    assert tree.node("/chosen").raw("rng-seed") == b"1" * 8


def test_files_that_are_not_there_or_not_trees_are_refused_in_one_sentence(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(b"no tree at all, but long enough for a header of one")
    short = tmp_path / "short"
    short.write_bytes(DeviceTree().pack()[:-4])
    empty = tmp_path / "empty"
    empty.touch()
    for read, path, words in (
        (read_image, tmp_path / "none", "cannot be read: No such file"),
        (read_ramdisk, tmp_path, "cannot be read: Is a directory"),
        (read_ramdisk, empty, "is empty"),
        (read_tree, blob, "is no device tree"),
        (read_tree, short, "cut off"),
        (read_tree, empty, "is no device tree"),
    ):
        with pytest.raises(LoadError) as refused:
            read(path)
        assert words in str(refused.value) and str(path) in str(refused.value)
