"""What tasks wait on: wait queues, completions, mutexes, semaphores and work queues (the kernel's nouns, one vCPU).

Time-outs are nanoseconds of the guest's system counter. All ``wake``/``complete``/``up``/``schedule`` operations are
allowed in interrupt handlers; all waiting ones only in tasks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import TracebackType

from gunyah.guest.tasks import Scheduler, Task
from gunyah.guest.timer import Timer

__all__ = ["Completion", "Mutex", "Semaphore", "WaitQueue", "Work", "WorkQueue"]


class _Waiter:
    __slots__ = ("scheduler", "task", "woken")

    def __init__(self, scheduler: Scheduler, task: Task) -> None:
        self.scheduler = scheduler
        self.task = task
        self.woken = False

    def expire(self) -> None:
        self.scheduler.wake(self.task)


class WaitQueue:
    """Tasks that wait for something to change (wait_queue_head_t)."""

    __slots__ = ("_scheduler", "_waiters")

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._waiters: deque[_Waiter] = deque()

    def __bool__(self) -> bool:
        """True while somebody waits."""
        return bool(self._waiters)

    def wait(self, timeout_ns: int | None = None, *, interruptible: bool = False) -> bool:
        """Block until woken: True; False after the time-out. Raises Interrupted when ``interruptible`` and a signal
        came."""
        scheduler = self._scheduler
        task = scheduler.current
        if interruptible:
            task.check_interrupt()
        waiter = _Waiter(scheduler, task)
        self._waiters.append(waiter)
        timer: Timer | None = scheduler.timers.after(timeout_ns, waiter.expire) if timeout_ns is not None else None
        try:
            while not waiter.woken:
                scheduler.block()
                if waiter.woken:
                    return True
                if timer is not None and timer.callback is None:
                    return False
                if interruptible:
                    task.check_interrupt()
            return True
        finally:
            if timer is not None:
                timer.cancel()
            if not waiter.woken:
                self._waiters.remove(waiter)

    def wait_for(
        self, condition: Callable[[], bool], timeout_ns: int | None = None, *, interruptible: bool = False
    ) -> bool:
        """Block until ``condition()`` holds, checked at every wake (wait_event_timeout); its last value."""
        if condition():
            return True
        if timeout_ns is None:
            while not condition():
                self.wait(interruptible=interruptible)
            return True
        timers = self._scheduler.timers
        end = timers.now_ns() + timeout_ns
        while not condition():
            left = end - timers.now_ns()
            if left <= 0 or not self.wait(left, interruptible=interruptible):
                return condition()
        return True

    def wake(self) -> bool:
        """Wake the first waiter; False if there is none."""
        if not self._waiters:
            return False
        waiter = self._waiters.popleft()
        waiter.woken = True
        waiter.scheduler.wake(waiter.task)
        return True

    def wake_all(self) -> None:
        """Wake all waiters."""
        while self._waiters:
            self.wake()


class Completion:
    """Counts completions; each wait consumes one (struct completion)."""

    __slots__ = ("_queue", "count")

    def __init__(self, scheduler: Scheduler) -> None:
        self._queue = WaitQueue(scheduler)
        self.count = 0

    def complete(self) -> None:
        """Let one waiter, now or later, pass."""
        # Handed to the first waiter directly, so that nobody who comes now can take it away.
        if not self._queue.wake():
            self.count += 1

    def reset(self) -> None:
        """Forget completions that nobody has waited for (reinit_completion)."""
        self.count = 0

    def wait(self, timeout_ns: int | None = None, *, interruptible: bool = False) -> bool:
        """Wait for a completion; False after the time-out. Raises Interrupted."""
        if self.count:
            self.count -= 1
            return True
        return self._queue.wait(timeout_ns, interruptible=interruptible)


class Semaphore:
    """Counting semaphore, first come first served."""

    __slots__ = ("_queue", "count")

    def __init__(self, scheduler: Scheduler, count: int) -> None:
        self._queue = WaitQueue(scheduler)
        self.count = count

    def down(self, timeout_ns: int | None = None, *, interruptible: bool = False) -> bool:
        """Take one unit; False after the time-out. Raises Interrupted."""
        if self.count > 0:
            self.count -= 1
            return True
        # ``up`` hands its unit directly to the first waiter, so nobody overtakes.
        return self._queue.wait(timeout_ns, interruptible=interruptible)

    def up(self) -> None:
        """Give one unit back."""
        if not self._queue.wake():
            self.count += 1


class Mutex:
    """Sleeping lock with an owner; a ``with`` block holds it."""

    __slots__ = ("_scheduler", "_semaphore", "owner")

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._semaphore = Semaphore(scheduler, 1)
        self.owner: Task | None = None

    def lock(self, timeout_ns: int | None = None, *, interruptible: bool = False) -> bool:
        """Take the lock; False after the time-out. Raises Interrupted, RuntimeError when the caller has it already."""
        task = self._scheduler.current
        if self.owner is task:
            raise RuntimeError(f"task {task.name} already holds this mutex")
        if not self._semaphore.down(timeout_ns, interruptible=interruptible):
            return False
        self.owner = task
        return True

    def unlock(self) -> None:
        """Release the lock (by its owner)."""
        if self.owner is not self._scheduler.current:
            raise RuntimeError("a mutex is unlocked by the task that holds it")
        self.owner = None
        self._semaphore.up()

    def __enter__(self) -> Mutex:
        self.lock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.unlock()


class Work:
    """A function to be run by a work queue: queued at most once at a time (struct work_struct)."""

    __slots__ = ("function", "pending", "running")

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function
        self.pending = False
        self.running = False


class WorkQueue:
    """An ordered work queue: one worker task, items in the order they were queued."""

    def __init__(self, scheduler: Scheduler, name: str) -> None:
        self._scheduler = scheduler
        self._items: deque[Work] = deque()
        self._idle = WaitQueue(scheduler)
        self._done = WaitQueue(scheduler)
        self._stopped = False
        self._running: Work | None = None
        self.on_error: Callable[[Work, Exception], None] | None = None
        self.worker = scheduler.spawn(self._run, name=name)

    def schedule(self, work: Work) -> bool:
        """Queue ``work``; False if it is queued already. Work that is running may be queued again."""
        if work.pending:
            return False
        work.pending = True
        self._items.append(work)
        self._idle.wake()
        return True

    def cancel(self, work: Work) -> bool:
        """Remove queued work and wait for its end if it is running (cancel_work_sync); True if it was queued."""
        was_pending = work.pending
        if was_pending:
            work.pending = False
            self._items.remove(work)
        if self._scheduler.current is not self.worker:
            self._done.wait_for(lambda: not work.running)
        return was_pending

    def flush(self) -> None:
        """Wait until all that is queued now, and what that queues, has run."""
        self._done.wait_for(lambda: not self._items and self._idle_now())

    def stop(self) -> None:
        """Let the worker end when the queue is empty."""
        self._stopped = True
        self._idle.wake()

    def _idle_now(self) -> bool:
        return self._running is None

    def _run(self) -> None:
        items = self._items
        while True:
            if not items:
                if self._stopped:
                    return
                self._idle.wait()
                continue
            work = items.popleft()
            work.pending = False
            work.running = True
            self._running = work
            try:
                work.function()
            except Exception as error:
                if self.on_error is None:
                    raise
                self.on_error(work, error)
            finally:
                work.running = False
                self._running = None
                self._done.wake_all()
