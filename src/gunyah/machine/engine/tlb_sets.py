"""A TLB for each address space identifier, and TLBs that grow when they are full (host_code/tlb_sets.c).

The library empties its TLB and its cache of translated blocks whenever the guest changes the ASID, twice at each switch
of Linux between processes. It resizes the TLB when it is emptied and at no other time, so a program that never has it
emptied stays with 1 MiB.
"""

from __future__ import annotations

import ctypes
import struct
import weakref
import zlib
from typing import TYPE_CHECKING, Final

from . import unicorn_private as private
from .engine_table import EngineTable
from .host_code import load
from .linkage import linkage_slots
from .registers import SYSTEM_REGISTERS
from .spin import cpu_class

if TYPE_CHECKING:
    from .core import Core

_FLUSHES: Final = (
    "tlb_flush_by_mmuidx_aarch64",
    "tlb_flush_by_mmuidx_all_cpus_aarch64",
    "tlb_flush_by_mmuidx_all_cpus_synced_aarch64",
)
_PAGE_FLUSHES: Final = (
    "tlb_flush_page_by_mmuidx_aarch64",
    "tlb_flush_page_by_mmuidx_all_cpus_aarch64",
    "tlb_flush_page_by_mmuidx_all_cpus_synced_aarch64",
)
_FORGET_BLOCKS: Final = "tcg_region_reset_all_aarch64"
_FILL: Final = "arm_cpu_tlb_fill_aarch64"

# Entries of the helper
_FLUSH, _FLUSH_PAGE, _FORGET, _WRITE_TTBR, _GROW = (8 * n for n in range(5))

_VERIFIED: Final = (
    ("tlb_set_page_with_attrs_aarch64", 0x8BE, 0xF9324BB8),
    ("helper_lookup_tb_ptr_aarch64", 0xF8, 0xB76512FA),
    ("tb_flush_jmp_cache_aarch64", 0xB5, 0xE1F298D4),
)
"""Functions that show where the library keeps TLBs and blocks, with size and checksum."""

_CPU_ENV: Final = 0xA350
_SETS: Final = 8
_LEVELS: Final = 2
_DESCRIPTION_WORDS: Final = 0x2B8 // 8
_ASIDE_WORDS: Final = _DESCRIPTION_WORDS + 2
_SET_WORDS: Final = 4 + _LEVELS * _ASIDE_WORDS
_HEAD_WORDS: Final = 7
_GENERATION, _PRESENT, _SWITCHES, _FRESH, _GROWN = 1, 2, 3, 4, 5
_CLASS_SIZE: Final = 0x400

_engines: Final = EngineTable()
_entries: list[int] = []
"""Where the helper is; 0 if the library is not the verified one."""


class TLBSets:
    """The TLBs of one core. Without the expected library, or if another core has its place, they are the library's."""

    def __init__(self, core: Core) -> None:
        self._words = (ctypes.c_uint64 * (_HEAD_WORDS + _SETS * _SET_WORDS))()
        if not _entries:
            _entries.append(_install(core))
        base, env = _entries[0], core.registers.address
        self.active = bool(base) and _engines.add(core, self._words)
        if not self.active:
            return
        fields = core.library.offsets.fields
        registers = [SYSTEM_REGISTERS[name] for name in ("TTBR0_EL1", "TTBR1_EL1")]
        offsets = [fields[register] for register in registers]
        self._words[0:2] = [env, 1]
        self._words[6] = offsets[0] | offsets[1] << 32
        for register in registers:
            private.u64_at(core.description(register) + private.REGINFO_WRITEFN).value = base + _WRITE_TTBR
        private.u64_at(_fill_place(core)).value = base + _GROW
        weakref.finalize(core, _give_back, self._words)

    @property
    def switches(self) -> int:
        """How often an ASID has changed."""
        return self._words[_SWITCHES]

    @property
    def fresh(self) -> int:
        """How often it changed to one whose TLB was not there."""
        return self._words[_FRESH]

    @property
    def drops(self) -> int:
        """How often everything that was put aside has been dropped."""
        return self._words[_GENERATION] - 1

    @property
    def grown(self) -> int:
        """How often a TLB has been doubled because it was full."""
        return self._words[_GROWN]


def _fill_place(core: Core) -> int:
    """Where the class of this engine's CPU keeps the function that fills its TLB; 0 if that is not to be found.

    After it comes another with the same function, for engines that translate otherwise for a time.
    """
    fill = private.address_of(core.library.dll[_FILL])
    start = cpu_class(core)
    words = struct.unpack(f"<{_CLASS_SIZE // 8}Q", ctypes.string_at(start, _CLASS_SIZE)) if start else ()
    return start + 8 * words.index(fill) if fill in words else 0


def _install(core: Core) -> int:
    library = core.library
    if library.offsets.cpu_env != _CPU_ENV or not _fill_place(core):
        return 0
    if any(zlib.crc32(library.text(symbol, size)) != checksum for symbol, size, checksum in _VERIFIED):
        return 0

    def address(symbol: str) -> int:
        return private.address_of(library.dll[symbol])

    libc = ctypes.CDLL(None)
    malloc, free = map(private.address_of, (libc.malloc, libc.free))
    write_ttbr = private.u64_at(core.description(SYSTEM_REGISTERS["TTBR0_EL1"]) + private.REGINFO_WRITEFN).value
    header = struct.pack(
        "<8Q", _engines.address, address(_FLUSHES[0]), address(_PAGE_FLUSHES[0]), address(_FORGET_BLOCKS),
        write_ttbr, address(_FILL), malloc, free,
    )  # fmt: skip
    slots = linkage_slots(library, *_FLUSHES, *_PAGE_FLUSHES, _FORGET_BLOCKS)
    base = load("tlb_sets", header)
    entries = [_FLUSH] * len(_FLUSHES) + [_FLUSH_PAGE] * len(_PAGE_FLUSHES) + [_FORGET]
    for slot, entry in zip(slots, entries, strict=True):
        private.u64_at(slot).value = base + entry
    return base


def _give_back(words: ctypes.Array[ctypes.c_uint64]) -> None:
    """Give back what the sets of an engine that goes away hold; the present one is the library's to give back."""
    free = ctypes.CDLL(None).free
    for n in range(_SETS):
        start = _HEAD_WORDS + n * _SET_WORDS
        held = [words[start + 3]]
        if n != words[_PRESENT]:
            for level in range(_LEVELS):
                aside = start + 4 + level * _ASIDE_WORDS
                held += [words[aside + _DESCRIPTION_WORDS - 1], words[aside + _DESCRIPTION_WORDS + 1]]
        for memory in held:
            free(ctypes.c_void_p(memory))
