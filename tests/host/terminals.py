"""Other processes at the far end of a pseudo-terminal, and a loop run until something holds."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from gunyah.host.loop import HostLoop

PATIENCE = 60.0
"""Seconds after which a condition that never comes fails the test; nothing waits that long when all is well."""


def run_until(loop: HostLoop, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Serve the loop until ``condition()`` holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"nothing came of it within {seconds} seconds")
        loop.poll(0.05)


def client(script: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
    """Start a Python process that runs ``script`` (os, sys and tty imported)."""
    return subprocess.Popen(
        [sys.executable, "-c", "import os, sys, tty\n" + script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def answer_of(loop: HostLoop, process: subprocess.Popen[bytes]) -> bytes:
    """Serve the loop until the process has ended; what it printed."""
    run_until(loop, lambda: process.poll() is not None)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    return output
