"""States of the executable specification made by hand, one call, and whether what came of it is forbidden."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from gunyah.abi.hypercalls import BY_NAME
from gunyah.abi.objects import ObjectState, ObjectType
from gunyah.hypervisor.specification.calls import Forbidden, Step, after
from gunyah.hypervisor.specification.state import Extent, Slot, Space, Thing, World

PAGE = 0x1000
INIT, ACTIVE, FAILED = ObjectState.INIT, ObjectState.ACTIVE, ObjectState.FAILED
ROOT, PARTITION = 1, 2
"""Serials of the caller's capability space and of the partition."""


def space_with(limit: int = 50, **slots: Slot) -> Space:
    given = {int(name[1:]): slot for name, slot in slots.items()}
    return Space(limit, given, frozenset(range(100)))


def world(root: Space | None = None, owners: tuple[tuple[int, int, int | str], ...] = (), **things: Thing) -> World:
    """The caller's space, the partition, and things by serial: ``t7`` is number 7. They live until the end."""
    held = {int(name[1:]): thing for name, thing in things.items()}
    space = root if root is not None else space_with()
    first = {
        ROOT: Thing(ObjectType.CSPACE, ACTIVE, pins=1, space=space),
        PARTITION: Thing(ObjectType.PARTITION, ACTIVE, pins=1),
    }
    return World({**first, **held}, owners)


def extent(base: int = 0, size: int = 0, **fields: object) -> Extent:
    return Extent(base, size, **{"access": 7, **fields})  # type: ignore[arg-type]


def memory(state: ObjectState = INIT, what: Extent | None = None, **fields: object) -> Thing:
    return Thing(ObjectType.MEMEXTENT, state, extent=what or extent(), **{"pins": 1, **fields})  # type: ignore[arg-type]


def step(
    before: World,
    name: str,
    arguments: Mapping[str, int] | None = None,
    error: int = 0,
    results: tuple[int, ...] = (),
    born: tuple[int, ...] = (),
    **found: int,
) -> Step:
    return Step(before, ROOT, BY_NAME[name], arguments or {}, found, error, results, born)


def forbidden(wrong: Step, *words: str) -> None:
    with pytest.raises(Forbidden) as raised:
        after(wrong)
    for word in (wrong.call.name, *words):
        assert word in str(raised.value), str(raised.value)
