"""A machine in a process of its own, driven through its console, with the CPU seconds that it has used so far."""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from .harness import NotHere

__all__ = ["Machine"]

PATIENCE = 300.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Machine:
    """``command`` with its console on standard input and output. A context manager; ends the process when left."""

    def __init__(self, command: Sequence[str]) -> None:
        self.name = Path(command[0]).name
        # A user's Python keeps its modules compiled; the wish not to write them here would charge us for it every time.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment.setdefault("PYTHONPYCACHEPREFIX", str(Path(tempfile.gettempdir()) / "gunyah-bench-modules"))
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
        self.output = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def wait(self, words: bytes, start: int = 0) -> int:
        """Read until ``words`` stand on the console; where they end. Raises NotHere when they do not come."""
        assert self._process.stdout is not None
        descriptor, end = self._process.stdout.fileno(), time.monotonic() + PATIENCE
        while (found := self.output.find(words, start)) < 0:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, end - time.monotonic()))
            data = os.read(descriptor, 65536) if ready else b""
            if not data:
                last = self.output.decode("utf-8", "replace").strip().splitlines()[-1:]
                raise NotHere(f"{self.name}: {words.decode()!r} has not come; its last line: {' '.join(last)}")
            self.output += data
        return found + len(words)

    def type(self, keys: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(keys)
        self._process.stdin.flush()

    def cpu_seconds(self) -> float:
        """User and system time of the process and all its threads."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def peak_resident(self) -> int:
        """Bytes (VmHWM)."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return 0
