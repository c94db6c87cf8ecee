"""The time that the running vCPU spends at EL0 and at EL1 (host_code/level_times.c).

Taken only after somebody has asked for it: before that the library's call at each change of level leads nowhere
(`linkage`). One core of a process can be asked, the last one that was.
"""

from __future__ import annotations

import ctypes
import struct
import weakref
from typing import TYPE_CHECKING, Any, Final

from .host_code import install
from .linkage import linkage_slots
from .unicorn_private import u64_at

if TYPE_CHECKING:
    from .core import Core

__all__ = ["LevelTimes"]

_ENV, _SINCE, _EL0, _EL1 = 0, 2, 3, 4
"""Words of the account."""

_SYMBOL: Final = "pmu_op_start_aarch64"

account: Final = (ctypes.c_uint64 * 5)()
"""What the helper works on: CPUARMState of the core that was asked, 0 for none, and words as above."""
_update: list[Any] = []
"""Brings the account up to date: `void update(CPUARMState *)`."""


class LevelTimes:
    """Times of one core."""

    def __init__(self, core: Core) -> None:
        self._core = core
        # Another engine may come to lie where this one was.
        weakref.finalize(core, _forget, core.registers.address)

    def start(self) -> None:
        """Begin anew."""
        core = self._core
        library = core.library
        if not _update:
            offsets = library.offsets
            header = struct.pack("<Q2I", ctypes.addressof(account), offsets.env_pstate, offsets.env_aarch64)
            install(library, "level_times", _SYMBOL, header)
            [slot] = linkage_slots(library, _SYMBOL)
            _update.append(ctypes.CFUNCTYPE(None, ctypes.c_uint64)(u64_at(slot).value))
        budget = core.budget
        if budget is not None:
            budget.on_begin = self._begin
        account[:] = [core.registers.address, budget.address if budget is not None else 0, 0, 0, 0]
        self._begin()

    def _begin(self) -> None:
        """The present stay at a level begins now: the budget was another one before."""
        account[_SINCE] = 0
        _update[0](self._core.registers.address)

    def take(self) -> tuple[int, int]:
        """Times at EL0 and EL1 since the last look, in one unit; nothing if another core was asked meanwhile."""
        if account[_ENV] != self._core.registers.address:
            return 0, 0
        _update[0](self._core.registers.address)
        times = account[_EL0], account[_EL1]
        account[_EL0] = account[_EL1] = 0
        return times


def _forget(env: int) -> None:
    if account[_ENV] == env:
        account[:] = [0] * len(account)
