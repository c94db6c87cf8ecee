"""What instruments hear of the life of an object: every step, in order, and nothing that did not happen."""

from __future__ import annotations

import pytest
from tests.hypervisor.root_rig import RootRig

from gunyah.abi.errors import Error
from gunyah.hypervisor.instruments import Instrument


class Watch(Instrument):
    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def object_event(self, obj, event, ticks) -> None:  # type: ignore[no-untyped-def]
        self.events.append((str(obj).split(" ")[0], event))

    def heard(self) -> list[tuple[str, str]]:
        events, self.events = self.events, []
        return events


@pytest.fixture
def rig() -> RootRig:
    return RootRig()


@pytest.fixture
def watch(rig: RootRig) -> Watch:
    watch = Watch()
    rig.hv.instruments.append(watch)
    return watch


def test_a_life_from_creation_to_destruction(rig: RootRig, watch: Watch) -> None:
    doorbell = rig.create("doorbell")
    assert watch.heard() == [("doorbell", "create")]
    assert rig.call("object_activate", doorbell).ok
    assert watch.heard() == [("doorbell", "activate")]
    assert rig.call("object_activate", doorbell).error == Error.OBJECT_STATE
    assert watch.heard() == []
    assert rig.call("cspace_delete_cap_from", rig.cspace, doorbell).ok
    assert watch.heard() == [("doorbell", "destroy")]


def test_an_activation_that_is_refused_is_a_failure(rig: RootRig, watch: Watch) -> None:
    space = rig.active("cspace", 2)
    (queue,) = rig.call("partition_create_msgqueue", rig.partition, space).results
    watch.heard()
    assert rig.call("object_activate_from", space, queue).error == Error.OBJECT_CONFIG
    assert watch.heard() == [("msgqueue", "fail")]
    assert rig.call("object_activate_from", space, queue).error == Error.OBJECT_STATE
    assert watch.heard() == []


def test_an_object_without_room_for_its_capability_comes_and_goes(rig: RootRig, watch: Watch) -> None:
    space = rig.active("cspace", 1)
    rig.create("doorbell", space)
    watch.heard()
    assert rig.call("partition_create_vic", rig.partition, space).error == Error.CSPACE_FULL
    assert watch.heard() == [("vic", "create"), ("vic", "destroy")]
    rig.hv.root_partition.heap.book(rig.hv.root_partition.heap.available)
    assert rig.call("partition_create_vic", rig.partition, rig.cspace).error == Error.NOMEM
    assert watch.heard() == []


def test_whoever_goes_with_its_last_holder_is_told_of_too(rig: RootRig, watch: Watch) -> None:
    space = rig.active("cspace", 4)
    for kind in ("doorbell", "vic"):
        rig.create(kind, space)
    watch.heard()
    assert rig.call("cspace_delete_cap_from", rig.cspace, space).ok
    assert sorted(watch.heard()) == [("cspace", "destroy"), ("doorbell", "destroy"), ("vic", "destroy")]


def test_without_instruments_nothing_is_told(rig: RootRig, watch: Watch) -> None:
    rig.hv.instruments.clear()
    assert rig.call("cspace_delete_cap_from", rig.cspace, rig.active("doorbell")).ok
    assert watch.heard() == []
