"""Register frames of the virtual GICv3, row by row (objects.md 10.3, 10.4, 10.6; recorded values of reference.md 2)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gunyah.hypervisor.vdevice import DeviceAbort

from .gic_guest import (
    GICD_CTLR,
    ICACTIVER,
    ICENABLER,
    ICFGR,
    ICPENDR,
    IGROUPR,
    IPRIORITYR,
    IROUTER,
    ISACTIVER,
    ISENABLER,
    ISPENDR,
    SGI_FRAME,
    GicGuest,
)

STATUSR = 0x10
RRD, WRD, RWOD, WROD = 1, 2, 4, 8
U32 = 0xFFFF_FFFF


@pytest.fixture
def guest() -> GicGuest:
    return GicGuest(vcpus=2)


# -- distributor -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0x0000, 0x50),
        (0x0004, 0x0349_001F),
        (0x0008, 0x4700_0070),
        (0x000C, 0),
        (0x0010, 0),
        (0x0040, 0),
        (0x0080, 0),
        (0x0C08, 0),
        (0xFFD0, 0),
        (0xFFE0, 0),
        (0xFFE8, 0x30),
    ],
)
def test_the_distributor_reads_as_recorded(guest: GicGuest, offset: int, value: int) -> None:
    assert guest.read(offset) == value


def test_only_the_group_enables_of_the_control_register_can_be_written(guest: GicGuest) -> None:
    guest.write(GICD_CTLR, 0x12)
    assert guest.read(GICD_CTLR) == 0x52
    guest.write(GICD_CTLR, U32)
    assert guest.read(GICD_CTLR) == 0x53
    guest.write(GICD_CTLR, 0)
    assert guest.read(GICD_CTLR) == 0x50


@pytest.mark.parametrize(
    ("offset", "size"),
    [
        (0x0004, 1),
        (0x0004, 2),
        (0x0000, 8),
        (0x0001, 4),
        (0x0002, 4),
        (0x0102, 2),
        (0x0100, 8),
        (0x6104, 8),
        (0x6100, 2),
        (0x6100, 1),
        (0x0041, 2),
        (0x0040, 1),
        (0xFFE8, 1),
        (0x6000, 8),
    ],
)
def test_wrong_sizes_and_alignments_abort(guest: GicGuest, offset: int, size: int) -> None:
    with pytest.raises(DeviceAbort):
        guest.read(offset, size)
    with pytest.raises(DeviceAbort):
        guest.write(offset, 0, size)
    assert guest.read(STATUSR) == 0


def test_a_read_where_nothing_is_gives_0_and_is_noted_and_a_write_aborts(guest: GicGuest) -> None:
    assert guest.read(0x0044) == 0
    assert guest.read(STATUSR) == RRD
    with pytest.raises(DeviceAbort):
        guest.write(0x0044, 1)
    assert guest.read(STATUSR) == RRD | WRD
    guest.write(STATUSR, RRD)
    assert guest.read(STATUSR) == WRD


def test_accesses_against_a_registers_direction_are_noted(guest: GicGuest) -> None:
    for offset in (0x0004, 0x0008, 0x000C, 0xFFE8):
        guest.write(offset, U32)
    assert guest.read(STATUSR) == WROD
    guest.write(STATUSR, U32)
    assert guest.read(STATUSR) == 0
    for offset in (0x0040, 0x0048, 0x0050, 0x0058, 0x0F00):
        assert guest.read(offset) == 0
    assert guest.read(STATUSR) == RWOD


@pytest.mark.parametrize(
    "offset", [0x0050, 0x0058, 0x0800, 0x0BFC, 0x0D00, 0x0D7C, 0x0E00, 0x0EFC, 0x0F00, 0x0F10, 0x0F2C]
)
def test_legacy_and_secure_registers_ignore_writes(guest: GicGuest, offset: int) -> None:
    guest.write(offset, U32)
    assert guest.read(offset) == 0
    assert all(guest.read(bank + 4 * word) == 0 for bank in (ISENABLER, ISPENDR) for word in range(32))


@pytest.mark.parametrize(("bank", "clear"), [(ISENABLER, ICENABLER), (ISPENDR, ICPENDR), (ISACTIVER, ICACTIVER)])
def test_set_and_clear_banks_hold_every_spi_and_only_those(guest: GicGuest, bank: int, clear: int) -> None:
    for word in range(32):
        guest.write(bank + 4 * word, U32)
    expected = [0] + [U32] * 30 + [0x0FFF_FFFF]
    assert [guest.read(bank + 4 * word) for word in range(32)] == expected
    assert [guest.read(clear + 4 * word) for word in range(32)] == expected
    guest.write(clear + 4, 0x8000_0001)
    guest.write(bank + 4, 0)
    assert guest.read(bank + 4) == 0x7FFF_FFFE


def test_groups_priorities_and_triggers_of_spis(guest: GicGuest) -> None:
    for word in range(32):
        guest.write(IGROUPR + 4 * word, 0xA5A5_5A5A)
    assert guest.read(IGROUPR) == 0
    assert guest.read(IGROUPR + 4) == 0xA5A5_5A5A
    assert guest.read(IGROUPR + 4 * 31) == 0x05A5_5A5A
    guest.write(IGROUPR + 4, 0)
    assert guest.read(IGROUPR + 4) == 0

    guest.write(IPRIORITYR + 40, 0xFF_A7_10_07)
    assert guest.read(IPRIORITYR + 40) == 0xF8_A0_10_00
    assert guest.read(IPRIORITYR + 42, 1) == 0xA0
    guest.write(IPRIORITYR + 42, 0x0F, 1)
    assert guest.read(IPRIORITYR + 40) == 0xF8_08_10_00
    guest.write(IPRIORITYR, U32)
    guest.write(IPRIORITYR + 31, 0xFF, 1)
    assert guest.read(IPRIORITYR) == 0
    guest.write(IPRIORITYR + 1020, U32)
    assert guest.read(IPRIORITYR + 1020) == 0

    guest.write(ICFGR + 8, U32)
    assert guest.read(ICFGR + 8) == 0xAAAA_AAAA
    guest.write(ICFGR + 8, 0x5555_5555)
    assert guest.read(ICFGR + 8) == 0
    guest.write(ICFGR + 4 * 63, U32)
    assert guest.read(ICFGR + 4 * 63) == 0x00AA_AAAA


def test_word_0_of_a_bank_is_the_callers_own_and_read_only_here(guest: GicGuest) -> None:
    guest.write_redistributor(SGI_FRAME + IGROUPR, 0x1234_5678, index=1)
    guest.write_redistributor(SGI_FRAME + ISENABLER, 0xF00F, index=1)
    guest.write_redistributor(SGI_FRAME + IPRIORITYR + 4, 0x4030_2010, index=1)
    guest.write_redistributor(SGI_FRAME + ICFGR + 4, 0x8000_0002, index=1)
    for bank in (IGROUPR, ISENABLER, ICENABLER, ISPENDR, ICPENDR, ISACTIVER, ICACTIVER):
        guest.write(bank, U32, cpu=1)
    assert guest.read(IGROUPR, cpu=0) == 0
    assert guest.read(IGROUPR, cpu=1) == 0x1234_5678
    assert guest.read(ISENABLER, cpu=1) == 0xF00F
    assert guest.read(IPRIORITYR + 4, cpu=1) == 0x4030_2010
    assert guest.read(ICFGR, cpu=1) == 0xAAAA_AAAA
    assert guest.read(ICFGR + 4, cpu=1) == 0x8000_0002
    assert guest.read(ISPENDR, cpu=1) == 0


def test_messages_make_spis_pending_and_not_pending(guest: GicGuest) -> None:
    for intid in (5, 20, 1020, 1023, 8191):
        guest.write(0x40, intid)
    assert all(guest.read(ISPENDR + 4 * word) == 0 for word in range(32))
    guest.write(0x40, 77)
    guest.write(0x40, 78, 2)
    assert guest.read(ISPENDR + 8) == 3 << 13
    guest.write(0x48, 77, 2)
    assert guest.read(ISPENDR + 8) == 1 << 14
    # A message latch is not ISPENDR's latch.
    guest.write(ICPENDR + 8, 1 << 14)
    assert guest.read(ISPENDR + 8) == 1 << 14
    guest.write(0x48, 78)
    assert guest.read(ISPENDR + 8) == 0


def test_routes_are_doublewords_that_keep_the_affinity(guest: GicGuest) -> None:
    guest.route(32, 1)
    guest.route(1019, 0xFF_80FF_FFFF)
    assert guest.read(IROUTER + 8 * 32, 8) == 1
    assert guest.read(IROUTER + 8 * 1019, 8) == 0xFF_00FF_FFFF
    assert guest.read(IROUTER + 8 * 1019 + 4) == 0xFF
    guest.write(IROUTER + 8 * 33 + 4, 0x12)
    guest.write(IROUTER + 8 * 33, 0x0003_0201)
    assert guest.read(IROUTER + 8 * 33, 8) == 0x12_0003_0201
    guest.route(1020, 1)
    assert guest.read(IROUTER + 8 * 1020, 8) == 0


def test_a_source_with_a_fixed_mode_wins_over_the_trigger_register(guest: GicGuest) -> None:
    source = guest.source(40)
    source.always_edge = True
    guest.set_edge(40, False)
    assert guest.read(ICFGR + 8) == 2 << 16
    guest.set_edge(41, False)
    assert guest.read(ICFGR + 8) == 2 << 16


def test_narrow_reads_of_registers_that_allow_them(guest: GicGuest) -> None:
    assert guest.read(0x40, 2) == 0
    assert guest.read(STATUSR) == RWOD
    guest.write(STATUSR, RWOD)
    assert guest.read(0x801, 1) == 0
    assert guest.read(STATUSR) == 0
    guest.write(0xF13, 0xFF, 1)
    assert guest.read(0xF13, 1) == 0
    assert guest.read(STATUSR) == RRD


# -- redistributor -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0x0000, 0),
        (0x0004, 0x4700_0070),
        (0x0010, 0),
        (0x0014, 0),
        (0x0070, 0),
        (0x0078, 0),
        (0x00C0, 0),
        (0xFFE8, 0x30),
        (SGI_FRAME + 0x080, 0),
        (SGI_FRAME + 0x100, 0),
        (SGI_FRAME + 0xC00, 0xAAAA_AAAA),
        (SGI_FRAME + 0xC04, 0),
        (SGI_FRAME + 0xD00, 0),
        (SGI_FRAME + 0xE00, 0),
    ],
)
def test_a_redistributor_reads_as_recorded(guest: GicGuest, offset: int, value: int) -> None:
    assert guest.read_redistributor(offset) == value
    assert guest.read_redistributor(0x10) == 0


def test_the_type_register_tells_affinity_number_and_last() -> None:
    guest = GicGuest(vcpus=8)
    words = [(guest.read_redistributor(8, index=i), guest.read_redistributor(12, index=i)) for i in (0, 1, 7)]
    assert words == [(0, 0), (0x100, 1), (0x710, 7)]
    assert guest.read_redistributor(8, 8, index=7) == 0x7_0000_0710


def test_redistributor_sizes_and_alignments(guest: GicGuest) -> None:
    for offset, size in ((0, 8), (0x14, 8), (4, 1), (8, 2), (SGI_FRAME + 0x100, 1), (SGI_FRAME + 0x100, 8), (0xA, 4)):
        with pytest.raises(DeviceAbort):
            guest.read_redistributor(offset, size)
        with pytest.raises(DeviceAbort):
            guest.write_redistributor(offset, 0, size)
    for offset in (0x8, 0x40, 0x48, 0x70, 0x78, 0xA0, 0xB0):
        guest.read_redistributor(offset, 8)


def test_what_needs_lpis_reads_0_and_aborts_on_writes(guest: GicGuest) -> None:
    for offset in (0x70, 0x78, 0xA0, 0xB0):
        with pytest.raises(DeviceAbort):
            guest.write_redistributor(offset, 1, 8)
    assert guest.read_redistributor(STATUSR) == WRD
    guest.write_redistributor(STATUSR, WRD)
    for offset in (0x40, 0x48):
        guest.write_redistributor(offset, 8192, 8)
    assert guest.read_redistributor(STATUSR) == 0
    for offset in (0x40, 0x48, 0xA0, 0xB0):
        assert guest.read_redistributor(offset) == 0
    assert guest.read_redistributor(STATUSR) == RWOD


def test_read_only_redistributor_registers_note_a_write(guest: GicGuest) -> None:
    for offset in (0x04, 0x08, 0xC0, 0xFFE8):
        guest.write_redistributor(offset, U32)
        assert guest.read_redistributor(STATUSR) == WROD
        guest.write_redistributor(STATUSR, WROD)
    assert guest.read_redistributor(0x18) == 0
    assert guest.read_redistributor(STATUSR) == RRD


def test_the_children_sleep_only_with_both_groups_disabled(guest: GicGuest) -> None:
    guest.start()
    guest.write_redistributor(0x14, 2)
    assert guest.read_redistributor(0x14) == 2
    guest.gic().write("ICC_IGRPEN1_EL1", 0)
    assert guest.read_redistributor(0x14) == 6
    guest.gic().write("ICC_IGRPEN1_EL1", 1)
    guest.write(GICD_CTLR, 0)
    assert guest.read_redistributor(0x14) == 6
    guest.write_redistributor(0x14, 0)
    assert guest.read_redistributor(0x14) == 0
    assert guest.read_redistributor(0x14, index=1) == 0


def test_any_vcpu_may_use_any_redistributor(guest: GicGuest) -> None:
    guest.write_redistributor(SGI_FRAME + ISENABLER, 0x8001, index=1, cpu=0)
    assert guest.read_redistributor(SGI_FRAME + ISENABLER, index=1, cpu=1) == 0x8001
    assert guest.read_redistributor(SGI_FRAME + ICENABLER, index=1, cpu=0) == 0x8001
    assert guest.read_redistributor(SGI_FRAME + ISENABLER, index=0) == 0


def test_private_banks(guest: GicGuest) -> None:
    base = SGI_FRAME
    guest.write_redistributor(base + IPRIORITYR + 28, 0xFF_A7_10_07)
    assert guest.read_redistributor(base + IPRIORITYR + 28) == 0xF8_A0_10_00
    guest.write_redistributor(base + IPRIORITYR + 31, 0x20, 1)
    assert guest.read_redistributor(base + IPRIORITYR + 31, 1) == 0x20
    guest.write_redistributor(base + ICFGR, 0)
    assert guest.read_redistributor(base + ICFGR) == 0xAAAA_AAAA
    guest.write_redistributor(base + ICFGR + 4, U32)
    assert guest.read_redistributor(base + ICFGR + 4) == 0xAAAA_AAAA
    guest.write_redistributor(base + ISPENDR, U32)
    assert guest.read_redistributor(base + ISPENDR) == U32
    guest.write_redistributor(base + ICPENDR, 0xFFFF)
    assert guest.read_redistributor(base + ISPENDR) == 0xFFFF_0000
    guest.write_redistributor(base + ISACTIVER, 0x0101_0101)
    guest.write_redistributor(base + ICACTIVER, 0x0001_0001)
    assert guest.read_redistributor(base + ISACTIVER) == 0x0100_0100
    with pytest.raises(DeviceAbort):
        guest.write_redistributor(base + IPRIORITYR + 32, 0)


def test_a_frame_read_by_a_vcpu_without_a_gic_shows_no_private_state(guest: GicGuest) -> None:
    guest.vcpus[0].gic = None
    assert guest.read(IGROUPR) == 0
    assert guest.read(IPRIORITYR) == 0


# -- any access --------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.booleans(),
            st.one_of(st.integers(0, 0x1FFFF), st.sampled_from([0x80, 0x100, 0x200, 0x300, 0xC00, 0x6100, 0x7FD8])),
            st.sampled_from([1, 2, 4, 8]),
            st.integers(0, 2**64 - 1),
        ),
        max_size=60,
    )
)
def test_no_access_gets_anything_but_a_value_or_an_abort(accesses: list[tuple[bool, bool, int, int, int]]) -> None:
    guest = GicGuest(vcpus=2).start()
    for redistributor, write, offset, size, value in accesses:
        frame = guest.vic.redistributor(1) if redistributor else guest.vic.distributor
        try:
            if write:
                frame.write(guest.vcpus[0], offset, size, value & (1 << 8 * size) - 1)
            else:
                assert 0 <= frame.read(guest.vcpus[0], offset, size) < 1 << 8 * size
        except DeviceAbort:
            continue
