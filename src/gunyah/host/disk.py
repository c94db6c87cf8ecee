"""A file of the user's behind a virtio disk (Virtio 1.2, 5.2).

It is opened when the system is described and written in place. A file that may not be written is a read-only disk.
"""

from __future__ import annotations

import os
from pathlib import Path

from gunyah.host.errors import HostError, reason
from gunyah.vmm.virtio_devices import SECTOR

__all__ = ["FileStorage"]


class FileStorage:
    """The ``Storage`` of a file. Raises HostError when it cannot be opened or has no whole number of sectors."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.read_only = not os.access(path, os.W_OK)
        try:
            self._file = os.open(path, (os.O_RDONLY if self.read_only else os.O_RDWR) | os.O_CLOEXEC)
        except OSError as error:
            raise HostError(f"the disk {path} cannot be opened: {reason(error)}") from error
        self.size = os.fstat(self._file).st_size
        if not self.size or self.size % SECTOR:
            self.close()
            raise HostError(f"the disk {path} has {self.size} bytes, no whole number of {SECTOR}-byte sectors")

    def read(self, offset: int, size: int, /) -> bytes:
        """Bytes; zeros where the file has become shorter."""
        return os.pread(self._file, size, offset).ljust(size, b"\0")

    def write(self, offset: int, data: bytes, /) -> None:
        """Change bytes in the file."""
        os.pwrite(self._file, data, offset)

    def flush(self) -> None:
        """Wait until everything written is in the file system."""
        os.fdatasync(self._file)

    def close(self) -> None:
        """Give the file back; a second call does nothing."""
        descriptor, self._file = self._file, -1
        if descriptor >= 0:
            os.close(descriptor)
