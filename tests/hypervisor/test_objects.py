"""The life of objects: states, references, destruction (objects.md 1)."""

from __future__ import annotations

import pytest
from tests.hypervisor.root_rig import RootRig
from tests.hypervisor.yard import Yard, sleep_for_ever

from gunyah.abi.errors import Error
from gunyah.abi.objects import ObjectState, ObjectType
from gunyah.hypervisor.objects import KernelObject

KINDS = ["cspace", "addrspace", "memextent", "thread", "doorbell", "msgqueue", "vic", "vpm_group", "virtio_mmio"]
READY_AS_MADE = ["doorbell", "vic", "vpm_group"]


@pytest.fixture
def rig() -> RootRig:
    return RootRig()


def obj(rig: RootRig, capid: int) -> KernelObject:
    return rig.root.cspace.capability(capid).object


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    """What holds for all types of objects."""

    def test_it_is_created_in_init_and_charged_and_its_end_returns_the_heap(self, rig: RootRig, kind: str) -> None:
        before = rig.hv.root_partition.heap.used
        capid = rig.create(kind)
        assert obj(rig, capid).state == ObjectState.INIT
        assert rig.hv.root_partition.heap.used == before + type(obj(rig, capid)).heap_size
        assert rig.call("cspace_delete_cap_from", rig.cspace, capid).ok
        assert rig.hv.root_partition.heap.used == before

    def test_activated_without_configuration_it_serves_or_fails_for_good(self, rig: RootRig, kind: str) -> None:
        capid = rig.create(kind)
        answer = rig.call("object_activate", capid)
        if kind in READY_AS_MADE:
            assert answer.ok
            assert obj(rig, capid).state == ObjectState.ACTIVE
        else:
            assert answer.error == (Error.BUSY if kind == "addrspace" else Error.OBJECT_CONFIG)
            assert obj(rig, capid).state == ObjectState.FAILED
        assert rig.call("object_activate", capid).error == Error.OBJECT_STATE

    def test_one_that_failed_can_only_be_deleted_and_returns_everything(self, rig: RootRig, kind: str) -> None:
        before = rig.hv.root_partition.heap.used
        capid = rig.create(kind)
        obj(rig, capid).state = int(ObjectState.FAILED)
        assert rig.call("object_activate", capid).error == Error.OBJECT_STATE
        assert rig.call("cspace_delete_cap_from", rig.cspace, capid).ok
        assert rig.hv.root_partition.heap.used == before

    def test_without_room_for_the_capability_the_object_is_dropped_again(self, rig: RootRig, kind: str) -> None:
        space = rig.active("cspace", 1)
        rig.create("doorbell", space)
        before = rig.hv.root_partition.heap.used
        assert rig.call(f"partition_create_{kind}", rig.partition, space).error == Error.CSPACE_FULL
        assert rig.hv.root_partition.heap.used == before

    def test_a_full_heap_makes_none(self, rig: RootRig, kind: str) -> None:
        heap = rig.hv.root_partition.heap
        heap.book(heap.available)
        assert rig.call(f"partition_create_{kind}", rig.partition, rig.cspace).error == Error.NOMEM


def test_activation_through_another_space_takes_its_ids(rig: RootRig) -> None:
    space = rig.active("cspace", 4)
    doorbell = rig.create("doorbell", space)
    assert rig.call("object_activate", doorbell).error == Error.ARGUMENT_INVALID
    assert rig.call("object_activate_from", space, doorbell).ok


def test_activation_needs_the_right_to_activate(rig: RootRig) -> None:
    doorbell = rig.create("doorbell")
    (copy,) = rig.call("cspace_copy_cap_from", rig.cspace, doorbell, rig.cspace, 7).results
    assert rig.call("object_activate", copy).error == Error.CSPACE_INSUFFICIENT_RIGHTS


def test_an_object_lives_as_long_as_another_one_holds_it() -> None:
    yard = Yard()
    before = yard.hv.root_partition.heap.used
    vm = yard.vm(sleep_for_ever, on=False)
    for capid in (vm.space, vm.addrspace, vm.vic, vm.group):
        yard.ok("cspace_delete_cap_from", yard.cspace, capid)
    vcpu = vm.vcpus[0]
    holders = (vcpu.cspace, vcpu.addrspace, vcpu.vic, vcpu.vpm)
    assert all(holder is not None and holder.state == ObjectState.ACTIVE for holder in holders)
    yard.ok("vcpu_kill", vm.threads[0])
    yard.settle()
    yard.ok("cspace_delete_cap_from", yard.cspace, vm.threads[0])
    assert [holder.state for holder in holders if holder is not None] == [ObjectState.DESTROYING] * 4
    yard.ok("cspace_delete_cap_from", yard.cspace, vm.extent)
    assert yard.hv.root_partition.heap.used == before


def test_an_active_thread_holds_itself_until_it_exits() -> None:
    yard = Yard()
    vm = yard.vm(sleep_for_ever)
    vcpu = vm.vcpus[0]
    yard.ok("cspace_delete_cap_from", yard.cspace, vm.threads[0])
    assert vcpu.state == ObjectState.ACTIVE
    vcpu.kill()
    yard.settle()
    assert vcpu.state == ObjectState.DESTROYING


def test_a_chain_of_spaces_longer_than_any_stack_is_destroyed_at_once(rig: RootRig) -> None:
    before = rig.hv.root_partition.heap.used
    outer = rig.active("cspace", 1)
    inner = outer
    for _ in range(3000):
        (made,) = rig.call("partition_create_cspace", rig.partition, rig.cspace).results
        assert rig.call("cspace_configure", made, 1).ok
        assert rig.call("object_activate", made).ok
        assert rig.call("cspace_copy_cap_from", rig.cspace, made, inner, 0xFFFF_FFFF).ok
        if inner != outer:
            assert rig.call("cspace_delete_cap_from", rig.cspace, inner).ok
        inner = made
    assert rig.call("cspace_delete_cap_from", rig.cspace, inner).ok
    spaces = sum(each.type is ObjectType.CSPACE for each in rig.hv.objects())
    assert spaces == 3002
    assert rig.call("cspace_delete_cap_from", rig.cspace, outer).ok
    assert rig.hv.root_partition.heap.used == before


def test_a_chain_of_derived_extents_is_destroyed_at_once(rig: RootRig) -> None:
    before = rig.hv.root_partition.heap.used
    free = list(rig.hv.root_partition.free_ranges())
    parent = rig.active("memextent", 0x6000_0000, 0x1000, 7)
    for _ in range(500):
        child = rig.create("memextent")
        assert rig.call("memextent_configure_derive", child, parent, 0, 0x1000, 7).ok
        assert rig.call("object_activate", child).ok
        assert rig.call("cspace_delete_cap_from", rig.cspace, parent).ok
        parent = child
    assert rig.call("cspace_delete_cap_from", rig.cspace, parent).ok
    assert rig.hv.root_partition.heap.used == before
    assert list(rig.hv.root_partition.free_ranges()) == free


def test_an_object_without_a_partition_is_destroyed_too() -> None:
    class Thing(KernelObject):
        type = ObjectType.DOORBELL
        ended = 0

        def _deactivate(self) -> None:
            self.ended += 1

        def _cleanup(self) -> None:
            self.ended += 10

    thing = Thing(None)
    thing.activate()
    thing.get()
    thing.put()
    assert thing.ended == 0
    thing.put()
    assert (thing.ended, thing.state) == (11, ObjectState.DESTROYING)
    assert str(thing) == "doorbell #0"


def test_reset_of_objects_and_revocation_of_subtrees_are_not_built(rig: RootRig) -> None:
    doorbell = rig.active("doorbell")
    assert rig.call("object_reset", doorbell).error == Error.UNIMPLEMENTED
    assert rig.call("object_reset_from", rig.cspace, doorbell).error == Error.UNIMPLEMENTED
    assert rig.call("cspace_revoke_cap_from", rig.cspace, doorbell).error == Error.UNIMPLEMENTED
