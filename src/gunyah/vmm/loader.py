"""Where the primary VM's images go: kernel, initial RAM disk and device tree in the memory that the VM gets.

The places are those of the reference where everything fits there: tree 0x40f0_0000, kernel 0x4100_0000, RAM disk
0x4080_0000 (boot.md 1). Linux asks for a kernel at a multiple of 2 MiB, a RAM disk in one window of 1 GiB with it,
and a tree of at most 2 MiB that does not cross a 2 MiB boundary.

A flat binary does not say what it needs behind its bytes (zeroed data, stacks), so its tree and its RAM disk go far
behind it, where boot loaders put them too, and not between the start of memory and the binary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gunyah.guest import fdt
from gunyah.vmm.board_tree import board_tree
from gunyah.vmm.images import Image, parse_image

__all__ = ["LoadError", "Placement", "place", "read_image", "read_tree", "tree_for"]

MIB: Final = 1 << 20

ENTRY_OFFSET: Final = 0x100_0000
TREE_OFFSET: Final = 0xF0_0000
RAMDISK_OFFSET: Final = 0x80_0000
"""The reference's places, from the start of the VM's memory."""
BEHIND_BINARY_MAX: Final = 128 * MIB
"""Where what goes with a flat binary begins, in a VM with at least twice as much memory; else in its middle."""

TREE_ROOM: Final = 0x10_0000
"""What RM may let the tree grow to."""
TREE_SIZE_MAX: Final = 2 * MIB
_PAGE: Final = 0xFFF


class LoadError(ValueError):
    """Images that cannot be loaded together; one sentence."""


@dataclass(frozen=True)
class Placement:
    """Who lies where; all addresses are IPAs of the VM, sizes in bytes."""

    memory: tuple[int, int]
    image: Image
    base: int
    """What relative addresses of the image count from."""
    tree: int
    ramdisk: tuple[int, int] | None

    @property
    def entry(self) -> int:
        """Address of the first instruction."""
        return self.image.entry + self.base

    def chunks(self, ramdisk: bytes | None, tree: bytes) -> Iterator[tuple[int, bytes]]:
        """(address, bytes) of everything that is not zero."""
        for segment in self.image.segments:
            yield self.base + segment.address, segment.data
        if self.ramdisk is not None and ramdisk is not None:
            yield self.ramdisk[0], ramdisk
        yield self.tree, tree


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LoadError(f"{what} {path} cannot be read: {error.strerror or error}") from error


def read_image(path: Path) -> Image:
    """The guest image in a file; raises LoadError or ImageError."""
    return parse_image(_read(path, "the kernel"), str(path))


def read_ramdisk(path: Path) -> bytes:
    """The bytes of a RAM disk, whatever they are; raises LoadError."""
    data = _read(path, "the initial RAM disk")
    if not data:
        raise LoadError(f"the initial RAM disk {path} is empty")
    return data


def read_tree(path: Path) -> fdt.DeviceTree:
    """The device tree in a file (a blob); raises LoadError."""
    data = _read(path, "the device tree")
    try:
        if fdt.total_size(data) > len(data):
            raise LoadError(f"{path} is cut off: the tree has {fdt.total_size(data)} bytes, {len(data)} are there")
        return fdt.parse(data)
    except fdt.FdtError as error:
        raise LoadError(f"{path} is no device tree: {error}") from error


def place(image: Image, ramdisk_size: int, memory: tuple[int, int]) -> Placement:
    """Find a place for everything in ``memory`` (IPA, bytes); raises LoadError when it does not fit."""
    start, size = memory
    end = start + size
    if image.fixed:
        return _around(image, 0, ramdisk_size, memory)
    usual = start + ENTRY_OFFSET
    if usual + image.end <= end:
        base = usual
    else:
        # Small memory: tree first, then the image.
        base = _up(start + TREE_ROOM - image.start, image.alignment)
    if base + image.end > end:
        raise LoadError(
            f"the {image.kind} needs {image.end - image.start:#x} bytes, {size >> 20} MiB of memory are too small"
        )
    return _around(image, base, ramdisk_size, memory)


def _around(image: Image, base: int, ramdisk_size: int, memory: tuple[int, int]) -> Placement:
    """Tree and RAM disk beside an image whose place is decided."""
    start, size = memory
    end = start + size
    taken = [(base + segment.address, base + segment.address + segment.size) for segment in image.segments]
    for first, last in taken:
        if first < start or last > end:
            raise LoadError(f"the {image.kind} wants {first:#x}..{last:#x}, the VM's memory is {start:#x}..{end:#x}")
    behind = [start + min(BEHIND_BINARY_MAX, size // 2) & ~(2 * MIB - 1)] if image.kind == "binary" else []
    usual = [start + TREE_OFFSET, start, _up(max(taken)[1], TREE_ROOM)]
    tree = _first_free(taken, behind + usual, TREE_ROOM, memory)
    if tree is None:
        raise LoadError(f"no room for the device tree beside the {image.kind} in {size >> 20} MiB")
    taken.append((tree, tree + TREE_ROOM))
    if not ramdisk_size:
        return Placement(memory, image, base, tree, None)
    length = _up(ramdisk_size, _PAGE + 1)
    wanted = [address + 2 * MIB for address in behind]
    wanted += [start + RAMDISK_OFFSET, _up(max(last for _, last in taken), 2 * MIB), start]
    wanted += [_up(last, _PAGE + 1) for _, last in sorted(taken)]
    ramdisk = _first_free(taken, wanted, length, memory)
    if ramdisk is None:
        raise LoadError(
            f"the initial RAM disk of {ramdisk_size / MIB:.1f} MiB does not fit beside the {image.kind} in "
            f"{size >> 20} MiB of memory"
        )
    return Placement(memory, image, base, tree, (ramdisk, ramdisk_size))


def _first_free(taken: list[tuple[int, int]], wanted: list[int], size: int, memory: tuple[int, int]) -> int | None:
    for address in wanted:
        if address < memory[0] or address + size > sum(memory):
            continue
        if all(address >= last or address + size <= first for first, last in taken):
            return address
    return None


def _up(address: int, alignment: int) -> int:
    return -(-address // alignment) * alignment


def tree_for(
    placement: Placement, *, cores: int, bootargs: str, seed: bytes, given: fdt.DeviceTree | None = None
) -> fdt.DeviceTree:
    """The tree for the VM: the board's, or ``given`` with what a boot loader fills in; raises LoadError.

    In a given tree the memory nodes are replaced, /chosen gets what was asked for, and the rest stays as it is.
    """
    if given is None:
        return board_tree(
            memory=[placement.memory], cores=cores, bootargs=bootargs, initrd=placement.ramdisk, seed=seed
        )
    root = given.root
    for node in [node for node in root.children if node.name.split("@")[0] == "memory"]:
        node.remove()
    if (root.address_cells, root.size_cells) != (2, 2):
        raise LoadError("the device tree's root does not use 2 address cells and 2 size cells")
    memory = root.add(f"memory@{placement.memory[0]:x}")
    memory.set_strings("device_type", "memory")
    memory.set_u64s("reg", *placement.memory)
    chosen = root.child("chosen") or root.add("chosen")
    if bootargs:
        chosen.set_strings("bootargs", bootargs)
    if placement.ramdisk is not None:
        chosen.set_u64s("linux,initrd-start", placement.ramdisk[0])
        chosen.set_u64s("linux,initrd-end", sum(placement.ramdisk))
    if "rng-seed" not in chosen.properties:
        chosen.properties["rng-seed"] = seed
    return given
