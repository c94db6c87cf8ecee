"""``gunyah trace``: watch a running system until Ctrl-C, on the terminal or into a file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from gunyah.cli.arguments import seconds
from gunyah.cli.attach import add_system_argument, attach

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    add_system_argument(parser)
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("--quiet", action="store_true", help="leave out switches, traps and interrupts")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="let the system write FILE: FILE.perfetto-trace opens in the Perfetto UI, FILE.jsonl is JSON lines",
    )
    parser.add_argument("--seconds", type=seconds, metavar="S", help="end by itself after S seconds")


def run(options: argparse.Namespace) -> int:
    """Print what comes."""
    form = "json" if options.json else "text"
    arguments: dict[str, Any] = {"form": form, "quiet": "yes" if options.quiet else None}
    if options.out is not None:
        arguments["out"] = str(options.out.absolute())
    if options.seconds is not None:
        arguments["milliseconds"] = int(options.seconds * 1000)
    with attach(options) as client:
        client.wait_without_limit()
        try:
            for event in client.stream("trace", **arguments):
                sys.stdout.write(str(event))
                sys.stdout.flush()
        except KeyboardInterrupt:
            pass
    if options.out is not None:
        print(f"written: {options.out}")
    return 0
