"""``gunyah demo``: the series' use case end to end, told as it happens; exit status 0 only if all held, 5 when
``--check`` finds the hypervisor where the specification does not allow it to be.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gunyah.cli.arguments import whole_number

if TYPE_CHECKING:
    from rich.console import Console

    from gunyah.host.demo import DemoResult
    from gunyah.host.hosted import HostedSystem

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.epilog = "Exit status: 0 if all of it held, 1 if not, 5 when --check finds a divergence."
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("-i", "--interactive", action="store_true", help="leave the machine up until Ctrl-C")
    parser.add_argument("--profile", choices=("v4", "2023"), default="2023", help="ABI generation, default 2023")
    parser.add_argument("--seed", type=whole_number, metavar="N", help="seed of ids and random numbers")
    parser.add_argument("--check", action="store_true", help="hold every hypercall against the specification")
    parser.add_argument("--trace", action="store_true", help="write a log of calls, messages and interrupts to stderr")
    parser.add_argument("--trace-out", type=Path, metavar="FILE", help="FILE.perfetto-trace, FILE.jsonl or a text log")


def run(options: argparse.Namespace) -> int:
    """Boot, show, and leave or stay."""
    from gunyah.cli.checks import checked

    return checked(options, _run)


def _run(options: argparse.Namespace) -> int:
    from gunyah.cli.traces import asked_for
    from gunyah.host.demo import run_demo
    from gunyah.host.hosted import HostedSystem

    started = time.perf_counter()
    check = options.check or False
    with HostedSystem(traces=asked_for(options), profile=options.profile, seed=options.seed, check=check) as hosted:
        if options.json:
            result = run_demo(hosted)
            result.seconds = time.perf_counter() - started
            print(json.dumps(result.as_json()), flush=True)
            if options.interactive:
                hosted.run_until_interrupted()
            return 0 if result.ok else 1
        from rich.console import Console

        console = Console(highlight=False)
        teller = _Teller(console)
        result = run_demo(hosted, teller.tell)
        result.seconds = time.perf_counter() - started
        teller.closing(result)
        if options.interactive:
            _stay(console, hosted)
    if options.trace_out is not None:
        console.print(f"trace written: {options.trace_out}")
    return 0 if result.ok else 1


class _Teller:
    """Prints each step as a small table with its verdict."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def tell(self, step: str, result: DemoResult) -> None:
        """One step is done."""
        getattr(self, f"_{step}")(result)

    def _step(self, ok: bool, title: str, rows: dict[str, Any]) -> None:
        from rich.table import Table
        from rich.text import Text

        mark = Text(" ok ", style="black on green") if ok else Text("FAIL", style="white on red")
        self._console.print(mark, Text(title, style="bold"))
        table = Table(show_header=False, box=None, padding=(0, 1), pad_edge=False)
        table.add_column(style="cyan", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows.items():
            table.add_row(f"     {name}", str(value))
        self._console.print(table)

    def _identification(self, result: DemoResult) -> None:
        rows: dict[str, Any] = {}
        if result.identified:
            rows["hypervisor"] = f"Gunyah API version {result.api}, variant {result.variant}"
        self._step(result.identified, "Linux identifies the hypervisor", {**rows, **result.sysfs})

    def _rm(self, result: DemoResult) -> None:
        rm = result.rm
        rows = (
            {"reason": rm["reason"]}
            if not rm["ok"]
            else {
                "device": rm["device"],
                "queues": f"messages of up to {rm['message_size']} bytes",
                "VM_GET_VMID": f"{rm['vmid']}, answered in {rm['round_trip_us']} us",
            }
        )
        self._step(rm["ok"], "Linux talks to the Resource Manager", rows)

    def _loopback(self, result: DemoResult) -> None:
        outcome = result.loopback
        rows: dict[str, Any] = dict(result.terminals)
        if outcome["ok"]:
            rate = outcome["bytes"] / max(outcome["seconds"], 1e-9) / 1000
            rows["both ways"] = f"{outcome['bytes']} random bytes arrived complete and in order ({rate:.0f} kB/s)"
        else:
            rows["reason"] = outcome.get("reason", "")
        self._step(outcome["ok"], "Bytes typed into ttyGH0 come out of ttyGH1, and back", rows)

    def _native_guest(self, result: DemoResult) -> None:
        outcome = result.native_guest
        self._step(
            outcome["ok"],
            "An AArch64 guest runs on the CPU engine",
            {name: value for name, value in outcome.items() if name != "ok"},
        )

    def closing(self, result: DemoResult) -> None:
        """The last line."""
        words = "all of it held" if result.ok else "not all of it held"
        self._console.print(f"{words}, in {result.seconds:.2f} s")


def _stay(console: Console, hosted: HostedSystem) -> None:
    from gunyah.cli.live import LiveView
    from gunyah.host.sysfs_mount import mount_or_reason

    console.print(f"run directory  {hosted.directory.path}")
    for terminal in hosted.consoles:
        console.print(f"{terminal.port:<14} {terminal.path}")
    mount, words = mount_or_reason(hosted.directory)
    console.print(f"/sys           {words}")
    try:
        with LiveView(console, hosted) as view:
            hosted.run_until_interrupted(view.refresh)
    finally:
        if mount is not None:
            mount.close()
