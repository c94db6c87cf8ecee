"""Watched memory: exceptions instead of accesses, for EL2's own watches and for the watchpoints of vCPUs.

The library asks two functions of its own about watchpoints, which are empty: whether a page is watched when it makes a
TLB entry for it, and whether an access to such a page may happen. Three small functions take their place
(host_code/watch*) when somebody watches for the first time. Accesses to other pages are as fast as ever.

EL2 watches physical memory, whatever its virtual address; a vCPU's watchpoints are virtual addresses.
"""

from __future__ import annotations

import ctypes
import struct
import weakref
from typing import TYPE_CHECKING, Final, NamedTuple

from . import unicorn_private as private
from .engine_table import EngineTable
from .host_code import install
from .registers import Encoding

if TYPE_CHECKING:
    from .core import Core

__all__ = ["READ", "WATCHPOINTS", "WRITE", "Watches", "field_of", "watch_pages"]

WATCHPOINTS: Final = 4
"""DBGWVR<n>_EL1, DBGWCR<n>_EL1 of a Cortex-A72."""
READ: Final = 1
WRITE: Final = 2
RANGES_MAX: Final = 64

# Words of one engine's watches
_ENV, _ARMED, _HIT_ADDRESS, _HIT_PHYSICAL, _HIT_SIZE, _HIT_KIND, _COUNT = 0, 1, 3, 4, 5, 6, 7
_HEAD: Final = 8

_Decide = ctypes.CFUNCTYPE(
    ctypes.c_uint32, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_int
)
_engines: Final = EngineTable()
_installed: list[object] = []
_vcpus: weakref.WeakValueDictionary[int, Core] = weakref.WeakValueDictionary()
"""Cores whose vCPUs have watchpoints, by their CPUState."""


class Touch(NamedTuple):
    """The access that was kept from happening; for an unaligned load the doubleword, or less, that it is part of."""

    address: int
    physical: int
    size: int
    write: bool


class Watches:
    """EL2's watches on the memory of one core."""

    def __init__(self, core: Core) -> None:
        """Raises `EngineUnavailable` if others have all places that this core can have."""
        _install(core)
        self._core = core
        self._words = (ctypes.c_uint64 * (_HEAD + 3 * RANGES_MAX))(core.registers.address)
        if not _engines.add(core, self._words):
            raise private.EngineUnavailable("too many engines of this process watch memory")

    def set(self, ranges: list[tuple[int, int, int]]) -> None:
        """Watch (first PA, last PA, kinds) and nothing else, whoever runs, while ``armed``."""
        if len(ranges) > RANGES_MAX:
            raise ValueError(f"{len(ranges)} pieces of memory are to be watched, {RANGES_MAX} can be")
        words = self._words
        words[_COUNT] = len(ranges)
        for n, each in enumerate(ranges):
            words[_HEAD + 3 * n : _HEAD + 3 * n + 3] = list(each)
        self._core.library.tlb_flush(self._core.cpu_state)

    @property
    def armed(self) -> bool:
        """Whether watched accesses stop the guest."""
        return bool(self._words[_ARMED])

    @armed.setter
    def armed(self, armed: bool) -> None:
        self._words[_ARMED] = armed

    def take(self) -> Touch | None:
        """The access of the present watchpoint exception, once; None if none was made here."""
        words = self._words
        kind = words[_HIT_KIND]
        words[_HIT_KIND] = 0
        if not kind:
            return None
        return Touch(words[_HIT_ADDRESS], words[_HIT_PHYSICAL], words[_HIT_SIZE], kind == WRITE)


def watch_pages(core: Core) -> None:
    """Have accesses of ``core`` that touch the doubleword of a vCPU's watchpoint brought to `GuestDebug.syndrome`."""
    _vcpus[core.cpu_state] = core
    _install(core)


def field_of(core: Core, register: Encoding) -> int:
    """Index in `Registers.words` of a debug register."""
    return int(private.u64_at(core.description(register) + private.REGINFO_FIELDOFFSET).value) // 8


def _decide(cpu: int, address: int, size: int, user: int, kind: int) -> int:
    core = _vcpus.get(cpu)
    if core is None:
        return 0
    try:
        return core.guest_debug.syndrome(address, size, write=kind == WRITE, unprivileged=bool(user))
    except BaseException as error:
        core.fail(error)
        return 0


def _install(core: Core) -> None:
    if _installed:
        return
    library = core.library
    decide = _Decide(_decide)
    _installed.append(decide)
    env = library.offsets.cpu_env
    registers = (field_of(core, Encoding(2, 0, 0, 0, 6)) * 8, field_of(core, Encoding(2, 0, 0, 0, 7)) * 8)
    engines = _engines.address
    functions = (decide, library.raise_exception, library.dll["cpu_restore_state_aarch64"], library.vaddr_to_paddr)
    access = struct.pack("<Q4I4Q", engines, env, *registers, 0, *map(private.address_of, functions))
    install(library, "watch_fill", "tlb_set_page_with_attrs_aarch64", struct.pack("<QI", engines, env))
    install(
        library, "watch_page", "cpu_watchpoint_address_matches_aarch64", struct.pack("<Q3I", engines, env, *registers)
    )
    install(library, "watch_access", "cpu_check_watchpoint_aarch64", access)
