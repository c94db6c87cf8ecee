"""The image a VM was configured with, and the device tree in it, as RM sees them through a window (rm-rpc.md 6)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gunyah.abi.errors import RmError
from gunyah.abi.types import PAGE_MASK, PAGE_SIZE
from gunyah.guest import fdt
from gunyah.rm.errors import RmFailure
from gunyah.rm.vm import Image, Vm

if TYPE_CHECKING:
    from gunyah.rm.manager import ResourceManager

__all__ = ["TREE_GROWTH", "TREE_MAX", "image_of", "tree_window"]

TREE_MAX = 2 << 20
"""Bytes of the largest device tree, as Linux has it."""
TREE_GROWTH = 64 << 10
"""Bytes RM's nodes may add."""
_HEADER_SIZE = 40


def image_of(vm: Vm) -> Image:
    """What VM_CONFIG_IMAGE said; raises RmFailure VM_STATE before it did."""
    if vm.image is None:
        raise RmFailure(RmError.VM_STATE, f"VM {vm.vmid} has no image")
    return vm.image


@contextmanager
def tree_window(rm: ResourceManager, vm: Vm) -> Iterator[tuple[bytes, int, int]]:
    """The loader's device tree in the image memparcel: (blob, RM's address of it, bytes it may grow to there).

    The tree may grow past what the loader said, as on the reference, but stays inside the memparcel. Raises RmFailure
    MEM_INVALID for what cannot be mapped or is no tree.
    """
    image = image_of(vm)
    parcel = rm.parcels.for_target(image.handle, vm.vmid)
    if parcel is None:
        # Nothing holds it before the VM starts: its owner may have taken it back.
        raise RmFailure(RmError.MEM_INVALID, f"memparcel {image.handle:#x} with the image of VM {vm.vmid} is gone")
    offset = image.dt_offset
    if image.dt_size < _HEADER_SIZE:
        raise RmFailure(RmError.MEM_INVALID, f"a device tree of {image.dt_size} bytes is too short")
    room = min(parcel.size - offset, max(min(image.dt_size, TREE_MAX), PAGE_SIZE) + TREE_GROWTH)
    try:
        with rm.memory.window(parcel.extent, rm.parcels.pieces(parcel, offset, room)) as window:
            address = window.address + (offset & PAGE_MASK)
            size = fdt.total_size(rm.cpu.read(address, _HEADER_SIZE))
            if size > min(image.dt_size, TREE_MAX):
                raise RmFailure(
                    RmError.MEM_INVALID,
                    f"dtb at {offset:#x} announces {size:#x} bytes, {min(image.dt_size, TREE_MAX):#x} are possible",
                )
            yield rm.cpu.read(address, size), address, room
    except fdt.FdtError as error:
        raise RmFailure(RmError.MEM_INVALID, f"dtb at {offset:#x}: {error}") from error
