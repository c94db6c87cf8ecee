"""Donation: pages of a sparse extent move to its child, its parent or its sibling (objects.md 3.3, hypercalls.md 3.6).

Ownership and stage 2 change together: if a mapping of the receiver cannot be made, the giver keeps the pages and all of
its mappings.
"""

from __future__ import annotations

from gunyah.abi.errors import Error
from gunyah.abi.types import PAGE_MASK, U64
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.memextent import MemExtent

__all__ = ["donate_child", "donate_sibling"]


def _range(base: MemExtent, extents: tuple[MemExtent, ...], offset: int, size: int) -> int:
    """PA of the range, which is at ``offset`` of ``base`` and must lie inside all ``extents``."""
    if (offset | size) & PAGE_MASK:
        raise HypervisorError(Error.ARGUMENT_ALIGNMENT, f"donation of {size:#x} bytes at {offset:#x}: not whole pages")
    pa = base.base + offset
    if pa > U64:
        raise HypervisorError(Error.ARGUMENT_INVALID, f"{base}: offset {offset:#x} wraps")
    if size == 0 or pa + size - 1 > U64:
        raise HypervisorError(Error.ARGUMENT_SIZE, f"donation of {size:#x} bytes at {pa:#x}: none, or wraps")
    for extent in extents:
        if pa < extent.base or pa + size > extent.base + extent.size:
            raise HypervisorError(Error.ARGUMENT_INVALID, f"{pa:#x}..{pa + size:#x} is not inside {extent}")
    return pa


def donate_child(child: MemExtent, offset: int, size: int, *, reverse: bool) -> None:
    """Move pages from the parent (an extent, or the partition) to ``child``; ``reverse`` moves them back.

    ``offset`` is relative to the child. ARGUMENT_ALIGNMENT, ARGUMENT_SIZE, ARGUMENT_INVALID (outside; parent basic),
    MEMEXTENT_TYPE (child basic), MEMDB_NOT_OWNER, ADDR_INVALID and ADDR_OVERFLOW (unknown memory, or a mapping that
    leaves the IPA space), NOMEM.
    """
    pa = _range(child, (child,), offset, size)
    if not child.sparse:
        raise HypervisorError(Error.MEMEXTENT_TYPE, f"{child} is basic: memory cannot be donated to or from it")
    parent = child.parent
    if parent is not None and not parent.sparse:
        raise HypervisorError(Error.ARGUMENT_INVALID, f"{parent}, the parent of {child}, is basic")
    if reverse:
        child.give(parent, pa, size)
    elif parent is not None:
        parent.give(child, pa, size)
    else:
        child.take(pa, size)


def donate_sibling(giver: MemExtent, receiver: MemExtent, offset: int, size: int) -> None:
    """Move pages between two extents derived from the same one; ``offset`` is relative to the giver.

    ARGUMENT_ALIGNMENT, ARGUMENT_SIZE, ARGUMENT_INVALID (outside; not siblings; receiver basic), MEMEXTENT_TYPE (giver
    basic), MEMDB_NOT_OWNER, ADDR_INVALID and ADDR_OVERFLOW (as `donate_child`), NOMEM.
    """
    pa = _range(giver, (giver, receiver), offset, size)
    if giver is receiver or giver.parent is None or giver.parent is not receiver.parent:
        raise HypervisorError(Error.ARGUMENT_INVALID, f"{giver} and {receiver} are not derived from the same extent")
    if not giver.sparse:
        raise HypervisorError(Error.MEMEXTENT_TYPE, f"{giver} is basic: memory cannot be donated from it")
    if not receiver.sparse:
        raise HypervisorError(Error.ARGUMENT_INVALID, f"{receiver} is basic: memory cannot be donated to it")
    giver.give(receiver, pa, size)
