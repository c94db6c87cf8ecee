"""How a measurement is made: the best of several rounds, absolute and as a ratio to a loop of plain Python.

On a shared machine the fastest round is the one that was disturbed least. The calibration loop runs before each
benchmark, so that a figure and its ratio belong to the same minute; ratios compare between machines and days, absolute
figures do not.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from gunyah._version import __version__

__all__ = ["Benchmark", "Measurement", "calibrate", "environment", "measure"]

CALIBRATION_LOOPS = 200_000


@dataclass(frozen=True)
class Benchmark:
    """``run()`` does one round and returns (operations done, seconds they took)."""

    name: str
    unit: str
    what: str
    run: Callable[[], tuple[float, float]]
    target: float | None = None
    rounds: int = 5


@dataclass(frozen=True)
class Measurement:
    """``value`` operations a second in the best round, ``median`` in the middle one; ``ratio`` to the calibration loop.
    """

    name: str
    unit: str
    what: str
    value: float
    median: float
    ratio: float
    target: float | None
    rounds: int

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def _loop(count: int) -> int:
    total = 0
    table = [0] * 31
    for number in range(count):
        table[number & 15] = number
        total += table[3] & 0xFF
    return total


def calibrate() -> float:
    """Turns a second of a loop with an index, a mask and an addition: what this interpreter does on this machine."""
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        _loop(CALIBRATION_LOOPS)
        best = max(best, CALIBRATION_LOOPS / (time.perf_counter() - start))
    return best


def measure(benchmark: Benchmark, rounds: int | None = None) -> Measurement:
    reference = calibrate()
    number = rounds or benchmark.rounds
    rates = []
    for _ in range(number):
        operations, seconds = benchmark.run()
        rates.append(operations / seconds)
    best = max(rates)
    return Measurement(
        benchmark.name,
        benchmark.unit,
        benchmark.what,
        best,
        statistics.median(rates),
        best / reference,
        benchmark.target,
        number,
    )


def environment() -> dict[str, object]:
    """What the figures were measured on."""
    return {
        "gunyah": __version__,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "calibration": calibrate(),
    }
