"""``gunyah ps``: the VMs of a running system."""

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


def run(options: argparse.Namespace) -> int:
    """Ask and print."""
    with attach(options) as client:
        answer: Any = client.call("ps")
    if options.json:
        print(json.dumps(answer))
        return 0
    from gunyah.cli.table import print_table

    print_table(
        ("VMID", "NAME", "STATE", "VCPUS", "CONSOLES"),
        [
            (
                vm["vmid"] if vm["vmid"] is not None else "",
                vm["name"],
                vm["state"],
                ", ".join(f"{vcpu['name']} {vcpu['state']}" for vcpu in vm["vcpus"]),
                ", ".join(vm["consoles"]),
            )
            for vm in answer["vms"]
        ],
    )
    return 0
