"""The short way to a translation: the engine's own TLB, behind one argument, for the buffers of hypercalls.

What the TLB does not hold is walked and filled in, as an access by the vCPU would do, but without a fault. Handing five
arguments over from Python takes longer than the look-up; a few machine instructions take them from a block in memory
instead. `Core.physical` is the long way, which also tells how a translation fails.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .core import Core

# bool walk(struct { u64 env, va, access; void *mmu_index, *tlb_vaddr_to_paddr; u64 pa; } *block)
_CODE: Final = bytes.fromhex(
    "53"  # push rbx
    "4889fb"  # mov rbx, rdi
    "488b3b"  # mov rdi, [rbx]
    "ff5318"  # call [rbx + 24]             arm_mmu_idx(env)
    "83e00f"  # and eax, 15
    "488b3b"  # mov rdi, [rbx]
    "488b7308"  # mov rsi, [rbx + 8]
    "8b5310"  # mov edx, [rbx + 16]
    "89c1"  # mov ecx, eax
    "4c8d4328"  # lea r8, [rbx + 40]
    "ff5320"  # call [rbx + 32]             tlb_vaddr_to_paddr(env, va, access, index, &pa)
    "0fb6c0"  # movzx eax, al
    "5b"  # pop rbx
    "c3"  # ret
)
_VA, _ACCESS, _MMU_INDEX, _TRANSLATE, _PA = range(1, 6)


class Walker:
    """Translations of the vCPU that is loaded on one core, at its present exception level."""

    __slots__ = ("_address", "_block", "_keep", "_view", "_walk")

    def __init__(self, core: Core) -> None:
        library = core.library
        self._block = (ctypes.c_uint64 * 6)()
        self._address = ctypes.addressof(self._block)
        self._view = memoryview(self._block).cast("B").cast("Q")
        self._block[0] = core.registers.address
        self._block[_MMU_INDEX] = ctypes.cast(library.current_mmu_index, ctypes.c_void_p).value or 0
        self._block[_TRANSLATE] = ctypes.cast(library.vaddr_to_paddr, ctypes.c_void_p).value or 0
        self._keep = core
        self._walk = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(core.code.place(_CODE))

    def physical(self, va: int, access: int) -> int | None:
        """PA of a VA for READ, WRITE or EXECUTE through both stages, None if that faults."""
        view = self._view
        view[_VA] = va
        view[_ACCESS] = access
        if self._walk(self._address):
            return view[_PA]
        return None
