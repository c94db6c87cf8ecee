"""Capability spaces keep their promises over any sequence of copies, deletions and revocations (objects.md 1.3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule
from tests.hypervisor.root_rig import RootRig

from gunyah.abi.errors import Error
from gunyah.abi.objects import ALL_RIGHTS, ObjectType

MASKS = [0, 1, 2, 3, 7, 0x8000_0000, 0xFFFF_FFFF]


@dataclass(eq=False)
class Thing:
    """A doorbell as the model sees it."""

    alive: bool = True
    holders: list[Cap] = field(default_factory=list)


@dataclass(eq=False)
class Cap:
    """A slot as the model sees it: state is "valid", "revoked" or "empty"."""

    thing: Thing
    space: int
    rights: int
    master: bool
    capid: int
    state: str = "valid"


class CSpaceMachine(RuleBasedStateMachine):
    """Two small spaces, doorbells, and a model that knows for each id what it must be."""

    caps = Bundle("caps")

    @initialize()
    def start(self) -> None:
        self.rig = RootRig()
        self.limit = 12
        self.spaces = [self.rig.active("cspace", self.limit) for _ in range(2)]
        self.all: list[Cap] = []
        self.baseline = len(self.rig.root.cspace.capabilities_held)

    def occupied(self, space: int) -> int:
        return sum(cap.space == space and cap.state != "empty" for cap in self.all)

    @rule(target=caps, space=st.integers(0, 1))
    def create(self, space: int) -> Cap | None:
        answer = self.rig.call("partition_create_doorbell", self.rig.partition, self.spaces[space])
        if self.occupied(space) >= self.limit:
            assert answer.error == Error.CSPACE_FULL
            return Cap(Thing(alive=False), space, 0, False, 0, "none")
        assert answer.ok
        assert self.rig.call("object_activate_from", self.spaces[space], answer.results[0]).ok
        return self.remember(Cap(Thing(), space, ALL_RIGHTS[ObjectType.DOORBELL], True, answer.results[0]))

    def remember(self, cap: Cap) -> Cap:
        # An empty slot's id may come back for another capability.
        self.all = [old for old in self.all if (old.space, old.capid) != (cap.space, cap.capid)]
        self.all.append(cap)
        cap.thing.holders.append(cap)
        return cap

    @rule(target=caps, cap=caps, space=st.integers(0, 1), mask=st.sampled_from(MASKS))
    def copy(self, cap: Cap, space: int, mask: int) -> Cap:
        nothing = Cap(Thing(alive=False), space, 0, False, 0, "none")
        if cap not in self.all:
            return nothing
        answer = self.rig.call("cspace_copy_cap_from", self.spaces[cap.space], cap.capid, self.spaces[space], mask)
        if self.occupied(space) >= self.limit:
            assert answer.error == Error.CSPACE_FULL
        elif cap.state == "empty":
            assert answer.error == Error.CSPACE_CAP_NULL
        elif cap.state == "revoked":
            assert answer.error == Error.CSPACE_CAP_REVOKED
        elif cap.rights & mask == 0:
            assert answer.error == Error.CSPACE_INSUFFICIENT_RIGHTS
        else:
            assert answer.ok
            return self.remember(Cap(cap.thing, space, cap.rights & mask, False, answer.results[0]))
        return nothing

    @rule(cap=consumes(caps))
    def delete(self, cap: Cap) -> None:
        if cap not in self.all:
            return
        answer = self.rig.call("cspace_delete_cap_from", self.spaces[cap.space], cap.capid)
        if cap.state == "empty":
            assert answer.error == Error.CSPACE_CAP_NULL
            return
        assert answer.ok
        cap.state = "empty"
        cap.thing.alive = any(holder.state == "valid" for holder in cap.thing.holders)

    @rule(cap=caps)
    def revoke(self, cap: Cap) -> None:
        if cap not in self.all:
            return
        answer = self.rig.call("cspace_revoke_caps_from", self.spaces[cap.space], cap.capid)
        if cap.state == "empty":
            assert answer.error == Error.CSPACE_CAP_NULL
        elif cap.state == "revoked":
            assert answer.error == Error.CSPACE_CAP_REVOKED
        elif not cap.master:
            assert answer.error == Error.CSPACE_INSUFFICIENT_RIGHTS
        else:
            assert answer.ok
            for other in cap.thing.holders:
                if other is not cap and other.state == "valid":
                    other.state = "revoked"

    @invariant()
    def ids_mean_what_the_model_says(self) -> None:
        if not hasattr(self, "rig"):
            return
        for cap in self.all:
            space = self.rig.root.cspace.lookup(self.spaces[cap.space], ObjectType.CSPACE, 0)
            held = {each.id: each for each in space.capabilities_held}  # type: ignore[attr-defined]
            assert (cap.capid in held) == (cap.state == "valid")
            if cap.state == "valid":
                assert held[cap.capid].rights == cap.rights
                assert held[cap.capid].master == cap.master

    @invariant()
    def objects_live_as_long_as_somebody_holds_them(self) -> None:
        if not hasattr(self, "rig"):
            return
        alive = {id(cap.thing) for cap in self.all if cap.state == "valid"}
        doorbells = [obj for obj in self.rig.hv.objects() if obj.type is ObjectType.DOORBELL]
        assert len(doorbells) == len(alive)


TestCSpaceMachine = CSpaceMachine.TestCase
TestCSpaceMachine.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)


def test_ids_of_one_space_tell_nothing_about_each_other() -> None:
    rig = RootRig()
    ids = [rig.create("doorbell") for _ in range(100)]
    differences = {(a - b) & (1 << 64) - 1 for a, b in pairwise(ids)}
    assert len(differences) == 99
    assert len({capid >> 48 for capid in ids}) > 50
    assert all(capid >> 32 < 0xFFFF_FF00 for capid in ids)


def test_an_id_of_another_space_is_malformed_here() -> None:
    rig = RootRig()
    other = rig.active("cspace", 8)
    foreign = rig.create("doorbell", other)
    assert rig.call("doorbell_send", foreign, 1).error == Error.ARGUMENT_INVALID


def test_a_space_holds_as_many_capabilities_as_configured_and_no_more() -> None:
    rig = RootRig()
    space = rig.active("cspace", 63)
    answers = [rig.call("partition_create_doorbell", rig.partition, space) for _ in range(64)]
    assert [answer.error for answer in answers] == [0] * 63 + [Error.CSPACE_FULL]


def test_deleting_a_space_lets_go_of_everything_in_it() -> None:
    rig = RootRig()
    before = rig.hv.root_partition.heap.used
    space = rig.active("cspace", 63)
    for _ in range(20):
        rig.create("doorbell", space)
    assert rig.call("cspace_delete_cap_from", rig.cspace, space).ok
    assert rig.hv.root_partition.heap.used == before
