"""The rules of capabilities (objects.md 1.3, hypercalls.md 2 and 3.4) and of the references that objects have (1.1)."""

from __future__ import annotations

from collections.abc import Mapping

from gunyah.abi.errors import Error
from gunyah.abi.hypercalls import Capability
from gunyah.abi.objects import ALL_RIGHTS, OBJECT_ACTIVATE, ObjectState, ObjectType
from gunyah.hypervisor.specification.ownership import give_back
from gunyah.hypervisor.specification.state import Extent, Slot, Space, Thing, World

__all__ = ["collect", "copied", "deleted", "look_up", "mastered", "missing", "new_thing", "references", "revoked"]

_HIGHEST_ID = 0xFFFF_FFFF << 32
_REVOKED = Slot(0, 0, False, valid=False)


# -- looking up --------------------------------------------------------------------------------------------------------


def missing(space: Space, capid: int) -> Error:
    """What an id without a valid slot answers: revoked (51), empty (50), or malformed (1)."""
    if capid in space.slots:
        return Error.CSPACE_CAP_REVOKED
    return Error.CSPACE_CAP_NULL if capid in space.tables else Error.ARGUMENT_INVALID


def look_up(world: World, space: int, capid: int, demand: Capability) -> tuple[Error, int]:
    """The error of one look-up and the object it finds, in the order of the checks of hypercalls.md 2."""
    slots = world.space(space).slots
    slot = slots.get(capid)
    if slot is None or not slot.valid:
        return missing(world.space(space), capid), 0
    thing = world.things[slot.thing]
    wrong_type = demand.type is not None and thing.kind is not demand.type
    if demand.configure:
        # The generic right is asked for first, then the type; INIT is demanded when all look-ups have succeeded.
        if not slot.rights & OBJECT_ACTIVATE:
            return Error.CSPACE_INSUFFICIENT_RIGHTS, 0
        return (Error.CSPACE_WRONG_OBJECT_TYPE, 0) if wrong_type else (Error.OK, slot.thing)
    if wrong_type:
        return Error.CSPACE_WRONG_OBJECT_TYPE, 0
    if demand.rights & ~slot.rights:
        return Error.CSPACE_INSUFFICIENT_RIGHTS, 0
    if demand.active and thing.state is not ObjectState.ACTIVE:
        return Error.OBJECT_STATE, 0
    return Error.OK, slot.thing


# -- slots -------------------------------------------------------------------------------------------------------------


def room(space: Space) -> bool:
    """A slot can still be taken: valid and revoked ones both count."""
    return len(space.slots) < space.limit


def _inserted(world: World, space: int, capid: int, slot: Slot) -> World:
    old = world.space(space)
    assert room(old), f"a full space took capability {capid:#x}"
    assert capid not in old.slots, f"capability id {capid:#x} was given while it was in use"
    assert capid < _HIGHEST_ID, f"capability id {capid:#x} is one that is never given"
    return world.with_space(space, slots={**old.slots, capid: slot}, tables=old.tables | {capid})


def mastered(world: World, space: int, capid: int, serial: int) -> World:
    """A master capability with all rights of the type."""
    return _inserted(world, space, capid, Slot(serial, ALL_RIGHTS[world.things[serial].kind], True))


def copied(world: World, source: int, capid: int, destination: int, mask: int, new: int) -> tuple[Error, World]:
    """A copy with rights AND mask, never a master; one without room, whatever it is a copy of, or rights is refused."""
    if not room(world.space(destination)):
        return Error.CSPACE_FULL, world
    slot = world.space(source).slots.get(capid)
    if slot is None or not slot.valid:
        return missing(world.space(source), capid), world
    rights = slot.rights & mask
    if rights == 0:
        return Error.CSPACE_INSUFFICIENT_RIGHTS, world
    return Error.OK, _inserted(world, destination, new, Slot(slot.thing, rights, False))


def deleted(world: World, space: int, capid: int) -> tuple[Error, World]:
    """The slot is free, valid or revoked; what nobody holds any more is gone."""
    slots = world.space(space).slots
    if capid not in slots:
        return missing(world.space(space), capid), world
    left = {other: slot for other, slot in slots.items() if other != capid}
    return Error.OK, collect(world.with_space(space, slots=left))


def revoked(world: World, space: int, capid: int) -> tuple[Error, World]:
    """Every other capability to the object, wherever it is, becomes a revoked slot; only the master may ask."""
    master = world.space(space).slots.get(capid)
    if master is None or not master.valid:
        return missing(world.space(space), capid), world
    if not master.master:
        return Error.CSPACE_INSUFFICIENT_RIGHTS, world
    for serial, thing in world.things.items():
        if thing.space is None:
            continue
        slots = {
            other: _REVOKED if slot.thing == master.thing and slot is not master and slot.valid else slot
            for other, slot in thing.space.slots.items()
        }
        world = world.with_space(serial, slots=slots)
    return Error.OK, world


# -- references --------------------------------------------------------------------------------------------------------


def new_thing(kind: ObjectType) -> Thing:
    """An object as creation leaves it."""
    return Thing(
        kind,
        space=Space() if kind is ObjectType.CSPACE else None,
        extent=Extent() if kind is ObjectType.MEMEXTENT else None,
    )


def references(things: Mapping[int, Thing]) -> dict[int, int]:
    """References of every object: one for all valid capabilities together, one for each holder, and its pins."""
    counts = {serial: thing.pins for serial, thing in things.items()}
    named: set[int] = set()
    for thing in things.values():
        for held in thing.holds:
            counts[held] += 1
        if thing.space is not None:
            named.update(slot.thing for slot in thing.space.slots.values() if slot.valid)
    for serial in named:
        counts[serial] += 1
    return counts


def collect(world: World) -> World:
    """Without what has no references any more: its memory goes back, and what it held may follow it."""
    while True:
        dead = [serial for serial, count in references(world.things).items() if count == 0]
        if not dead:
            return world
        for serial in dead:
            world = give_back(world, serial)
        world = World({serial: thing for serial, thing in world.things.items() if serial not in dead}, world.owners)
