"""What a debugger needs of a core: breakpoints at virtual addresses, and watchpoints on physical memory.

Breakpoints are the architecture's own (DBGBVR<n>_EL1, DBGBCR<n>_EL1), which the engine honours while it translates, so
they cost nothing elsewhere and work before memory is mapped. Its watchpoints are empty functions; memory hooks take
their place: with one set, every access of the guest leaves the fast path, and one that touches a watched range becomes
a watchpoint exception for EL2 before it happens. Accesses by DC ZVA are not seen.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from . import unicorn_private as private
from .registers import Encoding

if TYPE_CHECKING:
    from .core import Core

BREAKPOINTS: Final = 6
"""Breakpoint registers of a Cortex-A72."""

_ENABLED_FOR_EL0_AND_EL1: Final = 0xF << 5 | 3 << 1 | 1
_WIDEST: Final = 8
"""Bytes of the widest single access that the engine makes."""

# hook(uc, type, address, size, value, range): address is physical, PC is synchronised before the call
_CODE: Final = bytes.fromhex(
    "498b4110"  # mov rax, [r9 + 16]      what all ranges share
    "48833800"  # cmp qword [rax], 0
    "743a"  # je done                     (not armed)
    "493b5120"  # cmp rdx, [r9 + 32]
    "7334"  # jae done                    (starts behind the range)
    "89c9"  # mov ecx, ecx
    "4c8d140a"  # lea r10, [rdx + rcx]
    "4d3b5118"  # cmp r10, [r9 + 24]
    "7628"  # jbe done                    (ends before it)
    "48895008"  # mov [rax + 8], rdx
    "48894810"  # mov [rax + 16], rcx
    "89f6"  # mov esi, esi
    "48897018"  # mov [rax + 24], rsi
    "4c894020"  # mov [rax + 32], r8
    "498b39"  # mov rdi, [r9]             env
    "be01000000"  # mov esi, 1            EXCP_UDEF
    "ba220000d2"  # mov edx, 0xd2000022   watchpoint, from a lower level
    "b902000000"  # mov ecx, 2            for EL2
    "41ff6108"  # jmp [r9 + 8]            raise_exception, which does not return
    "c3"  # done: ret
)


class Range(NamedTuple):
    """Physical memory to watch: bytes ``address`` to ``address + size - 1``."""

    address: int
    size: int
    read: bool
    write: bool


class Hit(NamedTuple):
    """The access that a watchpoint kept from happening; ``value`` is what a write would have stored."""

    address: int
    size: int
    write: bool
    value: int


class Debug:
    """Debug facilities of one core."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._lib = core.library
        self._shared = (ctypes.c_uint64 * 5)()
        self._ranges: list[Range] = []
        self._hooks: list[tuple[int, Any]] = []
        self._entry = 0

    def set_breakpoint(self, number: int, value: int, control: int) -> None:
        """Write a breakpoint register pair (0..5) of the loaded context, with all that follows from it."""
        core = self._core
        core.write_sysreg(Encoding(2, 0, 0, number, 4), value)
        core.write_sysreg(Encoding(2, 0, 0, number, 5), control)
        self._lib.update_breakpoint(core.cpu_state, number)

    def break_at(self, number: int, address: int | None) -> None:
        """Stop the loaded context at virtual ``address``, at EL1 and EL0; None clears the register pair."""
        self.set_breakpoint(number, address or 0, _ENABLED_FOR_EL0_AND_EL1 if address is not None else 0)

    def breakpoint_registers(self, number: int) -> tuple[int, int]:
        """DBGBVR<n>_EL1 and DBGBCR<n>_EL1 of the loaded context."""
        core = self._core
        return core.read_sysreg(Encoding(2, 0, 0, number, 4)), core.read_sysreg(Encoding(2, 0, 0, number, 5))

    def watch(self, ranges: Sequence[Range]) -> None:
        """Watch these ranges and no others, whoever runs, while ``armed``. Not for use while the core runs."""
        core, lib = self._core, self._lib
        if list(ranges) == self._ranges:
            return
        for handle, _ in self._hooks:
            core.check(lib.hook_del(core.handle, handle), "a watchpoint cannot be removed")
        if bool(ranges) != bool(self._ranges):
            # Whether accesses take the fast path is decided when code is translated.
            lib.tb_flush(core.cpu_state)
        self._ranges = list(ranges)
        self._hooks = []
        for each in ranges:
            if each.read:
                self._hook(private.UC_HOOK_MEM_READ, each)
            if each.write:
                self._hook(private.UC_HOOK_MEM_WRITE, each)

    def _hook(self, kind: int, each: Range) -> None:
        core, lib = self._core, self._lib
        if not self._entry:
            self._entry = core.code.place(_CODE)
        block = (ctypes.c_uint64 * 5)(
            core.registers.address,
            ctypes.cast(lib.raise_exception, ctypes.c_void_p).value or 0,
            ctypes.addressof(self._shared),
            each.address,
            each.address + each.size,
        )
        handle = ctypes.c_size_t()
        core.check(
            lib.hook_add(
                core.handle,
                ctypes.addressof(handle),
                kind,
                self._entry,
                ctypes.addressof(block),
                max(0, each.address - _WIDEST + 1),
                each.address + each.size - 1,
            ),
            f"memory at {each.address:#x} cannot be watched",
        )
        self._hooks.append((handle.value, block))

    @property
    def armed(self) -> bool:
        """Whether watched accesses stop the guest."""
        return bool(self._shared[0])

    @armed.setter
    def armed(self, armed: bool) -> None:
        self._shared[0] = armed

    def take_hit(self) -> Hit | None:
        """The access of the present watchpoint exception, once; None if none was made here."""
        address, size, kind, value = self._shared[1:5]
        if not kind:
            return None
        self._shared[3] = 0
        return Hit(address, size, kind == private.UC_MEM_WRITE, value & (1 << 8 * size) - 1)


__all__ = ["BREAKPOINTS", "Debug", "Hit", "Range"]
