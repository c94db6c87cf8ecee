"""One-shot timers over the vCPU's virtual timer, PPI 27 (objects.md 12).

Times are nanoseconds towards the guest, ticks of the 62.5 MHz counter inside. The comparator is programmed only when a
new timer is earlier than what it holds, and a cancelled timer leaves it alone: arming and cancelling the same time-out
for each of many calls costs no register write. The price is a rare interrupt that finds nothing due.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from gunyah.guest.cpu import Cpu
from gunyah.guest.gic import Gic

__all__ = ["NS_PER_TICK", "TIMER_PPI", "Timer", "Timers"]

TIMER_PPI = 27
NS_PER_TICK = 16
_ENABLE = 1


class Timer:
    """One armed time-out; ``deadline`` in counter ticks."""

    __slots__ = ("_queue", "callback", "deadline")

    def __init__(self, queue: Timers, deadline: int, callback: Callable[[], None]) -> None:
        self._queue = queue
        self.deadline = deadline
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """The callback will not run any more; harmless when it has."""
        if self.callback is not None:
            self.callback = None
            self._queue.cancelled()


class Timers:
    """All timers of one vCPU, soonest first. Callbacks run in the interrupt handler: they may wake tasks and never
    block."""

    def __init__(self, cpu: Cpu) -> None:
        self.cpu = cpu
        self._heap: list[tuple[int, int, Timer]] = []
        self._sequence = 0
        self._dead = 0
        self._programmed: int | None = None

    def start(self, gic: Gic, ppi: int = TIMER_PPI) -> None:
        """Connect the virtual timer's interrupt (level-triggered)."""
        self.cpu.msr("CNTV_CTL_EL0", 0)
        gic.enable(ppi, self.interrupt, edge=False)
        self._program()

    def now_ns(self) -> int:
        """The system counter in nanoseconds."""
        return self.cpu.ticks() * NS_PER_TICK

    def after(self, ns: int, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` in ``ns`` nanoseconds (rounded up to a tick), not earlier."""
        timer = Timer(self, self.cpu.ticks() + -(-max(ns, 0) // NS_PER_TICK), callback)
        self._sequence += 1
        heapq.heappush(self._heap, (timer.deadline, self._sequence, timer))
        if self._programmed is None or timer.deadline < self._programmed:
            self._program()
        return timer

    def cancelled(self) -> None:
        """A timer was cancelled: drop such entries when they are most of the heap."""
        self._dead += 1
        if self._dead > 64 and 2 * self._dead > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].callback is not None]
            heapq.heapify(self._heap)
            self._dead = 0

    def interrupt(self) -> None:
        """Handler of PPI 27: run what is due, then program the next one."""
        now = self.cpu.ticks()
        while self._heap and self._heap[0][0] <= now:
            timer = heapq.heappop(self._heap)[2]
            callback, timer.callback = timer.callback, None
            if callback is None:
                self._dead -= 1
            else:
                callback()
        self._programmed = None
        self._program()

    def _program(self) -> None:
        if self._heap:
            self._programmed = self._heap[0][0]
            self.cpu.msr("CNTV_CVAL_EL0", self._programmed)
            self.cpu.msr("CNTV_CTL_EL0", _ENABLE)
        else:
            self._programmed = None
            self.cpu.msr("CNTV_CTL_EL0", 0)
