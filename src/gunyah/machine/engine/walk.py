"""The short way to a guest's buffers: virtual addresses through the engine's own TLB, copied in machine code.

What the TLB does not hold is walked and filled in, as an access by the vCPU would do, but without a fault. Handing a
handful of arguments over from Python takes longer than the work; a few machine instructions take them from a block in
memory instead. `Core.physical` is the long way, which also tells how a translation fails.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final

from .unicorn_private import address_of

if TYPE_CHECKING:
    from .core import Core

PAGE_SIZE: Final = 4096
_READ: Final = 0
_WRITE: Final = 1

# bool copy(struct { u64 env, va, access; void *mmu_index, *tlb_vaddr_to_paddr; u64 pa, size, ram, ram_size;
#                    u8 *ram_host, *buffer; void *uc; u64 ram_delta; void *tb_invalidate_phys_range; } *block)
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
    "84c0"  # test al, al
    "745c"  # jz no
    "488b4328"  # mov rax, [rbx + 40]
    "482b4338"  # sub rax, [rbx + 56]
    "488b4b30"  # mov rcx, [rbx + 48]
    "483b4340"  # cmp rax, [rbx + 64]
    "734a"  # jae no
    "488d1408"  # lea rdx, [rax + rcx]
    "483b5340"  # cmp rdx, [rbx + 64]
    "773e"  # ja no
    "48034348"  # add rax, [rbx + 72]
    "837b1000"  # cmp dword [rbx + 16], 0
    "7510"  # jne write
    "4889c6"  # mov rsi, rax
    "488b7b50"  # mov rdi, [rbx + 80]
    "f3a4"  # rep movsb
    "b801000000"  # mov eax, 1
    "5b"  # pop rbx
    "c3"  # ret
    "4889c7"  # write: mov rdi, rax
    "488b7350"  # mov rsi, [rbx + 80]
    "f3a4"  # rep movsb
    "488b7b58"  # mov rdi, [rbx + 88]
    "488b7328"  # mov rsi, [rbx + 40]
    "48037360"  # add rsi, [rbx + 96]
    "4889f2"  # mov rdx, rsi
    "48035330"  # add rdx, [rbx + 48]
    "ff5368"  # call [rbx + 104]            tb_invalidate_phys_range(uc, start, end)
    "b801000000"  # mov eax, 1
    "5b"  # pop rbx
    "c3"  # ret
    "31c0"  # no: xor eax, eax
    "5b"  # pop rbx
    "c3"  # ret
)


class Walker:
    """Memory of the vCPU that is loaded on one core, as it sees it at its present exception level."""

    __slots__ = ("_address", "_block", "_buffer", "_copy", "_core", "_view")

    def __init__(self, core: Core) -> None:
        library = core.library
        self._core = core
        self._buffer = memoryview(bytearray(PAGE_SIZE))
        base, end, delta = max(core.ram, key=lambda region: region[1] - region[0])
        functions = (library.current_mmu_index, library.vaddr_to_paddr, library.tb_invalidate)
        mmu_index, translate, invalidate = (address_of(each) for each in functions)
        buffer = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))
        host = core.memory.host_address(base)
        self._block = (ctypes.c_uint64 * 14)(
            core.registers.address, 0, 0, mmu_index, translate, 0, 0, base, end - base, host, buffer, core.handle, delta
        )
        self._block[13] = invalidate
        self._address = ctypes.addressof(self._block)
        self._view = memoryview(self._block).cast("B").cast("Q")
        self._copy = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(core.code.place(_CODE))

    def read(self, va: int, size: int) -> bytes | None:
        """Copy `size` bytes out of one page; None where that faults, and where the page is not in the largest RAM."""
        view = self._view
        view[1] = va
        view[2] = _READ
        view[6] = size
        return bytes(self._buffer[:size]) if self._copy(self._address) else None

    def write(self, va: int, data: bytes) -> bool:
        """Copy `data` into one page; False where that faults or has to be announced to others than this core.

        Translated code of the place is dropped.
        """
        if len(self._core.memory.listeners) != 1:
            return False
        size = len(data)
        view = self._view
        view[1] = va
        view[2] = _WRITE
        view[6] = size
        self._buffer[:size] = data
        return bool(self._copy(self._address))
