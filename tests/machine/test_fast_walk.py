"""The engine's short page-table walk says what the library's own walk says, whatever the tables and registers hold."""

from __future__ import annotations

import ctypes
import gc
import shutil
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tools import build_host_code

from gunyah.machine.engine import EXECUTE, HCR, READ, WRITE, fast_walk
from gunyah.machine.engine.fast_walk import taken
from gunyah.machine.engine.linkage import linkage_slots
from gunyah.machine.engine.unicorn_private import u64_at

from .rig import DATA, RAM, RAM_SIZE, READ_WRITE, VTCR, Rig

USER, KERNEL = 0x10, 0x12
"""ARMMMUIdx_E10_0 and ARMMMUIdx_E10_1."""
FIRST_TABLE = RAM + 0x30_0000
"""Where the stage-1 tables are, one page each, the one that the walk starts with first."""
SCTLR = 0x30D0_0801
TCR = 5 << 32 | 2 << 30 | 25 << 16 | 25


class Walk(NamedTuple):
    fault: bool
    pa: int
    attributes: int
    protection: int
    size: int
    reason: bytes


class Tables(Rig):
    """A rig whose stage-1 tables have a stage 2 of their own, which can be thrown away."""

    def throw_away(self) -> None:
        self.tables = RAM + 0x0210_0000
        self.memory.fill(self.tables, 0x10_0000)
        self.stage2 = self.new_stage2()
        for offset in range(0, RAM_SIZE, 1 << 21):
            if not RAM + offset <= FIRST_TABLE < RAM + offset + (1 << 21):
                self.map(self.stage2, RAM + offset, RAM + offset, 1 << 21)
        self.registers.write("VTTBR_EL2", self.stage2 | 1 << 48)

    def set(self, *, hcr: int = HCR.GUEST, sctlr: int = SCTLR, tcr: int = TCR, vtcr: int = VTCR) -> None:
        values = {"HCR_EL2": hcr, "SCTLR_EL1": sctlr, "TCR_EL1": tcr, "VTCR_EL2": vtcr, "MAIR_EL1": 0xFF}
        for name, value in {**values, "TTBR0_EL1": FIRST_TABLE, "TTBR1_EL1": FIRST_TABLE}.items():
            self.registers.write(name, value)
        self.vcpu.touch()

    def chain(
        self, va: int, bits: int, limits: list[int], leaf_level: int, leaf: int, granted: int = READ_WRITE
    ) -> None:
        """Stage-1 tables for one address, one page each, in pages where stage 2 permits `granted`."""
        self.memory.fill(FIRST_TABLE, 0x4000)
        for n in range(4):
            self.map(self.stage2, FIRST_TABLE + 0x1000 * n, FIRST_TABLE + 0x1000 * n, 0x1000, granted)
        table = FIRST_TABLE
        for level in range(4 - (bits - 4) // 9, leaf_level + 1):
            slot = table + (va >> 12 + 9 * (3 - level) & 511) * 8
            table += 0x1000
            self.memory.write_u64(slot, leaf if level == leaf_level else table | 3 | limits[level] << 59)


@pytest.fixture(scope="module")
def rig() -> Tables:
    return Tables()


def walks(rig: Rig, va: int, access: int, index: int) -> tuple[Walk, Walk]:
    """What the library's function says, and what stands in its place."""
    library, core = rig.core.library, rig.core
    [slot] = linkage_slots(library, "get_phys_addr_aarch64")
    original = ctypes.cast(library.get_phys_addr, ctypes.c_void_p).value or 0
    answers = []
    for address in (original, u64_at(slot).value):
        out = (ctypes.c_uint64 * 8)()
        places = [ctypes.addressof(out) + 8 * n for n in range(8)]
        kinds = (ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32, *[ctypes.c_void_p] * 6)
        function = ctypes.CFUNCTYPE(ctypes.c_bool, *kinds)(address)
        fault = function(core.registers.address, va, access, index, *places[:5], None)
        reason = bytes(out)[32:] if fault else b""
        answers.append(Walk(fault, *((0, 0, 0, 0) if fault else (out[0], out[1], out[2], out[3])), reason))
    return answers[0], answers[1]


def agree(rig: Rig, va: int, access: int, index: int) -> tuple[Walk, bool]:
    """Compare both; gives what they say and whether the short way was one."""
    before = taken(rig.core)
    library, ours = walks(rig, va, access, index)
    short = taken(rig.core) != before
    if short:
        # The library reports stage 2's block, which says too much for maintenance of one address of stage 1.
        assert ours._replace(size=0) == library._replace(size=0)
    else:
        assert ours == library
    return ours, short


REGISTERS = {"HCR_EL2": HCR.GUEST, "SCTLR_EL1": SCTLR, "TCR_EL1": TCR, "VTCR_EL2": VTCR}
SLOTS = ("stage 1 table", "stage 1 page", "stage 2 of the tables", "stage 2 of the page")
PERMISSIVE = RAM | 0x123 << 12 | 3 | 1 << 10 | 3 << 8 | 1 << 6
ADDRESS = 0xFFFF_FF80_1234_5ABC

Flip = tuple[str, int]
FLIPS: list[Flip] = [(what, bit) for what in (*REGISTERS, *SLOTS, "VA") for bit in range(64)]


class Flipped:
    """One translation that is permitted, of a VA in either half, whose registers and descriptors lose or gain bits."""

    def __init__(self, rig: Tables, *, upper: bool) -> None:
        rig.throw_away()
        rig.set()
        self.va = ADDRESS if upper else ADDRESS & (1 << 39) - 1
        rig.chain(self.va, 39, [0] * 4, 3, PERMISSIVE)
        self.rig = rig
        level1 = rig.memory.read_u64(rig.stage2 + (RAM >> 30) * 8) & ~0xFFF
        level2 = level1 + (FIRST_TABLE >> 21 & 511) * 8
        level3 = rig.memory.read_u64(level2) & ~0xFFF
        self.slots = {
            "stage 1 table": FIRST_TABLE + (self.va >> 30 & 511) * 8,
            "stage 1 page": FIRST_TABLE + 0x2000 + (self.va >> 12 & 511) * 8,
            "stage 2 of the tables": level3 + (FIRST_TABLE >> 12 & 511) * 8,
            "stage 2 of the page": level1 + (RAM + (0x123 << 12) >> 21 & 511) * 8,
        }

    def check(self, flips: list[Flip]) -> int:
        """Compare the walks for all kinds of access; gives how many of them went the short way."""
        rig, va = self.rig, self.va
        before = {address: rig.memory.read_u64(address) for address in self.slots.values()}
        values: dict[str, int] = dict(REGISTERS)
        for what, bit in flips:
            if what == "VA":
                va ^= 1 << bit
            elif what in values:
                values[what] ^= 1 << bit
            else:
                address = self.slots[what]
                rig.memory.write_u64(address, rig.memory.read_u64(address) ^ 1 << bit)
        for name, value in values.items():
            rig.registers.write(name, value)
        short = sum(
            agree(rig, va, access, index)[1] for access in (READ, WRITE, EXECUTE) for index in (USER, KERNEL, 0x13)
        )
        for address, value in before.items():
            rig.memory.write_u64(address, value)
        return short


@pytest.mark.parametrize("upper", [False, True])
def test_both_walks_agree_whatever_single_bit_is_different(upper: bool, rig: Tables) -> None:
    translation = Flipped(rig, upper=upper)
    # User and kernel may read and write, the user may execute; PAN is left to the library.
    assert translation.check([]) == 5
    assert {translation.check([flip]) for flip in FLIPS} == {0, 3, 4, 5}


@settings(max_examples=200, deadline=None)
@given(flips=st.lists(st.sampled_from(FLIPS), min_size=2, max_size=4), upper=st.booleans())
def test_both_walks_agree_whatever_bits_are_different(flips: list[Flip], upper: bool, rig: Tables) -> None:
    Flipped(rig, upper=upper).check(flips)


@pytest.mark.parametrize("bits", range(25, 49))
def test_both_walks_agree_on_address_spaces_of_all_sizes(bits: int, rig: Tables) -> None:
    rig.throw_away()
    rig.set(tcr=5 << 32 | 2 << 30 | (64 - bits) << 16 | 64 - bits)
    va = 0x7654_3210_FABC & (1 << bits) - 1
    for leaf_level in range(4 - (bits - 4) // 9, 4):
        rig.chain(va, bits, [0] * 4, leaf_level, RAM | 1 << 10 | 3 << 8 | 1 << 6 | (3 if leaf_level == 3 else 1))
        for address in (va, va | 1 << bits, va | -1 << bits & (1 << 64) - 1, va ^ 1 << 55):
            agree(rig, address, READ, KERNEL)


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("index", [USER, KERNEL])
def test_what_linux_does_all_day_takes_the_short_way(rig: Tables, level: int, index: int) -> None:
    rig.throw_away()
    rig.set()
    va = 0x12_3456_7ABC
    size = 1 << 12 + 9 * (3 - level)
    page = (RAM & -size) | 1 << 10 | 3 << 8 | 1 << 6 | (3 if level == 3 else 1)
    rig.chain(va, 39, [0] * 4, level, page)
    walk, short = agree(rig, va, READ, index)
    inside = (RAM & -size) + (va & size - 1)
    assert short == (not walk.fault) == (RAM <= inside < RAM + RAM_SIZE)
    if short:
        assert walk.pa == inside
        assert walk.size == size
        assert walk.attributes == (4 if index == USER else 0)


@settings(max_examples=100, deadline=None)
@given(ap=st.integers(0, 3), never=st.integers(0, 3), limits=st.integers(0, 15), stage2=st.integers(0, 7),
       access=st.sampled_from((READ, WRITE, EXECUTE)), user=st.booleans())  # fmt: skip
@example(ap=1, never=0, limits=0, stage2=7, access=EXECUTE, user=False)
def test_the_short_way_is_open_to_exactly_what_is_permitted(
    ap: int, never: int, limits: int, stage2: int, access: int, user: bool, rig: Tables
) -> None:
    rig.throw_away()
    rig.set()
    va = 0x3456_7ABC
    rig.map(rig.stage2, DATA, DATA, 1 << 21,
               READ_WRITE & ~(3 << 6) | (stage2 & 3) << 6 | (0 if stage2 & 4 else 2 << 53))  # fmt: skip
    rig.chain(va, 39, [0, limits, 0, 0], 3, DATA | 3 | 1 << 10 | 3 << 8 | ap << 6 | never << 53)
    walk, short = agree(rig, va, access, USER if user else KERNEL)
    assert short == (not walk.fault)
    if short:
        assert walk.protection >> access & 1
        assert not walk.protection & ~stage2


def test_the_shipped_bytes_are_what_the_sources_build() -> None:
    sources = build_host_code.sources()
    assert sources
    for source in sources:
        shipped = source.with_suffix(".bin").read_bytes()
        assert shipped[:64].strip(b"\0")[-8:] != shipped[-8:]
        if shutil.which("gcc"):
            assert build_host_code.build(source) == shipped


def test_many_engines_of_a_process_all_walk_the_short_way() -> None:
    rigs = [Rig() for _ in range(12)]
    assert all(rig.core.shortcuts.walks in fast_walk.engines for rig in rigs)
    descriptions = [rig.core.shortcuts.walks for rig in rigs]
    rigs.clear()
    gc.collect()
    assert not any(description in fast_walk.engines for description in descriptions)
