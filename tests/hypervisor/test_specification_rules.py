"""The rules of the specification by themselves: states made by hand, one call, and what may come of it."""

from __future__ import annotations

import pytest

from gunyah.abi.errors import Error
from gunyah.abi.hypercalls import BY_NAME, CREATED_TYPES, HYPERCALLS, Capability
from gunyah.abi.objects import ALL_RIGHTS, OBJECT_ACTIVATE, ObjectState, ObjectType
from gunyah.hypervisor.specification import capabilities
from gunyah.hypervisor.specification.calls import after, demanded
from gunyah.hypervisor.specification.state import Extent, Slot, Space, Thing, World

from .rules import ACTIVE, FAILED, INIT, PAGE, PARTITION, ROOT, extent, forbidden, memory, space_with, step, world

# -- looking up --------------------------------------------------------------------------------------------------------


class TestLookUp:
    """Of several things that are wrong with a capability, the first counts."""

    def _world(self, slot: Slot, state: ObjectState = ACTIVE) -> World:
        return world(space_with(n5=slot), t7=Thing(ObjectType.DOORBELL, state, pins=1))

    def _found(self, slot: Slot, state: ObjectState = ACTIVE, capid: int = 5, **demand: object) -> tuple[Error, int]:
        wanted = Capability("cap", **{"type": ObjectType.DOORBELL, "rights": 3, **demand})  # type: ignore[arg-type]
        return capabilities.look_up(self._world(slot, state), ROOT, capid, wanted)

    def test_a_slot_that_is_not_valid(self) -> None:
        slot = Slot(7, 7, True)
        assert self._found(slot, capid=6) == (Error.CSPACE_CAP_NULL, 0)
        assert self._found(slot, capid=100) == (Error.ARGUMENT_INVALID, 0)
        assert self._found(Slot(0, 0, False, valid=False)) == (Error.CSPACE_CAP_REVOKED, 0)

    def test_type_then_rights_then_state(self) -> None:
        assert self._found(Slot(7, 3, False)) == (Error.OK, 7)
        assert self._found(Slot(7, 1, False), type=ObjectType.VIC) == (Error.CSPACE_WRONG_OBJECT_TYPE, 0)
        assert self._found(Slot(7, 1, False), INIT) == (Error.CSPACE_INSUFFICIENT_RIGHTS, 0)
        assert self._found(Slot(7, 3, False), INIT) == (Error.OBJECT_STATE, 0)
        assert self._found(Slot(7, 3, False), INIT, active=False) == (Error.OK, 7)
        assert self._found(Slot(7, 3, False), type=None) == (Error.OK, 7)

    def test_configuration_asks_for_the_generic_right_before_the_type(self) -> None:
        generic = Slot(7, OBJECT_ACTIVATE, False)
        wanted = {"configure": True, "rights": 0}
        assert self._found(generic, INIT, **wanted) == (Error.OK, 7)
        assert self._found(generic, ACTIVE, **wanted) == (Error.OK, 7)
        assert self._found(generic, type=ObjectType.VIC, **wanted) == (Error.CSPACE_WRONG_OBJECT_TYPE, 0)
        poor = Slot(7, ~OBJECT_ACTIVATE & 0xFFFF_FFFF, False)
        assert self._found(poor, type=ObjectType.VIC, **wanted) == (Error.CSPACE_INSUFFICIENT_RIGHTS, 0)

    def test_the_capabilities_of_a_call_are_looked_up_in_order_and_in_their_homes(self) -> None:
        other = Thing(ObjectType.CSPACE, ACTIVE, pins=1, space=space_with(n9=Slot(7, OBJECT_ACTIVATE, True)))
        slots = {"n5": Slot(3, 0xFFFF_FFFF, True), "n6": Slot(7, 0xFFFF_FFFF, True)}
        before = world(space_with(**slots), t3=other, t7=Thing(ObjectType.DOORBELL, pins=1))
        call = BY_NAME["object_activate_from"]
        assert demanded(before, ROOT, call, {"cspace": 5, "cap": 9}) == (Error.OK, {"cspace": 3, "cap": 7})
        assert demanded(before, ROOT, call, {"cspace": 5, "cap": 6}) == (Error.CSPACE_CAP_NULL, {"cspace": 3})
        assert demanded(before, ROOT, call, {"cspace": 6, "cap": 9}) == (Error.CSPACE_WRONG_OBJECT_TYPE, {})

    def test_a_configuration_wants_init_when_all_else_is_right(self) -> None:
        slots = {"n5": Slot(3, 0xFFFF_FFFF, True)}
        call = BY_NAME["cspace_configure"]
        for state, error in ((INIT, Error.OK), (ACTIVE, Error.OBJECT_STATE), (FAILED, Error.OBJECT_STATE)):
            before = world(space_with(**slots), t3=Thing(ObjectType.CSPACE, state, pins=1, space=Space()))
            assert demanded(before, ROOT, call, {"cspace": 5, "max_caps": 3})[0] is error

    def test_late_reserved_bits_come_between_the_look_ups_and_the_state(self) -> None:
        call = next(
            each
            for each in HYPERCALLS.values()
            if any(not bits.early for bits in each.reserved_bits) and any(not cap.when for cap in each.capabilities)
        )
        bits = next(bits for bits in call.reserved_bits if not bits.early)
        slots: dict[str, Slot] = {}
        things: dict[str, Thing] = {}
        arguments = {argument.name: 0 for argument in call.arguments}
        for number, capability in enumerate(call.capabilities):
            kind = capability.type or ObjectType.DOORBELL
            slots[f"n{10 + number}"] = Slot(20 + number, ALL_RIGHTS[kind] | OBJECT_ACTIVATE, True)
            things[f"t{20 + number}"] = Thing(kind, INIT if capability.configure else ACTIVE, pins=1)
            arguments[capability.argument] = 10 + number
        before = world(space_with(**slots), **things)
        assert demanded(before, ROOT, call, arguments)[0] is Error.OK
        arguments[bits.argument] |= bits.mask & -bits.mask
        assert demanded(before, ROOT, call, arguments)[0] is bits.error
        arguments[call.capabilities[0].argument] = 99
        assert demanded(before, ROOT, call, arguments) == (Error.CSPACE_CAP_NULL, {})


# -- slots -------------------------------------------------------------------------------------------------------------


class TestSlots:
    """Copying, deleting and revoking."""

    def _two(self) -> World:
        first = space_with(n5=Slot(7, 7, True), n6=Slot(7, 3, False))
        other = Thing(
            ObjectType.CSPACE, ACTIVE, pins=1, space=space_with(3, n8=Slot(7, 1, False), n9=Slot(0, 0, False, False))
        )
        return world(first, t3=other, t7=Thing(ObjectType.DOORBELL, ACTIVE))

    def test_a_copy_has_the_rights_of_both_and_is_no_master(self) -> None:
        error, made = capabilities.copied(self._two(), ROOT, 5, 3, 0xE, 40)
        assert error is Error.OK
        assert made.space(3).slots[40] == Slot(7, 6, False)
        assert made.space(ROOT) == self._two().space(ROOT)

    @pytest.mark.parametrize(
        ("capid", "mask", "limit", "error"),
        [
            (44, 7, 3, Error.CSPACE_CAP_NULL),
            (100, 7, 3, Error.ARGUMENT_INVALID),
            (5, 8, 3, Error.CSPACE_INSUFFICIENT_RIGHTS),
            (5, 8, 2, Error.CSPACE_FULL),
            (44, 7, 2, Error.CSPACE_FULL),
        ],
    )
    def test_a_copy_that_cannot_be(self, capid: int, mask: int, limit: int, error: Error) -> None:
        before = self._two().with_space(3, limit=limit)
        assert capabilities.copied(before, ROOT, capid, 3, mask, 40) == (error, before)

    def test_a_revoked_slot_is_no_source(self) -> None:
        before = self._two()
        assert capabilities.copied(before, 3, 9, ROOT, 7, 40) == (Error.CSPACE_CAP_REVOKED, before)

    def test_a_new_slot_is_one_that_was_empty_with_an_id_that_may_be_given(self) -> None:
        for capid, words in ((5, "in use"), (0xFFFF_FFFF << 32, "never given")):
            with pytest.raises(AssertionError, match=words):
                capabilities.mastered(self._two(), ROOT, capid, 7)
        with pytest.raises(AssertionError, match="full"):
            capabilities.mastered(self._two().with_space(ROOT, limit=2), ROOT, 40, 7)
        made = capabilities.mastered(self._two(), ROOT, (0xFFFF_FFFF << 32) - 1, 7)
        assert made.space(ROOT).slots[(0xFFFF_FFFF << 32) - 1] == Slot(7, ALL_RIGHTS[ObjectType.DOORBELL], True)
        assert (0xFFFF_FFFF << 32) - 1 in made.space(ROOT).tables

    def test_a_deleted_slot_is_empty_and_the_last_one_takes_the_object(self) -> None:
        error, left = capabilities.deleted(self._two(), ROOT, 5)
        assert (error, set(left.space(ROOT).slots), 7 in left.things) == (Error.OK, {6}, True)
        for home, capid in ((ROOT, 6), (3, 8)):
            error, left = capabilities.deleted(left, home, capid)
            assert error is Error.OK
        assert 7 not in left.things
        assert capabilities.deleted(left, 3, 8) == (Error.CSPACE_CAP_NULL, left)
        assert capabilities.deleted(left, 3, 100) == (Error.ARGUMENT_INVALID, left)
        error, left = capabilities.deleted(left, 3, 9)
        assert (error, left.space(3).slots) == (Error.OK, {})

    def test_the_master_revokes_everywhere_and_keeps_its_own(self) -> None:
        error, left = capabilities.revoked(self._two(), ROOT, 5)
        gone = Slot(0, 0, False, valid=False)
        assert error is Error.OK
        assert left.space(ROOT).slots == {5: Slot(7, 7, True), 6: gone}
        assert left.space(3).slots == {8: gone, 9: gone}
        assert left.things[7] == self._two().things[7]

    def test_other_objects_capabilities_are_not_revoked(self) -> None:
        before = world(
            space_with(n5=Slot(7, 7, True), n6=Slot(8, 7, True)),
            t7=Thing(ObjectType.DOORBELL),
            t8=Thing(ObjectType.VIC),
        )
        assert capabilities.revoked(before, ROOT, 5) == (Error.OK, before)

    @pytest.mark.parametrize(
        ("home", "capid", "error"),
        [
            (ROOT, 6, Error.CSPACE_INSUFFICIENT_RIGHTS),
            (3, 9, Error.CSPACE_CAP_REVOKED),
            (ROOT, 44, Error.CSPACE_CAP_NULL),
            (ROOT, 100, Error.ARGUMENT_INVALID),
        ],
    )
    def test_only_a_master_revokes(self, home: int, capid: int, error: Error) -> None:
        before = self._two()
        assert capabilities.revoked(before, home, capid) == (error, before)

    def test_what_a_new_object_is(self) -> None:
        for kind in ObjectType:
            thing = capabilities.new_thing(kind)
            assert (thing.kind, thing.state, thing.holds, thing.pins) == (kind, INIT, (), 0)
            assert thing.space == (Space() if kind is ObjectType.CSPACE else None)
            assert thing.extent == (Extent() if kind is ObjectType.MEMEXTENT else None)


# -- creation and activation -------------------------------------------------------------------------------------------


class TestCreation:
    """partition_create_*: a master capability to a new object, or nothing at all."""

    @pytest.mark.parametrize("number", sorted(CREATED_TYPES))
    def test_the_new_object_and_its_master(self, number: int) -> None:
        call, kind = HYPERCALLS[number], CREATED_TYPES[number]
        made = after(step(world(), call.name, results=(40,), born=(9,), cspace=ROOT))
        assert made.things[9] == capabilities.new_thing(kind)
        assert made.space(ROOT).slots == {40: Slot(9, ALL_RIGHTS[kind], True)}

    def test_answers_that_cannot_be(self) -> None:
        name, full = "partition_create_doorbell", world(space_with(0))
        forbidden(step(full, name, results=(40,), born=(9,), cspace=ROOT), "full")
        forbidden(step(world(), name, error=Error.CSPACE_FULL, cspace=ROOT), "room")
        forbidden(step(world(), name, error=Error.DENIED, cspace=ROOT), "NOMEM or CSPACE_FULL was expected")
        forbidden(step(world(), name, error=Error.NOMEM, born=(9,), cspace=ROOT), "was made")
        forbidden(step(world(), name, results=(40,), cspace=ROOT), "0 objects")
        forbidden(step(world(), name, results=(40,), born=(9, 10), cspace=ROOT), "2 objects")

    def test_answers_that_may_be(self) -> None:
        name, full = "partition_create_doorbell", world(space_with(0))
        assert after(step(full, name, error=Error.CSPACE_FULL, cspace=ROOT)) == full
        assert after(step(full, name, error=Error.NOMEM, cspace=ROOT)) == full
        assert after(step(world(), name, error=Error.NOMEM, cspace=ROOT)) == world()


class TestActivation:
    """object_activate: once, with what the type asks for."""

    def _activated(self, thing: Thing, error: int = 0, **others: Thing) -> World:
        return after(step(world(t7=thing, **others), "object_activate", error=error, cap=7))

    def test_an_object_is_activated_once(self) -> None:
        bell = Thing(ObjectType.DOORBELL, pins=1)
        assert self._activated(bell).things[7].state is ACTIVE
        assert self._activated(bell, Error.NOMEM).things[7].state is FAILED
        for state in (ACTIVE, FAILED):
            again = world(t7=Thing(ObjectType.DOORBELL, state, pins=1))
            assert after(step(again, "object_activate", error=Error.OBJECT_STATE, cap=7)) == again
            forbidden(step(again, "object_activate", cap=7), "OBJECT_STATE was expected")

    @pytest.mark.parametrize(
        ("limit", "right", "wrong"), [(0, Error.OBJECT_CONFIG, Error.OK), (1, Error.OK, Error.NOMEM)]
    )
    def test_a_space_needs_a_limit(self, limit: int, right: Error, wrong: Error) -> None:
        thing = Thing(ObjectType.CSPACE, pins=1, space=Space(limit))
        assert self._activated(thing, right).things[7].state is (ACTIVE if right is Error.OK else FAILED)
        forbidden(step(world(t7=thing), "object_activate", error=wrong, cap=7), "was expected")

    def test_an_address_space_needs_a_vmid_of_its_own(self) -> None:
        def addrspace(vmid: int, state: ObjectState = INIT) -> Thing:
            return Thing(ObjectType.ADDRSPACE, state, pins=1, vmid=vmid)

        assert self._activated(addrspace(5)).things[7].state is ACTIVE
        assert self._activated(addrspace(5), t8=addrspace(5)).things[7].state is ACTIVE
        assert self._activated(addrspace(5), t8=addrspace(6, ACTIVE)).things[7].state is ACTIVE
        assert self._activated(addrspace(0), Error.BUSY).things[7].state is FAILED
        assert self._activated(addrspace(5), Error.NOMEM).things[7].state is FAILED
        for before in (world(t7=addrspace(0)), world(t7=addrspace(5), t8=addrspace(5, ACTIVE))):
            forbidden(step(before, "object_activate", cap=7), "is taken")

    def test_a_thread_needs_its_three_and_then_holds_itself(self) -> None:
        three = {
            "t10": Thing(ObjectType.CSPACE, ACTIVE, pins=1, space=Space()),
            "t11": Thing(ObjectType.ADDRSPACE, ACTIVE, pins=1),
            "t12": Thing(ObjectType.VIC, ACTIVE, pins=1),
            "t13": Thing(ObjectType.VPM_GROUP, ACTIVE, pins=1),
        }
        for holds in ((10, 11, 12), (10, 11, 12, 13)):
            made = self._activated(Thing(ObjectType.THREAD, holds=holds, pins=1), **three)
            assert (made.things[7].state, made.things[7].pins, made.things[7].holds) == (ACTIVE, 2, holds)
        for holds in ((10, 11), (10, 12), (11, 12, 13)):
            before = world(t7=Thing(ObjectType.THREAD, holds=holds, pins=1), **three)
            forbidden(step(before, "object_activate", cap=7), "VIC")
            failed = after(step(before, "object_activate", error=Error.OBJECT_CONFIG, cap=7))
            assert (failed.things[7].state, failed.things[7].pins) == (FAILED, 1)

    @pytest.mark.parametrize("kind", [ObjectType.VIRTIO_MMIO, ObjectType.ADDRSPACE])
    def test_what_the_hypervisor_maps_for_itself_is_attached_until_the_end(self, kind: ObjectType) -> None:
        holder = Thing(kind, holds=(8,), vmid=5)
        before = world(space_with(n5=Slot(7, 7, True)), t7=holder, t8=memory(ACTIVE, extent(0, PAGE)))
        made = after(step(before, "object_activate", cap=7))
        assert made.extent(8) == extent(0, PAGE, attached=True)
        error, left = capabilities.deleted(made, ROOT, 5)
        assert (error, 7 in left.things, left.extent(8)) == (Error.OK, False, extent(0, PAGE))

    def test_other_holders_do_not_attach(self) -> None:
        before = world(
            t7=memory(what=extent(0, PAGE, sparse=True, parent=8), holds=(8,)), t8=memory(ACTIVE, extent(sparse=True))
        )
        assert not after(step(before, "object_activate", cap=7)).extent(8).attached


# -- references --------------------------------------------------------------------------------------------------------


class TestHolders:
    """Who holds what after a call, and that a later choice takes the place of an earlier one."""

    @pytest.mark.parametrize(
        ("name", "holder", "held", "kind"),
        [
            ("cspace_attach_thread", "thread", "cspace", ObjectType.CSPACE),
            ("addrspace_attach_thread", "thread", "addrspace", ObjectType.ADDRSPACE),
            ("vpm_group_attach_vcpu", "vcpu", "vpm_group", ObjectType.VPM_GROUP),
            ("virtio_mmio_configure", "virtio_mmio", "memextent", ObjectType.MEMEXTENT),
            ("addrspace_configure_info_area", "addrspace", "info_area_me", ObjectType.MEMEXTENT),
            ("vic_attach_vcpu", "vcpu", "vic", ObjectType.VIC),
        ],
    )
    def test_one_of_each_kind(self, name: str, holder: str, held: str, kind: ObjectType) -> None:
        def target(pins: int) -> Thing:
            what = Extent() if kind is ObjectType.MEMEXTENT else None
            return Thing(kind, ACTIVE, pins=pins, space=Space() if kind is ObjectType.CSPACE else None, extent=what)

        owner = Thing(ObjectType.THREAD, pins=1, holds=(12,))
        before = world(t7=owner, t8=target(1), t9=target(1), t12=Thing(ObjectType.DOORBELL))
        arguments = {"index": 3}
        one = after(step(before, name, arguments, **{holder: 7, held: 9}))
        assert one.things[7].holds == (9, 12)
        two = after(step(one, name, arguments, **{holder: 7, held: 8}))
        assert two.things[7].holds == (8, 12)
        again = after(step(two, name, arguments, **{holder: 7, held: 8}))
        assert again.things[7].holds == (8, 12)
        assert (again.things[7].index == 3) == (name == "vic_attach_vcpu")
        assert after(step(one, name, arguments, Error.DENIED, **{holder: 7, held: 8})) == one

    def test_what_was_held_by_it_alone_goes(self) -> None:
        before = world(
            t7=Thing(ObjectType.THREAD, pins=1, holds=(8,)),
            t8=Thing(ObjectType.VIC, ACTIVE),
            t9=Thing(ObjectType.VIC, ACTIVE, pins=1),
        )
        left = after(step(before, "vic_attach_vcpu", {"index": 0}, vcpu=7, vic=9))
        assert set(left.things) == {ROOT, PARTITION, 7, 9}

    def test_a_frame_is_held_by_the_vic_or_by_its_vcpu(self) -> None:
        things = {
            "t7": Thing(ObjectType.VIC, ACTIVE),
            "t8": Thing(ObjectType.ADDRSPACE, ACTIVE, pins=1),
            "t10": Thing(ObjectType.THREAD, ACTIVE, holds=(7,), pins=1, index=0),
            "t11": Thing(ObjectType.THREAD, ACTIVE, holds=(7,), pins=1, index=1),
            "t12": Thing(ObjectType.THREAD, INIT, holds=(7,), pins=1, index=2),
            "t13": Thing(ObjectType.THREAD, ACTIVE, pins=1, index=3),
            "t14": Thing(ObjectType.VIC, ACTIVE, holds=(), pins=1, index=3),
        }
        before = world(space_with(n5=Slot(7, 7, True)), **things)
        for index, holder, holds in ((0, 7, (8,)), (1, 10, (7, 8)), (2, 11, (7, 8))):
            arguments = {"vdevice": 5, "index": index}
            made = after(step(before, "addrspace_attach_vdevice", arguments, addrspace=8))
            changed = {serial for serial in made.things if made.things[serial] != before.things[serial]}
            assert changed == {holder}
            assert made.things[holder].holds == holds
            assert after(step(before, "addrspace_attach_vdevice", arguments, Error.BUSY, addrspace=8)) == before
        for index in (3, 4, 5):
            wrong = step(before, "addrspace_attach_vdevice", {"vdevice": 5, "index": index}, addrspace=8)
            forbidden(wrong, f"0 active vCPUs have index {index - 1}")

    def test_a_private_hardware_interrupt_holds_its_vic(self) -> None:
        before = world(t7=Thing(ObjectType.HWIRQ, ACTIVE, pins=1), t8=Thing(ObjectType.VIC, ACTIVE, pins=1))
        for virq, holds in ((16, (8,)), (31, (8,)), (32, ()), (40, ())):
            made = after(step(before, "hwirq_bind_virq", {"virq": virq}, hwirq=7, vic=8))
            assert made.things[7].holds == holds
            assert after(step(made, "hwirq_unbind_virq", hwirq=7)) == before
            assert after(step(made, "hwirq_unbind_virq", error=Error.IDLE, hwirq=7)) == made
        assert after(step(before, "hwirq_bind_virq", {"virq": 16}, Error.BUSY, hwirq=7, vic=8)) == before

    def test_the_vic_of_an_interrupt_goes_when_it_is_unbound(self) -> None:
        before = world(t7=Thing(ObjectType.HWIRQ, ACTIVE, pins=1, holds=(8,)), t8=Thing(ObjectType.VIC, ACTIVE))
        assert set(after(step(before, "hwirq_unbind_virq", hwirq=7)).things) == {ROOT, PARTITION, 7}


# -- configuration -----------------------------------------------------------------------------------------------------


class TestConfiguration:
    """What a configuration leaves behind."""

    def test_the_limit_of_a_space(self) -> None:
        before = world(t7=Thing(ObjectType.CSPACE, pins=1, space=Space(3)))
        assert after(step(before, "cspace_configure", {"max_caps": 9}, cspace=7)).space(7).limit == 9
        refused = step(before, "cspace_configure", {"max_caps": 99999}, Error.ARGUMENT_INVALID, cspace=7)
        assert after(refused) == before
        forbidden(step(before, "cspace_configure", {"max_caps": 9}, Error.DENIED, cspace=7), "ARGUMENT_INVALID")

    @pytest.mark.parametrize(("vmid", "good"), [(0, False), (1, True), (255, True), (256, False)])
    def test_a_vmid(self, vmid: int, good: bool) -> None:
        before = world(t7=Thing(ObjectType.ADDRSPACE, pins=1, vmid=9))
        right, wrong = (Error.OK, Error.ARGUMENT_INVALID) if good else (Error.ARGUMENT_INVALID, Error.OK)
        made = after(step(before, "addrspace_configure", {"vmid": vmid}, right, addrspace=7))
        assert made.things[7].vmid == (vmid if good else 9)
        forbidden(step(before, "addrspace_configure", {"vmid": vmid}, wrong, addrspace=7), "was expected")

    def test_an_extent_of_the_partition(self) -> None:
        before = world(t7=memory(holds=(8,)), t8=memory(ACTIVE, pins=0))
        arguments = {"phys_base": 4 * PAGE, "size": 2 * PAGE, "attributes": 0x1_0206}
        made = after(step(before, "memextent_configure", arguments, memextent=7))
        assert made.extent(7) == Extent(4 * PAGE, 2 * PAGE, 6, 2, True, None)
        assert made.things[7].holds == ()
        assert 8 not in made.things
        assert after(step(before, "memextent_configure", arguments, Error.DENIED, memextent=7)) == before
        for wrong in ({"size": 0}, {"size": PAGE + 1}, {"phys_base": PAGE // 2}):
            forbidden(step(before, "memextent_configure", {**arguments, **wrong}, memextent=7), "whole pages")

    def test_an_extent_of_another_one(self) -> None:
        parent = extent(4 * PAGE, 4 * PAGE, access=6)
        before = world(t7=memory(), t8=memory(ACTIVE, parent))
        arguments = {"offset": PAGE, "size": 3 * PAGE, "attributes": 0x4}
        name = "memextent_configure_derive"
        made = after(step(before, name, arguments, memextent=7, parent_memextent=8))
        assert made.extent(7) == Extent(5 * PAGE, 3 * PAGE, 4, 0, False, 8)
        assert made.things[7].holds == (8,)
        assert after(step(before, name, arguments, Error.DENIED, memextent=7, parent_memextent=8)) == before
        for wrong in ({"size": 4 * PAGE}, {"attributes": 7}):
            forbidden(step(before, name, {**arguments, **wrong}, memextent=7, parent_memextent=8), "its parent")


# -- calls without a rule ----------------------------------------------------------------------------------------------


def test_a_call_without_a_rule_and_one_that_is_not_provided_leave_everything_alone() -> None:
    before = world(t7=Thing(ObjectType.DOORBELL, ACTIVE, pins=1))
    for name in ("doorbell_send", "object_reset", "cspace_revoke_cap_from", "hypervisor_identify"):
        assert after(step(before, name, {"cap": 7})) == before
