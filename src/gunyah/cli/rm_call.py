"""``gunyah rm call NAME key=value ...``: any request to the Resource Manager, made by a running primary VM.

``gunyah rm list`` names the requests and their fields. Exit status 2 when RM refuses, with its sentence.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from gunyah.cli.attach import add_system_argument, attach

__all__ = ["add_arguments", "run"]

EXIT_REFUSED = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.epilog = "Exit status: 2 when the Resource Manager refuses."
    parser.add_argument("action", choices=("call", "list"), help="call: make a request; list: name the requests")
    parser.add_argument("name", nargs="?", metavar="NAME", help="for example VM_GET_STATE, vm-get-state or 0x56000017")
    parser.add_argument(
        "fields", nargs="*", default=[], metavar="key=value", help="the request's fields; what is left out is 0"
    )
    add_system_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _fields(words: list[str]) -> dict[str, str]:
    from gunyah.host.errors import HostError

    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise HostError(f"{word!r} is not of the form key=value")
        found[name] = value
    return found


def _list(options: argparse.Namespace) -> int:
    from gunyah.abi.rm import MESSAGES
    from gunyah.host.rm_call import usage

    messages = [entry for entry in MESSAGES.values() if not options.name or options.name.upper() in entry.name]
    if options.json:
        print(json.dumps({entry.name: {"id": int(entry.id), "usage": usage(entry)} for entry in messages}))
    else:
        for entry in messages:
            print(f"{int(entry.id):#010x}  {usage(entry)}")
    return 0


def run(options: argparse.Namespace) -> int:
    """Ask and print."""
    from gunyah.host.errors import HostError
    from gunyah.host.rm_call import find_message, payload_of

    if options.action == "list":
        return _list(options)
    if options.name is None:
        raise HostError("which request? gunyah rm list names them")
    fields = _fields(options.fields)
    payload_of(find_message(options.name), fields)
    with attach(options) as client:
        answer: Any = client.call("rm-call", name=options.name, fields=fields)
    if options.json:
        print(json.dumps(answer))
    elif answer["error"]:
        print(f"gunyah: {answer['sentence']}", file=sys.stderr)
    else:
        _print(answer["reply"])
    return EXIT_REFUSED if answer["error"] else 0


def _print(reply: dict[str, Any]) -> None:
    if not reply:
        print("OK")
    for name, value in reply.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            from gunyah.cli.table import print_table

            print(f"{name}:")
            print_table(tuple(value[0]), [tuple(_word(cell) for cell in row.values()) for row in value], indent="  ")
        else:
            print(f"{name}: {_word(value)}")


def _word(value: object) -> str:
    if isinstance(value, int):
        return f"{value:#x}" if value > 0xFF else str(value)
    return ", ".join(_word(item) for item in value) if isinstance(value, list) else str(value)
