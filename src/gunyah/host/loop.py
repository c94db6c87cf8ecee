"""Host input and output between slices of the machine: a selector with timers.

One thread runs all guest code; everything from outside (pseudo-terminals, sockets, host timers) is served by ``poll``,
which the hypervisor calls between slices (time-out 0) and blocks in when every vCPU sleeps. Callbacks run on that
thread, outside any guest, so they may change the machine. Times here are the host's seconds, never the machine's.
"""

from __future__ import annotations

import heapq
import os
import selectors
import time
from collections import deque
from collections.abc import Callable
from typing import Final

__all__ = ["HostLoop", "Timer"]

Callback = Callable[[], object]

READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE


class Timer:
    """A pending ``call_later``; ``cancel`` makes it not happen."""

    __slots__ = ("callback", "deadline", "order")

    def __init__(self, deadline: float, order: int, callback: Callback) -> None:
        self.deadline = deadline
        self.order = order
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        """Forget the callback; harmless when it already ran."""
        self.callback = None

    def __lt__(self, other: Timer) -> bool:
        return (self.deadline, self.order) < (other.deadline, other.order)


class _Watched:
    """The callbacks of one file descriptor."""

    __slots__ = ("reader", "writer")

    def __init__(self) -> None:
        self.reader: Callback | None = None
        self.writer: Callback | None = None

    def events(self) -> int:
        return (READ if self.reader else 0) | (WRITE if self.writer else 0)


class HostLoop:
    """Readers, writers and timers of the host, served one round at a time by ``poll``."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._watched: dict[int, _Watched] = {}
        self._timers: list[Timer] = []
        self._timer_count = 0
        self._posted: deque[Callback] = deque()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._closed = False
        self.add_reader(self._wake_read, self._woken)

    # -- registration --------------------------------------------------------------------------------------------------

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call ``callback()`` in every round in which ``fd`` can be read (or was hung up); replaces an earlier one."""
        self._watched.setdefault(fd, _Watched()).reader = callback
        self._update(fd)

    def remove_reader(self, fd: int) -> None:
        """Stop watching ``fd`` for input; harmless if it was not watched."""
        if (watched := self._watched.get(fd)) is not None:
            watched.reader = None
            self._update(fd)

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Call ``callback()`` in every round in which ``fd`` has room; replaces an earlier one."""
        self._watched.setdefault(fd, _Watched()).writer = callback
        self._update(fd)

    def remove_writer(self, fd: int) -> None:
        """Stop watching ``fd`` for room; harmless if it was not watched."""
        if (watched := self._watched.get(fd)) is not None:
            watched.writer = None
            self._update(fd)

    def _update(self, fd: int) -> None:
        watched = self._watched[fd]
        events = watched.events()
        known = fd in self._selector.get_map()
        if not events:
            del self._watched[fd]
            if known:
                self._selector.unregister(fd)
        elif known:
            self._selector.modify(fd, events, watched)
        else:
            self._selector.register(fd, events, watched)

    def call_later(self, seconds: float, callback: Callback) -> Timer:
        """Call ``callback()`` once, not before ``seconds`` of the host's time have passed."""
        self._timer_count += 1
        timer = Timer(time.monotonic() + seconds, self._timer_count, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def post(self, callback: Callback) -> None:
        """Call ``callback()`` in the next round. The one method that another thread or a signal handler may use."""
        self._posted.append(callback)
        try:
            os.write(self._wake_write, b"\0")
        except BlockingIOError:
            return  # The pipe is full of wake-ups already: the round that drains it sees this callback too.

    def _woken(self) -> None:
        os.read(self._wake_read, 4096)

    # -- running -------------------------------------------------------------------------------------------------------

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Serve what is ready; wait for it up to ``timeout`` seconds (None: for ever). True if anything was called."""
        served = self._run_posted()
        if served:
            timeout = 0.0
        deadline = self._next_deadline()
        if deadline is not None:
            until_timer = max(0.0, deadline - time.monotonic())
            timeout = until_timer if timeout is None else min(timeout, until_timer)
        for key, events in self._selector.select(timeout):
            watched: _Watched = key.data
            if events & READ and watched.reader is not None:
                served |= key.fd != self._wake_read
                watched.reader()
            if events & WRITE and watched.writer is not None:
                served = True
                watched.writer()
        return self._run_timers() | self._run_posted() | served

    def _next_deadline(self) -> float | None:
        while self._timers and self._timers[0].callback is None:
            heapq.heappop(self._timers)
        return self._timers[0].deadline if self._timers else None

    def _run_timers(self) -> bool:
        if not self._timers:
            return False
        now = time.monotonic()
        due: list[Timer] = []
        while self._timers and self._timers[0].deadline <= now:
            due.append(heapq.heappop(self._timers))
        served = False
        for timer in due:
            callback, timer.callback = timer.callback, None
            if callback is not None:
                served = True
                callback()
        return served

    def _run_posted(self) -> bool:
        # Only what is here now: a callback that posts itself again must not hold the machine up.
        count = len(self._posted)
        for _ in range(count):
            self._posted.popleft()()
        return count > 0

    def close(self) -> None:
        """Give the selector and the wake-up pipe back; watched descriptors stay open, they belong to their owners."""
        if self._closed:
            return
        self._closed = True
        self._watched.clear()
        self._timers.clear()
        self._posted.clear()
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
