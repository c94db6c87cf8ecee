"""kernel/irq and kernel/softirq: Linux interrupt numbers, hard and threaded handlers, tasklets.

An interrupt of the device tree (three GIC cells) is mapped to a Linux interrupt number. Hard handlers run masked on
the interrupted stack; threaded ones in a task of their own. Tasklets run after the hard handlers of one interrupt, or
when a task calls ``run_tasklets`` where a kernel would re-enable bottom halves.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable

from gunyah.guest.fdt import FdtError
from gunyah.guest.gic import Gic
from gunyah.guest.tasks import Scheduler, Task
from gunyah.guest.wait import WaitQueue
from gunyah.linux.errno import error

__all__ = ["IRQ_TYPE_EDGE_RISING", "IRQ_TYPE_LEVEL_HIGH", "Interrupts", "Tasklet"]

GIC_SPI, GIC_PPI = 0, 1
_FIRST_SPI, _FIRST_PPI = 32, 16
IRQ_TYPE_EDGE_RISING, IRQ_TYPE_LEVEL_HIGH = 1, 4
_TYPES = {1: True, 2: True, 3: True, 4: False, 8: False}


class Tasklet:
    """A function that runs soon, outside the hard handler or lock that scheduled it."""

    __slots__ = ("_pending", "function", "scheduled")

    def __init__(self, interrupts: Interrupts, function: Callable[[], None]) -> None:
        self._pending = interrupts.tasklets
        self.function = function
        self.scheduled = False

    def schedule(self) -> None:
        """tasklet_schedule: once, however often it is called before it runs."""
        if not self.scheduled:
            self.scheduled = True
            self._pending.append(self)

    def kill(self) -> None:
        """tasklet_kill: it will not run any more."""
        if self.scheduled:
            self.scheduled = False
            self._pending.remove(self)


class _Action:
    """One requested interrupt."""

    def __init__(self, irq: int, intid: int, edge: bool, name: str) -> None:
        self.irq = irq
        self.intid = intid
        self.edge = edge
        self.name = name
        self.count = 0
        self.pending = False
        self.busy = False
        self.ended = False
        self.thread: Task | None = None


class Interrupts:
    """The interrupts of one kernel."""

    def __init__(self, gic: Gic, scheduler: Scheduler) -> None:
        self._gic = gic
        self._scheduler = scheduler
        self._mapped: dict[int, tuple[int, bool]] = {}
        self._actions: dict[int, _Action] = {}
        self._idle = WaitQueue(scheduler)
        self.tasklets: deque[Tasklet] = deque()
        gic.after = self.run_tasklets

    def map(self, cells: list[int]) -> int:
        """irq_create_of_mapping: the Linux number of GIC cells (type, number, flags). Raises FdtError."""
        if len(cells) != 3 or cells[0] not in (GIC_SPI, GIC_PPI):
            raise FdtError(f"interrupt {cells} is not <0|1 number flags>")
        kind, number, flags = cells
        limit = 988 if kind == GIC_SPI else 16
        if number >= limit:
            raise FdtError(f"interrupt {cells}: number {number} is not below {limit}")
        trigger = flags & 0xF
        if trigger not in _TYPES:
            raise FdtError(f"interrupt {cells}: flags {flags:#x} name no trigger type")
        intid = number + (_FIRST_SPI if kind == GIC_SPI else _FIRST_PPI)
        for irq, (known, _) in self._mapped.items():
            if known == intid:
                self._mapped[irq] = (intid, _TYPES[trigger])
                return irq
        irq = len(self._mapped) + 1
        self._mapped[irq] = (intid, _TYPES[trigger])
        return irq

    def map_intid(self, intid: int, *, edge: bool = True) -> int:
        """The Linux number of a GIC interrupt id that did not come from the device tree (RM resource lists)."""
        kind, base = (GIC_SPI, _FIRST_SPI) if intid >= _FIRST_SPI else (GIC_PPI, _FIRST_PPI)
        return self.map([kind, intid - base, IRQ_TYPE_EDGE_RISING if edge else IRQ_TYPE_LEVEL_HIGH])

    # -- requesting ----------------------------------------------------------------------------------------------------

    def _new_action(self, irq: int, name: str) -> _Action:
        if irq not in self._mapped:
            raise error(errno.EINVAL, f"{name}: there is no interrupt {irq}")
        if irq in self._actions:
            raise error(errno.EBUSY, f"{name}: interrupt {irq} is in use by {self._actions[irq].name}")
        action = _Action(irq, *self._mapped[irq], name)
        self._actions[irq] = action
        return action

    def request_irq(self, irq: int, handler: Callable[[], None], name: str) -> None:
        """request_irq: ``handler`` runs masked and must not block. Raises OSError EINVAL, EBUSY."""
        action = self._new_action(irq, name)

        def hard() -> None:
            action.count += 1
            handler()

        self._gic.enable(action.intid, hard, edge=action.edge)

    def request_threaded_irq(self, irq: int, thread_fn: Callable[[], None], name: str) -> None:
        """request_threaded_irq with IRQF_ONESHOT and no hard handler: ``thread_fn`` runs in a task. Raises OSError
        EINVAL, EBUSY.

        A level interrupt stays masked until the function has returned; an edge one that comes again meanwhile runs it
        once more.
        """
        action = self._new_action(irq, name)
        scheduler, gic = self._scheduler, self._gic
        wake = scheduler.wake

        def hard() -> None:
            action.count += 1
            action.pending = True
            if not action.edge:
                gic.mask(action.intid)
            if action.thread is not None:
                wake(action.thread)

        def thread() -> None:
            block = scheduler.block
            while not action.ended:
                if not action.pending:
                    block()
                    continue
                action.pending = False
                action.busy = True
                try:
                    thread_fn()
                finally:
                    action.busy = False
                    self._idle.wake_all()
                if not action.edge and not action.ended:
                    gic.unmask(action.intid)

        action.thread = scheduler.spawn(thread, name=f"irq/{irq}-{name}")
        gic.enable(action.intid, hard, edge=action.edge)

    def free_irq(self, irq: int) -> None:
        """free_irq: no handler runs any more when this returns (unless it is the handler that calls). Nothing if not
        requested.
        """
        action = self._actions.get(irq)
        if action is None:
            return
        self._gic.disable(action.intid)
        action.ended = True
        if action.thread is not None and action.thread is not self._scheduler.current:
            self._scheduler.wake(action.thread)
            self._idle.wait_for(lambda: not action.busy)
        del self._actions[irq]

    def run_tasklets(self) -> None:
        """Run what was scheduled, and what that schedules."""
        tasklets = self.tasklets
        while tasklets:
            tasklet = tasklets.popleft()
            tasklet.scheduled = False
            tasklet.function()

    def text(self) -> str:
        """/proc/interrupts."""
        lines = ["           CPU0\n"]
        for irq, action in sorted(self._actions.items()):
            kind = "Edge " if action.edge else "Level"
            lines.append(f"{irq:4}: {action.count:10}     GICv3 {action.intid:4} {kind}     {action.name}\n")
        return "".join(lines)
