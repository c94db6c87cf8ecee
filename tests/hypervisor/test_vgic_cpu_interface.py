"""The ICC_* registers: acknowledging, priorities, preemption, both ways to end an interrupt (objects.md 10.5)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gunyah.hypervisor.vgic_cpu_interface import READABLE, REGISTERS, WRITABLE, CpuInterface, UndefinedRegister

from .gic_guest import ICACTIVER, ISACTIVER, ISENABLER, ISPENDR, SPURIOUS, GicGuest


@pytest.fixture
def guest() -> GicGuest:
    return GicGuest().start(groups=3)


def raise_spi(guest: GicGuest, intid: int, priority: int, group: int = 1) -> None:
    guest.enable(intid, priority=priority, group=group)
    guest.set_bit(ISPENDR, intid)


# -- registers ---------------------------------------------------------------------------------------------------------


def test_reset_values() -> None:
    gic = GicGuest().gic()
    values = {name: gic.read(name) for name in gic.readers}
    assert values == {
        "ICC_IAR0_EL1": SPURIOUS,
        "ICC_IAR1_EL1": SPURIOUS,
        "ICC_HPPIR0_EL1": SPURIOUS,
        "ICC_HPPIR1_EL1": SPURIOUS,
        "ICC_PMR_EL1": 0,
        "ICC_RPR_EL1": 0xFF,
        "ICC_BPR0_EL1": 2,
        "ICC_BPR1_EL1": 3,
        "ICC_AP0R0_EL1": 0,
        "ICC_AP1R0_EL1": 0,
        "ICC_CTLR_EL1": 0x8C00,
        "ICC_SRE_EL1": 7,
        "ICC_IGRPEN0_EL1": 0,
        "ICC_IGRPEN1_EL1": 0,
    }


def test_every_register_has_an_encoding_of_its_own_and_can_be_read_or_written(guest: GicGuest) -> None:
    gic = guest.gic()
    assert len(set(REGISTERS.values())) == len(REGISTERS)
    assert set(gic.readers) | set(gic.writers) == set(REGISTERS)
    assert (set(gic.readers), set(gic.writers)) == (READABLE, WRITABLE)


@pytest.mark.parametrize("name", ["ICC_EOIR1_EL1", "ICC_DIR_EL1", "ICC_SGI1R_EL1", "ICC_AP1R1_EL1", "ICH_VTR_EL2", ""])
def test_reading_what_cannot_be_read_is_undefined(guest: GicGuest, name: str) -> None:
    with pytest.raises(UndefinedRegister):
        guest.gic().read(name)


@pytest.mark.parametrize("name", ["ICC_IAR1_EL1", "ICC_HPPIR0_EL1", "ICC_RPR_EL1", "ICC_AP0R1_EL1", "ICC_NMIAR1_EL1"])
def test_writing_what_cannot_be_written_is_undefined(guest: GicGuest, name: str) -> None:
    with pytest.raises(UndefinedRegister):
        guest.gic().write(name, 0)


def test_writable_bits(guest: GicGuest) -> None:
    gic = guest.gic()
    every = (1 << 64) - 1
    for name, expected in {
        "ICC_PMR_EL1": 0xF8,
        "ICC_BPR0_EL1": 7,
        "ICC_BPR1_EL1": 7,
        "ICC_AP0R0_EL1": 0xFFFF_FFFF,
        "ICC_AP1R0_EL1": 0xFFFF_FFFF,
        "ICC_SRE_EL1": 7,
        "ICC_IGRPEN0_EL1": 1,
        "ICC_IGRPEN1_EL1": 1,
        "ICC_CTLR_EL1": 0x8C03,
    }.items():
        gic.write(name, every)
        assert gic.read(name) == expected, name
    gic.write("ICC_SRE_EL1", 0)
    assert gic.read("ICC_SRE_EL1") == 7


def test_binary_points_have_a_minimum_and_can_be_common(guest: GicGuest) -> None:
    gic = guest.gic()
    gic.write("ICC_BPR0_EL1", 0)
    gic.write("ICC_BPR1_EL1", 0)
    assert (gic.read("ICC_BPR0_EL1"), gic.read("ICC_BPR1_EL1")) == (2, 3)
    gic.write("ICC_BPR0_EL1", 5)
    gic.write("ICC_CTLR_EL1", 1)
    assert gic.read("ICC_BPR1_EL1") == 6
    gic.write("ICC_BPR1_EL1", 4)
    gic.write("ICC_BPR0_EL1", 7)
    assert gic.read("ICC_BPR1_EL1") == 7
    gic.write("ICC_CTLR_EL1", 0)
    assert gic.read("ICC_BPR1_EL1") == 3


# -- acknowledge and end -----------------------------------------------------------------------------------------------


def test_an_interrupt_is_taken_once_and_is_active_until_it_ends(guest: GicGuest) -> None:
    gic = guest.gic()
    raise_spi(guest, 40, 0xA0)
    assert guest.vcpus[0].virq
    assert gic.read("ICC_HPPIR1_EL1") == 40
    assert gic.acknowledge() == 40
    assert not guest.vcpus[0].virq
    assert (guest.bit(ISPENDR, 40), guest.bit(ISACTIVER, 40)) == (0, 1)
    assert gic.read("ICC_RPR_EL1") == 0xA0
    assert gic.read("ICC_AP1R0_EL1") == 1 << 20
    assert gic.acknowledge() == SPURIOUS
    gic.end(40)
    assert guest.bit(ISACTIVER, 40) == 0
    assert (gic.read("ICC_RPR_EL1"), gic.read("ICC_AP1R0_EL1")) == (0xFF, 0)
    assert guest.vcpus[0].calls == [True, False]


def test_the_highest_priority_goes_first_and_among_equals_the_one_that_was_there_first(guest: GicGuest) -> None:
    for intid, priority in ((90, 0x80), (33, 0xA0), (700, 0x40), (64, 0x80), (20, 0xA0)):
        raise_spi(guest, intid, priority)
    assert guest.take() == [700, 90, 64, 33, 20]


def test_each_group_has_its_own_acknowledge_register(guest: GicGuest) -> None:
    gic = guest.gic()
    raise_spi(guest, 40, 0x80, group=0)
    raise_spi(guest, 41, 0xA0, group=1)
    # The group 0 interrupt is the highest; group 1's register does not show the one behind it.
    assert gic.acknowledge() == SPURIOUS
    assert gic.read("ICC_HPPIR1_EL1") == SPURIOUS
    assert gic.read("ICC_HPPIR0_EL1") == 40
    assert gic.read("ICC_IAR0_EL1") == 40
    assert gic.read("ICC_AP0R0_EL1") == 1 << 16
    assert gic.acknowledge() == SPURIOUS
    gic.write("ICC_EOIR0_EL1", 40)
    assert gic.acknowledge() == 41


def test_equal_priorities_let_group_0_go_first(guest: GicGuest) -> None:
    raise_spi(guest, 41, 0x80, group=1)
    raise_spi(guest, 60, 0x80, group=0)
    assert guest.gic().read("ICC_IAR1_EL1") == SPURIOUS
    assert guest.gic().read("ICC_IAR0_EL1") == 60


@pytest.mark.parametrize("where", ["distributor", "cpu interface"])
def test_a_disabled_group_is_not_signalled_and_not_acknowledged(guest: GicGuest, where: str) -> None:
    gic = guest.gic()
    raise_spi(guest, 40, 0x80)
    if where == "distributor":
        guest.write(0, 1)
    else:
        gic.write("ICC_IGRPEN1_EL1", 0)
    assert not guest.vcpus[0].virq
    assert gic.acknowledge() == SPURIOUS
    assert gic.read("ICC_HPPIR1_EL1") == SPURIOUS
    assert guest.bit(ISPENDR, 40) == 1
    raise_spi(guest, 50, 0xC0, group=0)
    assert gic.read("ICC_IAR0_EL1") == 50
    gic.write("ICC_EOIR0_EL1", 50)
    guest.write(0, 3)
    gic.write("ICC_IGRPEN1_EL1", 1)
    assert guest.take() == [40]


def test_the_mask_lets_only_higher_priorities_through(guest: GicGuest) -> None:
    gic = guest.gic()
    gic.write("ICC_PMR_EL1", 0xA0)
    raise_spi(guest, 40, 0xA0)
    assert not guest.vcpus[0].virq
    assert gic.acknowledge() == SPURIOUS
    assert gic.read("ICC_HPPIR1_EL1") == 40
    gic.write("ICC_PMR_EL1", 0xA8)
    assert guest.vcpus[0].virq
    gic.write("ICC_PMR_EL1", 0)
    assert not guest.vcpus[0].virq
    gic.write("ICC_PMR_EL1", 0xFF)
    assert gic.acknowledge() == 40


def test_the_lowest_priority_can_never_be_signalled(guest: GicGuest) -> None:
    raise_spi(guest, 40, 0xF8)
    assert not guest.vcpus[0].virq
    guest.set_priority(40, 0xF0)
    assert guest.vcpus[0].virq


def test_a_higher_priority_preempts_and_ends_before_the_lower_one(guest: GicGuest) -> None:
    gic = guest.gic()
    raise_spi(guest, 40, 0xA0)
    assert gic.acknowledge() == 40
    raise_spi(guest, 41, 0xA0)
    assert not guest.vcpus[0].virq
    assert gic.acknowledge() == SPURIOUS
    raise_spi(guest, 42, 0x98)
    assert guest.vcpus[0].virq
    assert gic.acknowledge() == 42
    assert gic.read("ICC_AP1R0_EL1") == 1 << 20 | 1 << 19
    gic.end(42)
    assert gic.read("ICC_RPR_EL1") == 0xA0
    assert gic.acknowledge() == SPURIOUS
    gic.end(40)
    assert gic.acknowledge() == 41


def test_the_binary_point_groups_priorities_for_preemption(guest: GicGuest) -> None:
    gic = guest.gic()
    gic.write("ICC_BPR1_EL1", 6)
    raise_spi(guest, 40, 0xA8)
    assert gic.acknowledge() == 40
    assert gic.read("ICC_RPR_EL1") == 0x80
    raise_spi(guest, 41, 0x80)
    assert not guest.vcpus[0].virq
    raise_spi(guest, 42, 0x78)
    assert gic.acknowledge() == 42
    assert gic.read("ICC_RPR_EL1") == 0x40
    # With one group for all priorities nothing preempts.
    gic.end(42)
    gic.end(40)
    assert gic.acknowledge() == 41
    gic.write("ICC_BPR1_EL1", 7)
    gic.write("ICC_BPR0_EL1", 7)
    gic.write("ICC_CTLR_EL1", 1)
    raise_spi(guest, 43, 0)
    assert not guest.vcpus[0].virq


def test_a_common_binary_point_is_group_0s(guest: GicGuest) -> None:
    gic = guest.gic()
    gic.write("ICC_BPR0_EL1", 4)
    gic.write("ICC_CTLR_EL1", 1)
    raise_spi(guest, 40, 0xB0)
    assert gic.acknowledge() == 40
    assert gic.read("ICC_RPR_EL1") == 0xA0
    raise_spi(guest, 41, 0xA0)
    assert gic.acknowledge() == SPURIOUS
    gic.write("ICC_CTLR_EL1", 0)
    # Group 1 alone distinguishes more, but the running priority was noted as the group's.
    assert gic.acknowledge() == SPURIOUS


def test_with_split_end_the_priority_drops_first_and_dir_deactivates(guest: GicGuest) -> None:
    gic = guest.gic()
    gic.write("ICC_CTLR_EL1", 2)
    raise_spi(guest, 40, 0xA0)
    assert gic.acknowledge() == 40
    guest.set_bit(ISPENDR, 40)
    gic.end(40)
    assert gic.read("ICC_RPR_EL1") == 0xFF
    assert guest.bit(ISACTIVER, 40) == 1
    assert gic.acknowledge() == SPURIOUS
    raise_spi(guest, 41, 0xC0)
    assert gic.acknowledge() == 41
    gic.end(41)
    gic.write("ICC_DIR_EL1", 41)
    gic.write("ICC_DIR_EL1", 40)
    assert guest.bit(ISACTIVER, 40) == 0
    assert gic.acknowledge() == 40


def test_ending_special_unknown_or_idle_interrupts_does_nothing(guest: GicGuest) -> None:
    gic = guest.gic()
    gic.end(40)
    raise_spi(guest, 40, 0xA0)
    assert gic.acknowledge() == 40
    for intid in (1020, 1023, 1024, 8192, 0xFF_FFFF):
        gic.end(intid)
        gic.write("ICC_DIR_EL1", intid)
    assert gic.read("ICC_RPR_EL1") == 0xA0
    gic.write("ICC_DIR_EL1", 500)
    gic.end(40 | 0xFF00_0000)
    assert gic.read("ICC_RPR_EL1") == 0xFF


def test_an_interrupt_held_by_another_vcpu_is_not_deactivated() -> None:
    guest = GicGuest(vcpus=2).start()
    raise_spi(guest, 40, 0xA0)
    assert guest.gic(0).acknowledge() == 40
    guest.gic(1).write("ICC_DIR_EL1", 40)
    guest.gic(1).end(40)
    assert guest.bit(ISACTIVER, 40) == 1
    guest.gic(0).end(40)
    assert guest.bit(ISACTIVER, 40) == 0


def test_activity_that_software_wrote_can_be_taken_back_by_any_vcpu_and_held_activity_not() -> None:
    guest = GicGuest(vcpus=2).start()
    for end in ("register", "DIR"):
        guest.set_bit(ISACTIVER, 50)
        assert guest.bit(ISACTIVER, 50) == 1
        guest.gic(1).end(50)
        assert guest.bit(ISACTIVER, 50) == 1
        if end == "register":
            guest.set_bit(ICACTIVER, 50)
        else:
            guest.gic(1).write("ICC_DIR_EL1", 50)
        assert guest.bit(ISACTIVER, 50) == 0
    raise_spi(guest, 40, 0xA0)
    guest.set_bit(ISACTIVER, 40)
    assert guest.bit(ISACTIVER, 40) == 0
    assert guest.gic(0).acknowledge() == 40
    guest.set_bit(ICACTIVER, 40)
    assert guest.bit(ISACTIVER, 40) == 1


def test_active_priorities_can_be_saved_and_restored(guest: GicGuest) -> None:
    gic = guest.gic()
    raise_spi(guest, 40, 0xA0)
    gic.acknowledge()
    saved = gic.read("ICC_AP1R0_EL1")
    gic.write("ICC_AP1R0_EL1", 0)
    raise_spi(guest, 41, 0xA0)
    assert guest.vcpus[0].virq
    gic.write("ICC_AP1R0_EL1", saved)
    assert not guest.vcpus[0].virq
    gic.end(40)
    assert gic.acknowledge() == 41


def test_power_off_resets_the_interface_and_leaves_activity_to_be_cleared(guest: GicGuest) -> None:
    gic = guest.gic()
    gic.write("ICC_CTLR_EL1", 3)
    gic.write("ICC_BPR0_EL1", 5)
    raise_spi(guest, 40, 0xA0)
    raise_spi(guest, 3, 0x80)
    assert gic.acknowledge() == 3
    gic.stop()
    assert not guest.vcpus[0].virq
    assert [gic.read(f"ICC_{name}_EL1") for name in ("PMR", "RPR", "CTLR", "BPR0", "IGRPEN0", "IGRPEN1")] == [
        0, 0xFF, 0x8C00, 2, 0, 0,
    ]  # fmt: skip
    assert guest.bit(ISENABLER, 40) == 1
    assert guest.bit(ISACTIVER, 3) == 1
    guest.set_bit(ICACTIVER, 3)
    assert guest.bit(ISACTIVER, 3) == 0
    guest.start()
    assert guest.take() == [40]


# -- any access --------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(REGISTERS)), st.booleans(), st.integers(0, 2**64 - 1)), max_size=80))
def test_no_register_access_gets_anything_but_a_value_or_undefined(accesses: list[tuple[str, bool, int]]) -> None:
    guest = GicGuest(vcpus=3).start(groups=3)
    for intid in (0, 5, 31, 32, 1019):
        raise_spi(guest, intid, 0x80, group=intid & 1)
    gic: CpuInterface = guest.gic(1)
    for name, write, value in accesses:
        try:
            if write:
                gic.write(name, value)
            else:
                assert 0 <= gic.read(name) < 1 << 32
        except UndefinedRegister:
            continue
