"""The rules of ownership in the specification: states made by hand, one call, and what may come of it."""

from __future__ import annotations

import pytest

from gunyah.abi.errors import Error
from gunyah.abi.objects import ObjectType
from gunyah.hypervisor.specification import ownership
from gunyah.hypervisor.specification.calls import after
from gunyah.hypervisor.specification.ownership import FREE
from gunyah.hypervisor.specification.state import Extent, Slot, Thing, World

from .rules import ACTIVE, FAILED, INIT, PAGE, PARTITION, extent, forbidden, memory, space_with, step, world


class TestOwnership:
    """Who owns what after activation, destruction and donation."""

    OWNERS = ((0, 16 * PAGE, FREE), (16 * PAGE, 20 * PAGE, "allocator root"))

    def test_owning_is_owning_all_of_it(self) -> None:
        for base, size, answer in ((0, 16, True), (0, 1, True), (15, 1, True), (15, 2, False), (16, 1, False)):
            assert ownership.owns(self.OWNERS, FREE, base * PAGE, size * PAGE) == answer
        assert ownership.owned_by(self.OWNERS, "allocator root") == [(16 * PAGE, 20 * PAGE)]

    @pytest.mark.parametrize(
        ("base", "size", "access", "memtype", "allowed"),
        [
            (4, 4, 6, 2, True),
            (5, 3, 4, 2, True),
            (4, 1, 2, 2, True),
            (3, 2, 6, 2, False),
            (7, 2, 6, 2, False),
            (4, 5, 6, 2, False),
            (4, 4, 7, 2, False),
            (4, 4, 1, 2, False),
            (4, 4, 6, 0, False),
            (4, 4, 6, 1, False),
        ],
    )
    def test_a_child_is_part_of_its_parent(
        self, base: int, size: int, access: int, memtype: int, allowed: bool
    ) -> None:
        parent = Extent(4 * PAGE, 4 * PAGE, 6, 2)
        child = Extent(base * PAGE, size * PAGE, access, memtype)
        assert ownership.may_derive(parent, child) == allowed
        assert ownership.may_derive(replace_type(parent), child) == (allowed or memtype != 2)

    def test_activation_takes_the_range_from_the_partition_or_nothing(self) -> None:
        before = world(owners=self.OWNERS, t7=memory(what=extent(2 * PAGE, 2 * PAGE)))
        allowed, made = ownership.taken(before, 7)
        assert allowed == {Error.OK}
        assert made.owners == (
            (0, 2 * PAGE, FREE),
            (2 * PAGE, 4 * PAGE, 7),
            (4 * PAGE, 16 * PAGE, FREE),
            (16 * PAGE, 20 * PAGE, "allocator root"),
        )
        for what in (extent(15 * PAGE, 2 * PAGE), extent(16 * PAGE, PAGE)):
            there = world(owners=self.OWNERS, t7=memory(what=what))
            assert ownership.taken(there, 7) == ({Error.MEMDB_NOT_OWNER, Error.ADDR_INVALID}, there)
        empty = world(owners=self.OWNERS, t7=memory(what=extent()))
        assert ownership.taken(empty, 7) == ({Error.OBJECT_CONFIG}, empty)
        holes = world(owners=self.OWNERS, t7=memory(what=extent(16 * PAGE, PAGE, sparse=True)))
        assert ownership.taken(holes, 7) == ({Error.OK}, holes)

    @pytest.mark.parametrize(
        ("child_sparse", "parent_sparse", "moves"),
        [(False, False, True), (True, False, True), (False, True, True), (True, True, False)],
    )
    def test_activation_takes_the_range_from_the_parent(
        self, child_sparse: bool, parent_sparse: bool, moves: bool
    ) -> None:
        def before(attached: bool = False, first: int = 4) -> World:
            parent = extent(4 * PAGE, 4 * PAGE, sparse=parent_sparse, attached=attached)
            child = extent(first * PAGE, 2 * PAGE, sparse=child_sparse, parent=8)
            owners = ((0, 4 * PAGE, FREE), (4 * PAGE, 7 * PAGE, 8), (7 * PAGE, 16 * PAGE, FREE))
            return world(owners=owners, t7=memory(what=child, holds=(8,)), t8=memory(ACTIVE, parent))

        assert ownership.taken(before(attached=True), 7) == ({Error.BUSY}, before(attached=True))
        allowed, made = ownership.taken(before(), 7)
        assert allowed == {Error.OK, Error.DENIED, Error.MEMEXTENT_MAPPINGS_FULL, Error.NOMEM}
        assert ((4 * PAGE, 6 * PAGE, 7) in made.owners) == moves
        allowed, made = ownership.taken(before(first=6), 7)
        assert (Error.MEMDB_NOT_OWNER in allowed) == moves
        assert made.owners == before().owners

    def test_an_extent_that_failed_changes_no_owner(self) -> None:
        before = world(owners=self.OWNERS, t7=memory(what=extent(0, PAGE)))
        assert after(step(before, "object_activate", cap=7)).owners[0] == (0, PAGE, 7)
        parent = world(
            owners=((0, 4 * PAGE, 8),),
            t7=memory(what=extent(0, PAGE, parent=8), holds=(8,)),
            t8=memory(ACTIVE, extent(0, 4 * PAGE)),
        )
        failed = after(step(parent, "object_activate", error=Error.DENIED, cap=7))
        assert (failed.owners, failed.things[7].state) == (parent.owners, FAILED)

    def test_the_end_of_an_extent_gives_all_of_it_back(self) -> None:
        owners = ((0, PAGE, 7), (PAGE, 2 * PAGE, FREE), (2 * PAGE, 4 * PAGE, 7), (4 * PAGE, 6 * PAGE, 8))
        of_root = world(owners=owners, t7=memory(ACTIVE, extent(0, 4 * PAGE)), t8=memory(ACTIVE))
        assert ownership.give_back(of_root, 7).owners == ((0, 4 * PAGE, FREE), (4 * PAGE, 6 * PAGE, 8))
        derived = world(owners=owners, t7=memory(ACTIVE, extent(0, 4 * PAGE, parent=8)), t8=memory(ACTIVE))
        assert ownership.give_back(derived, 7).owners == (
            (0, PAGE, 8),
            (PAGE, 2 * PAGE, FREE),
            (2 * PAGE, 6 * PAGE, 8),
        )
        for state in (INIT, FAILED):
            idle = world(owners=owners, t7=memory(state, extent(0, 4 * PAGE)))
            assert ownership.give_back(idle, 7) == idle

    @pytest.mark.parametrize(
        ("kind", "giver", "receiver", "offset", "size", "allowed"),
        [
            (0, FREE, 7, 0, 1, True),
            (0, FREE, 7, 3, 1, True),
            (0, FREE, 7, 3, 2, False),
            (0, FREE, 7, 4, 1, False),
            (0, FREE, 7, 0, 0, False),
            (1, 7, FREE, 1, 1, False),
            (0, 7, 8, 0, 1, False),
            (0, 7, 8, 2, 1, False),
            (1, 8, 7, 0, 1, True),
            (1, 8, 7, 2, 1, False),
            (1, 7, 8, 0, 1, False),
            (1, FREE, 7, 0, 1, False),
            (2, 8, 9, 0, 1, True),
            (2, 8, 9, 1, 1, True),
            (2, 8, 8, 0, 1, False),
            (2, 8, 9, 2, 1, False),
            (2, 9, 8, 1, 1, False),
            (2, 7, 8, 0, 1, False),
            (2, FREE, 7, 0, 1, False),
            (0, FREE, 10, 0, 1, False),
            (2, 8, 11, 0, 1, False),
        ],
    )
    def test_a_donation(
        self, kind: int, giver: int | str, receiver: int | str, offset: int, size: int, allowed: bool
    ) -> None:
        """7 is an extent of the partition with children 8 and 9, which is longer; 8 owns its first two pages."""
        things = {
            "t7": memory(ACTIVE, extent(4 * PAGE, 4 * PAGE, sparse=True)),
            "t8": memory(ACTIVE, extent(4 * PAGE, 3 * PAGE, sparse=True, parent=7)),
            "t9": memory(ACTIVE, extent(4 * PAGE, 4 * PAGE, sparse=True, parent=7)),
            "t10": memory(ACTIVE, extent(4 * PAGE, 4 * PAGE)),
            "t11": memory(ACTIVE, extent(4 * PAGE, 4 * PAGE, sparse=True, parent=10)),
        }
        owners: tuple[tuple[int, int, int | str], ...] = ((0, 16 * PAGE, FREE),)
        if 8 in (giver, receiver):
            owners = ((0, 4 * PAGE, FREE), (4 * PAGE, 6 * PAGE, 8), (6 * PAGE, 16 * PAGE, FREE))
        before = world(owners=owners, **things)
        done, made = ownership.donated(before, kind, giver, receiver, offset * PAGE, size * PAGE)
        assert done == allowed
        expected = before.owners
        if allowed:
            expected = ownership.transferred(owners, (4 + offset) * PAGE, size * PAGE, receiver)
        assert made.owners == expected
        assert made.things == before.things
        if allowed:
            for wrong in ((offset * PAGE + 8, size * PAGE), (offset * PAGE, size * PAGE - 8)):
                assert ownership.donated(before, kind, giver, receiver, *wrong) == (False, before)

    @pytest.mark.parametrize(("offset", "size", "allowed"), [(1, 1, True), (2, 2, True), (0, 1, False), (3, 2, False)])
    def test_siblings_share_what_both_span_counted_from_the_giver(self, offset: int, size: int, allowed: bool) -> None:
        before = world(
            owners=((0, 16 * PAGE, 8),),
            t7=memory(ACTIVE, extent(0, 16 * PAGE, sparse=True)),
            t8=memory(ACTIVE, extent(4 * PAGE, 8 * PAGE, sparse=True, parent=7)),
            t9=memory(ACTIVE, extent(5 * PAGE, 3 * PAGE, sparse=True, parent=7)),
        )
        done, made = ownership.donated(before, 2, 8, 9, offset * PAGE, size * PAGE)
        assert done == allowed
        moved = ownership.owned_by(made.owners, 9)
        assert moved == ([((4 + offset) * PAGE, (4 + offset + size) * PAGE)] if allowed else [])
        back = world(owners=((0, 16 * PAGE, 9),), **{f"t{n}": before.things[n] for n in (7, 8, 9)})
        assert ownership.donated(back, 2, 9, 8, 0, 3 * PAGE)[0]
        assert not ownership.donated(back, 2, 9, 8, 0, 4 * PAGE)[0]

    def test_a_donation_as_a_call(self) -> None:
        slots = space_with(
            n5=Slot(PARTITION, 7, True), n6=Slot(7, 7, True), n8=Slot(9, 7, True), n9=Slot(0, 0, False, False)
        )
        holes = memory(ACTIVE, extent(4 * PAGE, 4 * PAGE, sparse=True))
        before = world(slots, ((0, 16 * PAGE, FREE),), t7=holes, t9=Thing(ObjectType.DOORBELL, pins=1))
        arguments = {"options": 0, "from": 5, "to": 6, "offset": PAGE, "size": PAGE}
        made = after(step(before, "memextent_donate", arguments))
        assert made.owners == ((0, 5 * PAGE, FREE), (5 * PAGE, 6 * PAGE, 7), (6 * PAGE, 16 * PAGE, FREE))
        assert after(step(before, "memextent_donate", arguments, Error.DENIED)) == before
        for wrong, words in (
            ({"from": 8}, "only extents and the partition"),
            ({"to": 9}, "only extents and the partition"),
            ({"to": 77}, "only extents and the partition"),
            ({"options": 3}, "no such direction"),
            ({"size": 9 * PAGE}, "cannot give"),
        ):
            forbidden(step(before, "memextent_donate", {**arguments, **wrong}), words)


def replace_type(parent: Extent) -> Extent:
    """The same extent for memory of any type."""
    return Extent(parent.base, parent.size, parent.access, 0)
