"""Page-table walks of both stages in a few dozen nanoseconds, for accesses that are permitted (host_code/walk.c).

The library reads each level of the guest's tables through its bus model, and translates each of these reads through
stage 2 in the same way: a quarter of a microsecond for one access. Linux on it spends a quarter of its time there.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from . import unicorn_private as private
from .engine_table import EngineTable
from .host_code import install
from .registers import SYSTEM_REGISTERS

if TYPE_CHECKING:
    from .core import Core

_REGIONS: Final = 4
_REGISTERS: Final = ("HCR_EL2", "VTTBR_EL2", "VTCR_EL2", "SCTLR_EL1", "TCR_EL1", "TTBR0_EL1", "TTBR1_EL1")

engines: Final = EngineTable()
_installed: list[private.Library] = []


def shorten_walks(core: Core, ram: Sequence[tuple[int, int, int]]) -> ctypes.Array[ctypes.c_uint64]:
    """Register an engine whose RAM is `ram`, as (PA, bytes, host address); the result has to live as long as it does.

    Its second word counts the translations done here. An engine that finds its place taken, or that has more pieces
    of RAM than fit, keeps the library's walk.
    """
    library, env = core.library, core.registers.address
    if not _installed:
        fields = library.offsets.fields
        offsets = (fields[SYSTEM_REGISTERS[name]] for name in _REGISTERS)
        install(library, "walk", "get_phys_addr_aarch64", struct.pack("<Q8I", engines.address, *offsets, 0))
        _installed.append(library)
    words = [word for region in ram[:_REGIONS] for word in region]
    description = (ctypes.c_uint64 * (2 + 3 * _REGIONS))(env, 0, *words)
    if len(ram) <= _REGIONS:
        engines.add(core, description)
    return description


def taken(core: Core) -> int:
    """How many translations of this engine went the short way."""
    return core.shortcuts.walks[1]


def active(description: ctypes.Array[ctypes.c_uint64]) -> bool:
    """Whether this engine's walks can go the short way."""
    return description in engines
