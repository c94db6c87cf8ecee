"""The run directory: where a running system shows its terminals and its control socket.

``$XDG_RUNTIME_DIR/gunyah/<name>`` or, without that variable, ``<temporary directory>/gunyah-<uid>/<name>``. A system
holds a lock on ``<name>/lock`` for as long as it lives; a directory whose lock nobody holds is left over from a process
that died, and the next system to start removes it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from gunyah.host.errors import HostError, reason

__all__ = ["CONTROL_SOCKET", "RunDirectory", "base_directory", "running_systems"]

CONTROL_SOCKET = "control"
_LOCK = "lock"
_NAME_LIMIT = 64
"""A Unix socket's path has at most 107 bytes; a short name leaves room for the base."""


def base_directory() -> Path:
    """Where run directories of this user live (not created)."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir():
        return Path(runtime) / "gunyah"
    return Path(tempfile.gettempdir()) / f"gunyah-{os.getuid()}"


def _secure_base(base: Path) -> None:
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = base.lstat()
    except OSError as error:
        raise HostError(f"the run directory {base} cannot be made: {reason(error)}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise HostError(f"the run directory {base} is not a directory")
    if status.st_uid != os.getuid():
        raise HostError(f"the run directory {base} belongs to user {status.st_uid}, not to you ({os.getuid()})")


def _try_lock(path: Path) -> int | None:
    """The descriptor of ``path/lock`` with the lock held, or None when a living system holds it."""
    descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    if os.fstat(descriptor).st_nlink == 0:  # Somebody cleaned the directory up while we waited to open it.
        os.close(descriptor)
        return None
    return descriptor


def _entries(base: Path) -> list[Path]:
    try:
        return sorted(path for path in base.iterdir() if (path / _LOCK).exists())
    except OSError:
        return []


def running_systems(base: Path | None = None) -> Iterator[Path]:
    """The run directories of this user's living systems, by name."""
    for path in _entries(base if base is not None else base_directory()):
        try:
            descriptor = _try_lock(path)
        except OSError:
            continue
        if descriptor is None:
            yield path
        else:
            os.close(descriptor)


class RunDirectory:
    """One system's run directory, made, locked and cleaned up; a context manager.

    ``name`` is the directory's last part, by default the process id (with a number when that is taken). ``base``
    replaces the user's base directory. Raises HostError when it cannot be made or a living system has that name.
    """

    def __init__(self, name: str | None = None, *, base: Path | None = None) -> None:
        self.base = base if base is not None else base_directory()
        _secure_base(self.base)
        self._remove_stale()
        if name is not None:
            self.path, self._lock = self._claim_named(name)
        else:
            self.path, self._lock = self._claim_free()

    def _claim_named(self, name: str) -> tuple[Path, int]:
        if not name or len(name) > _NAME_LIMIT or "/" in name or name in (".", ".."):
            raise HostError(f"{name!r} is no name for a run directory: 1 to {_NAME_LIMIT} characters without '/'")
        lock = self._claim(self.base / name)
        if lock is None:
            raise HostError(f"a system named {name!r} is already running in {self.base}")
        return self.base / name, lock

    def _claim_free(self) -> tuple[Path, int]:
        number = 0
        while True:
            path = self.base / (f"{os.getpid()}.{number}" if number else str(os.getpid()))
            lock = self._claim(path)
            if lock is not None:
                return path, lock
            number += 1

    def _claim(self, path: Path) -> int | None:
        try:
            path.mkdir(mode=0o700, exist_ok=True)
            return _try_lock(path)
        except OSError as error:
            raise HostError(f"the run directory {path} cannot be written: {reason(error)}") from error

    def _remove_stale(self) -> None:
        for path in _entries(self.base):
            try:
                lock = _try_lock(path)
            except OSError:
                continue  # Somebody else is cleaning up, or it is not ours to remove.
            if lock is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)

    @property
    def control_socket(self) -> Path:
        """Path of the control socket."""
        return self.path / CONTROL_SOCKET

    def link(self, name: str, target: str | Path) -> Path:
        """Make or replace the symbolic link ``name`` to ``target`` in one step; raises HostError."""
        link, fresh = self.path / name, self.path / f".{name}.new"
        try:
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(target)
            fresh.replace(link)
        except OSError as error:
            raise HostError(f"the link {link} cannot be made: {reason(error)}") from error
        return link

    def unlink(self, name: str) -> None:
        """Remove the link ``name``; harmless if it is not there."""
        (self.path / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the directory with all that is in it and release its lock."""
        if self._lock < 0:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)
        self._lock = -1

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
