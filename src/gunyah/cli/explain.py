"""``gunyah explain CODE...``: what a code means, and what a running system has kept about it.

Without a code it lists what RM and hypervisor have kept. A code is a name or a number; a number may mean several
things.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

from gunyah.cli.attach import add_system_argument, find_system

__all__ = ["add_arguments", "run"]

_LATEST = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("codes", nargs="*", metavar="CODE", help="ARGUMENT_INVALID, 0x6, ENODEV, PLATFORM_OFF, ...")
    add_system_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _kept(options: argparse.Namespace) -> dict[str, list[str]] | None:
    """What the running system has kept; None when none is running."""
    from gunyah.host.control import ControlClient
    from gunyah.host.rundir import CONTROL_SOCKET

    running = find_system(options.system)
    if running is None:
        return None
    with ControlClient(running / CONTROL_SOCKET) as client:
        answer: Any = client.call("explain")
    return dict(answer)


def run(options: argparse.Namespace) -> int:
    """Explain."""
    from gunyah.host.errors import HostError
    from gunyah.host.explain import meanings

    kept = _kept(options)
    if not options.codes and kept is None:
        raise HostError("no system is running; name a code to explain, such as ARGUMENT_INVALID or 0x6")
    found = {code: meanings(code) for code in options.codes}
    names = {meaning.name for all_of in found.values() for meaning in all_of if meaning.value}
    sentences = {
        who: [line for line in lines if not names or any(name in line for name in names)]
        for who, lines in (kept or {}).items()
    }
    if options.json:
        rows = {
            code: [dataclasses.asdict(meaning) for meaning in all_of]
            for code, all_of in found.items()
        }
        print(json.dumps({"codes": rows, "run": sentences}))
        return 0
    for code, all_of in found.items():
        for meaning in all_of:
            number = f"{meaning.value:#x}" if meaning.value > 9 else str(meaning.value)
            print(f"{code}: {meaning.kind} {meaning.name} ({number}): {meaning.sentence}")
            if meaning.where:
                more = f" and {len(meaning.where) - 6} more" if len(meaning.where) > 6 else ""
                print(f"    answered by {', '.join(meaning.where[:6])}{more}")
    for who, lines in sentences.items():
        for line in lines[-_LATEST:]:
            print(f"{who}: {line}")
    return 0
