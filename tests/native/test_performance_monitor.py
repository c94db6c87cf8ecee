"""What ID_AA64DFR0_EL1 promises of a PMUv3 is there: its counters count, overflow, and interrupt."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from tests.native.code import Code, guest
from tests.native.test_lost_guests import with_vectors, words

from gunyah.hypervisor import performance_monitor
from gunyah.hypervisor.performance_monitor import COUNTERS, PMCR_ID
from gunyah.machine import board
from gunyah.native import NativePrimary
from gunyah.system import System

E, P, C, D, LC = 1, 2, 4, 8, 64
CYCLES = 1 << 31
NOT_EL1, NOT_EL0 = 1 << 31, 1 << 30
CPU_CYCLES, SW_INCR = 0x11, 0
ISB, LET_INTERRUPTS_IN = 0xD503_3FDF, 0xD503_42FF
RESULTS = 0x4200_0000


def put(code: Code, register: str, value: int) -> Code:
    return code.mov(9, value).msr(register, 9)


def spend(code: Code, name: str, loops: int) -> Code:
    """Two instructions for each loop."""
    return code.mov(8, loops).label(name).subi(8, 8, 1).cbnz(8, name)


class Results:
    """Code that stores what it finds, and runs it."""

    def __init__(self) -> None:
        self.code = Code()
        self.count = 0

    def take(self, register: str) -> None:
        self.code.mrs(10, register).mov(11, RESULTS + 8 * self.count).store(10, 11)
        self.count += 1

    def run(self, entries: dict[int, Code] | None = None) -> tuple[int, ...]:
        body = self.code.power_off()
        primary = NativePrimary(kernel=guest(with_vectors(body, entries or {})))
        with System(primary, clock="virtual", seed=1, memory=64 << 20) as system:
            assert system.run(until=lambda: system.stopped is not None, timeout=5), system.last_words()
            return struct.unpack(f"<{self.count}Q", system.memory.read(RESULTS, 8 * self.count))


def test_every_register_is_there_and_reads_what_a_reset_leaves() -> None:
    results = Results()
    for name in performance_monitor.READERS:
        results.take(name)
    results.take("PMCEID0_EL0")
    results.take("ID_AA64DFR0_EL1")
    *found, events, features = results.run()
    assert dict(zip(performance_monitor.READERS, found, strict=True)) == {
        name: PMCR_ID if name == "PMCR_EL0" else 0 for name in performance_monitor.READERS
    }
    assert events == 1 << CPU_CYCLES | 1 << SW_INCR
    assert features >> 8 & 15 == 1
    assert PMCR_ID >> 11 & 31 == COUNTERS


def test_registers_keep_the_bits_that_they_have() -> None:
    results = Results()
    put(results.code, "PMSELR_EL0", 5)
    values = {"PMCNTENSET_EL0": CYCLES | 0x3F, "PMINTENSET_EL1": CYCLES | 0x3F, "PMXEVTYPER_EL0": 0xFC00_03FF}
    values |= {"PMEVCNTR4_EL0": 0xFFFF_FFFF, "PMXEVCNTR_EL0": 0xFFFF_FFFF, "PMCCNTR_EL0": (1 << 64) - 1}
    values |= {"PMCCFILTR_EL0": 0xFC00_0000, "PMOVSSET_EL0": CYCLES | 0x3F}
    for name in values:
        put(results.code, name, (1 << 64) - 1)
        results.take(name)
    results.take("PMEVTYPER5_EL0")
    put(results.code, "PMOVSCLR_EL0", 3)
    results.take("PMOVSCLR_EL0")
    assert results.run() == (*values.values(), 0xFC00_03FF, CYCLES | 0x3C)


def counted(prepare: Callable[[Code], object], register: str, loops: int = 4000) -> int:
    results = Results()
    put(results.code, "PMCNTENSET_EL0", CYCLES | 0x3F)
    prepare(results.code)
    results.code.word(ISB)
    results.take(register)
    spend(results.code, "busy", loops)
    results.take(register)
    before, after = results.run()
    return after - before


def test_the_cycle_counter_counts_an_instruction_in_a_nanosecond() -> None:
    # Each look takes its time too.
    assert 8000 <= counted(lambda code: put(code, "PMCR_EL0", E | LC), "PMCCNTR_EL0") < 8000 + 2000


def test_the_cycle_counter_counts_every_64th_cycle_if_told_so() -> None:
    assert 125 <= counted(lambda code: put(code, "PMCR_EL0", E | D | LC), "PMCCNTR_EL0") < 125 + 32


def test_an_event_counter_counts_cycles() -> None:
    def prepare(code: Code) -> None:
        put(put(code, "PMEVTYPER5_EL0", CPU_CYCLES), "PMCR_EL0", E)

    assert 8000 <= counted(prepare, "PMEVCNTR5_EL0") < 8000 + 2000


@pytest.mark.parametrize("control", (0, LC))
def test_a_monitor_that_is_off_counts_nothing(control: int) -> None:
    assert counted(lambda code: put(code, "PMCR_EL0", control), "PMCCNTR_EL0") == 0


def test_a_level_that_is_filtered_out_does_not_count() -> None:
    def prepare(code: Code) -> None:
        put(put(code, "PMCCFILTR_EL0", NOT_EL1 | NOT_EL0), "PMCR_EL0", E | LC)

    assert counted(prepare, "PMCCNTR_EL0") == 0


def test_each_level_is_counted_apart() -> None:
    # Given one counter of EL0's cycles and one of EL1's,
    results = Results()
    code = results.code
    for n, levels in ((0, NOT_EL1), (1, NOT_EL0)):
        put(code, f"PMEVTYPER{n}_EL0", levels | CPU_CYCLES)
    put(put(code, "PMCNTENSET_EL0", 3), "PMCR_EL0", E | P)
    # when EL0 takes three times as long as EL1
    spend(code, "kernel", 100_000)
    code.adr(9, "user").msr("ELR_EL1", 9).mov(9, 0).msr("SPSR_EL1", 9).eret()
    spend(code.label("user"), "busy", 300_000).word(0xD400_0001)
    handler = Results()
    handler.take("PMEVCNTR0_EL0")
    handler.take("PMEVCNTR1_EL0")
    handler.code.power_off()
    results.count = 2
    user, kernel = results.run({0x400: handler.code})
    # then each counter has its share.
    assert user + kernel == pytest.approx(800_000, rel=0.05)
    assert user / kernel == pytest.approx(3, rel=0.1)


def test_software_increments_are_counted_where_they_are_selected() -> None:
    results = Results()
    code = results.code
    put(put(code, "PMEVTYPER1_EL0", CPU_CYCLES), "PMCNTENSET_EL0", 0b110)
    put(put(code, "PMEVCNTR2_EL0", 0xFFFF_FFFF), "PMCR_EL0", E)
    put(code, "PMSWINC_EL0", 0b101)
    for name in ("PMEVCNTR0_EL0", "PMEVCNTR2_EL0", "PMOVSSET_EL0"):
        results.take(name)
    put(code, "PMCR_EL0", E | P | C)
    put(code, "PMSWINC_EL0", 0b100)
    results.take("PMEVCNTR2_EL0")
    assert results.run() == (0, 0, 0b100, 1)


def test_an_overflow_interrupts() -> None:
    # Given an interrupt controller that lets PPI 23 in, and a counter 20000 cycles from its end,
    redistributor = board.GICR.base
    code = (
        Code()
        .mov(0, board.GICD.base).mov(1, 2).store(1, 0, 4)
        .mov(0, redistributor + 0x14).mov(1, 0).store(1, 0, 4)
        .mov(0, redistributor + 0x1_0080).mov(1, 0xFFFF_FFFF).store(1, 0, 4)
        .mov(0, redistributor + 0x1_0100).mov(1, 1 << board.PPI_PMU).store(1, 0, 4)
        .mov(1, 0xFF).msr("ICC_PMR_EL1", 1).mov(1, 1).msr("ICC_IGRPEN1_EL1", 1)
    )  # fmt: skip
    put(put(code, "PMEVTYPER3_EL0", CPU_CYCLES), "PMEVCNTR3_EL0", (1 << 32) - 20_000)
    put(put(put(code, "PMINTENSET_EL1", 8), "PMCNTENSET_EL0", 8), "PMCR_EL0", E)
    code.word(ISB, LET_INTERRUPTS_IN).mov(8, 0).label("here").addi(8, 8, 1).b("here")
    # when the guest just goes on,
    handler = Code().mrs(2, "ICC_IAR1_EL1").mrs(3, "PMOVSCLR_EL0").msr("PMOVSCLR_EL0", 3)
    handler.msr("ICC_EOIR1_EL1", 2).mrs(4, "ICC_HPPIR1_EL1")
    for n, register in enumerate((2, 3, 4, 8)):
        handler.mov(11, RESULTS + 8 * n).store(register, 11)
    results = Results()
    results.code.word(*words(code))
    results.count = 4
    interrupt, overflowed, next_interrupt, loops = results.run({0x280: handler.power_off()})
    # then it is interrupted when the counter has come to its end, and the overflow can be cleared.
    assert (interrupt, overflowed) == (board.PPI_PMU, 8)
    assert next_interrupt == 1023
    assert 9_000 <= loops <= 11_000


def test_el0_is_let_in_by_pmuserenr_alone() -> None:
    for allowed in (0, 1):
        results = Results()
        put(results.code, "PMUSERENR_EL0", allowed)
        results.code.adr(9, "user").msr("ELR_EL1", 9).mov(9, 0).msr("SPSR_EL1", 9).eret()
        results.code.label("user").mrs(5, "PMCCNTR_EL0").mrs(5, "PMEVCNTR5_EL0").word(0xD400_0001)
        handler = Results()
        handler.take("ESR_EL1")
        results.count = 1
        (esr,) = results.run({0x400: handler.code.power_off()})
        assert esr >> 26 == (0x15 if allowed else 0x18)


def test_cycles_of_another_vcpu_are_not_counted() -> None:
    # A vCPU that waits uses no cycles.
    def prepare(code: Code) -> None:
        put(code, "PMCR_EL0", E | LC)
        code.mov(1, 625_000).msr("CNTV_TVAL_EL0", 1).mov(1, 1).msr("CNTV_CTL_EL0", 1)

    results = Results()
    put(results.code, "PMCNTENSET_EL0", CYCLES)
    prepare(results.code)
    redistributor = board.GICR.base
    results.code.mov(0, redistributor + 0x14).mov(1, 0).store(1, 0, 4)
    results.code.mov(0, board.GICD.base).mov(1, 2).store(1, 0, 4)
    results.code.mov(0, redistributor + 0x1_0080).mov(1, 0xFFFF_FFFF).store(1, 0, 4)
    results.code.mov(0, redistributor + 0x1_0100).mov(1, 1 << board.PPI_VIRTUAL_TIMER).store(1, 0, 4)
    results.code.mov(1, 0xFF).msr("ICC_PMR_EL1", 1).mov(1, 1).msr("ICC_IGRPEN1_EL1", 1)
    results.take("PMCCNTR_EL0")
    results.code.wfi()
    results.take("PMCCNTR_EL0")
    results.take("CNTV_CTL_EL0")
    before, after, control = results.run()
    assert control == 5
    assert after - before < 10_000
