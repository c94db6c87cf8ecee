"""The thread that ends runs of guest code in time, also when the engine's thread is held up where it hurts most."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator

import pytest

from gunyah.machine.engine.kicker import kicker

MS = 1_000_000
SECONDS = 20.0


class Engine:
    """The flags of an engine that runs: somebody sets them, nobody clears them."""

    def __init__(self) -> None:
        self.flags = (ctypes.c_uint64 * 3)()
        self.kicker = kicker()
        first = ctypes.addressof(self.flags)
        self.kicker.aim((first, first + 8, first + 16))

    @property
    def expirations(self) -> int:
        """What the thread's last read of its timer gave; kept until the next one."""
        return self.kicker._block[1]

    @expirations.setter
    def expirations(self, count: int) -> None:
        self.kicker._block[1] = count

    def kicked(self) -> bool:
        """Whether the present run is made to end, within a time that only a lost kick exceeds."""
        end = time.monotonic() + SECONDS
        while not self.flags[2]:
            if time.monotonic() > end:
                return False
            time.sleep(0.001)
        return True


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.kicker.forget()


def test_a_run_is_ended_at_its_deadline(engine: Engine) -> None:
    now = time.monotonic_ns()
    engine.kicker.arm(now, now + 5 * MS)
    assert engine.kicked()
    assert time.monotonic_ns() >= now + 5 * MS


def test_a_kick_is_repeated_until_the_run_is_over(engine: Engine) -> None:
    now = time.monotonic_ns()
    engine.kicker.arm(now, now + MS)
    for _ in range(3):
        assert engine.kicked()
        # As the engine does when it starts: the kick is lost.
        engine.flags[2] = 0
    engine.kicker.disarm()


def test_a_kick_is_not_lost_when_the_timer_fires_between_two_runs(engine: Engine) -> None:
    # Given a run that ends long before its deadline: the timer is left as it is.
    first = time.monotonic_ns()
    engine.expirations = 0
    engine.kicker.arm(first, first + 30 * MS)
    engine.kicker.disarm()
    # When the engine's thread has looked at the clock and is then held up, until the timer has fired at nobody,
    while not engine.expirations:
        time.sleep(0.001)
    time.sleep(0.02)
    assert not engine.flags[2]
    engine.kicker.arm(first + 1, first + 200 * MS)
    # then the run ends all the same.
    assert engine.kicked()
