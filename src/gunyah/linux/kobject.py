"""Kernel objects and the sysfs tree they form: directories, attribute files and links.

The tree is plain data inside the kernel's address space; ``show`` functions only look, so the world outside may read
files without running the VM. ``store`` functions may block and run in tasks.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from gunyah.linux.errno import error

__all__ = ["Attribute", "KObject", "PAGE_SIZE", "SysFs"]

PAGE_SIZE = 4096
"""Bytes: the most that one attribute shows or takes."""
_MAX_LINKS = 16


class Attribute:
    """One attribute file: ``show`` gives its text, ``store`` takes what was written."""

    __slots__ = ("name", "show", "store")

    def __init__(
        self, name: str, show: Callable[[], str] | None = None, store: Callable[[bytes], None] | None = None
    ) -> None:
        self.name = name
        self.show = show
        self.store = store

    @property
    def mode(self) -> int:
        """Permission bits: 0444, 0200 or 0644."""
        return (0o444 if self.show is not None else 0) | (0o200 if self.store is not None else 0)


class KObject:
    """A directory. ``entries`` holds its directories, files and links (a link is the object it leads to, under a
    name).
    """

    def __init__(self, name: str, parent: KObject | None = None) -> None:
        self.name = name
        self.parent = parent
        self.entries: dict[str, KObject | Attribute] = {}
        self.links: dict[str, KObject] = {}
        if parent is not None:
            if name in parent.entries or name in parent.links:
                raise error(errno.EEXIST, f"sysfs: cannot create duplicate {parent.path}/{name}")
            parent.entries[name] = self

    @property
    def path(self) -> str:
        """Path from the root of sysfs; the root's is empty."""
        return "" if self.parent is None else f"{self.parent.path}/{self.name}"

    def ensure(self, path: str) -> KObject:
        """The directory at ``path`` below this one, made where missing."""
        node = self
        for name in path.split("/"):
            entry = node.entries.get(name)
            node = entry if isinstance(entry, KObject) else KObject(name, node)
        return node

    def add_file(self, attribute: Attribute) -> None:
        """sysfs_create_file."""
        if attribute.name in self.entries:
            raise error(errno.EEXIST, f"sysfs: cannot create duplicate {self.path}/{attribute.name}")
        self.entries[attribute.name] = attribute

    def add_link(self, name: str, target: KObject) -> None:
        """sysfs_create_link."""
        self.links[name] = target

    def remove_entry(self, name: str) -> None:
        """Remove a file, link or directory; nothing if it is not there."""
        self.entries.pop(name, None)
        self.links.pop(name, None)

    def delete(self) -> None:
        """kobject_del: this directory and what is below it disappears."""
        if self.parent is not None:
            self.parent.remove_entry(self.name)
            self.parent = None


class SysFs:
    """/sys of one kernel. Paths are absolute below the mount point, with or without the leading ``/sys``."""

    def __init__(self) -> None:
        self.root = KObject("")

    def _parts(self, path: str) -> list[str]:
        parts = [part for part in path.split("/") if part and part != "."]
        return parts[1:] if parts[:1] == ["sys"] else parts

    def lookup(self, path: str, *, follow: bool = True) -> KObject | Attribute:
        """What stands at ``path``; the last component's link is followed unless told not to. Raises
        FileNotFoundError.
        """
        entry: KObject | Attribute = self.root
        for part in self._parts(path):
            found: KObject | Attribute | None = None
            if isinstance(entry, KObject):
                found = entry.parent or entry if part == ".." else entry.entries.get(part) or entry.links.get(part)
            if found is None:
                raise error(errno.ENOENT, f"sysfs: /{'/'.join(self._parts(path))} does not exist")
            entry = found
        return entry

    def exists(self, path: str) -> bool:
        """Whether there is anything at ``path``."""
        try:
            self.lookup(path)
        except FileNotFoundError:
            return False
        return True

    def is_dir(self, path: str) -> bool:
        """Whether ``path`` is a directory, or a link to one."""
        return isinstance(self.lookup(path), KObject)

    def listdir(self, path: str) -> list[str]:
        """Names in a directory, sorted. Raises NotADirectoryError."""
        entry = self.lookup(path)
        if not isinstance(entry, KObject):
            raise error(errno.ENOTDIR, f"sysfs: {path} is a file")
        return sorted((*entry.entries, *entry.links))

    def readlink(self, path: str) -> str | None:
        """Where a link leads, relative to its directory; None when ``path`` is not a link."""
        parts = self._parts(path)
        directory = self.lookup("/".join(parts[:-1])) if parts else self.root
        target = directory.links.get(parts[-1]) if parts and isinstance(directory, KObject) else None
        if target is None or not isinstance(directory, KObject):
            return None
        return "../" * directory.path.count("/") + target.path.lstrip("/")

    def mode(self, path: str) -> int:
        """Permission bits: 0755 for directories."""
        entry = self.lookup(path)
        return entry.mode if isinstance(entry, Attribute) else 0o755

    def _file(self, path: str) -> Attribute:
        entry = self.lookup(path)
        if isinstance(entry, KObject):
            raise error(errno.EISDIR, f"sysfs: {path} is a directory")
        return entry

    def read(self, path: str) -> bytes:
        """A file's contents. Raises FileNotFoundError, IsADirectoryError, PermissionError."""
        attribute = self._file(path)
        if attribute.show is None:
            raise error(errno.EACCES, f"sysfs: {path} cannot be read")
        return attribute.show().encode()[:PAGE_SIZE]

    def write(self, path: str, data: bytes) -> int:
        """Hand ``data`` to a file, in a task; bytes taken. Raises OSError of the attribute."""
        attribute = self._file(path)
        if attribute.store is None:
            raise error(errno.EACCES, f"sysfs: {path} cannot be written")
        if len(data) > PAGE_SIZE:
            raise error(errno.EINVAL, f"sysfs: {len(data)} bytes for {path}, at most {PAGE_SIZE} are taken")
        attribute.store(data)
        return len(data)
