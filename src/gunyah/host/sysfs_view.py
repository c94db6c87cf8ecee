"""A kernel's /sys from outside: files and trees by path, with errors as sentences."""

from __future__ import annotations

from typing import Any

from gunyah.host.errors import HostError, reason
from gunyah.linux.kobject import SysFs

__all__ = ["sysfs_cat", "sysfs_entry", "sysfs_tree"]

_DEPTH = 32


def sysfs_cat(sysfs: SysFs, path: str) -> str:
    """The text of the file at ``path``; raises HostError."""
    try:
        return sysfs.read(path).decode(errors="replace")
    except OSError as error:
        raise HostError(reason(error)) from error


def sysfs_tree(sysfs: SysFs, path: str) -> dict[str, Any]:
    """The entry at ``path``: name, with ``children`` if it is a directory, ``target`` if a link; raises HostError."""
    try:
        return _entry(sysfs, path.rstrip("/") or "/", path.rstrip("/").rpartition("/")[2] or "/", 0)
    except OSError as error:
        raise HostError(reason(error)) from error


def sysfs_entry(sysfs: SysFs, path: str) -> dict[str, Any]:
    """What a file system has to know of ``path``: kind (dir, file, link), mode, names or target; raises HostError."""
    try:
        target = sysfs.readlink(path)
        if target is not None:
            return {"kind": "link", "mode": 0o777, "target": target}
        if sysfs.is_dir(path):
            return {"kind": "dir", "mode": 0o555, "names": sysfs.listdir(path)}
        return {"kind": "file", "mode": sysfs.mode(path) & 0o444}
    except OSError as error:
        raise HostError(reason(error)) from error


def _entry(sysfs: SysFs, path: str, name: str, depth: int) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name}
    target = sysfs.readlink(path) if depth else None
    if target is not None:
        entry["target"] = target
    elif sysfs.is_dir(path) and depth < _DEPTH:
        entry["children"] = [_entry(sysfs, f"{path}/{child}", child, depth + 1) for child in sysfs.listdir(path)]
    return entry
