"""Sizes and counts as people write them: ``256M``, ``0x1000``, ``1G``."""

from __future__ import annotations

import re
from typing import Final

from gunyah.host.errors import HostError

__all__ = ["format_size", "parse_size"]

_UNITS: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_FORM: Final = re.compile(r"(0[xX][0-9a-fA-F]+|[0-9]+)([KMGT]?)(?:i?B)?", re.IGNORECASE)


def parse_size(words: str) -> int:
    """Bytes; raises HostError. K, M, G and T are powers of 1024."""
    match = _FORM.fullmatch(words.strip())
    if match is None:
        raise HostError(f"{words!r} is not a size such as 256M, 1G or 0x1000")
    return int(match[1], 0 if match[1][:2].lower() == "0x" else 10) << _UNITS[match[2].upper()]


def format_size(size: int) -> str:
    """``64M``: the largest unit that divides the size."""
    for unit in ("T", "G", "M", "K"):
        if size and size % (1 << _UNITS[unit]) == 0:
            return f"{size >> _UNITS[unit]}{unit}"
    return str(size)
