"""kernel/workqueue.c: the system work queue, and ordered ones for drivers.

An item that fails is reported in the log; its worker goes on with the next.
"""

from __future__ import annotations

from gunyah.guest.tasks import Scheduler
from gunyah.guest.wait import Work, WorkQueue
from gunyah.linux.errno import name_of
from gunyah.linux.printk import KernelLog

__all__ = ["Work", "WorkQueue", "Workqueues"]


class Workqueues:
    """All work queues of one kernel. ``system`` is for short items; whoever waits for others takes an ordered one."""

    def __init__(self, scheduler: Scheduler, log: KernelLog) -> None:
        self._scheduler = scheduler
        self._log = log
        self.system = self.alloc_ordered("events")

    def alloc_ordered(self, name: str) -> WorkQueue:
        """alloc_ordered_workqueue."""
        queue = WorkQueue(self._scheduler, f"kworker/{name}")
        queue.on_error = lambda work, failure: self._log.err(f"workqueue {name}: {name_of(failure)}")
        return queue

    @staticmethod
    def destroy(queue: WorkQueue) -> None:
        """destroy_workqueue: what is queued still runs, then the worker ends."""
        queue.stop()
