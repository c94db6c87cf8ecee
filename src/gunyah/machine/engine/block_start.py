"""The look at the stop flags that begins each translated block, without a call (host_code/block_start.c).

The library begins every block with a call of a function that looks at one word and nearly always returns: a tenth of
what Linux and compute loops take. As each block is registered, its first instructions are rewritten to look at that
word themselves. The word is the one that `Core` and the kicker set last of the stop flags, so runs end as they did.
"""

from __future__ import annotations

import ctypes
import re
import struct
from typing import TYPE_CHECKING, Final

from . import unicorn_private as private
from .host_code import install
from .linkage import engine_field
from .near import place_near

if TYPE_CHECKING:
    from .core import Core

_INSERT: Final = "tcg_tb_insert_aarch64"
_CHECK: Final = "helper_check_exit_request_aarch64"
_NEGATIVE_WORD: Final = re.compile(rb"\x4c\x8b\x87(....)\x41\x8b\x80(....)\x85\xc0\x79.\x85\xf6\x74", re.DOTALL)
"""mov r8, [rdi + cpu]; mov eax, [r8 + flag]; test eax, eax; jns ...; test esi, esi; je ..."""

_counter: Final = ctypes.c_uint64()
_tried: list[bool] = []


def shorten_block_starts(core: Core) -> bool:
    """Install the rewriting, once per process; False where the library's code is not the expected one.

    `core` shows where an engine keeps its flags.
    """
    if not _tried:
        _tried.append(_install(core))
    return _tried[0]


def _install(core: Core) -> bool:
    library, offsets = core.library, core.library.offsets
    code_at = re.match(rb"\x48\x8b\xbf....\x48\x89\xf2\x48\x8d\x76(.)", library.text(_INSERT, 16), re.DOTALL)
    flag_at = _NEGATIVE_WORD.match(library.text(_CHECK, 32))
    # The helper finds the word by the engine, a block by its CPUARMState: that has to be the same word.
    word = private.u64_at(core.cpu_state + offsets.cpu_icount_decr).value
    flag = word - core.registers.address
    if code_at is None or flag_at is None or not -128 <= flag < 128:
        return False
    uc_cpu, cpu_flag = (int.from_bytes(field, "little", signed=True) for field in flag_at.groups())
    if uc_cpu != offsets.uc_cpu or core.cpu_state + cpu_flag != word:
        return False
    check = private.address_of(library.dll[_CHECK])
    engine = engine_field(library) - offsets.cpu_env
    header = struct.pack("<QQIIi", check, ctypes.addressof(_counter), code_at.group(1)[0], engine, flag)
    place = place_near(check)
    if place is None:
        return False
    install(library, "block_start", _INSERT, header, place)
    return True


def rewritten() -> int:
    """How many blocks of this process begin the short way."""
    return _counter.value
