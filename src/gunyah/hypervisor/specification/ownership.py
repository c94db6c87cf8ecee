"""The rules of memory: exactly one owner for each page (objects.md 2 and 3).

A transfer names the old owner and the new one, and happens only if the old one owns the whole range.
"""

from __future__ import annotations

from dataclasses import replace

from gunyah.abi.errors import Error
from gunyah.abi.memory import DonateType
from gunyah.abi.objects import ObjectState, ObjectType
from gunyah.abi.types import PAGE_MASK
from gunyah.hypervisor.specification.state import Extent, Owner, World

__all__ = ["FREE", "donated", "give_back", "may_derive", "owned_by", "owns", "source_of", "taken", "transferred"]

FREE = "partition root"
"""Memory of the root partition that nobody has taken."""

Owners = tuple[tuple[int, int, Owner], ...]


def owns(owners: Owners, owner: Owner, base: int, size: int) -> bool:
    """All of [base, base + size) is the owner's."""
    return any(start <= base and base + size <= end and who == owner for start, end, who in owners)


def owned_by(owners: Owners, owner: Owner) -> list[tuple[int, int]]:
    """(PA, end) of all that the owner has."""
    return [(start, end) for start, end, who in owners if who == owner]


def transferred(owners: Owners, base: int, size: int, new: Owner) -> Owners:
    """The owners after [base, base + size) has become the new owner's."""
    end = base + size
    pieces: list[tuple[int, int, Owner]] = [(base, end, new)]
    for start, stop, who in owners:
        if start < base:
            pieces.append((start, min(stop, base), who))
        if stop > end:
            pieces.append((max(start, end), stop, who))
    joined: list[tuple[int, int, Owner]] = []
    for start, stop, who in sorted(pieces, key=lambda piece: piece[0]):
        if joined and joined[-1][1] == start and joined[-1][2] == who:
            joined[-1] = (joined[-1][0], stop, who)
        else:
            joined.append((start, stop, who))
    return tuple(joined)


def source_of(extent: Extent) -> Owner:
    """Where an extent's memory comes from and returns to: its parent, or the partition."""
    return FREE if extent.parent is None else extent.parent


def may_derive(parent: Extent, child: Extent) -> bool:
    """A derived extent lies inside its parent and has no right that the parent has not."""
    inside = parent.base <= child.base and child.base + child.size <= parent.base + parent.size
    return inside and child.access & ~parent.access == 0 and parent.memtype in (0, child.memtype)


def taken(world: World, serial: int) -> tuple[frozenset[Error], World]:
    """Activation of an extent: the errors it may end in, and the world if it ends in none (objects.md 3.1's table).

    A basic extent takes its whole range; a sparse one takes nothing from a partition or from another sparse one. What
    the parent's mappings forbid (30, 120) and a full heap (10) may come on top.
    """
    extent = world.extent(serial)
    if extent.size == 0:
        return frozenset({Error.OBJECT_CONFIG}), world
    parent = world.extent(extent.parent) if extent.parent is not None else None
    if parent is not None and parent.attached:
        return frozenset({Error.BUSY}), world
    mappings = frozenset({Error.OK, Error.DENIED, Error.MEMEXTENT_MAPPINGS_FULL, Error.NOMEM})
    allowed = frozenset({Error.OK}) if parent is None else mappings
    if extent.sparse and (parent is None or parent.sparse):
        return allowed, world
    if not owns(world.owners, source_of(extent), extent.base, extent.size):
        return frozenset({Error.MEMDB_NOT_OWNER, Error.ADDR_INVALID}), world
    owners = transferred(world.owners, extent.base, extent.size, serial)
    return allowed, World(world.things, owners)


def give_back(world: World, serial: int) -> World:
    """The end of an object: what an active extent owns returns to where it came from.

    An extent that the hypervisor had mapped for the object is only the VMs' again.
    """
    thing = world.things[serial]
    if thing.state is not ObjectState.ACTIVE:
        return world
    if thing.kind in (ObjectType.VIRTIO_MMIO, ObjectType.ADDRSPACE):
        for held in thing.holds:
            if world.things[held].extent is not None:
                world = world.change(held, extent=replace(world.extent(held), attached=False))
    if thing.extent is None:
        return world
    owners = world.owners
    for start, end in owned_by(owners, serial):
        owners = transferred(owners, start, end - start, source_of(thing.extent))
    return World(world.things, owners)


def donated(world: World, kind: int, giver: Owner, receiver: Owner, offset: int, size: int) -> tuple[bool, World]:
    """Donation (objects.md 3.3): whether it may happen, and the world if it does.

    ``giver`` and ``receiver`` are serials of extents or FREE for the partition. The range is counted from the child's
    base, or from the giver's between siblings, and lies inside both extents; the giver owns all of it.
    """
    if (offset | size) & PAGE_MASK or size == 0:
        return False, world
    extents = [world.extent(each) for each in (giver, receiver) if isinstance(each, int)]
    if not all(extent.sparse for extent in extents):
        return False, world
    if kind == DonateType.TO_SIBLING:
        parents = {extent.parent for extent in extents}
        if giver == receiver or len(extents) != 2 or len(parents) != 1 or None in parents:
            return False, world
        origin = extents[0]
    else:
        child, parent = (receiver, giver) if kind == DonateType.TO_CHILD else (giver, receiver)
        if not isinstance(child, int) or source_of(world.extent(child)) != parent:
            return False, world
        origin = world.extent(child)
    base = origin.base + offset
    # Of a child only its own range counts: it lies inside its parent.
    inside = all(
        extent.base <= base and base + size <= extent.base + extent.size
        for extent in (extents if kind == DonateType.TO_SIBLING else [origin])
    )
    if not inside or not owns(world.owners, giver, base, size):
        return False, world
    return True, World(world.things, transferred(world.owners, base, size, receiver))
