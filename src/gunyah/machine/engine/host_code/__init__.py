"""Helpers of the engine in the host's own machine code: C sources, beside the bytes that tools.build_host_code makes.

A helper is position-independent code without relocations: a header of 64 bytes that is filled in here, then its entry.
It is put where the library looks up one of its own functions (`linkage.linkage_slots`).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Final

from ..linkage import linkage_slots
from ..unicorn_private import ExecutableMemory, Library, address_of, u64_at

__all__ = ["HEADER_SIZE", "install", "load"]

HEADER_SIZE: Final = 64

_memory = ExecutableMemory()


def load(helper: str, header: bytes, place: Callable[[bytes], int] = _memory.place) -> int:
    """Put a helper into memory with its header filled in, which has to have the layout that the source gives.

    Gives the address of its entry. `place` copies it into executable memory.
    """
    code = (files(__name__) / f"{helper}.bin").read_bytes()
    if len(header) > HEADER_SIZE:
        raise ValueError(f"a header of {len(header)} bytes for {helper}, the code has room for {HEADER_SIZE}")
    return place(header + code[len(header) :]) + HEADER_SIZE


def install(
    library: Library, helper: str, symbol: str, header: bytes, place: Callable[[bytes], int] = _memory.place
) -> None:
    """Let the library call `helper` instead of its function `symbol`.

    The helper's header begins with the address of the original, then `header`. Raises `EngineUnavailable` where the
    library does not link to `symbol` in the usual way.
    """
    original = address_of(library.dll[symbol])
    [slot] = linkage_slots(library, symbol)
    u64_at(slot).value = load(helper, original.to_bytes(8, "little") + header, place)
