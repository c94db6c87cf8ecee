"""The system counter: 62.5 MHz, real or virtual.

All time in the machine is ticks of one counter, the one that a guest reads as CNTVCT_EL0 and CNTPCT_EL0 (objects.md 12:
the virtual offset is 0, so both are equal and all VMs share them). The real clock is the host's CLOCK_MONOTONIC divided
by 16 ns, which is also what the CPU engine's own counter reads (engine.md 1.3). The virtual clock stands still until
somebody advances it, so that a time-out of a minute costs nothing and the same seed gives the same run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol, runtime_checkable

from .board import COUNTER_FREQUENCY

NS_PER_TICK: Final = 1_000_000_000 // COUNTER_FREQUENCY

OVERSLEEP: Final = 100e-6
"""Seconds by which a sleep of the host's may last too long: Linux lets timers slip by 50 us, and has to wake up."""


@runtime_checkable
class Clock(Protocol):
    """What the machine, the hypervisor and the host loop ask of time."""

    frequency: int
    """Ticks per second."""

    real: bool
    """True if time passes by itself."""

    def ticks(self) -> int:
        """Counter value now, in ticks."""

    def sample(self) -> int:
        """Counter value for a guest's own read; a virtual clock moves a little, so that a guest's delay loop ends."""

    def seconds_until(self, ticks: int) -> float:
        """How long the host has to wait until the counter reads `ticks`, in seconds; 0.0 if that is past."""

    def wait_until(self, ticks: int) -> None:
        """Return when the counter has reached `ticks`."""


class RealClock:
    """The host's monotonic clock in counter ticks."""

    frequency: int = COUNTER_FREQUENCY
    real: bool = True

    def ticks(self) -> int:
        """CLOCK_MONOTONIC in ticks of 16 ns."""
        return time.monotonic_ns() // NS_PER_TICK

    sample = ticks

    def seconds_until(self, ticks: int) -> float:
        """Seconds from now until `ticks`, at least 0.0."""
        return max(0.0, (ticks - self.ticks()) / self.frequency)

    def wait_until(self, ticks: int) -> None:
        """Sleep until `ticks`, the last moment awake; a host loop that serves input takes `seconds_until` instead."""
        while (seconds := self.seconds_until(ticks)) > 0:
            if seconds > OVERSLEEP:
                time.sleep(seconds - OVERSLEEP)


class VirtualClock:
    """A counter that moves only when told to: waiting for a moment is jumping to it."""

    frequency: int = COUNTER_FREQUENCY
    real: bool = False

    def __init__(self, start: int = 0, *, read_step: int = 16) -> None:
        """Start at `start` ticks; each counter read by a guest advances time by `read_step` ticks."""
        if start < 0 or read_step < 0:
            raise ValueError(f"a virtual clock starts at {start} and steps by {read_step}: neither may be negative")
        self._now = start
        self._running: Callable[[], int] | None = None
        self.read_step = read_step

    def ticks(self) -> int:
        """Counter value now, in ticks; asking does not change it."""
        return self._now if self._running is None else self._now + self._running()

    def sample(self) -> int:
        """Counter value for a guest's read: time has passed since the last one, unless instructions make it pass."""
        if self._running is None:
            self._now += self.read_step
        return self.ticks()

    def drive(self, running: Callable[[], int] | None) -> None:
        """Let native code that runs now move time: `running()` gives the ticks since it began, None ends it."""
        if self._running is not None:
            self._now += self._running()
        self._running = running

    def advance(self, ticks: int) -> None:
        """Let `ticks` ticks pass."""
        if ticks < 0:
            raise ValueError(f"a clock cannot go back by {-ticks} ticks")
        self._now += ticks

    def advance_to(self, ticks: int) -> None:
        """Let time pass until `ticks`; a moment that is past changes nothing."""
        self._now += max(0, ticks - self.ticks())

    def seconds_until(self, ticks: int) -> float:
        """Nobody has to wait for a virtual clock."""
        return 0.0

    def wait_until(self, ticks: int) -> None:
        """Jump to `ticks`."""
        self.advance_to(ticks)
