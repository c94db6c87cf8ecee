"""``gunyah conformance``: replay recorded vectors; closing line ``N passed, N failed``."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a file of recorded vectors")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--driver",
        choices=("auto", "python", "native"),
        default="auto",
        help="what replays: a VM written in Python, or AArch64 code on the CPU engine (auto: for ID registers only)",
    )
    parser.add_argument("--record", type=Path, metavar="FILE", help="write what was answered here, in the same format")


def run(options: argparse.Namespace) -> int:
    """Replay; 0 when nothing failed."""
    from gunyah.host import conformance

    return conformance.main(options.files, json=options.json, record=options.record, driver=options.driver)
