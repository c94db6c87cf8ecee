"""``gunyah explain CODE...``: what a code means, and what a running system has kept about it.

Without a code it lists what RM and hypervisor have kept. A code is a name or a number; a number may mean several
things.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gunyah.cli.attach import add_system_argument, find_system

if TYPE_CHECKING:
    from gunyah.host.explain import Meaning

__all__ = ["add_arguments", "as_typed", "run"]

_LATEST = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    words = "ARGUMENT_INVALID, 0x6, -ENODEV, PLATFORM_OFF, ..."
    parser.add_argument("codes", nargs="*", metavar="CODE", type=str.strip, help=words)
    add_system_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def as_typed(words: Sequence[str]) -> list[str]:
    """The command line with codes such as ``-ENODEV`` and ``-0x13`` kept from being taken for flags.

    argparse takes a word with a space in it for an argument, whatever it begins with.
    """
    return [f" {word}" if re.fullmatch(r"-[A-Za-z0-9][A-Za-z0-9_]+", word) else word for word in words]


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


def _number(meaning: Meaning) -> str:
    """As its own documents write it: hypervisor errors and errno values are decimal, the others hexadecimal."""
    decimal = meaning.value <= 9 or meaning.kind in ("hypervisor error", "errno")
    return str(meaning.value) if decimal else f"{meaning.value:#x}"


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
        rows = {code: [dataclasses.asdict(meaning) for meaning in all_of] for code, all_of in found.items()}
        print(json.dumps({"codes": rows, "run": sentences}))
        return 0
    for code, all_of in found.items():
        for meaning in all_of:
            print(f"{code}: {meaning.kind} {meaning.name} ({_number(meaning)}): {meaning.sentence}")
            if meaning.where:
                more = f" and {len(meaning.where) - 6} more" if len(meaning.where) > 6 else ""
                word = "from" if meaning.kind == "errno" else "answered by"
                print(f"    {word} {', '.join(meaning.where[:6])}{more}")
    for who, lines in sentences.items():
        for line in lines[-_LATEST:]:
            print(f"{who}: {line}")
    if not found and not any(sentences.values()):
        print("nothing has been refused or reported in this run")
    return 0
