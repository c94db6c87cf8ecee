"""Forwarded hardware interrupts (objects.md 10.2, hypercalls.md 3.11, recorded steps of root/vic)."""

from __future__ import annotations

import pytest

from gunyah.abi.errors import Error
from gunyah.hypervisor.hwirq import HwIrq, usable_interrupts
from gunyah.hypervisor.vic_calls import HANDLERS

from .gic_guest import ICENABLER, ISENABLER, ISPENDR, GicGuest, RecordingVcpu, Refusal

UART = 33


@pytest.fixture
def guest() -> GicGuest:
    return GicGuest().start()


def test_the_root_vm_gets_the_interrupts_of_the_recording() -> None:
    assert usable_interrupts() == (16, 17, 18, 19, 20, 21, 22, 24, 28, 29, 31, *range(32, 256))


# -- binding -----------------------------------------------------------------------------------------------------------


def test_spis_bind_to_spis_and_ppis_to_ppis(guest: GicGuest) -> None:
    for virq in (5, 20, 1020, 2000):
        with Refusal(Error.ARGUMENT_INVALID):
            HwIrq(None, 40).bind(guest.vic, virq)
    for virq in (5, 15, 32, 1019, 2**32 - 1):
        with Refusal(Error.ARGUMENT_INVALID):
            HwIrq(None, 16).bind(guest.vic, virq)


def test_an_spi_is_bound_once_and_unbound_once(guest: GicGuest) -> None:
    hwirq = HwIrq(None, 40)
    bind, unbind = HANDLERS["hwirq_bind_virq"], HANDLERS["hwirq_unbind_virq"]
    bind(None, None, hwirq, guest.vic, 40)
    with Refusal(Error.VIRQ_BOUND):
        bind(None, None, hwirq, guest.vic, 41)
    with Refusal(Error.BUSY):
        bind(None, None, HwIrq(None, 41), guest.vic, 40)
    unbind(None, None, hwirq)
    with Refusal(Error.VIRQ_NOT_BOUND):
        unbind(None, None, hwirq)
    bind(None, None, hwirq, guest.vic, 41)


def test_without_a_vcpu_at_its_route_an_spi_is_bound_refused_and_silent() -> None:
    guest = GicGuest(vcpus=0, slots=1)
    hwirq = HwIrq(None, 32)
    with Refusal(Error.ARGUMENT_INVALID):
        hwirq.bind(guest.vic, 32)
    with Refusal(Error.VIRQ_BOUND):
        hwirq.bind(guest.vic, 32)
    guest.vcpus.append(RecordingVcpu())
    guest.attach(guest.vcpus[0], 0)
    guest.start().enable(32, edge=False)
    hwirq.raise_line(True)
    assert guest.take() == []
    hwirq.unbind()
    hwirq.bind(guest.vic, 32)
    assert guest.take(limit=2) == [32, 32]


# -- the wire ----------------------------------------------------------------------------------------------------------


def test_a_level_line_interrupts_until_the_device_lowers_it(guest: GicGuest) -> None:
    uart = HwIrq(None, UART)
    uart.bind(guest.vic, UART)
    guest.enable(UART, edge=False)
    uart.raise_line(True)
    uart.raise_line(True)
    assert guest.take(limit=3) == [UART, UART, UART]
    assert guest.gic().acknowledge() == UART
    uart.raise_line(False)
    guest.gic().end(UART)
    assert guest.take() == []
    uart.raise_line(True)
    uart.raise_line(False)
    assert guest.take() == []


def test_a_line_that_rises_again_during_the_handler_is_served_again(guest: GicGuest) -> None:
    uart = HwIrq(None, UART)
    uart.bind(guest.vic, UART)
    guest.enable(UART, edge=False)
    uart.raise_line(True)
    assert guest.gic().acknowledge() == UART
    uart.raise_line(False)
    uart.raise_line(True)
    guest.gic().end(UART)
    assert guest.gic().acknowledge() == UART
    uart.raise_line(False)
    guest.gic().end(UART)
    assert guest.take() == []


def test_an_edge_line_interrupts_at_each_rise(guest: GicGuest) -> None:
    hwirq = HwIrq(None, 50)
    hwirq.bind(guest.vic, 60)
    guest.enable(60, edge=True)
    hwirq.pulse()
    assert guest.take() == [60]
    hwirq.raise_line(True)
    assert guest.take() == [60]
    hwirq.raise_line(False)
    assert guest.take() == []
    hwirq.pulse()
    hwirq.pulse()
    assert guest.take() == [60]


def test_a_disabled_interrupt_waits_as_long_as_its_line_is_high(guest: GicGuest) -> None:
    uart = HwIrq(None, UART)
    uart.bind(guest.vic, UART)
    uart.raise_line(True)
    guest.enable(UART, edge=False)
    assert guest.vcpus[0].virq
    guest.set_bit(ICENABLER, UART)
    assert (guest.vcpus[0].virq, guest.bit(ISPENDR, UART)) == (False, 1)
    uart.raise_line(False)
    guest.set_bit(ISENABLER, UART)
    assert not guest.vcpus[0].virq


def test_unbinding_takes_a_level_away_and_binding_brings_it_back(guest: GicGuest) -> None:
    uart = HwIrq(None, UART)
    guest.enable(UART, edge=False)
    uart.raise_line(True)
    uart.bind(guest.vic, UART)
    assert guest.vcpus[0].virq
    uart.unbind()
    assert not guest.vcpus[0].virq
    uart.bind(guest.vic, UART)
    assert guest.vcpus[0].virq


# -- private interrupts ------------------------------------------------------------------------------------------------


def pinned_guest() -> GicGuest:
    guest = GicGuest(vcpus=0, slots=3)
    for index, core in ((0, 4), (1, 2)):
        vcpu = RecordingVcpu(pinned=True, affinity=core)
        guest.vcpus.append(vcpu)
        guest.attach(vcpu, index)
    guest.start()
    for cpu in (0, 1):
        guest.enable(20, edge=False, cpu=cpu)
    return guest


def test_a_ppi_reaches_the_vcpu_that_is_pinned_to_its_core() -> None:
    guest = pinned_guest()
    ppi = HwIrq(None, 17)
    ppi.bind(guest.vic, 20)
    ppi.raise_line(True, core=2)
    assert (guest.vcpus[0].virq, guest.vcpus[1].virq) == (False, True)
    assert guest.take(1, limit=2) == [20, 20]
    ppi.raise_line(False, core=2)
    assert guest.take(1) == []
    ppi.raise_line(True, core=7)
    assert not guest.vcpus[0].virq
    ppi.unbind()
    ppi.unbind()
    ppi.raise_line(True, core=2)
    assert not guest.vcpus[1].virq


def test_a_ppi_is_forwarded_once_and_not_to_unpinned_vcpus() -> None:
    guest = pinned_guest()
    references = guest.vic.references
    ppi = HwIrq(None, 17)
    ppi.bind(guest.vic, 20)
    with Refusal(Error.DENIED):
        ppi.bind(guest.vic, 21)
    with Refusal(Error.BUSY):
        HwIrq(None, 18).bind(guest.vic, 20)
    with Refusal(Error.BUSY):
        HwIrq(None, 18).bind(guest.vic, 27)
    assert guest.vic.references == references + 1
    ppi.unbind()
    assert guest.vic.references == references
    loose = GicGuest()
    with Refusal(Error.DENIED):
        ppi.bind(loose.vic, 20)
    assert loose.vic.forwarded == []
    ppi.bind(guest.vic, 20)


def test_a_vcpu_joins_forwarded_ppis_or_stays_out() -> None:
    guest = pinned_guest()
    ppi = HwIrq(None, 17)
    ppi.bind(guest.vic, 20)
    ppi.raise_line(True, core=5)
    for stranger in (RecordingVcpu(), RecordingVcpu(pinned=True, affinity=4)):
        guest.vic.attach_vcpu(stranger, 2)
        with Refusal(Error.OBJECT_CONFIG):
            guest.vic.vcpu_activated(stranger)
        assert stranger.gic is None
    third = RecordingVcpu(pinned=True, affinity=5)
    guest.vcpus.append(third)
    guest.attach(third, 2)
    guest.start().enable(20, edge=False, cpu=2)
    assert third.virq


def test_the_end_of_a_hardware_interrupt_unbinds_it() -> None:
    guest = pinned_guest()
    spi, ppi = HwIrq(None, 40), HwIrq(None, 17)
    for hwirq, virq in ((spi, 40), (ppi, 20)):
        hwirq.activate()
        hwirq.bind(guest.vic, virq)
        hwirq.put()
    HwIrq(None, 41).bind(guest.vic, 40)
    HwIrq(None, 18).bind(guest.vic, 20)
