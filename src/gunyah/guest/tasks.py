"""Tasks: straight-line blocking code inside one vCPU, on greenlets.

A task runs until it blocks; then the next runnable one is resumed, and when there is none the idle loop (the greenlet
that called ``run``) executes WFI. Interrupt handlers run on whatever greenlet the interrupt hit: they wake tasks and
never block. Nothing here is re-entered by a hypercall that leaves the VM for a while: the hypervisor resumes exactly
the greenlet that made it.

Functions posted from outside the VM (``post``) run in the idle loop, at the next switch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

from gunyah.guest.cpu import Cpu
from gunyah.guest.timer import Timers

__all__ = ["Interrupted", "Scheduler", "Task", "TaskFailed"]

_RUNNABLE, _RUNNING, _BLOCKED, _FINISHED = range(4)


class Interrupted(Exception):
    """An interruptible wait was ended by ``Task.interrupt`` (a signal)."""


class TaskFailed(Exception):
    """``Task.join`` of a task that ended with an exception (the cause)."""


class Task:
    """One thread of control. ``result`` or ``error`` is set when it has ended."""

    __slots__ = ("_greenlet", "_scheduler", "_state", "_waiters", "error", "interrupted", "name", "result")

    def __init__(self, scheduler: Scheduler, run: Callable[[], Any], name: str, parent: greenlet) -> None:
        self._scheduler = scheduler
        self._state = _BLOCKED
        self._waiters: list[Task] = []
        self._greenlet = greenlet(lambda: scheduler._body(self, run), parent)
        self.name = name
        self.result: Any = None
        self.error: BaseException | None = None
        self.interrupted = False

    @property
    def finished(self) -> bool:
        """True once the task's function has returned or raised."""
        return self._state == _FINISHED

    def interrupt(self) -> None:
        """Send the task a signal: the interruptible wait it is in, or enters next, raises Interrupted."""
        if self._state != _FINISHED:
            self.interrupted = True
            self._scheduler.wake(self)

    def check_interrupt(self) -> None:
        """Raise Interrupted (once) when a signal is pending."""
        if self.interrupted:
            self.interrupted = False
            raise Interrupted(f"task {self.name} was interrupted")

    def join(self) -> Any:
        """Wait for the task's end; its result. Raises TaskFailed from the task's exception."""
        scheduler = self._scheduler
        while self._state != _FINISHED:
            self._waiters.append(scheduler.current)
            scheduler.block()
        if self.error is not None:
            raise TaskFailed(f"task {self.name}: {self.error}") from self.error
        return self.result

    def __repr__(self) -> str:
        return f"<task {self.name} {('runnable', 'running', 'blocked', 'finished')[self._state]}>"


class Scheduler:
    """The tasks of one vCPU, first come first served.

    ``on_error`` receives tasks that ended with an exception; without it the exception leaves ``run`` and so ends the
    VM's program.
    """

    def __init__(self, cpu: Cpu, timers: Timers | None = None) -> None:
        self.cpu = cpu
        self.timers = timers if timers is not None else Timers(cpu)
        self.on_error: Callable[[Task], None] | None = None
        self.tasks: set[Task] = set()
        self._runnable: deque[Task] = deque()
        self._posted: deque[Callable[[], object]] = deque()
        self._current: Task | None = None
        self._idle: greenlet | None = None
        self._stopping = False
        self._dead = False
        self._failure: BaseException | None = None

    # -- life of a task ------------------------------------------------------------------------------------------------

    def spawn(self, function: Callable[..., Any], *arguments: Any, name: str | None = None) -> Task:
        """Start a task that calls ``function(*arguments)``; it runs when the caller blocks or returns."""
        run = (lambda: function(*arguments)) if arguments else function
        parent = self._idle if self._idle is not None else getcurrent()
        task = Task(self, run, name or str(getattr(function, "__name__", "task")), parent)
        self.tasks.add(task)
        self.wake(task)
        return task

    def _body(self, task: Task, run: Callable[[], Any]) -> None:
        try:
            task.result = run()
        except GreenletExit:
            # The hypervisor ends this vCPU: hand that on to the idle loop, our parent.
            self._dead = True
        except Exception as error:
            task.error = error
        task._state = _FINISHED
        self.tasks.discard(task)
        for waiter in task._waiters:
            self.wake(waiter)
        if task.error is not None and not task._waiters:
            if self.on_error is not None:
                self.on_error(task)
            else:
                self._failure = task.error
        self._current = None

    @property
    def current(self) -> Task:
        """The running task; raises RuntimeError in the idle loop, where nothing may block."""
        task = self._current
        if task is None:
            raise RuntimeError("no task is running here: blocking is possible in tasks only")
        return task

    @property
    def in_task(self) -> bool:
        """True where blocking is possible (an interrupt handler on a task's stack must know better)."""
        return self._current is not None

    # -- switching -----------------------------------------------------------------------------------------------------

    def block(self) -> None:
        """Suspend the running task until ``wake``. Callers re-check their condition: a wake may be spurious."""
        task = self._current
        if task is None:
            raise RuntimeError("no task is running here: blocking is possible in tasks only")
        if self._dead:
            raise GreenletExit
        task._state = _BLOCKED
        self._leave()
        if self._dead:
            raise GreenletExit

    def yield_(self) -> None:
        """Let the other runnable tasks, and posted functions, run first."""
        if self._runnable or self._posted:
            task = self.current
            task._state = _RUNNABLE
            self._runnable.append(task)
            self._leave()

    def _leave(self) -> None:
        runnable = self._runnable
        if runnable and not self._posted and not self._stopping:
            task = runnable.popleft()
            task._state = _RUNNING
            if task is not self._current:
                self._current = task
                task._greenlet.switch()
        else:
            self._current = None
            idle = self._idle
            assert idle is not None
            idle.switch()

    def wake(self, task: Task) -> None:
        """Make a blocked task runnable; nothing if it is not blocked. Allowed in interrupt handlers and from outside
        the VM."""
        if task._state == _BLOCKED:
            task._state = _RUNNABLE
            self._runnable.append(task)

    def sleep(self, ns: int) -> None:
        """Block the running task for ``ns`` nanoseconds."""
        task = self.current
        done: list[bool] = []

        def expire() -> None:
            done.append(True)
            self.wake(task)

        timer = self.timers.after(ns, expire)
        try:
            while not done:
                self.block()
        finally:
            timer.cancel()

    # -- the idle loop -------------------------------------------------------------------------------------------------

    def post(self, function: Callable[[], object]) -> None:
        """Run ``function`` (which must not block) inside the VM soon: how the world outside hands work to it."""
        self._posted.append(function)
        self.cpu.nudge()

    def stop(self) -> None:
        """Make ``run`` return at the next switch; tasks that are left stay where they are."""
        self._stopping = True

    def run(self) -> None:
        """Schedule tasks until ``stop``, or until all tasks are finished. Raises what a task raised when ``on_error``
        is not set."""
        self._idle = getcurrent()
        for task in self.tasks:
            task._greenlet.parent = self._idle
        self._stopping = False
        try:
            self._loop()
        except GreenletExit:
            self._end_tasks()
            raise

    def _loop(self) -> None:
        posted, runnable, cpu = self._posted, self._runnable, self.cpu
        while not self._stopping:
            while posted:
                posted.popleft()()
            if runnable:
                task = runnable.popleft()
                task._state = _RUNNING
                self._current = task
                task._greenlet.switch()
                # A task has blocked or ended; if it ended because the vCPU is being removed, so does the program.
                if self._dead:
                    raise GreenletExit
                if self._failure is not None:
                    failure, self._failure = self._failure, None
                    raise failure
            elif self.tasks:
                cpu.wfi()
            else:
                return

    def _end_tasks(self) -> None:
        """The vCPU is gone: unwind every task here and now, while what they refer to still exists."""
        self._dead = True
        for task in list(self.tasks):
            self._current = task
            with suppress(Exception):
                task._greenlet.throw(GreenletExit)
        self._current = None
