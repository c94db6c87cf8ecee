"""A minimal file tree for processes: /dev terminals and pseudo-devices, /proc files of the drivers, and /sys.

Paths lead to terminals (``TtyFile``), to text that is made when it is opened, or to sysfs attributes.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from gunyah.linux.errno import error
from gunyah.linux.printk import INFO

if TYPE_CHECKING:
    from gunyah.linux.kernel import Kernel

__all__ = ["File", "Vfs"]


class File(Protocol):
    """What every open file can do."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; empty at the end."""

    def write(self, data: bytes, /) -> int:
        """Bytes taken."""

    def close(self) -> None:
        """Give the file back."""


class _Text:
    """A file whose contents are made at open; writing goes to ``store``."""

    def __init__(self, path: str, data: bytes | None, store: Callable[[bytes], None] | None = None) -> None:
        self._path = path
        self._data = data
        self._store = store

    def read(self, size: int) -> bytes:
        if self._data is None:
            raise error(errno.EACCES, f"{self._path} cannot be read")
        piece, self._data = self._data[:size], self._data[size:]
        return piece

    def write(self, data: bytes) -> int:
        if self._store is None:
            raise error(errno.EACCES, f"{self._path} cannot be written")
        self._store(data)
        return len(data)

    def close(self) -> None:
        """Nothing to give back."""


class Vfs:
    """The file tree of one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def _proc(self) -> dict[str, Callable[[], str]]:
        kernel = self._kernel
        return {
            "/proc/cmdline": lambda: kernel.cmdline + "\n",
            "/proc/interrupts": kernel.services.interrupts.text,
            "/proc/uptime": lambda: f"{kernel.uptime_ns() / 1e9:.2f} 0.00\n",
        }

    def _kmsg(self, data: bytes) -> None:
        self._kernel.log.write(INFO, data.decode("utf-8", "replace").rstrip("\n"))

    def open(self, path: str, *, nonblock: bool = False) -> File:
        """open(2), in a task. Raises OSError ENOENT and what the device's open raises."""
        kernel = self._kernel
        if path == "/dev/null":
            return _Text(path, b"", lambda data: None)
        if path == "/dev/kmsg":
            return _Text(path, kernel.log.text().encode(), self._kmsg)
        if path == "/dev/console":
            if not kernel.log.consoles:
                raise error(errno.ENODEV, "/dev/console: no console is enabled")
            console = kernel.log.consoles[0]
            path = f"/dev/{console.name}{console.index}"
        if path.startswith("/dev/") and path[5:] in kernel.tty_names():
            return kernel.open_tty(path[5:], nonblock=nonblock)
        proc = self._proc()
        if path in proc:
            return _Text(path, proc[path]().encode())
        if path.startswith("/sys/"):
            readable = kernel.sysfs.mode(path) & 0o444
            return _Text(
                path, kernel.sysfs.read(path) if readable else None, lambda data: void(kernel.sysfs.write(path, data))
            )
        raise error(errno.ENOENT, f"{path} does not exist")

    def listdir(self, path: str) -> list[str]:
        """Names in a directory. Raises OSError ENOENT, ENOTDIR."""
        if path.rstrip("/") == "/dev":
            return sorted([*self._kernel.tty_names(), "console", "kmsg", "null"])
        if path.rstrip("/") == "/proc":
            return sorted(name[6:] for name in self._proc())
        if path == "/sys" or path.startswith("/sys/"):
            return self._kernel.sysfs.listdir(path)
        if path == "/":
            return ["dev", "proc", "sys"]
        raise error(errno.ENOENT, f"{path} does not exist")


def void(_: object) -> None:
    """Drop a result."""
