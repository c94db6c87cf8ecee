"""Measures everything (or the benchmarks named as arguments), prints a table, writes bench/results.json."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .cases import BENCHMARKS
from .harness import Measurement, environment, measure

RESULTS = Path(__file__).with_name("results.json")


def _table(measurements: list[Measurement]) -> Table:
    table = Table("benchmark", "what", title="gunyah benchmarks, best of their rounds", title_justify="left")
    for column in ("best", "median", "unit", "to calibration", "target"):
        table.add_column(column, justify="right")
    for result in measurements:
        met = result.target is None or result.value >= result.target
        target = "" if result.target is None else f"{result.target:,.0f} {'met' if met else 'missed'}"
        numbers = (f"{result.value:,.1f}", f"{result.median:,.1f}", result.unit, f"{result.ratio:.3g}", target)
        table.add_row(result.name, result.what, *numbers, style="" if met else "yellow")
    return table


def main() -> int:
    names = [benchmark.name for benchmark in BENCHMARKS]
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("benchmarks", nargs="*", metavar="NAME", help=f"some of: {', '.join(names)}")
    parser.add_argument("--rounds", type=int, help="rounds of each benchmark instead of its own number")
    parser.add_argument("--output", type=Path, default=RESULTS, help="file for the results")
    options = parser.parse_args()
    unknown = sorted(set(options.benchmarks) - set(names))
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(names)}")
    chosen = [benchmark for benchmark in BENCHMARKS if not options.benchmarks or benchmark.name in options.benchmarks]
    console = Console() if sys.stdout.isatty() else Console(width=140)
    measurements = []
    for benchmark in chosen:
        console.print(f"{benchmark.name}: {benchmark.what}", style="dim")
        measurements.append(measure(benchmark, options.rounds))
    console.print(_table(measurements))
    data = {"environment": environment(), "results": {result.name: result.as_dict() for result in measurements}}
    output: Path = options.output
    output.write_text(json.dumps(data, indent=1) + "\n")
    console.print(f"written to {output.relative_to(Path.cwd()) if output.is_relative_to(Path.cwd()) else output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
