"""printk: the kernel's log buffer and the consoles that show it.

Records are numbered and kept in a bounded ring. A console is enabled when the command line names it
(``console=ttyGH0``) or, if the command line names none at all, when it is the first to register (linux-drivers.md
16.1).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

__all__ = ["Console", "KernelLog", "Record", "LEVELS"]

LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
EMERG, ALERT, CRIT, ERR, WARNING, NOTICE, INFO, DEBUG = range(8)
_RING = 2048
_LINE_MAX = 1024
_BURST = 10
_INTERVAL_NS = 5_000_000_000


class Record(NamedTuple):
    """One line of the log."""

    sequence: int
    time_ns: int
    level: int
    text: str

    def format(self) -> str:
        """``[    1.234567] text``."""
        return f"[{self.time_ns // 1_000_000_000:5}.{self.time_ns // 1000 % 1_000_000:06}] {self.text}"


class Console(Protocol):
    """What printk needs of a console driver (struct console)."""

    name: str
    index: int

    def setup(self) -> None:
        """Make ready; raises OSError to refuse."""

    def write(self, data: bytes, /) -> None:
        """Take bytes; allowed in interrupt context, never blocks."""

    def exit(self) -> None:
        """The console is unregistered."""


class KernelLog:
    """The log of one kernel. ``now_ns`` is time since boot, ``console_level`` the level from which on lines stay off
    consoles.
    """

    def __init__(self, now_ns: Callable[[], int], named: Iterable[str] = (), console_level: int = 7) -> None:
        self._now_ns = now_ns
        self._named = tuple(named)
        self.console_level = console_level
        self.records: deque[Record] = deque(maxlen=_RING)
        self.consoles: list[Console] = []
        self.listeners: list[Callable[[Record], None]] = []
        self._sequence = 0
        self._bursts: dict[str, tuple[int, int]] = {}

    def write(self, level: int, text: str) -> None:
        """printk."""
        for line in text[:_LINE_MAX].splitlines() or [""]:
            record = Record(self._sequence, self._now_ns(), level, line)
            self._sequence += 1
            self.records.append(record)
            if self.consoles and level < self.console_level:
                data = (record.format() + "\n").encode("utf-8", "replace")
                for console in self.consoles:
                    console.write(data)
            for listener in self.listeners:
                listener(record)

    def err(self, text: str) -> None:
        """A failure that the kernel did not expect."""
        self.write(ERR, text)

    def warning(self, text: str) -> None:
        """Something wrong that others caused."""
        self.write(WARNING, text)

    def notice(self, text: str) -> None:
        """Normal but significant."""
        self.write(NOTICE, text)

    def info(self, text: str) -> None:
        """For information."""
        self.write(INFO, text)

    def debug(self, text: str) -> None:
        """For developers: kept in the buffer, not shown on consoles."""
        self.write(DEBUG, text)

    def ratelimited(self, key: str, level: int, text: Callable[[], str]) -> None:
        """At most 10 lines of one ``key`` in 5 seconds: what a hostile peer causes must not flood the log."""
        now = self._now_ns()
        since, count = self._bursts.get(key, (now, 0))
        if now - since > _INTERVAL_NS:
            since, count = now, 0
        self._bursts[key] = (since, count + 1)
        if count < _BURST:
            self.write(level, text())
        elif count == _BURST:
            self.write(level, f"{key}: further messages suppressed")

    def text(self) -> str:
        """The whole buffer as dmesg shows it."""
        return "".join(record.format() + "\n" for record in self.records)

    # -- consoles ------------------------------------------------------------------------------------------------------

    def wanted(self, console: Console) -> bool:
        """Whether the command line selects this console."""
        return f"{console.name}{console.index}" in self._named if self._named else not self.consoles

    def register_console(self, console: Console) -> bool:
        """Set the console up and enable it if it is selected; True if it was. Raises OSError from its set-up."""
        if not self.wanted(console):
            return False
        console.setup()
        self.consoles.append(console)
        self.info(f"printk: console [{console.name}{console.index}] enabled")
        return True

    def unregister_console(self, console: Console) -> None:
        """Disable the console; nothing if it is not enabled."""
        if console in self.consoles:
            self.info(f"printk: console [{console.name}{console.index}] disabled")
            self.consoles.remove(console)
            console.exit()
