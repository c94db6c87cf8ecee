"""``gunyah top``: VMs, vCPU time, exits, queues and memory owners of a running system, renewed in place.

Where the output is no terminal, or with ``--once``, one picture is printed.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gunyah.cli.arguments import seconds
from gunyah.cli.attach import add_system_argument, attach

if TYPE_CHECKING:
    from rich.console import RenderableType

    from gunyah.host.control import ControlClient

__all__ = ["add_arguments", "picture", "run"]

_OWNERS = 12
_QUEUES = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    add_system_argument(parser)
    parser.add_argument("--once", action="store_true", help="print one picture, of the first second, and leave")
    parser.add_argument("--seconds", type=seconds, default=1.0, metavar="S", help="between two pictures, default 1")
    parser.add_argument("--json", action="store_true", help="print one picture as a JSON object")


def run(options: argparse.Namespace) -> int:
    """Ask and show."""
    with attach(options) as client:
        if options.json:
            print(json.dumps(client.call("top")))
            return 0
        with suppress(KeyboardInterrupt):
            _show(client, max(0.05, options.seconds), options.once)
    return 0


def _show(client: ControlClient, seconds: float, once: bool) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    before: Any = client.call("top")
    if once or not console.is_terminal:
        time.sleep(seconds)
        console.print(picture(before, client.call("top")))
        return
    from rich.live import Live

    with Live(picture(before, before), console=console, auto_refresh=False, screen=True) as live:
        while True:
            time.sleep(seconds)
            now: Any = client.call("top")
            live.update(picture(before, now), refresh=True)
            before = now


def _size(count: int) -> str:
    for unit, words in ((1 << 20, "M"), (1 << 10, "K")):
        if count >= unit:
            return f"{count / unit:.1f}{words}".replace(".0", "")
    return str(count)


def picture(before: Any, now: Any) -> RenderableType:
    """Two snapshots as tables: what there is, and what has happened in between."""
    from rich.console import Group
    from rich.table import Table

    ticks = max(now["ticks"] - before["ticks"], 1)
    passed = ticks / now["frequency"]
    earlier = {vm["vmid"]: vm for vm in before["vms"]}

    def rate(vm: Any, key: str) -> str:
        old = earlier.get(vm["vmid"], {}).get(key, 0)
        return f"{(vm[key] - old) / passed:.0f}"

    vms = Table("VMID", "NAME", "STATE", "VCPUS", "CPU %", "TIME s", "CALLS/s", "IRQ/s", "EXITS/s", box=None)
    for vm in now["vms"]:
        old = earlier.get(vm["vmid"], {"ns": 0, "exits": {}})
        share = (vm["ns"] - old["ns"]) / 1e9 / passed * 100
        exits = [(count - old["exits"].get(reason, 0), reason) for reason, count in vm["exits"].items()]
        most = sorted(exits, reverse=True)[:3]
        words = ", ".join(f"{reason} {count / passed:.0f}" for count, reason in most if count)
        row = (vm["vmid"], vm["name"], vm["state"], len(vm["vcpus"]), f"{share:.0f}", f"{vm['ns'] / 1e9:.2f}")
        vms.add_row(*map(str, row), rate(vm, "calls"), rate(vm, "interrupts"), words or "0")
    counted = {queue["queue"]: queue["messages"] for queue in before["queues"]}
    queues = Table("QUEUE", "WAITING", "MESSAGES/s", box=None)
    busiest = sorted(now["queues"], key=lambda queue: -queue["messages"])[:_QUEUES]
    for queue in busiest:
        count = (queue["messages"] - counted.get(queue["queue"], 0)) / passed
        queues.add_row(queue["whose"] or queue["queue"], f"{queue['waiting']} of {queue['depth']}", f"{count:.0f}")
    memory = Table("MEMORY OWNER", "BYTES", box=None)
    for owner in now["memory"][:_OWNERS]:
        memory.add_row(owner["whose"] or owner["owner"], _size(owner["bytes"]))
    side_by_side = Table.grid(padding=(0, 4))
    side_by_side.add_row(queues, memory)
    return Group(vms, "", side_by_side)
