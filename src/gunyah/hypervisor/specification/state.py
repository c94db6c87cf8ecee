"""The state that the rules speak of: capability spaces, objects and who holds them, and the owner of each page.

All of it is immutable; a rule makes a new state from an old one. Objects are named by their serial number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from gunyah.abi.objects import ObjectState, ObjectType

__all__ = ["Extent", "Owner", "Slot", "Space", "Thing", "World", "thing_lines"]

Owner = int | str
"""Serial of an extent, or a name for whatever else owns memory ("partition root", "allocator root", ...)."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One occupied slot of a capability space (objects.md 1.3). A revoked one keeps its place and nothing else."""

    thing: int
    rights: int
    master: bool
    valid: bool = True


@dataclass(frozen=True, slots=True)
class Space:
    """A capability space: slots by id, the limit, and every id whose table exists.

    Which ids a space gives is its own choice, so two spaces are equal whatever ``tables`` they have.
    """

    limit: int = 0
    slots: Mapping[int, Slot] = field(default_factory=dict)
    tables: frozenset[int] = field(default=frozenset(), compare=False)


@dataclass(frozen=True, slots=True)
class Extent:
    """A memory extent: PA and bytes of its range, its kind, and whether it was derived (from ``parent``)."""

    base: int = 0
    size: int = 0
    access: int = 0
    memtype: int = 0
    sparse: bool = False
    parent: int | None = None
    attached: bool = False


@dataclass(frozen=True, slots=True)
class Thing:
    """An object. ``holds`` are the objects it has references to, one entry for each reference.

    ``pins`` are references that no other object and no capability accounts for: an active thread's to itself, and the
    hypervisor's own to what it made at the start.
    """

    kind: ObjectType
    state: ObjectState = ObjectState.INIT
    holds: tuple[int, ...] = ()
    pins: int = 0
    vmid: int = 0
    index: int = 0
    """Place of a vCPU in its VIC."""
    space: Space | None = None
    extent: Extent | None = None


@dataclass(frozen=True, slots=True)
class World:
    """Everything. ``owners`` are (PA, end, owner) in ascending order; neighbours have different owners."""

    things: Mapping[int, Thing] = field(default_factory=dict)
    owners: tuple[tuple[int, int, Owner], ...] = ()

    def put(self, serial: int, thing: Thing) -> World:
        """The world with one thing more or another one in its place."""
        return replace(self, things={**self.things, serial: thing})

    def change(self, serial: int, **fields: object) -> World:
        """The world with some fields of one thing changed."""
        return self.put(serial, replace(self.things[serial], **fields))  # type: ignore[arg-type]

    def space(self, serial: int) -> Space:
        """The capability space of a thing that is one."""
        space = self.things[serial].space
        assert space is not None
        return space

    def extent(self, serial: int) -> Extent:
        """The extent of a thing that is one."""
        extent = self.things[serial].extent
        assert extent is not None
        return extent

    def with_space(self, serial: int, **fields: object) -> World:
        """The world with some fields of one capability space changed."""
        return self.change(serial, space=replace(self.space(serial), **fields))  # type: ignore[arg-type]


def thing_lines(serial: int, thing: Thing) -> Iterator[str]:
    """A thing in words: what it is, its memory, its slots."""
    held = f" holds {', '.join(f'#{each}' for each in thing.holds)}" if thing.holds else ""
    pins = f" pins {thing.pins}" if thing.pins else ""
    vmid = f" VMID {thing.vmid}" if thing.vmid else ""
    yield f"#{serial} {thing.kind.value} {thing.state.name}{vmid}{held}{pins}"
    if thing.extent is not None:
        extent = thing.extent
        attached = ", attached" if extent.attached else ""
        parent = f" of #{extent.parent}" if extent.parent is not None else ""
        kind = "sparse" if extent.sparse else "basic"
        yield f"    {extent.base:#x}+{extent.size:#x} {kind}, access {extent.access:#x}{parent}{attached}"
    if thing.space is not None:
        yield f"    at most {thing.space.limit} capabilities"
        for capid, slot in sorted(thing.space.slots.items(), key=lambda item: item[1].thing):
            what = f"#{slot.thing} rights {slot.rights:#x}" if slot.valid else "revoked"
            yield f"    {capid:#x}: {what}{' master' if slot.master else ''}"
