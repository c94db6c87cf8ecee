"""The short way to a translation: the library's table walk behind one argument, for buffers of hypercalls.

Handing ten arguments over from Python takes longer than the walk itself; a few machine instructions take them from a
block in memory instead. `Core.physical` is the long way, which also tells how a translation fails.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .core import Core

# bool walk(struct { u64 env, va, el, access; void *mmu_index, *get_phys_addr; u64 pa, attributes, _, protection, size,
#                    fault[4], _, cacheability; } *block)
_CODE: Final = bytes.fromhex(
    "53"  # push rbx
    "4889fb"  # mov rbx, rdi
    "488b3b"  # mov rdi, [rbx]
    "8b7310"  # mov esi, [rbx + 16]
    "ff5320"  # call [rbx + 32]              arm_mmu_idx_el(env, el)
    "4883ec20"  # sub rsp, 32
    "89c1"  # mov ecx, eax
    "488d4348"  # lea rax, [rbx + 72]
    "48890424"  # mov [rsp], rax
    "488d4350"  # lea rax, [rbx + 80]
    "4889442408"  # mov [rsp + 8], rax
    "488d4358"  # lea rax, [rbx + 88]
    "4889442410"  # mov [rsp + 16], rax
    "488d8380000000"  # lea rax, [rbx + 128]
    "4889442418"  # mov [rsp + 24], rax
    "488b3b"  # mov rdi, [rbx]
    "488b7308"  # mov rsi, [rbx + 8]
    "8b5318"  # mov edx, [rbx + 24]
    "4c8d4330"  # lea r8, [rbx + 48]
    "4c8d4b38"  # lea r9, [rbx + 56]
    "ff5328"  # call [rbx + 40]              get_phys_addr(...)
    "0fb6c0"  # movzx eax, al
    "4883c420"  # add rsp, 32
    "5b"  # pop rbx
    "c3"  # ret
)
_VA, _EL, _ACCESS, _MMU_INDEX, _WALK, _PA = range(1, 7)
_WORDS: Final = 18


class Walker:
    """Translations of the vCPU that is loaded on one core, at EL1."""

    __slots__ = ("_address", "_block", "_keep", "_view", "_walk")

    def __init__(self, core: Core) -> None:
        library = core.library
        self._block = (ctypes.c_uint64 * _WORDS)()
        self._address = ctypes.addressof(self._block)
        self._view = memoryview(self._block).cast("B").cast("Q")
        self._block[0] = core.registers.address
        self._block[_EL] = 1
        self._block[_MMU_INDEX] = ctypes.cast(library.mmu_index, ctypes.c_void_p).value or 0
        self._block[_WALK] = ctypes.cast(library.get_phys_addr, ctypes.c_void_p).value or 0
        self._keep = core
        self._walk = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(core.code.place(_CODE))

    def physical(self, va: int, access: int) -> int | None:
        """PA of a VA for READ, WRITE or EXECUTE through both stages, None if that faults."""
        view = self._view
        view[_VA] = va
        view[_ACCESS] = access
        if self._walk(self._address):
            return None
        return view[_PA]
