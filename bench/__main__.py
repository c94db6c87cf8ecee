"""Measures everything (or the benchmarks named as arguments), prints a table, writes bench/results.json."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .cases import BENCHMARKS
from .harness import Group, Measurement, environment, measure
from .linux import LINUX_GROUPS
from .native import NATIVE_GROUPS
from .secondary import SECONDARY_BENCHMARKS, SECONDARY_GROUPS
from .vms import VM_GROUPS

RESULTS = Path(__file__).with_name("results.json")
GROUPS: tuple[Group, ...] = (
    *(benchmark.group() for benchmark in (*BENCHMARKS, *SECONDARY_BENCHMARKS)),
    *NATIVE_GROUPS, *VM_GROUPS, *SECONDARY_GROUPS, *LINUX_GROUPS,
)  # fmt: skip


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"


def _table(measurements: list[Measurement]) -> Table:
    table = Table("benchmark", "what", title="gunyah benchmarks, best of their rounds", title_justify="left")
    for column in ("best", "median", "unit", "to calibration", "target"):
        table.add_column(column, justify="right")
    for result in measurements:
        target = _number(result.target) if result.target is not None else ""
        if result.met is not None:
            target += " met" if result.met else " missed"
        what = result.what if not result.missing else f"{result.what}: {result.missing}"
        numbers = (_number(result.value), _number(result.median), result.unit, _number(result.ratio), target)
        table.add_row(result.name, what, *numbers, style="yellow" if result.met is False else "")
    return table


def main() -> int:
    names = [name for group in GROUPS for name in group.names]
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("benchmarks", nargs="*", metavar="NAME", help=f"some of: {', '.join(names)}")
    parser.add_argument("--rounds", type=int, help="rounds of each benchmark instead of its own number")
    parser.add_argument("--output", type=Path, default=RESULTS, help="file for the results")
    options = parser.parse_args()
    unknown = sorted(set(options.benchmarks) - set(names))
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(names)}")
    wanted = set(options.benchmarks or names)
    console = Console() if sys.stdout.isatty() else Console(width=140)
    measurements = []
    for group in GROUPS:
        if wanted.isdisjoint(group.names):
            continue
        console.print(f"{', '.join(group.names)} ...", style="dim")
        measurements += [result for result in measure(group, options.rounds) if result.name in wanted]
    console.print(_table(measurements))
    about = environment()
    console.print(f"CPU engine: {about['engine']}", style="dim")
    data = {"environment": about, "results": {result.name: result.as_dict() for result in measurements}}
    output: Path = options.output
    output.write_text(json.dumps(data, indent=1) + "\n")
    console.print(f"written to {output.relative_to(Path.cwd()) if output.is_relative_to(Path.cwd()) else output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
