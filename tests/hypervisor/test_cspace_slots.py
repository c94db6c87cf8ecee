"""Capability spaces by themselves: the order of checks, which slot is next, and which numbers are never ids."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gunyah.abi.errors import Error
from gunyah.abi.objects import ALL_RIGHTS, OBJECT_ACTIVATE, ObjectState, ObjectType
from gunyah.hypervisor import cspace as module
from gunyah.hypervisor.cspace import MAX_CAPABILITIES, SLOTS_PER_TABLE, CSpace
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.objects import KernelObject

from .extents import refused

BELL, VIC = ObjectType.DOORBELL, ObjectType.VIC
NO_ID = (1 << 64) - 1


class Bell(KernelObject):
    """An object that remembers its end."""

    type = BELL


def bell() -> Bell:
    return Bell(None)


def space(limit: int = 100, key: bytes = b"key") -> CSpace:
    cspace = CSpace(None, key)
    cspace.configure(limit)
    cspace.activate()
    return cspace


def state(obj: KernelObject, value: ObjectState) -> KernelObject:
    obj.state = int(value)
    return obj


# -- configuration -----------------------------------------------------------------------------------------------------


def test_a_space_needs_a_limit_and_has_at_most_230_tables() -> None:
    cspace = CSpace(None, b"key")
    assert cspace.max_capabilities == 0
    with refused(Error.ARGUMENT_INVALID):
        cspace.configure(MAX_CAPABILITIES + 1)
    with refused(Error.OBJECT_CONFIG):
        cspace.activate()
    assert MAX_CAPABILITIES == 14260
    assert space(MAX_CAPABILITIES).max_capabilities == MAX_CAPABILITIES
    assert space(1).max_capabilities == 1


def test_a_space_of_the_largest_size_fills_to_the_last_slot() -> None:
    cspace, obj = space(MAX_CAPABILITIES), bell()
    ids = {cspace.create_master(obj)}
    master = next(iter(ids))
    ids |= {cspace.copy_from(cspace, master, 1) for _ in range(MAX_CAPABILITIES - 1)}
    assert len(ids) == cspace.occupied == len(cspace.ids) == MAX_CAPABILITIES
    with refused(Error.CSPACE_FULL):
        cspace.copy_from(cspace, master, 1)


# -- ids ---------------------------------------------------------------------------------------------------------------


def test_tables_of_62_slots_come_as_they_are_needed() -> None:
    cspace, obj = space(1000), bell()
    assert cspace.ids == ()
    cspace.create_master(obj)
    assert len(cspace.ids) == SLOTS_PER_TABLE == 62
    for _ in range(61):
        cspace.create_master(obj)
    assert len(cspace.ids) == 62
    cspace.create_master(obj)
    assert len(cspace.ids) == 124
    assert tuple(cap.id for cap in cspace.capabilities_held) == cspace.ids[:63]
    assert [cap.slot for cap in cspace.capabilities_held] == list(range(63))


def test_ids_depend_on_the_key_and_on_the_slot_alone() -> None:
    one, two, other = space(), space(), space(key=b"another")
    for cspace in (one, two, other):
        cspace.create_master(bell())
    assert one.ids == two.ids
    assert not set(one.ids) & set(other.ids)
    assert len(set(one.ids)) == 62


def test_numbers_that_confused_callers_pass_are_never_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[bytes] = []
    numbers = iter([0, 5, (1 << 32) - 1, 0xFFFF_FF00 << 32, NO_ID, 1 << 32, 1 << 32, (0xFFFF_FF00 << 32) - 1])

    class Digest:
        def __init__(self, message: bytes, *, key: bytes, digest_size: int) -> None:
            assert (key, digest_size) == (b"key", 8)
            drawn.append(message)

        def digest(self) -> bytes:
            return next(numbers, (1 << 40) + len(drawn)).to_bytes(8, "little")

    monkeypatch.setattr(module, "blake2b", Digest)
    cspace = space()
    cspace.create_master(bell())
    assert cspace.ids[:3] == (1 << 32, (0xFFFF_FF00 << 32) - 1, (1 << 40) + 9)
    assert len(set(drawn)) == len(drawn), "every attempt asks for another number"


# -- look-up -----------------------------------------------------------------------------------------------------------


class TestLookUp:
    """The first thing that is wrong is what the caller learns (hypercalls.md 2)."""

    def test_a_call_checks_slot_type_rights_and_state(self) -> None:
        cspace, obj = space(), bell()
        capid = cspace.create_master(obj)
        weak = cspace.copy_from(cspace, capid, 1)
        with refused(Error.CSPACE_WRONG_OBJECT_TYPE):
            cspace.lookup(weak, VIC, 2)
        with refused(Error.CSPACE_INSUFFICIENT_RIGHTS):
            cspace.lookup(weak, BELL, 3)
        with refused(Error.OBJECT_STATE):
            cspace.lookup(weak, BELL, 1)
        obj.activate()
        assert cspace.lookup(weak, BELL, 1) is obj
        assert cspace.lookup(weak, BELL, 0) is obj
        state(obj, ObjectState.FAILED)
        with refused(Error.OBJECT_STATE):
            cspace.lookup(weak, BELL, 1)
        state(obj, ObjectState.DESTROYING)
        with refused(Error.CSPACE_CAP_NULL):
            cspace.lookup(weak, BELL, 1)
        with refused(Error.CSPACE_INSUFFICIENT_RIGHTS):
            cspace.lookup(weak, BELL, 2)

    def test_in_any_state_but_at_its_end(self) -> None:
        cspace, obj = space(), bell()
        weak = cspace.copy_from(cspace, cspace.create_master(obj), 1)
        for value in (ObjectState.INIT, ObjectState.ACTIVE, ObjectState.FAILED):
            state(obj, value)
            assert cspace.lookup_any_state(weak, BELL, 1) is obj
            assert cspace.lookup_any_state(weak, None, 1) is obj
            with refused(Error.CSPACE_WRONG_OBJECT_TYPE):
                cspace.lookup_any_state(weak, VIC, 2)
            with refused(Error.CSPACE_INSUFFICIENT_RIGHTS):
                cspace.lookup_any_state(weak, None, 2)
        state(obj, ObjectState.DESTROYING)
        with refused(Error.CSPACE_CAP_NULL):
            cspace.lookup_any_state(weak, None, 1)

    def test_configuration_checks_the_generic_right_before_the_type(self) -> None:
        cspace, obj = space(), bell()
        capid = cspace.create_master(obj)
        weak = cspace.copy_from(cspace, capid, ~OBJECT_ACTIVATE)
        assert cspace.lookup_generic(capid, BELL) is obj
        assert cspace.lookup_generic(cspace.copy_from(cspace, capid, OBJECT_ACTIVATE), BELL) is obj
        with refused(Error.CSPACE_WRONG_OBJECT_TYPE):
            cspace.lookup_generic(capid, VIC)
        with refused(Error.CSPACE_INSUFFICIENT_RIGHTS):
            cspace.lookup_generic(weak, VIC)
        state(obj, ObjectState.DESTROYING)
        with refused(Error.CSPACE_CAP_NULL):
            cspace.lookup_generic(capid, VIC)

    def test_a_slot_is_revoked_empty_or_unknown(self) -> None:
        cspace, obj = space(), bell()
        master = cspace.create_master(obj)
        copy, gone = cspace.copy_from(cspace, master, 1), cspace.copy_from(cspace, master, 1)
        cspace.delete(gone)
        cspace.revoke_others(master)
        calls = (
            lambda capid: cspace.lookup(capid, BELL, 0),
            lambda capid: cspace.lookup_any_state(capid, None, 0),
            lambda capid: cspace.lookup_generic(capid, BELL),
            cspace.capability,
            cspace.revoke_others,
            lambda capid: cspace.copy_from(cspace, capid, 1),
        )
        for call in calls:
            for capid, error in (
                (copy, Error.CSPACE_CAP_REVOKED),
                (gone, Error.CSPACE_CAP_NULL),
                (0, Error.ARGUMENT_INVALID),
                (NO_ID, Error.ARGUMENT_INVALID),
            ):
                with refused(error):
                    call(capid)
        with refused(Error.CSPACE_CAP_NULL):
            cspace.delete(gone)
        with refused(Error.ARGUMENT_INVALID):
            cspace.delete(NO_ID)
        assert cspace.capability(master).object is obj

    def test_a_refusal_says_what_is_there_and_what_was_wanted(self) -> None:
        cspace, obj = space(), bell()
        capid = cspace.create_master(obj)
        weak = cspace.copy_from(cspace, capid, 1)
        for call, words in (
            (lambda: cspace.lookup(weak, VIC, 0), [f"{weak:#x}", "doorbell", "vic"]),
            (lambda: cspace.lookup(weak, BELL, 2), [f"{weak:#x}", str(obj), "send", "receive"]),
            (lambda: cspace.lookup_generic(weak, BELL), [f"{weak:#x}", str(obj), "send", "activate"]),
            (lambda: cspace.lookup(weak, BELL, 1), [str(obj), "INIT", "ACTIVE"]),
            (lambda: cspace.lookup_generic(capid, VIC), [f"{capid:#x}", "doorbell", "vic"]),
            (lambda: cspace.lookup(77, BELL, 1), ["0x4d", str(cspace)]),
            (lambda: cspace.revoke_others(weak), [f"{weak:#x}", "master"]),
            (lambda: cspace.copy_from(cspace, weak, 6), [f"{weak:#x}", "0x6", "0x1"]),
        ):
            with pytest.raises(HypervisorError) as failure:
                call()
            for word in words:
                assert word.lower() in str(failure.value).lower()


# -- slots -------------------------------------------------------------------------------------------------------------


def fill(cspace: CSpace, count: int) -> tuple[Bell, list[int]]:
    obj = bell()
    master = cspace.create_master(obj)
    return obj, [master, *(cspace.copy_from(cspace, master, 3) for _ in range(count - 1))]


def test_the_lowest_free_slot_is_taken_next_however_it_became_free() -> None:
    cspace = space()
    obj, ids = fill(cspace, 8)
    for at in (5, 2):
        cspace.delete(ids[at])
    cspace.revoke_others(ids[0])
    for at in (6, 1):
        cspace.delete(ids[at])
    assert cspace.revoked_ids == (ids[3], ids[4], ids[7])
    assert [cspace.create_master(obj) for _ in range(5)] == [ids[1], ids[2], ids[5], ids[6], cspace.ids[8]]


def test_revoked_slots_count_until_they_are_deleted() -> None:
    cspace = space(4)
    obj, ids = fill(cspace, 4)
    cspace.revoke_others(ids[0])
    assert (cspace.occupied, len(cspace.capabilities_held)) == (4, 1)
    with refused(Error.CSPACE_FULL):
        cspace.create_master(obj)
    cspace.delete(ids[2])
    assert cspace.occupied == 3
    cspace.create_master(obj)


def test_rights_of_masters_and_copies() -> None:
    one, two, obj = space(), space(), bell()
    master = one.create_master(obj)
    copy = two.copy_from(one, master, 0xFFFF_FFFF)
    less = one.copy_from(two, copy, 2)
    slots = [one.capability(master), two.capability(copy), one.capability(less)]
    assert [(slot.rights, slot.master) for slot in slots] == [
        (ALL_RIGHTS[BELL], True),
        (ALL_RIGHTS[BELL], False),
        (2, False),
    ]
    assert [(slot.cspace, slot.id, slot.slot) for slot in slots] == [(one, master, 0), (two, copy, 0), (one, less, 1)]
    for mask in (0, 1, 4):
        with refused(Error.CSPACE_INSUFFICIENT_RIGHTS):
            two.copy_from(one, less, mask)
    assert list(obj.capabilities) == slots


def test_all_capabilities_together_are_one_reference() -> None:
    one, two, obj = space(), space(), bell()
    master = one.create_master(obj)
    copies = [(cspace, cspace.copy_from(one, master, 1)) for cspace in (one, two, two)]
    assert obj.references == 1
    one.delete(master)
    for cspace, capid in copies:
        assert obj.state != ObjectState.DESTROYING
        cspace.delete(capid)
    assert (obj.references, obj.state, obj.capabilities) == (0, ObjectState.DESTROYING, {})


def test_the_master_revokes_in_every_space_and_only_its_own_object() -> None:
    one, two, obj, other = space(), space(), bell(), bell()
    master = one.create_master(obj)
    kept = two.create_master(other)
    revoked = [(cspace, cspace.copy_from(one, master, 1)) for cspace in (one, two)]
    with refused(Error.CSPACE_INSUFFICIENT_RIGHTS):
        two.revoke_others(revoked[1][1])
    one.revoke_others(master)
    assert [capability.id for capability in obj.capabilities] == [master]
    assert (one.revoked_ids, two.revoked_ids) == ((revoked[0][1],), (revoked[1][1],))
    assert two.capability(kept).object is other
    one.revoke_others(master)
    for cspace, capid in revoked:
        cspace.delete(capid)
        assert cspace.revoked_ids == ()
    assert obj.state == ObjectState.INIT
    one.delete(master)
    assert obj.state == ObjectState.DESTROYING


@pytest.fixture
def ended() -> Iterator[tuple[CSpace, CSpace, Bell, Bell]]:
    """A space that has ended, another one, an object of the first alone, and one that both knew."""
    one, two, alone, shared = space(), space(), bell(), bell()
    one.create_master(alone)
    capid = one.create_master(shared)
    two.copy_from(one, capid, 1)
    one.copy_from(one, capid, 1)
    one.revoke_others(capid)
    two.copy_from(one, capid, 1)
    one.put()
    yield one, two, alone, shared


def test_the_end_of_a_space_lets_go_of_what_it_held(ended: tuple[CSpace, CSpace, Bell, Bell]) -> None:
    one, two, alone, shared = ended
    assert one.state == ObjectState.DESTROYING
    assert (one.occupied, one.capabilities_held, one.revoked_ids) == (0, (), ())
    assert (alone.state, shared.state) == (ObjectState.DESTROYING, ObjectState.INIT)
    assert [capability.cspace for capability in shared.capabilities] == [two]


def test_without_room_nothing_changes() -> None:
    cspace, obj = space(1), bell()
    cspace.create_master(obj)
    other = bell()
    with refused(Error.CSPACE_FULL):
        cspace.create_master(other)
    assert (other.capabilities, other.references, cspace.occupied, len(cspace.ids)) == ({}, 1, 1, 62)
