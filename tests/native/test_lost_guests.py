"""A guest that does nothing any more, or goes round in exceptions and interrupts, is told of once, in one sentence."""

from __future__ import annotations

import struct

import pytest
from tests.native.code import Code, guest

from gunyah.hypervisor import lost_guest
from gunyah.machine import board
from gunyah.native import NativePrimary
from gunyah.system import System

UDF, ISB, NOP = 0x0000_0000, 0xD503_3FDF, 0xD503_201F
LET_INTERRUPTS_IN = 0xD503_42FF
LDR_X0_X0 = 0xF940_0000
UNMAPPED = 0x7000_0000

SAME_LEVEL_SYNC, SAME_LEVEL_IRQ = 0x200, 0x280


def words(code: Code) -> tuple[int, ...]:
    data = code.pack()
    return struct.unpack(f"<{len(data) // 4}I", data)


def vectors(code: Code, entries: dict[int, Code]) -> Code:
    """Append vectors whose entries, by offset, are the given code."""
    code.align(2048).label("vectors")
    start = code.here
    for offset, entry in sorted(entries.items()):
        while code.here - start < offset:
            code.word(UDF)
        code.word(*words(entry))
    return code.align(2048)


def with_vectors(body: Code, entries: dict[int, Code]) -> Code:
    return vectors(Code().adr(0, "vectors").msr("VBAR_EL1", 0).word(*words(body)), entries)


def gic() -> Code:
    """Interrupt controller on, and a virtual timer that has expired."""
    redistributor = board.GICR.base
    return (
        Code()
        .mov(0, board.GICD.base).mov(1, 2).store(1, 0, 4)  # GICD_CTLR.EnableGrp1A
        .mov(0, redistributor + 0x14).mov(1, 0).store(1, 0, 4)  # GICR_WAKER
        .mov(0, redistributor + 0x1_0080).mov(1, 0xFFFF_FFFF).store(1, 0, 4)  # GICR_IGROUPR0
        .mov(0, redistributor + 0x1_0100).mov(1, 1 << board.PPI_VIRTUAL_TIMER).store(1, 0, 4)  # GICR_ISENABLER0
        .mov(1, 0xFF).msr("ICC_PMR_EL1", 1)
        .mov(1, 1).msr("ICC_IGRPEN1_EL1", 1).msr("CNTV_TVAL_EL0", 1).msr("CNTV_CTL_EL0", 1)
    )  # fmt: skip


INTERRUPTED = gic().word(ISB, LET_INTERRUPTS_IN).label("here").b("here")
RETURN = Code().eret()
LOST = {
    "spins with interrupts masked": (Code().daifset().label("here").b("here"), "with its interrupts masked"),
    "polls memory with interrupts masked": (
        Code().daifset().adr(0, "word").label("here").load(1, 0).cbz(1, "here").align(8).label("word").data(0),
        "with its interrupts masked",
    ),
    "returns from an abort to the same load": (
        with_vectors(Code().mov(0, UNMAPPED).word(LDR_X0_X0), {SAME_LEVEL_SYNC: RETURN}),
        "it takes the same exception again and again, data abort at 0x4100",
    ),
    "returns from an undefined instruction to it": (
        with_vectors(Code().word(UDF), {SAME_LEVEL_SYNC: RETURN}),
        "it takes the same exception again and again, undefined instruction at 0x4100",
    ),
    "has an interrupt vector that faults and a handler that returns to it": (
        with_vectors(INTERRUPTED, {SAME_LEVEL_SYNC: RETURN, SAME_LEVEL_IRQ: Code().word(UDF)}),
        "it takes the same exception again and again, undefined instruction at 0x41000a80",
    ),
    "has no interrupt vector": (
        with_vectors(INTERRUPTED, {SAME_LEVEL_SYNC: Code().word(UDF)}),
        "only leads to the next exception, undefined instruction at 0x41000a00",
    ),
    "leaves the timer's interrupt as it is": (
        with_vectors(INTERRUPTED, {SAME_LEVEL_SYNC: RETURN, SAME_LEVEL_IRQ: Code().mrs(0, "MPIDR_EL1").eret()}),
        "one after the other, and what they interrupt gets nowhere",
    ),
    "never lets a pending interrupt in": (
        Code().word(*words(gic())).label("here").addi(0, 0, 1).b("here"),
        "with its interrupts masked although one is pending",
    ),
}
"""What a guest does, and words of the one report about it."""

HANDLER = (
    Code().mrs(2, "ICC_IAR1_EL1").mov(3, 1000).msr("CNTV_TVAL_EL0", 3).msr("ICC_EOIR1_EL1", 2).eret()
)  # fmt: skip
QUIET = {
    "computes with interrupts masked": Code().daifset().label("here").addi(0, 0, 1).b("here"),
    "waits with interrupts let in": Code().word(LET_INTERRUPTS_IN).label("here").b("here"),
    "does all its work in a timer's interrupt": with_vectors(INTERRUPTED, {SAME_LEVEL_IRQ: HANDLER}),
    "calls with interrupts masked": Code().daifset().label("here").mov(0, 0x8400_0000).hvc().b("here"),
    "polls its console with interrupts masked": (
        Code().daifset().mov(0, board.UART.base + 0x18).label("here").load(1, 0, 4).b("here")
    ),
}
"""What is a guest's own business."""


def reports(code: Code, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run a guest for 60 ms of virtual time; what was reported."""
    monkeypatch.setattr(lost_guest, "LOOP_TURNS", 5)
    for name in ("LOOP_SECONDS", "STILL_SECONDS", "PENDING_SECONDS"):
        monkeypatch.setattr(lost_guest, name, 0.01)
    told: list[str] = []
    primary = NativePrimary(kernel=guest(code))
    with System(primary, clock="virtual", seed=1, memory=64 << 20, reporter=told.append) as system:
        assert not system.run(timeout=0.06)
        assert system.stopped is None, system.last_words()
    return told


@pytest.mark.parametrize("name", LOST)
def test_a_lost_guest_is_told_of_in_one_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code, expected = LOST[name]
    told = reports(code, monkeypatch)
    assert len(told) == 1, told
    assert told[0].startswith("vm3.vcpu0 ") and expected in told[0], told[0]
    assert "\n" not in told[0]


@pytest.mark.parametrize("name", QUIET)
def test_a_guest_that_does_something_is_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reports(QUIET[name], monkeypatch) == []
