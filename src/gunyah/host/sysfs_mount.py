"""The VM's /sys mounted as ``sys`` in the run directory, where this machine can: /dev/fuse and ``mfusepy`` are needed.

This process must never look into the mount itself: the answer would have to come from here.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import select
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from gunyah.host.errors import HostError
from gunyah.host.rundir import RunDirectory

__all__ = ["SysfsMount", "mount_or_reason"]

START_SECONDS: Final = 10.0
STOP_SECONDS: Final = 3.0
_MNT_DETACH: Final = 2


class SysfsMount:
    """A mounted /sys; raises HostError with the reason when this machine cannot."""

    def __init__(self, directory: RunDirectory) -> None:
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            raise HostError("not mounted: there is no usable /dev/fuse")
        if importlib.util.find_spec("mfusepy") is None:
            raise HostError("not mounted: the package mfusepy is missing (pip install 'gunyah[fuse]')")
        self.path: Path = directory.path / "sys"
        self.path.mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gunyah.host.sysfs_fuse", str(directory.control_socket), str(self.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        ready, _, _ = select.select([self._process.stdout], [], [], START_SECONDS)
        if not ready or self._process.stdout.readline() != b"mounted\n":
            self._process.kill()
            complaint = self._process.stderr.read().decode(errors="replace").strip().splitlines()
            self._end()
            raise HostError(f"not mounted: {complaint[-1] if complaint else 'FUSE did not answer'}")

    def close(self) -> None:
        """Unmount."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._end()

    def _end(self) -> None:
        self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        # A process that was killed leaves its mount behind, and the run directory could not be removed.
        if ctypes.CDLL(None).umount2(os.fsencode(self.path), _MNT_DETACH) and os.getuid():
            tool = shutil.which("fusermount3") or shutil.which("fusermount")
            if tool is not None:
                subprocess.run([tool, "-u", "-z", "-q", str(self.path)], check=False, stderr=subprocess.DEVNULL)


def mount_or_reason(directory: RunDirectory) -> tuple[SysfsMount | None, str]:
    """The mount and its path in words, or None and why not."""
    try:
        mount = SysfsMount(directory)
    except HostError as error:
        return None, str(error)
    return mount, str(mount.path)
