"""Timers: the EL1 generic timers and the hypervisor's own queue (objects.md 12)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.hypervisor.yard import Yard

from gunyah.guest.cpu import Cpu, GuestUndefined
from gunyah.guest.gic import Gic
from gunyah.hypervisor.timers import TimerQueue

T = TypeVar("T")
U64 = (1 << 64) - 1
WHICH = ["CNTV", "CNTP"]
PPI = {"CNTV": 27, "CNTP": 30}
ENABLE, IMASK, ISTATUS = 1, 2, 4


def ask(function: Callable[[Cpu], T]) -> T:
    """What a guest with this code found out."""
    yard, answers = Yard(), []
    yard.vm(lambda cpu, x0: answers.append(function(cpu)))
    yard.settle()
    assert len(answers) == 1, yard.hv.reports
    return answers[0]


@pytest.mark.parametrize("which", WHICH)
class TestRegisters:
    """CTL, CVAL and TVAL of both timers."""

    def test_control_keeps_two_bits_and_tells_the_status_while_enabled(self, which: str) -> None:
        def guest(cpu: Cpu) -> list[int]:
            seen = [cpu.mrs(f"{which}_CTL_EL0")]
            cpu.msr(f"{which}_CVAL_EL0", 0)
            for value in (0, U64, IMASK, ENABLE | IMASK):
                cpu.msr(f"{which}_CTL_EL0", value)
                seen.append(cpu.mrs(f"{which}_CTL_EL0"))
            cpu.msr(f"{which}_CVAL_EL0", 1 << 40)
            seen.append(cpu.mrs(f"{which}_CTL_EL0"))
            return seen

        assert ask(guest) == [0, 0, ENABLE | IMASK | ISTATUS, IMASK, ENABLE | IMASK | ISTATUS, ENABLE | IMASK]

    def test_cval_is_64_bits(self, which: str) -> None:
        def guest(cpu: Cpu) -> int:
            cpu.msr(f"{which}_CVAL_EL0", (1 << 70) - 5)
            return cpu.mrs(f"{which}_CVAL_EL0")

        assert ask(guest) == U64 - 4

    @pytest.mark.parametrize("tval", [0, 1000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF])
    def test_tval_is_a_signed_distance(self, which: str, tval: int) -> None:
        def guest(cpu: Cpu) -> tuple[int, int, int]:
            now = cpu.ticks()
            cpu.msr(f"{which}_TVAL_EL0", tval)
            return now, cpu.mrs(f"{which}_CVAL_EL0"), cpu.mrs(f"{which}_TVAL_EL0")

        now, cval, read = ask(guest)
        signed = tval - (1 << 32) if tval >> 31 else tval
        assert cval == now + signed & U64
        assert read == tval

    def test_the_interrupt_is_a_level_that_stands_until_the_condition_goes(self, which: str) -> None:
        def guest(cpu: Cpu) -> list[int]:
            gic, taken = Gic(cpu), []

            def handler() -> None:
                taken.append(cpu.mrs(f"{which}_CTL_EL0"))
                if len(taken) == 3:
                    cpu.msr(f"{which}_CTL_EL0", ENABLE | IMASK)

            gic.start()
            gic.enable(PPI[which], handler, edge=False)
            cpu.msr(f"{which}_TVAL_EL0", 5000)
            cpu.msr(f"{which}_CTL_EL0", ENABLE)
            for _ in range(3):
                cpu.wfi()
                if len(taken) == 3:
                    break
            return taken

        assert ask(guest) == [ENABLE | ISTATUS] * 3

    def test_it_wakes_its_vcpu_at_its_time(self, which: str) -> None:
        def guest(cpu: Cpu) -> int:
            gic = Gic(cpu)
            gic.start()
            gic.enable(PPI[which], lambda: cpu.msr(f"{which}_CTL_EL0", 0), edge=False)
            start = cpu.ticks()
            cpu.msr(f"{which}_CVAL_EL0", start + 100_000)
            cpu.msr(f"{which}_CTL_EL0", ENABLE)
            cpu.wfi()
            return cpu.ticks() - start

        assert 100_000 <= ask(guest) < 101_000

    def test_a_time_that_is_moved_away_or_masked_makes_no_interrupt(self, which: str) -> None:
        yard = Yard()

        def guest(cpu: Cpu, x0: int) -> None:
            cpu.msr(f"{which}_CVAL_EL0", cpu.ticks() + 10_000)
            cpu.msr(f"{which}_CTL_EL0", ENABLE)
            cpu.msr(f"{which}_CVAL_EL0", U64)
            cpu.wfi()

        vm = yard.vm(guest)
        yard.settle()
        assert yard.hv.timers.next() is None
        assert vm.vcpus[0].gic is not None
        assert not vm.vcpus[0].gic.private[PPI[which]].line


def test_both_counters_are_the_system_counter() -> None:
    def guest(cpu: Cpu) -> tuple[int, int, int, int]:
        return cpu.mrs("CNTFRQ_EL0"), cpu.ticks(), cpu.mrs("CNTVCT_EL0"), cpu.mrs("CNTPCT_EL0")

    frequency, *counts = ask(guest)
    assert frequency == 62_500_000
    assert counts == sorted(counts)
    assert counts[-1] - counts[0] < 1000


def test_a_register_that_does_not_exist_is_undefined() -> None:
    def guest(cpu: Cpu) -> list[int]:
        seen = []
        for access in (
            lambda: cpu.mrs("VBAR_EL2"),
            lambda: cpu.msr("CNTFRQ_EL0", 1),
            lambda: cpu.mrs("ICC_EOIR1_EL1"),
            lambda: cpu.msr("ICC_IAR1_EL1", 0),
        ):
            try:
                access()
            except GuestUndefined as undefined:
                seen.append(undefined.esr)
        return seen

    assert ask(guest) == [0x0200_0000] * 4


def test_identification_registers() -> None:
    names = ("MIDR_EL1", "REVIDR_EL1", "AIDR_EL1", "ACTLR_EL1", "MPIDR_EL1")

    def guest(cpu: Cpu) -> list[int]:
        cpu.msr("ACTLR_EL1", U64)
        return [cpu.mrs(name) for name in names]

    assert ask(guest) == [0x000F_0480, 0, 0, 0, 0x8000_0000]


class TestQueue:
    """The queue behind all of them."""

    def test_callbacks_run_in_order_of_time_then_of_arming(self) -> None:
        queue, log = TimerQueue(), []
        for ticks, name in ((30, "c"), (10, "a"), (30, "d"), (20, "b")):
            queue.at(ticks, lambda name=name: log.append(name))
        assert queue.next() == 10
        queue.expire(29)
        assert log == ["a", "b"]
        queue.expire(30)
        assert log == ["a", "b", "c", "d"]
        assert queue.next() is None

    def test_what_is_cancelled_does_not_run_and_cancelling_twice_is_harmless(self) -> None:
        queue, log = TimerQueue(), []
        first = queue.at(10, lambda: log.append(1))
        queue.at(20, lambda: log.append(2))
        queue.cancel(first)
        queue.cancel(first)
        queue.cancel(object())
        assert queue.next() == 20
        queue.expire(100)
        assert log == [2]

    def test_a_callback_may_arm_and_cancel(self) -> None:
        queue, log = TimerQueue(), []

        def first() -> None:
            log.append("first")
            queue.cancel(later)
            queue.at(15, lambda: log.append("new"))

        queue.at(10, first)
        later = queue.at(12, lambda: log.append("later"))
        queue.expire(20)
        assert log == ["first", "new"]

    def test_arming_and_cancelling_for_ever_does_not_grow_it(self) -> None:
        queue = TimerQueue()
        keep = queue.at(5, lambda: None)
        for number in range(10_000):
            queue.cancel(queue.at(1_000_000 + number, lambda: None))
        assert len(queue._heap) < 200
        assert queue.next() == keep.ticks

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=200))
    def test_it_runs_what_a_sorted_list_would(self, steps: list[tuple[int, bool]]) -> None:
        queue, ran = TimerQueue(), []
        model: list[tuple[int, int]] = []
        handles = {}
        for number, (ticks, cancel) in enumerate(steps):
            handles[number] = queue.at(ticks, lambda number=number: ran.append(number))
            model.append((ticks, number))
            if cancel and number >= 2:
                queue.cancel(handles[number // 2])
                model = [entry for entry in model if entry[1] != number // 2]
        expected = [number for ticks, number in sorted(model) if ticks <= 40]
        assert queue.next() == min((ticks for ticks, _ in model), default=None)
        queue.expire(40)
        assert ran == expected
