"""The user's terminal as the far end of a native VM's UART: standard input and output, until Ctrl-A x.

Output is collected while the guest runs and written when the machine looks at the host, so that a slow or broken
terminal never stops the CPU engine in the middle of a store. Nothing here waits for a reader: a guest that sends more
than is read gets little time, and in the end its output is lost, but time-outs and Ctrl-A x go on working.

Input waits until the guest's driver listens: Linux throws away what comes before, and a script that pipes commands in
could not know.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from typing import Final

from gunyah.host.loop import HostLoop
from gunyah.host.terminal import Escape
from gunyah.machine.pl011 import PL011

__all__ = ["NativeConsole"]

INPUT_LIMIT: Final = 1 << 16
"""Bytes read ahead of what the guest takes."""
OUTPUT_LIMIT: Final = 1 << 16
"""Bytes of output that may wait for a reader before the guest is slowed down."""
OUTPUT_MAX: Final = 1 << 20
"""Bytes of output that are kept for a reader; what comes on top is lost."""
HOLD_SECONDS: Final = 0.05
"""How long a guest that was slowed down waits for the reader between its turns."""
POLLS: Final = 100
"""A guest that asks for the flags so often without sending anything waits for input."""
ENABLES: Final = 2
"""Linux's driver enables its interrupts, empties the receiver, and enables them again."""
SETTLE_SECONDS: Final = 1.0
"""A guest that enables them once gets its input after this time."""


class NativeConsole:
    """Host loop of a running machine (``poll``) with a console on two file descriptors."""

    def __init__(self, loop: HostLoop, uart: PL011, input_fd: int, output_fd: int) -> None:
        self._loop = loop
        self._uart = uart
        self._input = input_fd
        self._output, self._own_output = _without_blocking(output_fd)
        self._stalled = False
        self._out = bytearray()
        self._pending = bytearray()
        self._escape = Escape()
        self._listening = False
        self._enabled_at: float | None = None
        self._watched = False
        # Files and /dev/null cannot be watched: they are read as the guest takes what they hold.
        self._unwatchable = False
        self._ended = False
        uart.sink = self._out.extend
        self._watch()

    @property
    def leave(self) -> bool:
        """Ctrl-A x was typed."""
        return self._escape.leave

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Write what the guest has sent, then serve the host; returns True if anything was called."""
        if self._out:
            self.flush()
            if len(self._out) > OUTPUT_LIMIT:
                del self._out[OUTPUT_MAX:]
                timeout = HOLD_SECONDS
        if self._unwatchable and not self._ended:
            self._read()
        if self._pending:
            self._feed()
            if self._pending and not self._listening and self._enabled_at is not None:
                wait = max(0.0, self._enabled_at + SETTLE_SECONDS - time.monotonic())
                timeout = wait if timeout is None else min(timeout, wait)
        return self._loop.poll(timeout)

    def flush(self) -> None:
        """Write what the reader takes of what the guest has sent; raises BrokenPipeError when nobody reads any more."""
        out = self._out
        stalled = False
        try:
            while out:
                del out[: os.write(self._output, out)]
        except BlockingIOError:
            stalled = True
        if stalled and not self._stalled:
            self._loop.add_writer(self._output, self.flush)
        elif self._stalled and not stalled:
            self._loop.remove_writer(self._output)
        self._stalled = stalled

    def drain(self, over: Callable[[], bool]) -> None:
        """Write what is left, for as long as a reader takes it and until ``over()``."""
        self.flush()
        while self._out and not over():
            self._loop.poll(HOLD_SECONDS)

    def _watch(self) -> None:
        """Watch the input while there is room for it."""
        wanted = not self._ended and not self._unwatchable and len(self._pending) < INPUT_LIMIT
        if wanted and not self._watched:
            try:
                self._loop.add_reader(self._input, self._read)
            except PermissionError:
                self._unwatchable = True
                return
        elif self._watched and not wanted:
            self._loop.remove_reader(self._input)
        self._watched = wanted

    def _read(self) -> None:
        if len(self._pending) >= INPUT_LIMIT:
            return
        try:
            typed = os.read(self._input, 4096)
        except BlockingIOError:
            return
        except OSError:
            # A terminal that hung up.
            typed = b""
        if typed:
            self._pending += self._escape.feed(typed)
            self._feed()
        else:
            self._ended = True
        self._watch()

    def _feed(self) -> None:
        if not self._listening:
            enables, now = self._uart.enables, time.monotonic()
            if enables and self._enabled_at is None:
                self._enabled_at = now
            settled = self._enabled_at is not None and now >= self._enabled_at + SETTLE_SECONDS
            self._listening = settled or enables >= ENABLES or self._uart.polls >= POLLS
        if self._listening and self._pending:
            del self._pending[: self._uart.feed(bytes(self._pending))]
            self._watch()

    def close(self) -> None:
        """Stop watching the input and the output."""
        if self._watched:
            self._watched = False
            self._loop.remove_reader(self._input)
        if self._stalled:
            self._stalled = False
            self._loop.remove_writer(self._output)
        if self._own_output:
            self._own_output = False
            os.close(self._output)


def _without_blocking(descriptor: int) -> tuple[int, bool]:
    """A descriptor for the same pipe or terminal that never blocks, and whether it is a new one.

    The flag belongs to the open file, which other processes may share: so it is opened again.
    """
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode) or os.isatty(descriptor):
        try:
            return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY), True
        except OSError:
            pass
    return descriptor, False
