"""Calls that libunicorn makes to itself, redirected: its linkage table, and what engines of this project do without.

The library calls its own exported functions by way of a table that the dynamic linker has filled in (ELF,
R_X86_64_JUMP_SLOT), so a call can be taken over without a change of its code. Whatever is put there serves every engine
of the process, so it asks first whether the engine is one of this project: those have `no_exit_request` set.
"""

from __future__ import annotations

import ctypes
import re
import struct
from collections.abc import Iterator
from typing import Final

from .unicorn_private import EngineUnavailable, ExecutableMemory, Library, address_of, u16_at, u32_at, u64_at

__all__ = ["engine_field", "imported_slot", "linkage_slots", "spare_own_engines"]

# ELF for x86-64
_PT_DYNAMIC: Final = 2
_DT_PLTRELSZ: Final = 2
_DT_STRTAB: Final = 5
_DT_SYMTAB: Final = 6
_DT_JMPREL: Final = 23
_ADDRESSES: Final = (_DT_STRTAB, _DT_SYMTAB, _DT_JMPREL)
_R_X86_64_JUMP_SLOT: Final = 7


def _base(address: int) -> int:
    """Where the library that an address is in has been loaded."""

    class Where(ctypes.Structure):
        _fields_ = (("file", ctypes.c_char_p), ("base", ctypes.c_void_p), ("name", ctypes.c_char_p),
                    ("address", ctypes.c_void_p))  # fmt: skip

    where = Where()
    if not ctypes.PyDLL(None).dladdr(ctypes.c_void_p(address), ctypes.byref(where)) or not where.base:
        raise EngineUnavailable("the dynamic linker does not know where unicorn is loaded")
    return int(where.base)


def _tables(base: int) -> dict[int, int]:
    """The dynamic section of a loaded library: values, and addresses that are not relative any more."""
    program_headers = u64_at(base + 0x20).value
    tables: dict[int, int] = {}
    for n in range(u16_at(base + 0x38).value):
        header = base + program_headers + 0x38 * n
        if u32_at(header).value == _PT_DYNAMIC:
            entry = base + u64_at(header + 0x10).value
            while tag := u64_at(entry).value:
                value = u64_at(entry + 8).value
                tables[tag] = value + base if tag in _ADDRESSES and value < base else value
                entry += 16
    return tables


def _jump_slots(base: int, tables: dict[int, int]) -> Iterator[tuple[int, int]]:
    """Each place that holds the address of a function, and the function's symbol."""
    for place, info, _ in struct.iter_unpack("<QQq", ctypes.string_at(tables[_DT_JMPREL], tables[_DT_PLTRELSZ])):
        if info & 0xFFFF_FFFF == _R_X86_64_JUMP_SLOT:
            yield base + place, tables[_DT_SYMTAB] + 24 * (info >> 32)


def imported_slot(library: Library, symbol: str) -> int:
    """Find the place from which the library takes the address of another library's function; 0 if there is none."""
    base = _base(address_of(library.dll.uc_emu_start))
    tables = _tables(base)
    wanted = symbol.encode() + b"\0"
    for place, entry in _jump_slots(base, tables):
        if (
            not u64_at(entry + 8).value
            and ctypes.string_at(tables[_DT_STRTAB] + u32_at(entry).value, len(wanted)) == wanted
        ):
            return place
    return 0


def linkage_slots(library: Library, *symbols: str) -> list[int]:
    """Find the places from which the library takes the addresses of some of its own exported functions."""
    addresses = [address_of(getattr(library.dll, symbol)) for symbol in symbols]
    base = _base(addresses[0])
    # A symbol's value is where it is in the file.
    wanted = {address - base for address in addresses}
    found: dict[int, list[int]] = {}
    for place, entry in _jump_slots(base, _tables(base)):
        value = u64_at(entry + 8).value
        if value in wanted:
            found.setdefault(value, []).append(place)
    slots = []
    for symbol, address in zip(symbols, addresses, strict=True):
        places = found.get(address - base, [])
        if len(places) != 1:
            raise EngineUnavailable(
                f"this build of unicorn 2.1.4 is not the verified one: {len(places)} links to {symbol}"
            )
        slots += places
    return slots


def engine_field(library: Library) -> int:
    """Offset from CPUState of the field, in its CPUARMState, that leads to the engine (`uc_struct *`)."""
    match = re.search(rb"\x4c\x8b\xb7(....)\x48\x89\xf7", library.text("tlb_vaddr_to_paddr_aarch64", 0x60), re.DOTALL)
    if match is None:
        raise EngineUnavailable("this build of unicorn 2.1.4 is not the verified one: CPUARMState has no engine")
    return library.offsets.cpu_env + int.from_bytes(match.group(1), "little")


_SPARED: Final = (("tlb_reset_dirty_by_vaddr_aarch64", True), ("pmu_op_start_aarch64", False),
                  ("pmu_op_finish_aarch64", False))  # fmt: skip
"""Functions, and whether they are given CPUState or the CPUARMState in it.

* After each translation the library searches its whole TLB, to notice stores to code through an entry that has seen
  stores before: a tenth of the time that Linux needs to boot. Stores to code without instruction cache maintenance are
  not architectural, and maintenance is honoured here (`intercept`), which the library by itself does not do.
* At each change of the exception level it brings five performance counters up to date, and reads the host's clock for
  that. Its counters do not count anyway, because the half of it that keeps their base is left out.
"""

_memory: list[ExecutableMemory] = []


def spare_own_engines(library: Library) -> None:
    """Keep the library from doing that in engines of this project."""
    if _memory:
        return
    memory = ExecutableMemory()
    uc_at = engine_field(library)
    slots = linkage_slots(library, *(symbol for symbol, _ in _SPARED))
    for slot, (symbol, takes_cpu) in zip(slots, _SPARED, strict=True):
        original = address_of(getattr(library.dll, symbol))
        field = uc_at if takes_cpu else uc_at - library.offsets.cpu_env
        code = (
            b"\x48\x8b\x87" + struct.pack("<i", field)  # mov rax, [rdi + field]
            + b"\x80\xb8" + struct.pack("<i", library.offsets.uc_no_exit_request) + b"\x00"  # cmp byte [rax + flag], 0
            + b"\x74\x01"  # je elsewhere
            + b"\xc3"  # ret
            + b"\x48\xb8" + struct.pack("<Q", original)  # elsewhere: mov rax, original
            + b"\xff\xe0"  # jmp rax
        )  # fmt: skip
        u64_at(slot).value = memory.place(code)
    _memory.append(memory)
