"""Address translation: the software walker agrees with the engine's own, for any tables."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gunyah.machine.engine import EXECUTE, READ, WRITE, Fault
from gunyah.machine.engine.translate import (
    Access,
    Kind,
    TranslationFault,
    translate,
    translate_both,
    translate_stage2,
)  # fmt: skip

from .rig import CODE, DATA, FINISHED, RAM, READ_ONLY, Rig

TABLE = RAM + 0x30_0000
NORMAL = 1 << 10 | 3 << 8
"""Access flag, inner shareable, attribute 0."""
KERNEL_RO, USER = 1 << 7, 1 << 6
ACCESSES = ((Access.READ, READ), (Access.WRITE, WRITE), (Access.EXECUTE, EXECUTE))


class Regime(NamedTuple):
    """A half of the address space."""

    granule: int
    size_bits: int
    upper: bool

    @property
    def tcr(self) -> int:
        low = {12: 0, 16: 1, 14: 2}[self.granule] << 14 | 64 - self.size_bits
        high = ({14: 1, 12: 2, 16: 3}[self.granule] << 14 | 64 - self.size_bits) << 16
        # EPD of the other half: nothing is there.
        return high | 1 << 7 | 25 | 5 << 32 if self.upper else low | 1 << 23 | 25 << 16 | 2 << 30 | 5 << 32

    @property
    def levels(self) -> int:
        return -(-(self.size_bits - self.granule) // (self.granule - 3))

    def address(self, offset: int) -> int:
        return offset + ((1 << 64) - (1 << self.size_bits) if self.upper else 0)


def turn_on(rig: Rig, regime: Regime, table: int) -> None:
    registers = rig.registers
    registers.write("TCR_EL1", regime.tcr)
    registers.write("TTBR1_EL1" if regime.upper else "TTBR0_EL1", table)
    registers.write("MAIR_EL1", 0xFF)
    registers.write("SCTLR_EL1", 0x30D0_0801)
    rig.vcpu.touch()


@pytest.fixture(scope="module")
def rig() -> Rig:
    return Rig()


regimes = st.builds(
    Regime,
    st.sampled_from([12, 14, 16]),
    st.sampled_from([25, 32, 36, 39, 42, 47, 48]),
    st.booleans(),
)


@settings(max_examples=300, deadline=None)
@given(
    regime=regimes,
    offset=st.integers(0, (1 << 48) - 1),
    leaf_level=st.integers(1, 3),
    leaf=st.integers(0, 0x7F),
    table_bits=st.integers(0, 31),
    break_at=st.sampled_from([None, None, None, 0, 1, 2, 3]),
    el=st.sampled_from([0, 1]),
    pan=st.booleans(),
)
def test_software_walker_agrees_with_the_engine(
    rig: Rig,
    regime: Regime,
    offset: int,
    leaf_level: int,
    leaf: int,
    table_bits: int,
    break_at: int | None,
    el: int,
    pan: bool,
) -> None:
    granule, stride = regime.granule, regime.granule - 3
    offset &= (1 << regime.size_bits) - 1
    first = 4 - regime.levels
    # Where the architecture has no blocks the engine has some, which is no part of the promise.
    leaf_level = max(leaf_level, first, 1 if granule == 12 else 2)
    size = 1 << granule
    tables = TABLE // 0x1_0000 * 0x1_0000
    rig.memory.fill(tables, 5 * 0x1_0000)
    for level in range(first, leaf_level + 1):
        shift = granule + stride * (3 - level)
        table = tables + (level - first) * 0x1_0000
        bits = regime.size_bits - shift if level == first else stride
        slot = table + (offset >> shift & (1 << bits) - 1) * 8
        if level == break_at:
            entry = 0
        elif level == leaf_level:
            low, high = leaf & 0x1F, leaf >> 5
            # Access flag, AP, attribute bits and XN bits all come from `leaf`.
            entry = (DATA & ~((1 << shift) - 1)) & 0xFFFF_FFFF_FFFF | 3 << 8 | (low & 3) << 6 | (low >> 2 & 1) << 10
            entry |= high << 53 | (3 if level == 3 else 1)
        else:
            entry = table + 0x1_0000 & ~(size - 1) | 3 | (table_bits << 59 if level == first else 0)
        rig.memory.write_u64(slot, entry)
    turn_on(rig, regime, tables)
    rig.registers.pstate = 0x3C5 | (1 << 22 if pan else 0)
    va = regime.address(offset)
    for access, native in ACCESSES:
        expected = rig.core.physical(va, native, el=el)
        fault = rig.core.fault
        try:
            found = translate_both(rig.memory, rig.registers, va, access, el=el)
        except TranslationFault as error:
            assert expected is None, f"{access} {error}"
            if fault.kind != "other":
                assert (error.stage, error.kind.name.lower().replace("_", " ")) == (fault.stage, fault.kind)
        else:
            assert found == expected, f"{access} {fault}"


def test_kernel_and_user_halves_and_the_gap_between(rig: Rig) -> None:
    registers = rig.registers
    rig.memory.fill(TABLE, 0x4000)
    rig.memory.write_u64(TABLE, DATA & ~0x3FFF_FFFF | NORMAL | 1)
    turn_on(rig, Regime(12, 39, False), TABLE)
    registers.write("TCR_EL1", 25 | 25 << 16 | 2 << 30 | 5 << 32 | 1 << 37)
    registers.write("TTBR1_EL1", TABLE)
    rig.vcpu.touch()
    for va in (0x1234, 0xFFFF_FF80_0000_1234, 0xAB00_0000_0000_1234):
        assert translate(rig.memory, registers, va).address == RAM + 0x1234
        assert rig.core.physical(va) == RAM + 0x1234
    for va in (1 << 39, 0xFFFF_FF00_0000_0000, 0x00FF_FF80_0000_0000 & ~(1 << 40)):
        with pytest.raises(TranslationFault) as caught:
            translate(rig.memory, registers, va)
        assert caught.value.kind is Kind.TRANSLATION
        assert rig.core.physical(va) is None


def test_stage2_faults_name_the_ipa_and_what_was_wanted(rig: Rig) -> None:
    registers = rig.registers
    registers.write("SCTLR_EL1", 0x30D0_0800)
    rig.vcpu.touch()
    rig.map(rig.stage2, 0x1_0000_0000, DATA, 4096, READ_ONLY)
    assert translate_stage2(rig.memory, registers, 0x1_0000_0008).address == DATA + 8
    assert rig.core.physical(0x1_0000_0008, READ) == DATA + 8
    with pytest.raises(TranslationFault, match="permission"):
        translate_stage2(rig.memory, registers, 0x1_0000_0008, Access.WRITE)
    assert rig.core.physical(0x1_0000_0008, WRITE) is None
    assert rig.core.fault == Fault(2, "permission", 3, 0x1_0000_0008)
    assert rig.core.physical(0x2_0000_0000) is None
    assert rig.core.fault == Fault(2, "translation", 1, 0x2_0000_0000)


def test_switched_out_vcpu_is_translated_like_a_loaded_one(rig: Rig) -> None:
    rig.memory.fill(TABLE, 0x4000)
    rig.memory.write_u64(TABLE + 8, DATA & ~0x3FFF_FFFF | NORMAL | 1)
    turn_on(rig, Regime(12, 39, False), TABLE)
    va = (1 << 30) + 0x4_5678
    expected = rig.core.physical(va)
    rig.core.save()
    try:
        assert translate_both(rig.memory, rig.vcpu.registers, va) == expected == RAM + 0x4_5678
    finally:
        rig.core.load(rig.vcpu)


def test_guest_turns_its_own_mmu_on_and_both_walkers_follow() -> None:
    rig = Rig()
    program = (
        0xD518A201,  # msr mair_el1, x1
        0xD5182042,  # msr tcr_el1, x2
        0xD5182003,  # msr ttbr0_el1, x3
        0xD5033FDF,  # isb
        0xD5181004,  # msr sctlr_el1, x4
        0xD5033FDF,  # isb
        0xF9400005,  # ldr x5, [x0]
        0xD4001FE2,  # hvc #0xff
    )
    rig.memory.write_u64(TABLE, RAM | NORMAL | 1)
    rig.memory.write_u64(TABLE + 8, RAM | NORMAL | 1)
    rig.memory.write_u64(DATA, 0xFEED)
    va = DATA - RAM
    regime = Regime(12, 39, False)
    rig.run(program, va, 0xFF, regime.tcr, TABLE, 0x30D0_0801)
    assert rig.calls[-1][0] == FINISHED
    assert rig.x[5] == 0xFEED
    assert rig.core.physical(va) == translate_both(rig.memory, rig.registers, va) == DATA
    assert rig.core.physical(CODE) == CODE
    assert rig.core.instruction(CODE) == program[0]
