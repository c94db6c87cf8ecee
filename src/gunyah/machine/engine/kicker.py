"""The kick: a native thread that makes a running engine stop at its next block of code when a deadline passes.

The engine's thread holds the interpreter lock while guest code runs, so no Python thread could do this. A thread of a
few machine instructions reads a timerfd and sets the engine's stop flags; with the per-access stop checks switched off
the engine looks at them only between blocks, so no instruction is ever restarted (engine.md 1.3.1). The engine clears
the flags as it starts, so a kick can be lost in that moment; the thread therefore repeats it until the run is over.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import time
from typing import Any, Final

from .unicorn_private import EngineUnavailable, ExecutableMemory

REPEAT_NS: Final = 500_000
"""A lost kick comes again after this time."""

_CLOCK_MONOTONIC: Final = 1
_TFD_CLOEXEC: Final = 0o2000000
_TFD_TIMER_ABSTIME: Final = 1

# void *kicker(struct { u64 fd; u64 count; u8 *stop_request; u8 *exit_request; u16 *icount_high; u64 run;
#                       struct timespec repeat; } *block)
_CODE: Final = bytes.fromhex(
    "53"  # push rbx
    "4154"  # push r12
    "4154"  # push r12
    "4889fb"  # mov rbx, rdi
    "31c0"  # wait: xor eax, eax
    "8b3b"  # mov edi, [rbx]
    "488d7308"  # lea rsi, [rbx + 8]
    "ba08000000"  # mov edx, 8
    "0f05"  # syscall
    "85c0"  # test eax, eax
    "7835"  # js failed
    "4c8b6328"  # mov r12, [rbx + 40]
    "4d85e4"  # test r12, r12
    "74e4"  # je wait
    "488b4310"  # kick: mov rax, [rbx + 16]
    "c60001"  # mov byte [rax], 1
    "488b4318"  # mov rax, [rbx + 24]
    "c60001"  # mov byte [rax], 1
    "488b4320"  # mov rax, [rbx + 32]
    "66c700ffff"  # mov word [rax], -1
    "b823000000"  # mov eax, 35             (nanosleep)
    "488d7b30"  # lea rdi, [rbx + 48]
    "31f6"  # xor esi, esi
    "0f05"  # syscall
    "4c3b6328"  # cmp r12, [rbx + 40]
    "74d6"  # je kick
    "ebb8"  # jmp wait
    "83f8fc"  # failed: cmp eax, -4
    "74b3"  # je wait
    "31c0"  # xor eax, eax
    "415c"  # pop r12
    "415c"  # pop r12
    "5b"  # pop rbx
    "c3"  # ret
)


class Kicker:
    """The process's kick thread; one deadline at a time, because one engine runs at a time."""

    def __init__(self) -> None:
        self._code = ExecutableMemory()
        libc: Any = ctypes.PyDLL(None, use_errno=True)
        self.descriptor = libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_CLOEXEC)
        if self.descriptor < 0:
            raise EngineUnavailable(f"no timer for preemption: {os.strerror(ctypes.get_errno())}")
        self._block = (ctypes.c_uint64 * 8)()
        self._view = memoryview(self._block).cast("B").cast("Q")
        self._nothing = ctypes.c_uint64()
        self._nowhere = (ctypes.addressof(self._nothing),) * 3
        self.target = self._nowhere
        self._block[0] = self.descriptor
        self._block[7] = REPEAT_NS
        self._armed_ns = 0
        self._runs = 0
        self._spec = ctypes.create_string_buffer(32)
        self._set = libc.timerfd_settime
        self._set.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
        self._spec_address = ctypes.addressof(self._spec)
        self.forget()
        thread = ctypes.c_uint64()
        everything = signal.valid_signals()
        before = signal.pthread_sigmask(signal.SIG_SETMASK, everything)
        try:
            error = libc.pthread_create(
                ctypes.byref(thread), None, ctypes.c_void_p(self._code.place(_CODE)), ctypes.byref(self._block)
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if error:
            raise EngineUnavailable(f"no thread for preemption: {os.strerror(error)}")
        libc.pthread_detach(thread)

    def aim(self, flags: tuple[int, int, int]) -> None:
        """Point the thread at the flags of an engine, before it runs and another one was the `target`.

        They are host addresses: stop request, exit request, high half of the instruction counter.
        """
        self.target = flags
        self._block[2:5] = list(flags)

    def forget(self) -> None:
        """Point the thread at nothing, before the engine it was aimed at goes away."""
        self.disarm()
        self.aim(self._nowhere)

    def arm(self, now_ns: int, deadline_ns: int) -> None:
        """Kick at CLOCK_MONOTONIC `deadline_ns` nanoseconds or some time before, and on until `disarm`.

        A timer that is still to fire before the deadline stays as it is: an early kick costs less than a system call.
        """
        self._runs += 1
        self._view[5] = self._runs
        # The time is taken again, now that the thread can see the run: if this thread had to wait since ``now_ns``, the
        # timer may have fired at nobody meanwhile, and the run would go on for ever.
        if now_ns >= self._armed_ns or not time.monotonic_ns() < self._armed_ns <= deadline_ns:
            self._armed_ns = deadline_ns
            struct.pack_into("<4q", self._spec, 0, 0, 0, deadline_ns // 1_000_000_000, deadline_ns % 1_000_000_000)
            self._set(self.descriptor, _TFD_TIMER_ABSTIME, self._spec_address, None)

    def disarm(self) -> None:
        """Stop kicking; the timer may still fire once, at nobody."""
        self._view[5] = 0


_kicker: list[Kicker] = []


def kicker() -> Kicker:
    """Give this process's kicker, made when first needed and again in a forked child."""
    if not _kicker:
        _kicker.append(Kicker())
    return _kicker[0]


def _after_fork() -> None:
    # The thread stayed in the parent, and the timer is shared with it.
    for old in _kicker:
        os.close(old.descriptor)
    _kicker.clear()


os.register_at_fork(after_in_child=_after_fork)
