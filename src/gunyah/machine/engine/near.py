"""Memory for translated code where it and the library's functions can call each other directly.

A direct call of x86-64 reaches 2 GiB. The host puts new memory below what is there already, and a guest's memory may be
so much that translated code would end up out of reach: every call of the library then takes a load and an indirect
branch, and its start cannot be shortened (`block_start`).
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from .linkage import imported_slot
from .unicorn_private import ExecutableMemory, Library, address_of, u64_at

_REACH: Final = 3 << 29
_STEP: Final = 1 << 24
_MAP_NORESERVE: Final = 0x4000
_MAP_FIXED_NOREPLACE: Final = 0x10_0000
_SOMETHING: Final = "uc_emu_start"
"""A function of the library, to know where it is."""

_memory: Final = ExecutableMemory()
_wish: Final = ctypes.c_uint64()
"""Where the library's next executable memory should be; 0 for anywhere."""
_installed: list[bool] = []

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


def _map_near(address: int, size: int, protection: int) -> int:
    """Map anonymous memory in reach of calls from and to `address`; 0 if there is no room."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE | _MAP_FIXED_NOREPLACE
    start = address & -_STEP
    for distance in range(_STEP, _REACH - size, _STEP):
        for hint in (start - distance - size, start + distance):
            place = _libc.mmap(hint, size, protection, flags, -1, 0)
            if place == hint:
                return hint
            if place is not None and place != ctypes.c_void_p(-1).value:
                # A kernel that does not know the flag takes the address as a wish only.
                _libc.munmap(place, size)
    return 0


def place_near(address: int) -> Callable[[bytes], int] | None:
    """A page of executable memory that can be called from all around `address`, to copy code into; None without."""
    page = _map_near(address, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    return partial(_copy, page) if page else None


def _copy(page: int, code: bytes) -> int:
    ctypes.memmove(page, code, len(code))
    return page


# mmap(address, ...) with a wish in place of no address, for executable memory
_MMAP: Final = (
    bytes.fromhex(
        "f6c204"  # test dl, PROT_EXEC
        "7412"  # je as_it_is
        "4885ff"  # test rdi, rdi
        "750d"  # jne as_it_is
        "48a1"  # mov rax, [wish]
    ),
    bytes.fromhex(
        "4889c7"  # mov rdi, rax
        "48b8"  # as_it_is: mov rax, mmap
    ),
    bytes.fromhex("ffe0"),  # jmp rax
)


def _install(library: Library) -> bool:
    slot = imported_slot(library, "mmap64")
    original = address_of(_libc.mmap64)
    if not slot or not original:
        return False
    wish = ctypes.addressof(_wish).to_bytes(8, "little")
    code = _MMAP[0] + wish + _MMAP[1] + original.to_bytes(8, "little") + _MMAP[2]
    u64_at(slot).value = _memory.place(code)
    return True


@contextlib.contextmanager
def near_code(library: Library, size: int) -> Iterator[None]:
    """Let an engine that is built meanwhile have its buffer of `size` bytes near the library, if there is room."""
    if not _installed:
        _installed.append(_install(library))
    if _installed[0]:
        address = address_of(library.dll[_SOMETHING])
        place = _map_near(address, size, 0)
        if place:
            _libc.munmap(place, size)
        _wish.value = place
    try:
        yield
    finally:
        _wish.value = 0
