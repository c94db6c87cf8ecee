"""arch/arm64/kernel/setup.c: what the kernel takes from the device tree before it has anything else.

The tree's address is x0 at entry. All of /memory that is not reserved becomes the kernel's heap.
"""

from __future__ import annotations

from gunyah.abi.types import PAGE_SIZE
from gunyah.guest.cpu import Cpu, GuestAbort
from gunyah.guest.fdt import DeviceTree, FdtError, Node, parse, total_size
from gunyah.guest.gic import DEFAULT_DISTRIBUTOR, DEFAULT_REDISTRIBUTOR
from gunyah.guest.heap import Heap

__all__ = ["boot_arguments", "find_gic", "free_memory", "named_consoles", "read_device_tree"]

_HEADER_SIZE = 40
_TEXT_SIZE = 0x20_0000
"""Bytes from the start of RAM that are left alone: where the loader puts the VM's image (the arm64 image alignment)."""


def read_device_tree(cpu: Cpu, address: int) -> DeviceTree:
    """The tree at ``address`` (IPA); raises FdtError when there is none, or memory that cannot be read."""
    try:
        size = total_size(cpu.read(address, _HEADER_SIZE))
        return parse(cpu.read(address, size))
    except GuestAbort as abort:
        raise FdtError(f"the device tree at {address:#x} cannot be read: {abort}") from None
    except FdtError as failure:
        raise FdtError(f"the device tree at {address:#x} cannot be used: {failure}") from None


def boot_arguments(tree: DeviceTree) -> str:
    """/chosen/bootargs, or an empty string."""
    chosen = tree.root.child("chosen")
    return chosen.string("bootargs") if chosen is not None and "bootargs" in chosen else ""


def named_consoles(cmdline: str, tree: DeviceTree) -> list[str]:
    """Names of all ``console=`` arguments, without their options; else what the tree's stdout-path names."""
    named = [word[8:].partition(",")[0] for word in cmdline.split() if word.startswith("console=")]
    chosen = tree.root.child("chosen")
    if not named and chosen is not None and "stdout-path" in chosen:
        named.append(chosen.string("stdout-path").partition(":")[0])
    return named


def find_gic(tree: DeviceTree) -> tuple[int, int]:
    """IPAs of the distributor and of the first redistributor; the platform's when the tree doesn't say."""
    for node in tree.find_compatible("arm,gic-v3"):
        if "reg" in node:
            frames = node.reg()
            if len(frames) < 2:
                raise FdtError(f"{node.path}: reg has {len(frames)} entries, distributor and redistributors are needed")
            return frames[0][0], frames[1][0]
    return DEFAULT_DISTRIBUTOR, DEFAULT_REDISTRIBUTOR


def _reserved(tree: DeviceTree) -> list[tuple[int, int]]:
    ranges = list(tree.reservations)
    reserved = tree.root.child("reserved-memory")
    for node in reserved.children if reserved is not None else ():
        if "reg" in node:
            ranges.extend(node.reg())
    chosen = tree.root.child("chosen")
    if chosen is not None and "linux,initrd-start" in chosen and "linux,initrd-end" in chosen:
        start, end = chosen.u64("linux,initrd-start"), chosen.u64("linux,initrd-end")
        ranges.append((start, max(0, end - start)))
    return ranges


def _memory(tree: DeviceTree) -> list[tuple[int, int]]:
    def is_memory(node: Node) -> bool:
        return "device_type" in node and node.string("device_type") == "memory" and "reg" in node

    return [entry for node in tree.root.children if is_memory(node) for entry in node.reg()]


def free_memory(cpu: Cpu, tree: DeviceTree, dtb: int) -> Heap:
    """The heap: RAM without the VM's image, its device tree (at IPA ``dtb``), the initrd and reservations. Raises
    FdtError.
    """
    memory = _memory(tree)
    if not memory:
        raise FdtError("the device tree has no memory node with reg")
    taken = _reserved(tree)
    taken.append((dtb, total_size(cpu.read(dtb, _HEADER_SIZE))))
    text = min(base for base, _ in memory)
    taken.append((text, _TEXT_SIZE))
    free = [(base, base + size) for base, size in memory]
    for base, size in taken:
        start, end = base & ~(PAGE_SIZE - 1), (base + size + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1)
        pieces = ((low, min(high, start), max(low, end), high) for low, high in free)
        free = [piece for a, b, c, d in pieces for piece in ((a, b), (c, d)) if piece[0] < piece[1]]
    if not free:
        raise FdtError("all memory of the device tree is reserved")
    return Heap(cpu, [(low, high - low) for low, high in free])
