"""``gunyah start|stop|reset|restart|pause|resume VM``: the life of a secondary VM of a running system."""

from __future__ import annotations

import argparse
import json
from typing import Any

from gunyah.cli.attach import add_system_argument, attach

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the commands."""
    parser.add_argument("vm", metavar="VM", help="name or VMID, as gunyah ps has them")
    if parser.prog.endswith("stop"):
        parser.add_argument("--graceful", action="store_true", help="ask the guest to shut down instead of stopping it")
    add_system_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Ask, and say what became of the VM."""
    graceful = "yes" if getattr(options, "graceful", False) else None
    with attach(options) as client:
        client.wait_without_limit()
        answer: Any = client.call(options.command, vm=options.vm, graceful=graceful)
    if options.json:
        print(json.dumps(answer))
    else:
        vmid = f" (VMID {answer['vmid']})" if answer["vmid"] else ""
        print(f"{answer['vm']}{vmid}: {answer['state']}")
    return 0
