"""The ``gunyah`` command: finds the subcommand, imports that one only, and turns refusals into one line and exit
status 1.

Everything a subcommand does goes through the public API; this room holds flags and words. ``gunyah --help`` answers
at once because a command's module is imported only when that command runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Final, NoReturn

from gunyah._version import __version__

__all__ = ["COMMANDS", "main"]

COMMANDS: Final[dict[str, str]] = {
    "demo": "bring the whole system up, show what it is, and pass bytes through two terminals",
    "run": "boot an arm64 kernel as the primary VM, or a whole system from a file",
    "lint": "say what the Resource Manager or the device-tree binding would refuse, and why",
    "conformance": "replay recorded behaviour of the reference",
    "sysfs": "read the primary VM's /sys",
    "ps": "list the VMs of a running system",
    "console": "connect this terminal to a console of a running system; Ctrl-A x leaves",
    "start": "start a secondary VM of a running system",
    "stop": "stop a secondary VM of a running system",
    "reset": "take a secondary VM's objects and memory back; it can be started again",
    "restart": "reset a secondary VM and start it again",
    "pause": "take a secondary VM's vCPUs off their cores",
    "resume": "let a paused VM go on",
    "top": "watch VMs, vCPU time, exits, queues and memory of a running system, live",
    "rm": "call the Resource Manager of a running system: rm call NAME key=value ...",
    "explain": "say what an error code, exit type or state means, and what a running system kept about it",
    "ledger": "list who owns what in a running system",
    "trace": "watch the hypercalls, messages and interrupts of a running system",
}
_MODULES: Final = {
    **dict.fromkeys(("start", "stop", "reset", "restart", "pause", "resume"), "lifecycle"),
    "rm": "rm_call",
}
"""Commands whose module has another name."""


class Parser(argparse.ArgumentParser):
    """Bad input is one line on stderr and exit status 1, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Print the sentence and leave."""
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(1)


def _module(command: str) -> ModuleType:
    return import_module(f"gunyah.cli.{_MODULES.get(command, command)}")


def _parser(chosen: str | None) -> Parser:
    parser = Parser(
        prog="gunyah",
        description="The Gunyah hypervisor system: hypervisor, Resource Manager, Linux drivers and VM loader.",
        epilog="Each command has its own --help.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gunyah {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=Parser)
    for name, summary in COMMANDS.items():
        subparser = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        subparser.allow_abbrev = False
        if name == chosen:
            _module(name).add_arguments(subparser)
    return parser


def _run(arguments: Sequence[str]) -> int:
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    parser = _parser(chosen)
    as_typed = getattr(_module(chosen), "as_typed", None) if chosen in COMMANDS else None
    if as_typed is not None:
        arguments = as_typed(arguments)
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    return int(_module(options.command).run(options))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    from gunyah.host.errors import HostError

    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        status = _run(words)
        sys.stdout.flush()
    except HostError as error:
        print(f"gunyah: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has left; keep the interpreter from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return status


if __name__ == "__main__":
    raise SystemExit(main())
