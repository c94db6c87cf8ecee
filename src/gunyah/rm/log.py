"""RM's log: a bounded ring of lines, by who is at fault.

A client can cause notes and warnings, never errors: an error is a defect of RM itself and carries its traceback.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import IntEnum

__all__ = ["Level", "Log"]

LINES_MAX = 512
LINE_MAX = 4096
"""Characters of one line; a traceback is one line."""


class Level(IntEnum):
    """How bad, and whose doing."""

    NOTE = 0
    """What RM did."""
    WARNING = 1
    """What a client did wrong or a VM suffered."""
    ERROR = 2
    """A defect of RM."""


class Log:
    """The ring. ``sinks`` are called with each line as it comes."""

    def __init__(self) -> None:
        self.lines: deque[tuple[Level, str]] = deque(maxlen=LINES_MAX)
        self.sinks: list[Callable[[Level, str], None]] = []

    def add(self, level: Level, line: str) -> None:
        """Append a line."""
        line = line[:LINE_MAX]
        self.lines.append((level, line))
        for sink in self.sinks:
            sink(level, line)

    def note(self, line: str) -> None:
        """Something RM did."""
        self.add(Level.NOTE, line)

    def warning(self, line: str) -> None:
        """Something a client did wrong, or that went wrong for one VM."""
        self.add(Level.WARNING, line)

    def error(self, line: str) -> None:
        """A defect of RM."""
        self.add(Level.ERROR, line)

    def errors(self) -> list[str]:
        """The error lines still in the ring."""
        return [line for level, line in self.lines if level is Level.ERROR]
