"""The process that serves a VM's /sys as a FUSE file system; a client of the system's control socket.

Run as ``python -m gunyah.host.sysfs_fuse SOCKET MOUNTPOINT``. It prints ``mounted`` once the files are there, and
ends when the system goes away or it gets SIGTERM. Guest code stays on the system's one thread: this is another
process.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
import threading
from typing import Any, Final

import mfusepy

from gunyah.host.control import ControlClient
from gunyah.host.errors import HostError

__all__ = ["SysfsFiles", "main"]

_SIZE: Final = 4096
"""What every attribute file of sysfs claims to hold; the true length shows at end of file."""
_KINDS: Final = {"dir": stat.S_IFDIR, "file": stat.S_IFREG, "link": stat.S_IFLNK}


class SysfsFiles(mfusepy.Operations):  # type: ignore[misc]  # The library has no types.
    """File operations, each answered by the system."""

    use_ns = True

    def __init__(self, client: ControlClient) -> None:
        self._client = client

    def _entry(self, path: str) -> dict[str, Any]:
        try:
            entry: Any = self._client.call("sysfs-entry", path=path)
        except HostError as error:
            raise mfusepy.FuseOSError(errno.ENOENT) from error
        return dict(entry)

    def init_with_config(self, conn_info: object, config: object) -> None:
        """The kernel has accepted the mount."""
        print("mounted", flush=True)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        """Owner root, times unknown."""
        entry = self._entry(path)
        kind = entry["kind"]
        return {
            "st_mode": _KINDS[kind] | int(entry["mode"]),
            "st_nlink": 2 if kind == "dir" else 1,
            "st_size": _SIZE if kind == "file" else 0,
        }

    def readdir(self, path: str, fh: int) -> list[str]:
        """Names."""
        return [".", "..", *self._entry(path).get("names", ())]

    def readlink(self, path: str) -> str:
        """Where a link leads."""
        return str(self._entry(path)["target"])

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """The attribute's text as it is now."""
        try:
            text = self._client.call("sysfs-cat", path=path)
        except HostError as error:
            raise mfusepy.FuseOSError(errno.EACCES) from error
        return str(text).encode()[offset : offset + size]


def _leave_with(system: ControlClient) -> None:
    """End this process when the system ends; ``system`` is a connection that carries nothing else."""
    system.wait_without_limit()
    try:
        system.call("wait")
    except HostError:
        os.kill(os.getpid(), signal.SIGTERM)


def main(socket: str, mountpoint: str) -> int:
    """Serve until told to leave."""
    client, system = ControlClient(socket), ControlClient(socket)
    threading.Thread(target=_leave_with, args=(system,), daemon=True).start()
    try:
        files = SysfsFiles(client)
        mfusepy.FUSE(files, mountpoint, foreground=True, nothreads=True, ro=True, direct_io=True, fsname="gunyah-sysfs")
    except RuntimeError as error:
        print(f"FUSE refused with status {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:3]))
