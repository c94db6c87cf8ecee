"""The VIC as an object: configuration, vCPU slots, bindings, frames, MPIDRs (objects.md 10.1, hypercalls.md 3.11)."""

from __future__ import annotations

import pytest

from gunyah.abi.errors import Error
from gunyah.abi.objects import ObjectState
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.hwirq import HwIrq
from gunyah.hypervisor.partition import create_partitions
from gunyah.hypervisor.vcpu import Vcpu
from gunyah.hypervisor.vdevice import VirtualDevice
from gunyah.hypervisor.vgic_affinity import DEFAULT_MAPPING, NO_MATCH, MpidrMapping
from gunyah.hypervisor.vic import Vic
from gunyah.hypervisor.vic_calls import HANDLERS
from gunyah.hypervisor.virq import VirqSource
from gunyah.machine.memory import PhysicalMemory

from .gic_guest import GicGuest, RecordingVcpu, Refusal

GICD = 0x0800_0000
GICR = 0x080A_0000


# -- configuration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vcpus", "shared", "flags", "msis"),
    [(1, 0, 0, 0), (8, 988, 0, 0), (1, 100, 1, 0), (1, 100, 2, 0), (1, 100, 3, 0), (1, 100, 0, 8192)],
)
def test_configure_accepts_what_the_platform_has(vcpus: int, shared: int, flags: int, msis: int) -> None:
    vic = Vic(None)
    vic.configure(vcpus, shared, flags, msis)
    vic.activate()
    assert (vic.max_vcpus, vic.max_shared) == (vcpus, shared)


@pytest.mark.parametrize(
    ("vcpus", "shared", "flags", "msis"),
    [
        (0, 0, 0, 0),
        (9, 0, 0, 0),
        (1, 989, 0, 0),
        (1, 2**32 - 1, 0, 0),
        (1, 1, 4, 0),
        (1, 1, 2**64 - 1, 0),
        (1, 1, 1, 1),
    ],
)
def test_configure_refuses_what_it_has_not_and_changes_nothing(vcpus: int, shared: int, flags: int, msis: int) -> None:
    vic = Vic(None)
    vic.configure(2, 10, 2, 0)
    with Refusal(Error.ARGUMENT_INVALID):
        vic.configure(vcpus, shared, flags, msis)
    assert (vic.max_vcpus, vic.max_shared, vic.default_addresses) == (2, 10, False)


def test_configure_after_activation_is_refused_with_the_state() -> None:
    vic = Vic(None)
    vic.activate()
    with Refusal(Error.OBJECT_STATE):
        vic.configure(1, 1, 0, 0)
    with Refusal(Error.OBJECT_STATE):
        vic.set_mpidr_mapping(DEFAULT_MAPPING)


def test_an_unconfigured_vic_has_one_slot_no_sources_and_no_default_window() -> None:
    vic = Vic(None)
    vic.activate()
    assert vic.default_device_at(GICD) is None
    with Refusal(Error.ARGUMENT_INVALID):
        vic.bind_shared(VirqSource(None, "x"), 32)
    with Refusal(Error.ARGUMENT_INVALID):
        vic.attach_vcpu(RecordingVcpu(), 1)


# -- vCPU slots --------------------------------------------------------------------------------------------------------


def test_a_vcpu_may_choose_again_before_activation_and_holds_one_reference() -> None:
    first, second = Vic(None), Vic(None)
    for vic in (first, second):
        vic.configure(2, 0, 0, 0)
        vic.activate()
    vcpu = RecordingVcpu()
    first.attach_vcpu(vcpu, 0)
    first.attach_vcpu(vcpu, 1)
    assert (first.references, vcpu.vic_index) == (2, 1)
    second.attach_vcpu(vcpu, 0)
    assert (first.references, second.references, vcpu.vic) == (1, 2, second)


def test_the_slot_is_taken_by_activation_not_by_attaching() -> None:
    guest = GicGuest(vcpus=1, slots=2)
    late = RecordingVcpu()
    guest.vic.attach_vcpu(late, 0)
    with Refusal(Error.BUSY):
        guest.vic.vcpu_activated(late)
    assert late.gic is None
    guest.vic.vcpu_gone(guest.vcpus[0])
    guest.vic.vcpu_activated(late)
    assert guest.vic.active_vcpus() == [late]


def test_a_vcpu_that_goes_takes_its_private_sources_and_its_frame_along() -> None:
    guest = GicGuest()
    vcpu = guest.vcpus[0]
    timer = VirqSource(None, "timer")
    guest.vic.bind_private(timer, vcpu, 27)
    removed: list[VirtualDevice] = []
    guest.vic.attach_frame(1, 0, lambda device: lambda: removed.append(device))
    guest.vic.vcpu_gone(vcpu)
    assert timer.vic is None
    assert len(removed) == 1
    assert vcpu.gic is None
    guest.vic.vcpu_gone(vcpu)
    timer.assert_()


# -- bindings ----------------------------------------------------------------------------------------------------------


def test_shared_sources_bind_from_32_up_to_their_number() -> None:
    guest = GicGuest(shared=2)
    for virq in (0, 15, 16, 31, 34, 1019, 1020, 2000, 2**32 - 1):
        with Refusal(Error.ARGUMENT_INVALID):
            guest.vic.bind_shared(VirqSource(None, "x"), virq)
    for virq in (32, 33):
        guest.source(virq)


def test_the_last_spi_can_be_bound() -> None:
    guest = GicGuest(shared=988)
    guest.source(1019).unbind()
    guest.source(1019)


def test_a_bound_source_is_told_so_before_its_number_is_looked_at() -> None:
    guest = GicGuest()
    source = guest.source(40)
    for virq in (41, 40, 5):
        with Refusal(Error.VIRQ_BOUND):
            guest.vic.bind_shared(source, virq)
    assert source.virq == 40


def test_a_taken_interrupt_is_busy_until_its_source_leaves() -> None:
    guest = GicGuest()
    first = guest.source(40)
    second = VirqSource(None, "second")
    with Refusal(Error.BUSY):
        guest.vic.bind_shared(second, 40)
    assert second.vic is None
    first.unbind()
    first.unbind()
    guest.vic.bind_shared(second, 40)


def test_private_sources_bind_to_ppis_of_a_connected_vcpu_only() -> None:
    guest = GicGuest(vcpus=1, slots=2)
    source = VirqSource(None, "timer")
    for virq in (15, 32, 1023):
        with Refusal(Error.ARGUMENT_INVALID):
            guest.vic.bind_private(source, guest.vcpus[0], virq)
    stranger = RecordingVcpu()
    guest.vic.attach_vcpu(stranger, 1)
    with Refusal(Error.OBJECT_CONFIG):
        guest.vic.bind_private(source, stranger, 27)
    guest.vic.bind_private(source, guest.vcpus[0], 27)
    with Refusal(Error.VIRQ_BOUND):
        guest.vic.bind_private(source, guest.vcpus[0], 28)
    with Refusal(Error.BUSY):
        guest.vic.bind_private(VirqSource(None, "other"), guest.vcpus[0], 27)


def test_the_end_of_a_vic_unbinds_its_sources_and_takes_its_frames_away() -> None:
    guest = GicGuest()
    source = guest.source(50)
    removed: list[VirtualDevice] = []
    guest.vic.attach_frame(0, 0, lambda device: lambda: removed.append(device))
    guest.vic.vcpu_gone(guest.vcpus[0])
    guest.vic.put()
    guest.vic.put()
    assert guest.vic.state == ObjectState.DESTROYING
    assert source.vic is None
    assert removed == [guest.vic.distributor]
    other = GicGuest()
    other.vic.bind_shared(source, 50)


# -- frames ------------------------------------------------------------------------------------------------------------


def test_frames_are_attached_once_with_the_flags_they_know() -> None:
    guest = GicGuest(vcpus=1, slots=2)
    placed: list[VirtualDevice] = []

    def place(device: VirtualDevice) -> object:
        placed.append(device)
        return lambda: None

    with Refusal(Error.ARGUMENT_INVALID):
        guest.vic.attach_frame(3, 0, place)
    with Refusal(Error.ARGUMENT_INVALID):
        guest.vic.attach_frame(0, 1, place)
    with Refusal(Error.ARGUMENT_INVALID):
        guest.vic.attach_frame(1, 4, place)
    with Refusal(Error.IDLE):
        guest.vic.attach_frame(2, 0, place)
    assert placed == []
    guest.vic.attach_frame(0, 0, place)
    guest.vic.attach_frame(1, 0, place)
    for interface in (0, 1):
        with Refusal(Error.BUSY):
            guest.vic.attach_frame(interface, 0, place)
    assert placed[0] is guest.vic.distributor


def test_a_frame_that_finds_no_place_can_be_attached_later() -> None:
    guest = GicGuest()

    def nowhere(device: VirtualDevice) -> object:
        raise HypervisorError(Error.BUSY, "another device is there")

    with Refusal(Error.BUSY):
        guest.vic.attach_frame(0, 0, nowhere)
    guest.vic.attach_frame(0, 0, lambda device: lambda: None)


@pytest.mark.parametrize(("index", "flags", "last"), [(0, 0, 0), (1, 0, 1), (0, 3, 1), (1, 1, 0), (0, 2, 0), (1, 2, 1)])
def test_an_attached_redistributor_is_last_as_the_flags_say_or_at_the_highest_slot(
    index: int, flags: int, last: int
) -> None:
    guest = GicGuest(vcpus=2)
    frames: list[VirtualDevice] = []

    def place(device: VirtualDevice) -> object:
        frames.append(device)
        return lambda: None

    guest.vic.attach_frame(index + 1, flags, place)
    assert frames[0].read(guest.vcpus[0], 0x8, 8) >> 4 & 1 == last


def test_the_default_window_answers_for_present_redistributors_only() -> None:
    guest = GicGuest(vcpus=2, slots=8)
    found = guest.vic.default_device_at(GICD + 0xFFE8)
    assert found == (guest.vic.distributor, 0xFFE8)
    assert guest.vic.default_device_at(GICD + 0x1_0000) is None
    assert guest.vic.default_device_at(GICR - 4) is None
    assert guest.vic.default_device_at(GICR + 2 * 0x2_0000) is None
    assert guest.vic.default_device_at(GICR + 8 * 0x2_0000) is None
    lasts = []
    for index in (0, 1):
        found = guest.vic.default_device_at(GICR + index * 0x2_0000 + 8)
        assert found is not None
        lasts.append(found[0].read(guest.vcpus[0], found[1], 8) >> 4 & 1)
    assert lasts == [0, 1]
    third = RecordingVcpu()
    guest.attach(third, 2)
    assert guest.read_redistributor(8, 8, index=1) >> 4 & 1 == 0
    assert guest.read_redistributor(8, 8, index=2) >> 4 & 1 == 1


def test_the_default_window_can_be_refused_at_configuration() -> None:
    guest = GicGuest(flags=2)
    assert guest.vic.default_device_at(GICD) is None
    assert guest.vic.default_device_at(GICR) is None


# -- MPIDR -------------------------------------------------------------------------------------------------------------


def test_the_boards_mapping_puts_the_index_into_aff0() -> None:
    vic = Vic(None)
    assert [vic.mpidr(index) for index in (0, 5, 7)] == [0x8000_0000, 0x8000_0005, 0x8000_0007]
    assert DEFAULT_MAPPING.index(8, 0, 0, 0) == NO_MATCH
    assert DEFAULT_MAPPING.index(0, 1, 0, 0) == NO_MATCH


def test_a_mapping_spreads_the_index_over_the_affinity_levels() -> None:
    vic = Vic(None)
    vic.configure(8, 0, 0, 0)
    vic.set_mpidr_mapping(MpidrMapping.from_arguments(0x01_0000_0301, (0, 1, 0, 3), True))
    assert vic.mpidr(7) == 0x8100_0301
    assert vic.delivery.mapping.affinity(0b1101) == 0x0100_0201
    assert vic.mpidr(0b1101) == 0x01_8100_0201
    for index in range(16):
        word = vic.delivery.mapping.affinity(index)
        parts = [word >> shift & 0xFF for shift in (0, 8, 16, 24)]
        assert vic.delivery.mapping.index(parts[0], parts[1], parts[2], parts[3]) == index


def test_a_mapping_without_bits_makes_a_uniprocessor() -> None:
    assert MpidrMapping.from_arguments(0, (0, 0, 0, 0), False).mpidr(0) == 0xC000_0000


@pytest.mark.parametrize(
    ("mask", "shifts"),
    [
        (0xFF, (0, 8, 16, 32)),
        (0xFF, (0, 64, 16, 32)),
        (0x0101, (0, 0, 0, 0)),
        (0x2, (0, 0, 0, 0)),
        (0x0105, (0, 3, 0, 0)),
        (0xFFFF, (0, 8, 0, 0)),
        (0x01, (2**32 - 1, 0, 0, 0)),
    ],
)
def test_a_mapping_that_is_not_contiguous_from_bit_0_is_refused(mask: int, shifts: tuple[int, int, int, int]) -> None:
    with Refusal(Error.ARGUMENT_INVALID):
        MpidrMapping.from_arguments(mask, shifts, False)


# -- hypercalls --------------------------------------------------------------------------------------------------------


def test_handlers_carry_their_arguments_to_the_object() -> None:
    vic = Vic(None)
    HANDLERS["vic_configure"](None, None, vic, 3, 7, 0, 0)
    HANDLERS["vgic_set_mpidr_mapping"](None, None, vic, 0x3, 0, 0, 0, 0, 1)
    assert (vic.max_vcpus, vic.max_shared, vic.mpidr(2)) == (3, 7, 0x8100_0002)
    vic.activate()
    vcpu = Vcpu(None, None)
    HANDLERS["vic_attach_vcpu"](None, None, vic, vcpu, 2)
    assert (vcpu.vic, vcpu.vic_index) == (vic, 2)
    with Refusal(Error.ARGUMENT_INVALID):
        HANDLERS["vic_attach_vcpu"](None, None, vic, vcpu, 3)
    vcpu.state = ObjectState.ACTIVE
    with Refusal(Error.OBJECT_STATE):
        HANDLERS["vic_attach_vcpu"](None, None, vic, vcpu, 1)
    assert vcpu.vic_index == 2
    with Refusal(Error.CSPACE_WRONG_OBJECT_TYPE):
        HANDLERS["vic_bind_msi_source"](None, None, vic, 0x1234)


# -- memory ------------------------------------------------------------------------------------------------------------


def test_a_vic_takes_heap_for_its_slots_and_forwarded_ppis_and_gives_all_back() -> None:
    partition = create_partitions(PhysicalMemory([(0x4000_0000, 64 << 20)]), root_size=1 << 20)[1]
    used = partition.heap.used
    vic = Vic(partition)
    vic.configure(8, 988, 0, 0)
    configured = partition.charged(vic)
    vic.activate()
    assert partition.charged(vic) == configured + 8 * (988 + 8)
    ppi = HwIrq(None, 17)
    ppi.bind(vic, 20)
    assert partition.charged(vic) > configured + 8 * (988 + 8)
    ppi.unbind()
    assert partition.charged(vic) == configured + 8 * (988 + 8)
    vic.put()
    assert partition.heap.used == used
