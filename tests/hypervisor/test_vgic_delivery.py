"""From source to vCPU: edge and level, routes, SGIs, wake-ups (objects.md 8.2, 9, 10.2, 10.5, 10.6)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gunyah.hypervisor.doorbell import Doorbell
from gunyah.hypervisor.instruments import Instrument, NamedObject
from gunyah.hypervisor.vgic_affinity import MpidrMapping
from gunyah.hypervisor.vic import Vic
from gunyah.hypervisor.virq import VirqSource
from gunyah.machine.clock import VirtualClock

from .gic_guest import (
    GICD_CTLR,
    ICENABLER,
    ICPENDR,
    ISACTIVER,
    ISENABLER,
    ISPENDR,
    SPURIOUS,
    GicGuest,
    RecordingVcpu,
)

U64 = (1 << 64) - 1
IRM = 1 << 40


@pytest.fixture
def guest() -> GicGuest:
    return GicGuest().start()


# -- edge --------------------------------------------------------------------------------------------------------------


def test_an_edge_interrupt_is_delivered_once_per_assertion(guest: GicGuest) -> None:
    source = guest.source(40, [True])
    guest.enable(40, edge=True)
    for _ in range(3):
        source.assert_()
        assert guest.bit(ISPENDR, 40) == 1
        assert guest.take() == [40]
        assert guest.take() == []


def test_assertions_before_the_acknowledge_are_one_interrupt(guest: GicGuest) -> None:
    source = guest.source(40)
    guest.enable(40)
    source.assert_()
    source.assert_(edge_only=True)
    source.assert_()
    assert guest.take() == [40]


def test_an_assertion_after_the_acknowledge_is_delivered_after_the_end(guest: GicGuest) -> None:
    source = guest.source(40)
    guest.enable(40)
    source.assert_()
    assert guest.gic().acknowledge() == 40
    source.assert_()
    assert guest.gic().acknowledge() == SPURIOUS
    assert guest.bit(ISPENDR, 40) == 1
    assert not guest.vcpus[0].virq
    guest.gic().end(40)
    assert guest.vcpus[0].virq
    assert guest.take() == [40]


def test_an_edge_outlives_the_source_and_the_level_does_not(guest: GicGuest) -> None:
    for edge, expected in ((True, [40]), (False, [])):
        source = guest.source(40, [True])
        guest.enable(40, edge=edge)
        source.assert_()
        source.unbind()
        assert guest.take() == expected


def test_lowering_the_level_leaves_a_latched_edge(guest: GicGuest) -> None:
    source = guest.source(40)
    guest.enable(40)
    source.assert_()
    source.clear()
    assert guest.take() == [40]


# -- level -------------------------------------------------------------------------------------------------------------


def test_a_level_interrupt_comes_again_while_its_source_asserts(guest: GicGuest) -> None:
    level = [True]
    source = guest.source(40, level)
    guest.enable(40, edge=False)
    source.assert_()
    assert guest.take(limit=3) == [40, 40, 40]
    level[0] = False
    # The source is asked at the end of an interrupt only, so one more is spurious.
    assert guest.bit(ISPENDR, 40) == 1
    assert guest.take() == [40]
    assert guest.bit(ISPENDR, 40) == 0


def test_a_level_that_is_lowered_before_the_acknowledge_is_not_delivered(guest: GicGuest) -> None:
    source = guest.source(40)
    guest.enable(40, edge=False)
    source.assert_()
    assert guest.vcpus[0].virq
    source.clear()
    assert not guest.vcpus[0].virq
    assert guest.take() == []


def test_an_edge_only_assertion_is_nothing_to_a_level_interrupt(guest: GicGuest) -> None:
    source = guest.source(40, [True])
    guest.enable(40, edge=False)
    source.assert_(edge_only=True)
    assert guest.bit(ISPENDR, 40) == 0
    assert guest.take() == []


def test_an_assertion_newer_than_the_acknowledge_is_delivered_though_the_source_has_given_up(guest: GicGuest) -> None:
    level = [True]
    source = guest.source(40, level)
    guest.enable(40, edge=False)
    source.assert_()
    assert guest.gic().acknowledge() == 40
    source.assert_()
    level[0] = False
    guest.gic().end(40)
    assert guest.take() == [40]


def test_clearing_a_level_that_stands_does_not_stick(guest: GicGuest) -> None:
    level = [True]
    source = guest.source(40, level)
    guest.enable(40, edge=False)
    source.assert_()
    guest.set_bit(ICPENDR, 40)
    assert guest.bit(ISPENDR, 40) == 1
    level[0] = False
    guest.set_bit(ICPENDR, 40)
    assert guest.bit(ISPENDR, 40) == 0
    assert guest.take() == []


def test_software_latches_stay_until_software_clears_them(guest: GicGuest) -> None:
    guest.enable(40, edge=False)
    guest.set_bit(ISPENDR, 40)
    assert guest.take(limit=2) == [40, 40]
    guest.set_bit(ICPENDR, 40)
    assert guest.take() == []
    guest.write(0x40, 40)
    assert guest.take(limit=2) == [40, 40]
    guest.write(0x48, 40)
    assert guest.take() == []
    guest.set_edge(40, True)
    guest.set_bit(ISPENDR, 40)
    assert guest.take() == [40]
    guest.write(0x40, 40)
    guest.write(0x48, 40)
    assert guest.take() == []


def test_turning_to_level_forgets_software_latches_and_asks_the_source(guest: GicGuest) -> None:
    level = [True]
    source = guest.source(40, level)
    guest.enable(40, edge=True)
    source.assert_()
    guest.set_bit(ISPENDR, 40)
    level[0] = False
    guest.set_edge(40, False)
    assert guest.take() == []
    source.assert_()
    guest.set_edge(40, True)
    assert guest.take() == [40]


def test_disabling_a_level_interrupt_asks_its_source(guest: GicGuest) -> None:
    level = [True]
    source = guest.source(40, level)
    guest.enable(40, edge=False)
    source.assert_()
    guest.set_bit(ICENABLER, 40)
    assert guest.bit(ISPENDR, 40) == 1
    level[0] = False
    guest.set_bit(ICENABLER, 40)
    assert guest.bit(ISPENDR, 40) == 0


def test_an_interrupt_asserted_before_it_is_configured_and_enabled_is_not_lost(guest: GicGuest) -> None:
    source = guest.source(40, [True])
    source.assert_()
    assert guest.take() == []
    guest.enable(40, edge=True)
    assert guest.take() == [40]


def test_binding_neither_configures_nor_asserts(guest: GicGuest) -> None:
    guest.enable(40, edge=True)
    source = guest.source(40, [True])
    assert guest.read(0xC08) == 2 << 16
    assert guest.take() == []
    source.unbind()
    guest.set_edge(40, False)
    guest.vic.bind_shared(source, 40)
    assert guest.read(0xC08) == 0
    assert guest.take() == []


# -- doorbells, as recorded --------------------------------------------------------------------------------------------


def test_a_doorbell_on_an_edge_interrupt_as_recorded(guest: GicGuest) -> None:
    doorbell = Doorbell(None)
    doorbell.activate()
    guest.enable(40, edge=True)
    guest.vic.bind_shared(doorbell.source, 40)
    doorbell.send(1)
    assert (guest.bit(ISPENDR, 40), guest.take(), guest.take()) == (1, [40], [])
    assert doorbell.send(1) == 1
    assert guest.take() == [40]
    doorbell.send(2)
    assert guest.take() == [40]
    assert doorbell.receive(U64) == 3
    assert guest.take() == []
    doorbell.send(4)
    doorbell.receive(U64)
    assert guest.take() == [40]
    doorbell.mask(0, 0)
    doorbell.send(1)
    assert guest.take() == [40]
    doorbell.mask(1, 0)
    assert guest.take() == [40]
    doorbell.source.unbind()
    guest.vic.bind_shared(doorbell.source, 40)
    assert guest.take() == []
    doorbell.reset()
    assert guest.take() == []


def test_a_doorbell_on_a_level_interrupt_stands_until_it_is_received_and_ended(guest: GicGuest) -> None:
    doorbell = Doorbell(None)
    doorbell.activate()
    guest.enable(40, edge=False)
    guest.vic.bind_shared(doorbell.source, 40)
    doorbell.send(1)
    assert guest.gic().acknowledge() == 40
    doorbell.receive(1)
    guest.gic().end(40)
    assert guest.take() == []
    doorbell.mask(0, 0)
    doorbell.send(1)
    assert guest.take() == []
    doorbell.mask(1, 0)
    assert guest.take(limit=2) == [40, 40]
    doorbell.mask(0, 0)
    assert guest.take() == []


# -- private interrupts ------------------------------------------------------------------------------------------------


def test_a_private_source_reaches_its_own_vcpu_only() -> None:
    guest = GicGuest(vcpus=2).start()
    level = [True]
    timer = VirqSource(None, "timer", lambda: level[0])
    guest.vic.bind_private(timer, guest.vcpus[1], 27)
    for cpu in (0, 1):
        guest.enable(27, edge=False, cpu=cpu)
    timer.assert_()
    assert (guest.vcpus[0].virq, guest.vcpus[1].virq) == (False, True)
    assert (guest.bit(ISPENDR, 27, 0), guest.bit(ISPENDR, 27, 1)) == (0, 1)
    assert guest.gic(1).acknowledge() == 27
    level[0] = False
    timer.clear()
    guest.gic(1).end(27)
    assert guest.take(1) == []
    assert guest.vic.source_level(timer) is False


# -- routes ------------------------------------------------------------------------------------------------------------


def test_an_spi_goes_where_it_is_routed_and_follows_a_new_route() -> None:
    guest = GicGuest(vcpus=3).start()
    guest.enable(40)
    guest.set_bit(ISPENDR, 40)
    assert [vcpu.virq for vcpu in guest.vcpus] == [True, False, False]
    guest.route(40, 2)
    assert [vcpu.virq for vcpu in guest.vcpus] == [False, False, True]
    assert guest.take(0) == []
    assert guest.take(2) == [40]


def test_an_spi_routed_nowhere_waits_for_a_route_or_a_vcpu() -> None:
    guest = GicGuest(vcpus=1, slots=3).start()
    guest.enable(40)
    guest.route(40, 0x0100)
    guest.set_bit(ISPENDR, 40)
    assert (guest.vcpus[0].virq, guest.bit(ISPENDR, 40)) == (False, 1)
    guest.route(40, 1)
    assert not guest.vcpus[0].virq
    second = RecordingVcpu()
    guest.vcpus.append(second)
    guest.attach(second, 1)
    assert not second.virq
    guest.start()
    assert second.virq
    guest.vic.vcpu_gone(second)
    guest.route(40, 0)
    assert guest.take(0) == [40]


def test_an_active_spi_that_was_rerouted_ends_where_it_was_taken() -> None:
    guest = GicGuest(vcpus=2).start()
    guest.enable(40)
    guest.set_bit(ISPENDR, 40)
    assert guest.gic(0).acknowledge() == 40
    guest.route(40, 1)
    guest.set_bit(ISPENDR, 40)
    assert not guest.vcpus[1].virq
    guest.gic(0).end(40)
    assert guest.take(1) == [40]


def test_what_a_vcpu_held_when_it_went_can_be_delivered_again() -> None:
    guest = GicGuest(vcpus=2).start()
    source = guest.source(40)
    guest.enable(40)
    source.assert_()
    assert guest.gic(0).acknowledge() == 40
    source.assert_()
    guest.vic.vcpu_gone(guest.vcpus[0])
    assert guest.bit(ISACTIVER, 40, cpu=1) == 0
    guest.vic.distributor.write(guest.vcpus[1], 0x6000 + 8 * 40, 8, 1)
    assert guest.take(1) == [40]


# -- changes while pending ---------------------------------------------------------------------------------------------


def test_group_priority_and_enable_of_a_waiting_interrupt_can_change(guest: GicGuest) -> None:
    guest.write(GICD_CTLR, 3)
    guest.gic().write("ICC_IGRPEN0_EL1", 1)
    guest.enable(40, priority=0x80)
    guest.enable(41, priority=0x90)
    for intid in (40, 41):
        guest.set_bit(ISPENDR, intid)
    guest.set_priority(40, 0xA0)
    assert guest.gic().read("ICC_HPPIR1_EL1") == 41
    guest.set_group(41, 0)
    assert guest.gic().read("ICC_HPPIR0_EL1") == 41
    guest.set_bit(ICENABLER, 41)
    assert guest.gic().read("ICC_HPPIR1_EL1") == 40
    guest.set_bit(ISENABLER, 41)
    guest.set_group(41, 1)
    assert guest.take() == [41, 40]


def test_the_vcpu_hears_of_changes_only(guest: GicGuest) -> None:
    guest.enable(40)
    guest.enable(41, priority=0xC0)
    source = guest.source(40)
    calls = guest.vcpus[0].calls
    source.assert_()
    source.assert_()
    guest.set_bit(ISPENDR, 41)
    guest.set_priority(40, 0x80)
    assert calls == [True]
    assert guest.gic().acknowledge() == 40
    assert calls == [True, False]
    guest.gic().end(40)
    assert calls == [True, False, True]
    assert guest.take() == [41]
    assert calls == [True, False, True, False]


# -- SGIs --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def smp() -> GicGuest:
    guest = GicGuest(vcpus=4).start(groups=3)
    for cpu in range(4):
        guest.enable(5, cpu=cpu)
    return guest


def pending_on(guest: GicGuest) -> list[int]:
    return [cpu for cpu in range(len(guest.vcpus)) if guest.bit(ISPENDR, 5, cpu)]


def test_an_sgi_reaches_the_targets_of_its_list(smp: GicGuest) -> None:
    smp.gic(1).write("ICC_SGI1R_EL1", 5 << 24 | 0b1011)
    assert pending_on(smp) == [0, 1, 3]
    assert [smp.take(cpu) for cpu in range(4)] == [[5], [5], [], [5]]


def test_an_sgi_to_all_others_leaves_the_sender_out(smp: GicGuest) -> None:
    smp.gic(2).write("ICC_SGI1R_EL1", IRM | 5 << 24 | 0b0100)
    assert pending_on(smp) == [0, 1, 3]


@pytest.mark.parametrize("value", [1 << 4, 1 << 15, 1 << 16 | 1, 1 << 32 | 1, 1 << 48 | 1, 1 << 44 | 1])
def test_targets_that_are_no_vcpu_are_ignored(smp: GicGuest, value: int) -> None:
    smp.gic(0).write("ICC_SGI1R_EL1", 5 << 24 | value)
    assert pending_on(smp) == []


def test_the_range_selector_counts_in_steps_of_sixteen() -> None:
    vic = Vic(None)
    vic.configure(2, 0, 0, 0)
    vic.set_mpidr_mapping(MpidrMapping.from_arguments(0x01_0000_0000, (0, 0, 0, 0), False))
    vic.activate()
    vcpus = [RecordingVcpu(), RecordingVcpu()]
    for index, vcpu in enumerate(vcpus):
        vic.attach_vcpu(vcpu, index)
        vic.vcpu_activated(vcpu)
    gics = [vcpu.gic for vcpu in vcpus]
    assert gics[0] is not None
    assert gics[1] is not None
    gics[0].write("ICC_SGI1R_EL1", 3 << 24 | 1 << 48 | 1)
    assert [gic.private[3].latch for gic in gics if gic] == [False, True]
    gics[0].write("ICC_SGI1R_EL1", 4 << 24 | 1 << 44 | 1)
    assert [gic.private[4].latch for gic in gics if gic] == [False, False]


@pytest.mark.parametrize(
    ("register", "group1", "delivered"),
    [
        ("ICC_SGI1R_EL1", True, True),
        ("ICC_SGI1R_EL1", False, True),
        ("ICC_SGI0R_EL1", True, False),
        ("ICC_SGI0R_EL1", False, True),
        ("ICC_ASGI1R_EL1", True, False),
        ("ICC_ASGI1R_EL1", False, True),
    ],
)
def test_sgis_by_group(smp: GicGuest, register: str, group1: bool, delivered: bool) -> None:
    smp.set_group(5, int(group1), cpu=3)
    smp.gic(0).write(register, 5 << 24 | 0b1000)
    assert pending_on(smp) == ([3] if delivered else [])


def test_an_sgi_from_two_vcpus_is_one_interrupt_and_wakes_the_target(smp: GicGuest) -> None:
    smp.gic(0).write("ICC_SGI1R_EL1", 5 << 24 | 0b1000)
    smp.gic(1).write("ICC_SGI1R_EL1", 5 << 24 | 0b1000)
    assert smp.vcpus[3].calls == [True]
    assert smp.take(3) == [5]


def test_a_disabled_sgi_stays_pending(guest: GicGuest) -> None:
    guest.gic().write("ICC_SGI1R_EL1", 5 << 24 | 1)
    assert guest.take() == []
    guest.enable(5)
    assert guest.take() == [5]


# -- instruments -------------------------------------------------------------------------------------------------------


class Watcher(Instrument):
    """Notes what happens to interrupts, with the time."""

    def __init__(self) -> None:
        self.seen: list[tuple[object, ...]] = []

    def interrupt(self, vic: NamedObject, virq: int, asserted: bool, source: str, ticks: int) -> None:
        self.seen.append(("assert" if asserted else "clear", virq, source, ticks))

    def interrupt_acknowledge(self, vcpu: NamedObject, virq: int, ticks: int) -> None:
        self.seen.append(("acknowledge", virq, str(vcpu), ticks))

    def interrupt_end(self, vcpu: NamedObject, virq: int, ticks: int) -> None:
        self.seen.append(("end", virq, str(vcpu), ticks))


def test_instruments_see_an_interrupts_way_and_may_come_late() -> None:
    clock = VirtualClock()
    hv = SimpleNamespace(instruments=[], clock=clock)
    guest = GicGuest(hv=hv).start()
    source = guest.source(40)
    guest.enable(40, edge=False)
    source.assert_()
    source.clear()
    watcher = Watcher()
    hv.instruments.append(watcher)
    clock.advance(5)
    source.assert_()
    clock.advance(1)
    assert guest.take() == [40]
    source.assert_()
    source.clear()
    source.clear()
    assert watcher.seen == [
        ("assert", 40, "test 40", 5),
        ("acknowledge", 40, "vCPU 0", 6),
        ("end", 40, "vCPU 0", 6),
        ("assert", 40, "test 40", 6),
        ("clear", 40, "test 40", 6),
    ]
