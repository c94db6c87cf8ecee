"""``gunyah run``: boot an arm64 kernel as the primary VM, or the system that a SYSTEM.toml describes.

Exit status: 0 on PSCI SYSTEM_OFF, 3 on SYSTEM_RESET, 4 when ``--timeout`` ends it, 5 when ``--check`` finds the
hypervisor where the specification does not allow it to be, 1 with one line on bad input.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import Final

from gunyah.cli.arguments import seconds

__all__ = ["add_arguments", "run"]

_DEFAULT_MEMORY: Final = 256 << 20
_OF_A_KERNEL: Final = {
    "initrd": None,
    "dtb": None,
    "cmdline": "",
    "memory": _DEFAULT_MEMORY,
    "vcpus": 1,
    "profile": "2023",
    "dump_dtb": None,
}
"""Flags that a SYSTEM.toml has keys for, with their defaults."""


def _count(words: str) -> int:
    if not words.isascii() or not words.isdigit() or not 1 <= int(words) <= 8:
        raise argparse.ArgumentTypeError(f"{words!r} is not a number from 1 to 8")
    return int(words)


def _memory(words: str) -> int:
    from gunyah.host.errors import HostError
    from gunyah.host.sizes import parse_size

    try:
        size = parse_size(words)
    except HostError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if size < 1 << 20 or size % 4096:
        raise argparse.ArgumentTypeError(f"{words!r} is not at least 1M and a multiple of 4K")
    return size


def _port(words: str) -> int:
    if not words.isascii() or not words.isdigit() or not 0 <= int(words) <= 65535:
        raise argparse.ArgumentTypeError(f"{words!r} is not a TCP port")
    return int(words)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.epilog = (
        "Exit status: 0 at power-off, 3 at a reset, 4 when --timeout ends it, 5 when --check finds a divergence, "
        "1 with one line on bad input."
    )
    parser.add_argument("system", nargs="?", type=Path, metavar="SYSTEM.toml", help="description of a whole system")
    parser.add_argument(
        "--kernel", type=Path, metavar="IMAGE", help="arm64 Image (gzip, xz, zstd too), ELF or flat binary"
    )
    parser.add_argument("--initrd", type=Path, metavar="F", help="initial RAM disk")
    parser.add_argument("--dtb", type=Path, metavar="F", help="device tree; made when absent")
    parser.add_argument("--cmdline", default="", metavar="S", help="kernel command line")
    parser.add_argument("--memory", type=_memory, default=_DEFAULT_MEMORY, metavar="SIZE", help="default 256M")
    parser.add_argument("--vcpus", type=_count, default=1, metavar="N", help="1 to 8, default 1")
    parser.add_argument("--profile", choices=("v4", "2023"), default="2023", help="ABI generation, default 2023")
    parser.add_argument("--timeout", type=seconds, metavar="S", help="end after S seconds with exit status 4")
    parser.add_argument("--dump-dtb", type=Path, metavar="F", help="write the device tree that the VM gets, and leave")
    parser.add_argument("--gdb", type=_port, metavar="PORT", help="serve gdb at this TCP port of the local host")
    parser.add_argument("--gdb-wait", action="store_true", help="with --gdb: run nothing before gdb resumes the VM")
    parser.add_argument("--check", action="store_true", help="hold every hypercall against the specification")
    parser.add_argument("--trace", action="store_true", help="write a log of calls, messages and interrupts to stderr")
    parser.add_argument("--trace-out", type=Path, metavar="FILE", help="FILE.perfetto-trace, FILE.jsonl or a text log")


def run(options: argparse.Namespace) -> int:
    """Boot; the exit status tells how it ended."""
    from gunyah.cli.checks import checked

    return checked(options, _run)


def _run(options: argparse.Namespace) -> int:
    from gunyah.host.errors import HostError, reason

    if (options.system is None) == (options.kernel is None):
        raise HostError("run needs either --kernel IMAGE or a SYSTEM.toml, and not both")
    if options.gdb_wait and options.gdb is None:
        raise HostError("--gdb-wait needs --gdb PORT, where gdb is waited for")
    if options.system is not None:
        for name, default in _OF_A_KERNEL.items():
            if getattr(options, name) != default:
                flag = name.replace("_", "-")
                raise HostError(f"--{flag} goes with --kernel; {options.system} says all of its system itself")
        from gunyah.cli.traces import asked_for
        from gunyah.host.system_run import run_system

        return run_system(
            options.system,
            timeout=options.timeout,
            traces=asked_for(options),
            gdb=options.gdb,
            gdb_wait=options.gdb_wait,
            check=options.check,
        )
    for name in ("kernel", "initrd", "dtb"):
        path: Path | None = getattr(options, name)
        if path is None:
            continue
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            raise HostError(f"--{name} {path} cannot be read: {reason(error)}") from error
    try:
        runner = import_module("gunyah.host.runner")
    except ModuleNotFoundError as error:
        raise HostError(f"this build cannot run native VMs: there is no {error.name}") from error
    return int(runner.run(options))
