"""Finding the running system that a command is about, through its run directory."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gunyah.host.control import ControlClient

__all__ = ["add_system_argument", "attach", "find_system"]


def add_system_argument(parser: argparse.ArgumentParser) -> None:
    """The flag that chooses among several running systems."""
    parser.add_argument(
        "--system", metavar="NAME", help="name or run directory of the system; needed when several are running"
    )


def find_system(wanted: str | None) -> Path | None:
    """The run directory of the system called ``wanted``, or of the only one; None when none is running.

    Raises HostError when ``wanted`` is not running or the choice is not clear.
    """
    from gunyah.host.errors import HostError
    from gunyah.host.rundir import base_directory, running_systems

    if wanted is not None and "/" in wanted:
        return Path(wanted)
    running = list(running_systems())
    names = ", ".join(path.name for path in running)
    if wanted is not None:
        for path in running:
            if path.name == wanted:
                return path
        raise HostError(
            f"no system named {wanted!r} is running in {base_directory()}" + (f"; running: {names}" if names else "")
        )
    if len(running) > 1:
        raise HostError(f"{len(running)} systems are running ({names}); choose one with --system NAME")
    return running[0] if running else None


def attach(options: argparse.Namespace) -> ControlClient:
    """A client of the system's control socket; raises HostError when there is none."""
    from gunyah.host.control import ControlClient
    from gunyah.host.errors import HostError
    from gunyah.host.rundir import CONTROL_SOCKET, base_directory

    path = find_system(options.system)
    if path is None:
        raise HostError(f"no system is running in {base_directory()}; start one with gunyah run or gunyah demo -i")
    return ControlClient(path / CONTROL_SOCKET)
