"""``gunyah sysfs cat|tree PATH``: the primary VM's /sys, of a running system or of one booted for the question."""

from __future__ import annotations

import argparse
import json
from typing import Any

from gunyah.cli.attach import add_system_argument, find_system

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("action", choices=("cat", "tree"), help="cat: print a file; tree: list what is below")
    parser.add_argument("path", nargs="?", default="/sys", metavar="PATH", help="for example /sys/hypervisor/gunyah")
    add_system_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _ask(options: argparse.Namespace) -> Any:
    running = find_system(options.system)
    if running is not None:
        from gunyah.host.control import ControlClient
        from gunyah.host.rundir import CONTROL_SOCKET

        with ControlClient(running / CONTROL_SOCKET) as client:
            return client.call(f"sysfs-{options.action}", path=options.path)
    from gunyah.host.sysfs_view import sysfs_cat, sysfs_tree
    from gunyah.system import System

    with System(clock="virtual") as system:
        sysfs = system.primary.kernel.sysfs
        return sysfs_cat(sysfs, options.path) if options.action == "cat" else sysfs_tree(sysfs, options.path)


def _print_tree(node: dict[str, Any], indent: str = "") -> None:
    children = node.get("children", [])
    for index, child in enumerate(children):
        last = index == len(children) - 1
        print(f"{indent}{'└── ' if last else '├── '}{child['name']}" + _suffix(child))
        _print_tree(child, indent + ("    " if last else "│   "))


def _suffix(node: dict[str, Any]) -> str:
    if "target" in node:
        return f" -> {node['target']}"
    return "/" if "children" in node else ""


def run(options: argparse.Namespace) -> int:
    """Ask and print."""
    answer = _ask(options)
    if options.json:
        print(json.dumps({"path": options.path, "content" if options.action == "cat" else "tree": answer}))
    elif options.action == "cat":
        print(answer, end="")
    else:
        print(options.path + _suffix(answer))
        _print_tree(answer)
    return 0
