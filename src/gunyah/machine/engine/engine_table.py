"""Which engines a helper in host code serves: their descriptions by a hash of CPUARMState (host_code/engines.h).

Helpers are called for every engine of the process, some of which may not be of this project.
"""

from __future__ import annotations

import ctypes
import weakref
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .core import Core

__all__ = ["EngineTable"]

_ENGINES: Final = 1024
_PLACES: Final = 8
_HASH: Final = 0x9E37_79B9_7F4A_7C15
_SHIFT: Final = 54


class EngineTable:
    """Pointers to descriptions; a description's first word is the address of the engine's CPUARMState."""

    def __init__(self) -> None:
        self._pointers = (ctypes.c_uint64 * _ENGINES)()
        self.address = ctypes.addressof(self._pointers)
        """Of `void *engines[1024]`, for the helper's header."""

    def add(self, core: Core, description: ctypes.Array[ctypes.c_uint64]) -> bool:
        """Serve `core` until it goes; `description` has to live as long. False if all its places are taken."""
        first = (core.registers.address >> 4) * _HASH % (1 << 64) >> _SHIFT
        for n in range(_PLACES):
            index = (first + n) % _ENGINES
            if not self._pointers[index]:
                self._pointers[index] = ctypes.addressof(description)
                weakref.finalize(core, self._remove, index)
                return True
        return False

    def __contains__(self, description: ctypes.Array[ctypes.c_uint64]) -> bool:
        return ctypes.addressof(description) in self._pointers

    def _remove(self, index: int) -> None:
        self._pointers[index] = 0
