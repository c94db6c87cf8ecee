"""System registers that Python implements: new ones, the timers' and the instruction cache's.

The engine's own timers ignore what the guest writes (engine.md 1.3.2), its instruction cache instructions do nothing
(1.3.3), and it has no interrupt controller. All three are put right by describing registers to the library, or by
changing its descriptions (1.4).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from . import unicorn_private as private
from .registers import SYSTEM_REGISTERS, Encoding

if TYPE_CHECKING:
    from .core import Core

_ReadCallback = ctypes.CFUNCTYPE(ctypes.c_uint64)
_WriteCallback = ctypes.CFUNCTYPE(None, ctypes.c_uint64)

TIMER_ENABLE: Final = 1
TIMER_IMASK: Final = 2
TIMER_ISTATUS: Final = 4

VIRTUAL_TIMER: Final = 0
PHYSICAL_TIMER: Final = 1

IC_IVAU: Final = Encoding(1, 3, 7, 5, 1)
IC_IALLU: Final = Encoding(1, 0, 7, 5, 0)
IC_IALLUIS: Final = Encoding(1, 0, 7, 1, 0)


class Intercepts:
    """The system registers of one core that are not the engine's own."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._keep: list[Any] = []

    def _info(self, register: Encoding) -> int:
        info = self._core.description(register)
        if not info:
            raise private.EngineUnavailable(f"this build of unicorn 2.1.4 has no register {register}")
        return info

    def _reader(self, read: Callable[[], int]) -> int:
        """Give the address of a C function for `uint64_t read(env, info)` that asks `read`."""
        core = self._core

        def guarded() -> int:
            try:
                return read()
            except BaseException as error:
                core.fail(error)
                return 0

        callback = _ReadCallback(guarded)
        self._keep.append(callback)
        return ctypes.cast(callback, ctypes.c_void_p).value or 0

    def _writer(self, write: Callable[[int], object]) -> int:
        """Give the address of a C function for `void write(env, info, uint64_t)` that tells `write`."""
        core = self._core

        def guarded(value: int) -> None:
            try:
                write(value)
            except BaseException as error:
                core.fail(error)

        callback = _WriteCallback(guarded)
        self._keep.append(callback)
        target = ctypes.cast(callback, ctypes.c_void_p).value or 0
        # mov rdi, rdx; mov rax, target; jmp rax: Python then converts one argument instead of three.
        return core.code.place(b"\x48\x89\xd7\x48\xb8" + target.to_bytes(8, "little") + b"\xff\xe0")

    def define(
        self, register: Encoding, read: Callable[[], int] | None, write: Callable[[int], object] | None
    ) -> None:
        """Give EL1 a register that `read` and `write` implement; None makes that direction undefined."""
        access = (private.ACCESS_EL1_READ if read else 0) | (private.ACCESS_EL1_WRITE if write else 0)
        self._keep.append(
            private.new_register(
                self._core.library,
                self._core.cpu_state,
                register,
                self._reader(read or _zero),
                self._writer(write or _nothing),
                access=access,
            )
        )

    def patch(
        self, register: str, read: Callable[[], int] | None = None, write: Callable[[int], object] | None = None
    ) -> None:
        """Replace what the engine does on reading or writing a register it knows."""
        info = self._info(SYSTEM_REGISTERS[register])
        if read is not None:
            private.u64_at(info + private.REGINFO_READFN).value = self._reader(read)
        if write is not None:
            private.u64_at(info + private.REGINFO_WRITEFN).value = self._writer(write)

    def timers(self) -> None:
        """Keep what the guest writes to its timers, and tell the hypervisor; a virtual clock is read through Python."""
        core, clock = self._core, self._core.clock
        words = core.registers.words

        def patch(which: int, prefix: str) -> None:
            ctl, cval = (core.registers.slot(f"{prefix}_{name}_EL0") for name in ("CTL", "CVAL"))

            def write_ctl(value: int) -> None:
                words[ctl] = value & (TIMER_ENABLE | TIMER_IMASK)
                core.exits.timer(which)

            def write_cval(value: int) -> None:
                words[cval] = value
                core.exits.timer(which)

            def write_tval(value: int) -> None:
                value &= 0xFFFF_FFFF
                words[cval] = clock.ticks() + (value - (1 << 32) if value >> 31 else value)
                core.exits.timer(which)

            def read_ctl() -> int:
                value = words[ctl] & (TIMER_ENABLE | TIMER_IMASK)
                if value & TIMER_ENABLE and clock.ticks() >= words[cval]:
                    value |= TIMER_ISTATUS
                return value

            def read_tval() -> int:
                return words[cval] - clock.sample() & 0xFFFF_FFFF

            self.patch(f"{prefix}_CTL_EL0", read_ctl, write_ctl)
            self.patch(f"{prefix}_CVAL_EL0", None, write_cval)
            self.patch(f"{prefix}_TVAL_EL0", read_tval, write_tval)

        patch(VIRTUAL_TIMER, "CNTV")
        patch(PHYSICAL_TIMER, "CNTP")
        if not clock.real:
            self.patch("CNTVCT_EL0", clock.sample)
            self.patch("CNTPCT_EL0", clock.sample)

    def count_cache_maintenance(self, counter: ctypes.c_uint64) -> None:
        """Count instruction cache maintenance, without Python: what was known about instructions ends there."""
        address = ctypes.addressof(counter).to_bytes(8, "little")
        # mov rax, counter; inc qword [rax]; ret
        thunk = self._core.code.place(b"\x48\xb8" + address + b"\x48\xff\x00\xc3")
        for register in (IC_IVAU, IC_IALLU, IC_IALLUIS):
            self._replace_nop(register, thunk)

    def share_cache_maintenance(
        self, line: Callable[[int], object], everything: Callable[[int], object]
    ) -> None:
        """Tell Python of instruction cache maintenance: `line(va)` for one line, `everything(_)` for all."""
        self._replace_nop(IC_IVAU, self._writer(line))
        self._replace_nop(IC_IALLU, self._writer(everything))
        self._replace_nop(IC_IALLUIS, self._writer(everything))

    def _replace_nop(self, register: Encoding, write: int) -> None:
        info = self._info(register)
        private.u32_at(info + private.REGINFO_TYPE).value = private.TYPE_QUIET
        private.u64_at(info + private.REGINFO_WRITEFN).value = write


def _zero() -> int:
    return 0


def _nothing(value: int) -> None:
    pass
