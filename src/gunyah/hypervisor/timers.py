"""The hypervisor's timer queue: callbacks at moments of the system counter."""

from __future__ import annotations

import heapq
from collections.abc import Callable

__all__ = ["Timeout", "TimerQueue"]


class Timeout:
    """One pending callback; cancelling leaves it in the heap until its time or the next clean-up."""

    __slots__ = ("callback", "ticks")

    def __init__(self, ticks: int, callback: Callable[[], None]) -> None:
        self.ticks = ticks
        self.callback: Callable[[], None] | None = callback


class TimerQueue:
    """Ordered by ticks, then by the order of arming, so that a run repeats exactly."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Timeout]] = []
        self._sequence = 0
        self._cancelled = 0

    def at(self, ticks: int, callback: Callable[[], None]) -> Timeout:
        """Call ``callback`` when the counter reaches ``ticks``; returns the handle to cancel it with."""
        timeout = Timeout(ticks, callback)
        self._sequence += 1
        heapq.heappush(self._heap, (ticks, self._sequence, timeout))
        return timeout

    def cancel(self, timeout: object) -> None:
        """Forget a timeout; harmless when it has fired."""
        if isinstance(timeout, Timeout) and timeout.callback is not None:
            timeout.callback = None
            self._cancelled += 1
            # A guest that re-arms its timer for ever must not grow the heap.
            if self._cancelled > 64 and self._cancelled * 2 > len(self._heap):
                self._heap = [entry for entry in self._heap if entry[2].callback is not None]
                heapq.heapify(self._heap)
                self._cancelled = 0

    def next(self) -> int | None:
        """Ticks of the earliest timeout, None when there is none."""
        heap = self._heap
        while heap and heap[0][2].callback is None:
            heapq.heappop(heap)
            self._cancelled -= 1
        return heap[0][0] if heap else None

    def expire(self, now: int) -> None:
        """Run every callback whose time has come."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            timeout = heapq.heappop(heap)[2]
            callback = timeout.callback
            if callback is None:
                self._cancelled -= 1
            else:
                timeout.callback = None
                callback()
            heap = self._heap
