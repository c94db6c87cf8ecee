"""``gunyah console``: connect this terminal to a console of a running system; Ctrl-A x leaves."""

from __future__ import annotations

import argparse
from typing import Any

from gunyah.cli.attach import add_system_argument, attach

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    add_system_argument(parser)
    parser.add_argument("vm", metavar="VM", nargs="?", help="VM name or VMID, or a port such as ttyGH1; default ttyGH0")
    parser.add_argument("--list", action="store_true", help="list the consoles and their pseudo-terminals")


def run(options: argparse.Namespace) -> int:
    """Connect."""
    with attach(options) as client:
        consoles: Any = client.call("consoles")
    if options.list:
        from gunyah.cli.table import print_table

        print_table(("VM", "PORT", "TERMINAL"), [(c["vm"], c["port"], c["path"]) for c in consoles])
        return 0
    from gunyah.host.errors import HostError
    from gunyah.host.terminal import connect

    wanted = options.vm or "ttyGH0"
    for console in consoles:
        if wanted in (console["port"], console["vm"], str(console["vmid"])):
            connect(console["path"])
            return 0
    known = ", ".join(console["port"] for console in consoles) or "none"
    raise HostError(f"there is no console {wanted!r}; known are {known}")
