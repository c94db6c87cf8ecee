"""ELF images: RM finds tree, entry, RAM disk and command line in their segments (rm-behaviour.md 5.4, 6.1)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rm.rig import Client, Refused, Rig
from tests.rm.trees import vm_tree
from tools.fetch_linux import cpio_entry

from gunyah.abi.errors import RmError
from gunyah.abi.rm import MessageId
from gunyah.guest.cpu import Cpu
from gunyah.guest.fdt import DeviceTree, parse, total_size
from gunyah.rm.elf_image import command_line_of
from gunyah.rm.errors import RmFailure

MEMORY, SIZE, BASE = 0x5000_0000, 0x20_0000, 0x8000_0000
CODE, DISK, ARCHIVE, TREE = 0x1_0000, 0x2_0000, 0x3_0000, 0x4_0000
RELOCATABLE = 1 << 27
NOTE = (4, 0, 0, 0)


def elf(segments: list[tuple[int, int, int, int]], entry: int) -> bytes:
    """A header and program headers of (type, flags, physical address, bytes)."""
    ident = b"\x7fELF\2\1\1".ljust(16, b"\0")
    head = struct.pack("<16sHHIQQQIHHHHHH", ident, 2, 183, 1, entry, 64, 0, 0, 64, 56, len(segments), 0, 0, 0)
    return head + b"".join(
        struct.pack("<IIQQQQQQ", kind, flags, 0, at, at, size, size, 0) for kind, flags, at, size in segments
    )


def archive(**files: bytes) -> bytes:
    entries = [cpio_entry(name.replace("_", "/"), 0o100644, data, 1) for name, data in files.items()]
    return b"".join(entries) + cpio_entry("TRAILER!!!", 0, b"", 0)


def tree_with(change: Callable[[DeviceTree], None] = lambda tree: None) -> DeviceTree:
    tree = vm_tree("elf")
    tree.root.ensure("chosen").set_strings("bootargs", "quiet")
    named = tree.node("/gunyah-vm-config").add("segments")
    named.set_cells("kernel", 0)
    named.set_cells("ramdisk", 1)
    named.set_cells("config_cpio", 2)
    change(tree)
    return tree


def life(
    image: Callable[[bytes], bytes],
    tree: DeviceTree,
    *,
    code_at: int = CODE,
    files: bytes | None = None,
    told: bool = False,
) -> tuple[int, DeviceTree]:
    """Start a VM with an ELF image; where it began to run, and the tree it found."""
    rig = Rig()
    found: list[Any] = []

    def guest(cpu: Cpu, x0: int) -> None:
        found.append(parse(cpu.read(x0, total_size(cpu.read(x0, 40)))))
        while True:
            cpu.wfi()

    code = rig.image("guest", guest)

    def scenario(client: Client) -> None:
        vmid = client.allocate()
        head = image(code)
        for at, data in ((0, head), (code_at, code), (DISK, b"disk"), (ARCHIVE, files or b""), (TREE, tree.pack())):
            client.cpu.write(MEMORY + at, data)
        handle = client.lend(vmid, [(MEMORY, SIZE)])
        client.configure(vmid, handle, TREE if told else 0, 0x1_0000 if told else 0, auth=1, size=SIZE)
        client.call(MessageId.VM_AUTH_IMAGE, struct.pack("<HH", vmid, 0))
        try:
            client.word(MessageId.VM_INIT, vmid)
            client.start(vmid)
        finally:
            found.append(rig.rm.explain(3)[-1:])
        while not any(isinstance(item, DeviceTree) for item in found):
            client.hyp.scheduler_yield()
        client.stop(vmid)
        client.destroy(vmid, handle)

    try:
        rig.run(scenario)
    except Refused as refused:
        raise AssertionError(found[-1]) from refused
    return code_at, next(item for item in found if isinstance(item, DeviceTree))


def usual(flags: int = RELOCATABLE, base: int = 0) -> Callable[[bytes], bytes]:
    def make(code: bytes) -> bytes:
        pieces = [(CODE, len(code)), (DISK, 0x1000), (ARCHIVE, 0x1000), (TREE, 0x1_0000)]
        segments = [NOTE, *((1, flags, base + at, size) for at, size in pieces)]
        return elf(segments, base + CODE)

    return make


@pytest.mark.parametrize(("flags", "base"), [(RELOCATABLE, 0), (0, MEMORY)], ids=["relocatable", "absolute"])
def test_tree_entry_ram_disk_and_command_line_come_from_segments(flags: int, base: int) -> None:
    files = archive(etc_cmdline=b"loglevel=8 \r\n", readme=b"no", a_cmdline=b"ro")
    _, tree = life(usual(flags, base), tree_with(), files=files)
    chosen = tree.node("/chosen")
    assert chosen.string("bootargs") == "quiet loglevel=8 ro"
    assert chosen.u32("linux,initrd-start") == BASE + DISK
    assert chosen.u32("linux,initrd-end") == BASE + DISK + 0x1000


def test_a_named_segment_and_an_offset_in_it_are_the_entry() -> None:
    def change(tree: DeviceTree) -> None:
        config = tree.node("/gunyah-vm-config")
        config.set_strings("kernel-entry-segment", "kernel")
        config.set_u64s("kernel-entry-offset", 0x40)
        config.set_cells("#address-cells", 2)

    def image(code: bytes) -> bytes:
        pieces = [(CODE - 0x40, 0x1000), (DISK, 0x1000), (ARCHIVE, 0x1000), (TREE, 0x1_0000)]
        return elf([(1, RELOCATABLE, at, size) for at, size in pieces], 0xDEAD)

    life(image, tree_with(change), files=archive())


def test_the_loaders_word_about_the_tree_goes_before_the_segments() -> None:
    _, tree = life(usual(), tree_with(), files=archive(), told=True)
    assert tree.node("/chosen").string("bootargs") == "quiet"


@pytest.mark.parametrize(
    ("image", "change", "sentence"),
    [
        (usual(), lambda tree: tree.node("/gunyah-vm-config/segments").set_cells("ramdisk", 4), "has 4 loadable ones"),
        (usual(base=1 << 40), lambda tree: None, "is not in the 0x200000-byte memparcel"),
        (lambda code: b"\x7fELF\1\1".ljust(64, b"\0"), lambda tree: None, "not a 64-bit one"),
        (lambda code: elf([(1, RELOCATABLE, CODE, 8)], CODE), lambda tree: None, "no segment of the ELF image is a"),
        (usual(), lambda tree: None, "there is no cpio header at 0x0"),
    ],
)
def test_what_is_wrong_with_an_elf_image_is_one_sentence(image: Any, change: Any, sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        life(image, tree_with(change), files=b"no archive")


@given(st.binary(max_size=300), st.integers(0, 400), st.binary(max_size=8))
@settings(max_examples=200)
def test_a_damaged_archive_is_a_command_line_or_one_refusal(text: bytes, at: int, damage: bytes) -> None:
    whole = bytearray(archive(cmdline=text))
    whole[at : at + len(damage)] = damage
    try:
        assert isinstance(command_line_of(bytes(whole)), str)
    except RmFailure as failure:
        assert failure.code is RmError.MEM_INVALID
