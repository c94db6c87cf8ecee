"""``--check`` of the commands that run a system."""

from __future__ import annotations

import argparse
from collections.abc import Callable

__all__ = ["checked"]


def checked(options: argparse.Namespace, command: Callable[[argparse.Namespace], int]) -> int:
    """Run a command; with ``--check``, ``options.check`` is what the system takes, and the verdict follows."""
    if not options.check:
        options.check = None
        return command(options)
    from gunyah.host.check import Check
    from gunyah.host.errors import HostError

    check = options.check = Check()
    try:
        status = command(options)
    except HostError:
        # What the machine stopped for is told by the verdict.
        if check.divergence is None:
            raise
        status = 1
    return check.verdict(status)
