"""Counting instructions: what makes a native VM on a virtual clock repeatable.

Host time must not matter then, so the engine calls a few machine instructions at the start of each block of translated
code, which take the block's length off a budget and stop the engine when that is used up. How code falls into blocks
depends on the code alone, so the same program is stopped at the same place every time. A block that an exception ends
counts whole. This slows code down by a nanosecond a block, so a core on the real clock does without.

An exception takes time too: a guest whose vector cannot be executed takes one after the other and executes nothing,
and its run has to end all the same.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ..clock import VirtualClock
from . import unicorn_private as private

if TYPE_CHECKING:
    from .core import Core

INSTRUCTIONS_PER_TICK: Final = 16
"""Speed of a core on a virtual clock: 1 instruction per nanosecond."""

EXCEPTION_INSTRUCTIONS: Final = 256
"""What an exception to EL1 or EL2 counts for: a quarter of a microsecond, as on hardware."""

UNLIMITED: Final = 1 << 50
"""Ticks of a run without budget."""

UNWATCHED: Final = 6_250_000
"""Ticks (a tenth of a second) that may pass before the host is looked after."""

_BYTES_PER_TICK: Final = 4 * INSTRUCTIONS_PER_TICK
_EXCEPTION_BYTES: Final = 4 * EXCEPTION_INSTRUCTIONS

# hook(uc, address, size, block), called before the engine looks at its stop flags: a block that will not run is not
# counted
_CODE: Final = bytes.fromhex(
    "488b4118"  # mov rax, [rcx + 24]
    "66833800"  # cmp word [rax], 0
    "750b"  # jne done                    (a stop is under way)
    "48833900"  # cmp qword [rcx], 0
    "7e06"  # jle stop
    "89d2"  # mov edx, edx
    "482911"  # sub [rcx], rdx
    "c3"  # done: ret
    "66c700ffff"  # stop: mov word [rax], -1
    "488b4108"  # mov rax, [rcx + 8]
    "c60001"  # mov byte [rax], 1
    "488b4110"  # mov rax, [rcx + 16]
    "c60001"  # mov byte [rax], 1
    "c3"  # ret
)

# hook(uc, number, block), called for each exception
_EXCEPTION_CODE: Final = (
    bytes.fromhex("48812a")  # sub qword [rdx], ...
    + _EXCEPTION_BYTES.to_bytes(4, "little")
    + bytes.fromhex(
        "7f17"  # jg done
        "488b4218"  # mov rax, [rdx + 24]
        "66c700ffff"  # mov word [rax], -1
        "488b4208"  # mov rax, [rdx + 8]
        "c60001"  # mov byte [rax], 1
        "488b4210"  # mov rax, [rdx + 16]
        "c60001"  # mov byte [rax], 1
        "c3"  # done: ret
    )
)


class Count:
    """Budget of one core, driving its virtual clock while it runs."""

    def __init__(self, core: Core, stop_flags: tuple[int, int, int]) -> None:
        assert isinstance(core.clock, VirtualClock)
        self._clock = core.clock
        self._block = (ctypes.c_int64 * 4)(0, *stop_flags)
        self._granted = 0
        self._rest = 0
        self.on_begin: Callable[[], None] | None = None
        """Told when a run has got its budget."""
        self.watched = False
        """Whether the present run is too long to go without interruption by the host."""
        self.executed = 0
        """Instructions executed before the present run, and what exceptions counted for."""
        for kind, code in ((private.UC_HOOK_BLOCK, _CODE), (private.UC_HOOK_INTR, _EXCEPTION_CODE)):
            core.check(
                core.library.hook_add(
                    core.handle,
                    ctypes.addressof(ctypes.c_size_t()),
                    kind,
                    core.code.place(code),
                    ctypes.addressof(self._block),
                    1,
                    0,
                ),
                "instructions cannot be counted",
            )

    @property
    def address(self) -> int:
        """Host address of the budget that is left, in bytes of code."""
        return ctypes.addressof(self._block)

    def begin(self, ticks: int) -> None:
        """Start a run of at most `ticks` ticks; what the last one left of a tick counts."""
        self._granted = ticks * _BYTES_PER_TICK - self._rest
        self._block[0] = self._granted
        self.watched = ticks > UNWATCHED
        self._clock.drive(self._elapsed)
        if self.on_begin is not None:
            self.on_begin()

    def _elapsed(self) -> int:
        return (self._granted - self._block[0] + self._rest) // _BYTES_PER_TICK

    def charge_exception(self) -> None:
        """Count an exception that the engine has not announced."""
        self._block[0] -= _EXCEPTION_BYTES

    @property
    def exhausted(self) -> bool:
        """Whether the budget is used up."""
        return self._block[0] <= 0

    def end(self) -> None:
        """End the run: the clock stands still again."""
        used = self._granted - self._block[0]
        self._clock.drive(None)
        self.executed += used // 4
        self._rest = (used + self._rest) % _BYTES_PER_TICK
