"""``gunyah ledger``: who owns what in a running system: memory, objects, capabilities."""

from __future__ import annotations

import argparse
import json
from typing import Any

from gunyah.cli.attach import add_system_argument, attach

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    add_system_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _words(value: object) -> object:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def run(options: argparse.Namespace) -> int:
    """Ask and print."""
    with attach(options) as client:
        answer: Any = client.call("ledger")
    if options.json:
        print(json.dumps(answer))
        return 0
    from gunyah.cli.table import print_table

    for title, rows in answer.items():
        print(title)
        if rows:
            columns = tuple(dict.fromkeys(column for row in rows for column in row))
            print_table(
                tuple(column.upper() for column in columns),
                [tuple(_words(row.get(column, "")) for column in columns) for row in rows],
                indent="  ",
            )
        else:
            print("  nothing")
    return 0
