"""How a measurement is made: the best of several rounds, absolute and as a ratio to a loop of plain Python.

On a shared machine the fastest round is the one that was disturbed least. The calibration loop runs before each
benchmark, so that a figure and its ratio belong to the same minute; ratios compare between machines and days, absolute
figures do not. A benchmark gives one or several figures; what it cannot measure here it says, and nothing fails.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from gunyah._version import __version__

__all__ = ["Benchmark", "Figure", "Group", "Measurement", "NotHere", "calibrate", "environment", "measure"]

CALIBRATION_LOOPS = 200_000


class NotHere(Exception):
    """What a benchmark needs is not on this machine; one sentence."""


@dataclass(frozen=True)
class Figure:
    """One number of a result: ``target`` is what it has to reach, or to stay within where less is better."""

    name: str
    unit: str
    what: str
    target: float | None = None
    less_is_better: bool = True

    def best(self, values: Sequence[float]) -> float:
        return min(values) if self.less_is_better else max(values)

    def met(self, value: float) -> bool:
        if self.target is None:
            return True
        return value <= self.target if self.less_is_better else value >= self.target


@dataclass(frozen=True)
class Group:
    """Figures that one run gives together: ``run(rounds)`` returns the values of each round, by name of the figure.

    It may leave figures out, with a reason in ``missing``.
    """

    figures: tuple[Figure, ...]
    run: Callable[[int, dict[str, str]], Mapping[str, Sequence[float]]]
    rounds: int = 3

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(figure.name for figure in self.figures)


@dataclass(frozen=True)
class Benchmark:
    """``run()`` does one round and returns (operations done, seconds they took)."""

    name: str
    unit: str
    what: str
    run: Callable[[], tuple[float, float]]
    target: float | None = None
    rounds: int = 5

    def group(self) -> Group:
        """The same as a group of one figure: operations a second."""

        def run(rounds: int, missing: dict[str, str]) -> Mapping[str, Sequence[float]]:
            rates = []
            for _ in range(rounds):
                operations, seconds = self.run()
                rates.append(operations / seconds)
            return {self.name: rates}

        figure = Figure(self.name, self.unit, self.what, self.target, less_is_better=False)
        return Group((figure,), run, self.rounds)


@dataclass(frozen=True)
class Measurement:
    """``value`` of the best round, ``median`` of the middle one; ``ratio`` to what the calibration loop took or did.

    ``missing`` says why there is no value.
    """

    name: str
    unit: str
    what: str
    value: float | None
    median: float | None
    ratio: float | None
    target: float | None
    met: bool | None
    rounds: int
    missing: str = ""

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
        start = time.process_time()
        _loop(CALIBRATION_LOOPS)
        best = max(best, CALIBRATION_LOOPS / (time.process_time() - start))
    return best


_PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6}


def _to_calibration(figure: Figure, value: float, reference: float) -> float | None:
    """Operations in the time of one turn of the loop for rates, turns in that time for durations; else none."""
    if not figure.less_is_better:
        return value / reference
    scale = _PER_SECOND.get(figure.unit)
    return value / scale * reference if scale is not None else None


def measure(group: Group, rounds: int | None = None) -> list[Measurement]:
    reference = calibrate()
    missing: dict[str, str] = {}
    try:
        results = group.run(rounds or group.rounds, missing)
    except NotHere as reason:
        results, missing = {}, dict.fromkeys(group.names, str(reason))
    measurements = []
    for figure in group.figures:
        values = results.get(figure.name, ())
        value = figure.best(values) if values else None
        measurements.append(
            Measurement(
                figure.name,
                figure.unit,
                figure.what,
                value,
                statistics.median(values) if values else None,
                _to_calibration(figure, value, reference) if value is not None else None,
                figure.target,
                figure.met(value) if value is not None and figure.target is not None else None,
                len(values),
                "" if values else missing.get(figure.name, "not measured"),
            )
        )
    return measurements


def environment() -> dict[str, object]:
    """What the figures were measured on."""
    return {
        "gunyah": __version__,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "calibration": calibrate(),
        "engine": _engine(),
    }


def _engine() -> str:
    """What the CPU engine does without, compared with the one build of its library that it is made for."""
    from gunyah.machine.engine import Core, EngineUnavailable, ExitHandler
    from gunyah.machine.memory import PhysicalMemory

    try:
        core = Core(PhysicalMemory([(0x4000_0000, 1 << 20)]), 0, ExitHandler(), buffer_size=1 << 20)
    except EngineUnavailable as error:
        return str(error)
    lacking = [name for name, there in core.shortcuts.present.items() if not there]
    return f"without shortcuts for {', '.join(lacking)}" if lacking else "all shortcuts"
