"""How many branches of the hypervisor the tests take: a table of what coverage has measured, and what to look at."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from coverage import Coverage

LEAST = 95.0
"""Percent of branches that the tests must take."""


def _row(name: str, summary: dict[str, int], missed: str = "") -> float:
    count, taken = summary["num_branches"], summary["covered_branches"]
    rate = 100.0 * taken / count if count else 100.0
    print(f"{name:60}{count:>10}{taken:>8}{rate:>8.1f}  {missed}".rstrip())
    return rate


def main() -> int:
    """Print the table; status 1 when too few branches are taken."""
    measured = Coverage()
    measured.load()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "coverage.json"
        measured.json_report(outfile=str(path))
        report = json.loads(path.read_text())
    print(f"{'file':60}{'branches':>10}{'taken':>8}{'%':>8}  not taken (from->to)")
    for name, found in sorted(report["files"].items()):
        missed = " ".join(f"{start}->{end if end > 0 else 'exit'}" for start, end in found["missing_branches"])
        _row(name[-58:], found["summary"], missed)
    rate = _row("all", report["totals"])
    return int(rate < LEAST)


if __name__ == "__main__":
    sys.exit(main())
