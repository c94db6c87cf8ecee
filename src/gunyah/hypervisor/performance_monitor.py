"""The performance monitor of a vCPU: PMUv3, a cycle counter and six event counters (objects.md 5.3; Arm DDI 0487, D11).

It counts cycles, 16 to a tick of the system counter, and software increments: the events that PMCEID0_EL0 was recorded
with. Cycles are those in which the vCPU is on its core at a level that the counter's filter lets in; EL2's own work for
it is not told apart. An overflow that is enabled holds PPI 23 high.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

from gunyah.abi.vic import PPI_PMU
from gunyah.hypervisor.virq import VirqSource

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gunyah.hypervisor.vcpu import Vcpu

__all__ = ["PPI_PMU", "READERS", "WRITERS", "LevelTimes", "PerformanceMonitor"]

PMCR_ID: Final = 0x4101_3000
"""PMCR_EL0 as recorded: Arm, 6 counters."""
COUNTERS: Final = 6
CYCLE_COUNTER: Final = 31
CYCLES_PER_TICK: Final = 16

_E, _P, _C, _D, _LC = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 6
_PMCR_WRITABLE: Final = 0x79
_IMPLEMENTED: Final = 1 << CYCLE_COUNTER | (1 << COUNTERS) - 1
_FILTER: Final = 0xFC00_0000
_EVENT: Final = 0x3FF
_SW_INCR, _CPU_CYCLES = 0x00, 0x11
_U32, _U64 = (1 << 32) - 1, (1 << 64) - 1


class LevelTimes(Protocol):
    """Who knows at which exception level a vCPU spends its time."""

    def start(self) -> None:
        """The vCPU begins to run, or its times are taken from now on."""

    def take(self) -> tuple[int, int]:
        """Times at EL0 and EL1 since the last look, in any unit."""


class PerformanceMonitor:
    """Counters of one vCPU, and its registers by architectural name in ``READERS`` and ``WRITERS``."""

    __slots__ = (
        "_at_each_level",
        "_counts",
        "_filters",
        "_prescaled",
        "_since",
        "_vcpu",
        "control",
        "counting",
        "enabled",
        "interrupts",
        "levels",
        "overflowed",
        "selected",
        "source",
    )

    def __init__(self, vcpu: Vcpu) -> None:
        self._vcpu = vcpu
        self.source = VirqSource(self, "performance monitor", self._level)
        self.levels: LevelTimes | None = None
        self._counts: dict[int, int] = {}
        self._filters: dict[int, int] = {}
        self.reset()

    def reset(self) -> None:
        """Power-on: nothing counts, everything reads 0."""
        self.control = self.enabled = self.interrupts = self.overflowed = self.selected = 0
        self.counting = False
        """Some counter counts cycles while the vCPU runs."""
        self._at_each_level = False
        self._since: int | None = None
        self._prescaled = 0
        self._counts.clear()
        self._filters.clear()
        self.source.clear()

    # -- time ----------------------------------------------------------------------------------------------------------

    def begin(self, deadline: int) -> int:
        """The vCPU goes on its core until ``deadline`` (ticks), or until the time that is returned; only while
        ``counting``.
        """
        self._since = self._vcpu.hv.clock.ticks()
        if self._at_each_level and self.levels is not None:
            self.levels.start()
        overflow = self._next_overflow()
        return deadline if overflow is None else min(deadline, overflow)

    def end(self) -> None:
        """It comes off; only while ``counting``."""
        self._count()
        self._since = None

    def _count(self) -> None:
        """Bring the counters up to date."""
        if self._since is None:
            return
        now = self._vcpu.hv.clock.ticks()
        cycles = (now - self._since) * CYCLES_PER_TICK
        self._since = now
        user = 0
        if self._at_each_level and self.levels is not None:
            at_el0, at_el1 = self.levels.take()
            user = cycles * at_el0 // (at_el0 + at_el1) if at_el0 + at_el1 else 0
        for number in self._counting():
            passed = (user if self._counts_at(number, 0) else 0) + (cycles - user if self._counts_at(number, 1) else 0)
            if number == CYCLE_COUNTER and self.control & _D:
                passed += self._prescaled
                self._prescaled = passed % 64
                passed //= 64
            self._add(number, passed)
        self._update_level()

    def _counting(self) -> list[int]:
        if not self.control & _E:
            return []
        numbers = [
            n for n in range(COUNTERS) if self.enabled >> n & 1 and self._filters.get(n, 0) & _EVENT == _CPU_CYCLES
        ]
        return [*numbers, CYCLE_COUNTER] if self.enabled >> CYCLE_COUNTER & 1 else numbers

    def _counts_at(self, number: int, level: int) -> bool:
        """P and U keep EL1 and EL0 out, and for Non-secure state, which a guest is in, NSK and NSU turn that round."""
        bits = self._filters.get(number, 0) >> 28
        return bits >> 3 & 1 == bits >> 1 & 1 if level else bits >> 2 & 1 == bits & 1

    def _limit(self, number: int) -> int:
        return _U64 if number == CYCLE_COUNTER and self.control & _LC else _U32

    def _add(self, number: int, passed: int) -> None:
        before = self._counts.get(number, 0)
        limit = self._limit(number)
        if (before & limit) + passed > limit:
            self.overflowed |= 1 << number
        # Without PMCR_EL0.LC the cycle counter overflows at 32 bits and counts on.
        self._counts[number] = before + passed & (_U64 if number == CYCLE_COUNTER else _U32)

    # -- the interrupt -------------------------------------------------------------------------------------------------

    def _level(self) -> bool:
        return bool(self.control & _E and self.overflowed & self.interrupts)

    def _update_level(self) -> None:
        if self._level():
            self.source.assert_()
        else:
            self.source.clear()

    def _next_overflow(self) -> int | None:
        """When, in ticks, the first overflow that is wanted will come if nothing changes."""
        if self._since is None:
            return None
        ticks = [
            ((self._limit(n) - (self._counts.get(n, 0) & self._limit(n))) << (6 if self._slow(n) else 0))
            // CYCLES_PER_TICK
            for n in self._counting()
            if self.interrupts >> n & 1 and not self.overflowed >> n & 1
        ]
        return self._since + min(ticks) + 1 if ticks else None

    def _slow(self, number: int) -> bool:
        return number == CYCLE_COUNTER and bool(self.control & _D)

    # -- registers -----------------------------------------------------------------------------------------------------

    def _changed(self) -> None:
        numbers = self._counting()
        self._at_each_level = any(self._counts_at(n, 0) != self._counts_at(n, 1) for n in numbers)
        started = bool(numbers) and not self.counting
        self.counting = bool(numbers)
        if not numbers:
            self._since = None
        elif started or self._since is None:
            # The vCPU itself has written the register, so it runs.
            self._since = self._vcpu.hv.clock.ticks()
        if self._at_each_level and self.levels is not None:
            self.levels.start()
        self._update_level()

    def read_control(self) -> int:
        """PMCR_EL0."""
        return PMCR_ID | self.control

    def write_control(self, value: int) -> None:
        """PMCR_EL0: E, D, X, DP, LC; P and C reset counters."""
        self._count()
        if value & _C:
            self._counts[CYCLE_COUNTER] = self._prescaled = 0
        if value & _P:
            for number in range(COUNTERS):
                self._counts[number] = 0
        self.control = value & _PMCR_WRITABLE
        self._changed()

    def read_count(self, number: int) -> int:
        """PMCCNTR_EL0 (31) or PMEVCNTR<n>_EL0; 0 for one that is not there."""
        self._count()
        return self._counts.get(number, 0)

    def write_count(self, number: int, value: int) -> None:
        """PMCCNTR_EL0 (31) or PMEVCNTR<n>_EL0; ignored for one that is not there."""
        if not _IMPLEMENTED >> number & 1:
            return
        self._count()
        self._counts[number] = value & (_U64 if number == CYCLE_COUNTER else _U32)
        self._changed()

    def read_filter(self, number: int) -> int:
        """PMCCFILTR_EL0 (31) or PMEVTYPER<n>_EL0; 0 for one that is not there."""
        return self._filters.get(number, 0)

    def write_filter(self, number: int, value: int) -> None:
        """PMCCFILTR_EL0 (31) or PMEVTYPER<n>_EL0; ignored for one that is not there."""
        if not _IMPLEMENTED >> number & 1:
            return
        self._count()
        self._filters[number] = value & (_FILTER if number == CYCLE_COUNTER else _FILTER | _EVENT)
        self._changed()

    def change(self, which: str, *, clear: int = 0, set_: int = 0) -> None:
        """Change bits of ``enabled``, ``interrupts`` or ``overflowed``."""
        self._count()
        setattr(self, which, (getattr(self, which) & ~clear | set_) & _IMPLEMENTED)
        self._changed()

    def increment(self, value: int) -> None:
        """PMSWINC_EL0."""
        if not self.control & _E:
            return
        self._count()
        for number in range(COUNTERS):
            if value >> number & self.enabled >> number & 1 and self._filters.get(number, 0) & _EVENT == _SW_INCR:
                self._add(number, 1)
        self._changed()


def _count_of(number: int) -> Callable[[PerformanceMonitor], int]:
    return lambda monitor: monitor.read_count(number)


def _filter_of(number: int) -> Callable[[PerformanceMonitor], int]:
    return lambda monitor: monitor.read_filter(number)


def _set_count(number: int) -> Callable[[PerformanceMonitor, int], None]:
    return lambda monitor, value: monitor.write_count(number, value)


def _set_filter(number: int) -> Callable[[PerformanceMonitor, int], None]:
    return lambda monitor, value: monitor.write_filter(number, value)


def _selected(monitor: PerformanceMonitor) -> int:
    # The cycle counter has a filter here and no count.
    return monitor.selected if monitor.selected != CYCLE_COUNTER else -1


READERS: Final[Mapping[str, Callable[[PerformanceMonitor], int]]] = MappingProxyType(
    {
        "PMCR_EL0": PerformanceMonitor.read_control,
        "PMCNTENSET_EL0": lambda monitor: monitor.enabled,
        "PMCNTENCLR_EL0": lambda monitor: monitor.enabled,
        "PMOVSCLR_EL0": lambda monitor: monitor.overflowed,
        "PMOVSSET_EL0": lambda monitor: monitor.overflowed,
        "PMINTENSET_EL1": lambda monitor: monitor.interrupts,
        "PMINTENCLR_EL1": lambda monitor: monitor.interrupts,
        "PMSELR_EL0": lambda monitor: monitor.selected,
        "PMCCNTR_EL0": _count_of(CYCLE_COUNTER),
        "PMCCFILTR_EL0": _filter_of(CYCLE_COUNTER),
        "PMXEVTYPER_EL0": lambda monitor: monitor.read_filter(monitor.selected),
        "PMXEVCNTR_EL0": lambda monitor: monitor.read_count(_selected(monitor)),
        **{f"PMEVCNTR{n}_EL0": _count_of(n) for n in range(COUNTERS)},
        **{f"PMEVTYPER{n}_EL0": _filter_of(n) for n in range(COUNTERS)},
    }
)


def _select(monitor: PerformanceMonitor, value: int) -> None:
    monitor.selected = value & 31


def _write_selected(monitor: PerformanceMonitor, value: int) -> None:
    if monitor.selected != CYCLE_COUNTER:
        monitor.write_count(monitor.selected, value)


WRITERS: Final[Mapping[str, Callable[[PerformanceMonitor, int], None]]] = MappingProxyType(
    {
        "PMCR_EL0": PerformanceMonitor.write_control,
        "PMCNTENSET_EL0": lambda monitor, value: monitor.change("enabled", set_=value),
        "PMCNTENCLR_EL0": lambda monitor, value: monitor.change("enabled", clear=value),
        "PMOVSCLR_EL0": lambda monitor, value: monitor.change("overflowed", clear=value),
        "PMOVSSET_EL0": lambda monitor, value: monitor.change("overflowed", set_=value),
        "PMINTENSET_EL1": lambda monitor, value: monitor.change("interrupts", set_=value),
        "PMINTENCLR_EL1": lambda monitor, value: monitor.change("interrupts", clear=value),
        "PMSWINC_EL0": PerformanceMonitor.increment,
        "PMSELR_EL0": _select,
        "PMCCNTR_EL0": _set_count(CYCLE_COUNTER),
        "PMCCFILTR_EL0": _set_filter(CYCLE_COUNTER),
        "PMXEVTYPER_EL0": lambda monitor, value: monitor.write_filter(monitor.selected, value),
        "PMXEVCNTR_EL0": _write_selected,
        **{f"PMEVCNTR{n}_EL0": _set_count(n) for n in range(COUNTERS)},
        **{f"PMEVTYPER{n}_EL0": _set_filter(n) for n in range(COUNTERS)},
    }
)
