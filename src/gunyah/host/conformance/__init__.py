"""The conformance kit: replays recorded behaviour of the reference and says, step by step, what is the same here.

``gunyah conformance FILE...`` is this module's ``main``. The files are recordings (``vectors``); for each scenario a
fresh machine boots (``stage``) whose root or primary VM is the ``monitor``; it makes the recorded calls (``calls``) and
requests (``requests``), reads what was read (``readings``, ``observations``), and ``judge`` compares. Deliberate
differences are listed in ``deviations.toml``.
"""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main"]

REPORT_WIDTH = 160
"""Columns of the report where there is no terminal."""


def main(
    files: Sequence[str | Path], json: bool = False, record: str | Path | None = None, driver: str = "auto"
) -> int:
    """Replay ``files``; prints a report, or one JSON object. Exit status: 0 when nothing failed, else 1.

    ``driver`` is what the monitor is: "python", "native" code, or "auto": native for what
    a VM reads from its CPU, Python else. ``record`` names a file for what was answered here, in
    the format of the recordings.
    """
    from gunyah.host.conformance import deviations, recorder, report, vectors

    try:
        loaded = [vectors.load(Path(file)) for file in files]
        if not loaded:
            raise vectors.VectorError("no recordings named; give one or more JSON files")
        rules = deviations.load_rules()
        # After the files: a bad one is refused at once, without the whole system being loaded.
        from gunyah.host.conformance.runner import run_scenarios

        verdicts = run_scenarios([scenario for file in loaded for scenario in file.scenarios], driver)
        deviations.apply(rules, verdicts)
        if record is not None:
            recorder.record(Path(record), verdicts)
    except vectors.VectorError as error:
        print(f"gunyah conformance: {error}", file=sys.stderr)
        return 1
    result = report.as_json(verdicts, rules)
    if json:
        print(json_module.dumps(result))
    else:
        from rich.console import Console

        console = Console()
        report.print_report(console if console.is_terminal else Console(width=REPORT_WIDTH), verdicts, rules)
    return 1 if result["failed"] else 0
