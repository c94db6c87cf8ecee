"""The fixed-priority round-robin scheduler (objects.md 6).

One run queue per physical core, 64 priorities, strict priority; the cores are modelled and take turns on the one host
thread. A vCPU runs only on the core of its affinity, or in place of a vCPU that yields to it. Time slices are in
nanoseconds of the system counter.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from gunyah.machine.clock import NS_PER_TICK

if TYPE_CHECKING:
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.vcpu import Vcpu

__all__ = ["CORES", "PRIORITIES", "Scheduler"]

CORES = 8
PRIORITIES = 64

# How long one core keeps the host thread while another core has something to run, in ticks (1 ms).
CORE_TURN_TICKS = 62_500


class RunQueue:
    """The ready vCPUs of one physical core; ``ready`` has bit p set while priority p has any."""

    __slots__ = ("current", "index", "primary", "queues", "ready")

    def __init__(self, index: int) -> None:
        self.index = index
        self.queues: list[deque[Vcpu]] = [deque() for _ in range(PRIORITIES)]
        self.ready = 0
        self.current: Vcpu | None = None
        self.primary: Vcpu | None = None

    def add(self, vcpu: Vcpu) -> None:
        """Queue at the tail of its priority."""
        self.queues[vcpu.priority].append(vcpu)
        self.ready |= 1 << vcpu.priority

    def remove(self, vcpu: Vcpu) -> None:
        """Take out of its queue."""
        queue = self.queues[vcpu.priority]
        queue.remove(vcpu)
        if not queue:
            self.ready &= ~(1 << vcpu.priority)

    def rotate(self, vcpu: Vcpu) -> None:
        """Head to tail, when a slice is used up."""
        queue = self.queues[vcpu.priority]
        if queue and queue[0] is vcpu:
            queue.rotate(-1)


class Scheduler:
    """All run queues, and the loop's one step."""

    def __init__(self, hv: Hypervisor, cores: int = CORES) -> None:
        self._hv = hv
        self.queues = [RunQueue(index) for index in range(cores)]
        self._turn = 0
        # Cores that may have something to do: all that have, and those whose last vCPU has gone since.
        self._cores = 0
        self.running: Vcpu | None = None

    # -- what objects tell it ------------------------------------------------------------------------------------------

    def update(self, vcpu: Vcpu) -> None:
        """A vCPU's block reasons, affinity or life changed: queue it or take it out."""
        # A proxy-scheduled vCPU runs only in its caller's place (objects.md 7).
        wanted = vcpu.affinity if vcpu.runnable and not vcpu.proxied else -1
        queued = vcpu.queued_on
        if wanted == queued:
            return
        if queued >= 0:
            self.queues[queued].remove(vcpu)
        vcpu.queued_on = wanted
        if wanted >= 0:
            # Newly unblocked: a fresh slice at the tail.
            vcpu.remaining_ns = vcpu.timeslice_ns
            queue = self.queues[wanted]
            queue.add(vcpu)
            self._cores |= 1 << wanted
            running = self.running
            if running is not None and running is not vcpu and self._preempts(vcpu, running, queue):
                self.preempt()

    def _preempts(self, vcpu: Vcpu, running: Vcpu, queue: RunQueue) -> bool:
        # Another core's vCPU cannot wait for this core's slice: both have the one host thread.
        current = queue.current
        return current is not running or vcpu.priority > running.priority

    def hasten(self, vcpu: Vcpu) -> None:
        """A vCPU is to die: that is EL2's work, and no busier VM of higher priority may keep it waiting."""
        if vcpu.queued_on >= 0:
            self.queues[vcpu.queued_on].remove(vcpu)
            vcpu.queued_on = -1
        vcpu.priority = PRIORITIES - 1

    def preempt(self) -> None:
        """Make the running vCPU come back to the loop before its next instruction."""
        if self.running is not None:
            self._come_back(self.running)

    def forget(self, vcpu: Vcpu) -> None:
        """A vCPU is going away."""
        if vcpu.queued_on >= 0:
            self.queues[vcpu.queued_on].remove(vcpu)
            vcpu.queued_on = -1
        for queue in self.queues:
            if queue.primary is vcpu:
                queue.primary = None
            if queue.current is vcpu:
                queue.current = None

    def primary(self, core: int) -> Vcpu | None:
        """The primary VM's vCPU of a core."""
        return self.queues[core].primary

    def set_primary(self, vcpu: Vcpu) -> None:
        """Register the primary VM's vCPU of its core (objects.md 6)."""
        self.queues[vcpu.affinity].primary = vcpu

    # -- yields --------------------------------------------------------------------------------------------------------

    def yield_slice(self, vcpu: Vcpu) -> None:
        """Plain yield: end a directed yield that runs the caller, else give up the rest of the slice."""
        yielder = self._yielder(vcpu)
        if yielder is not None:
            self.end_yield(yielder)
            return
        if vcpu.queued_on >= 0:
            vcpu.remaining_ns = vcpu.timeslice_ns
            self.queues[vcpu.queued_on].rotate(vcpu)
        self._come_back(vcpu)

    def yield_to(self, vcpu: Vcpu, target: Vcpu) -> None:
        """Directed yield: ``target`` runs in place of the caller. Ignored if the caller has a pending wake-up
        interrupt.
        """
        if not vcpu.virq and target is not vcpu:
            self.run_instead(vcpu, target)

    def run_instead(self, vcpu: Vcpu, target: Vcpu) -> None:
        """Let ``target`` run in place of ``vcpu``, or of the one in whose place that one is running.

        A target that has itself yielded to another goes on with its own code.
        """
        yielder = self._yielder(vcpu)
        self.end_yield(target)
        if yielder is not target:
            (yielder or vcpu).yield_target = target
        self._come_back(vcpu)

    def _yielder(self, vcpu: Vcpu) -> Vcpu | None:
        """In whose place ``vcpu`` is running."""
        cores = self._cores
        while cores:
            core = cores & -cores
            cores ^= core
            current = self.queues[core.bit_length() - 1].current
            if current is not None and current.yield_target is vcpu:
                return current
        return None

    @staticmethod
    def _come_back(vcpu: Vcpu) -> None:
        vcpu.attention = True
        if vcpu.executor is not None:
            vcpu.executor.interrupt()

    def end_yield(self, yielder: Vcpu) -> None:
        """The yielder goes on with its own code."""
        target = yielder.yield_target
        if target is None:
            return
        yielder.yield_target = None
        if self.running is target:
            self.preempt()

    # -- the loop's step -----------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Somebody is ready."""
        return any(queue.ready for queue in self.queues)

    def step(self, limit: int) -> bool:
        """Run the next core that has something to do for one turn, at most until ``limit`` (ticks). False when all are
        idle.
        """
        while self._cores:
            # The first one from the core on whose turn it is, else the first of all.
            cores = self._cores >> self._turn << self._turn or self._cores
            index = (cores & -cores).bit_length() - 1
            queue = self.queues[index]
            if queue.ready:
                self._turn = (index + 1) % len(self.queues)
                self._run(queue, limit)
                return True
            self._cores ^= 1 << index
            if queue.current is not None:
                self._switch(queue, None)
        return False

    def _switch(self, queue: RunQueue, vcpu: Vcpu | None) -> None:
        old = queue.current
        queue.current = vcpu
        if self._hv.instruments:
            self._hv.watch_switch(queue.index, old, vcpu)

    def _run(self, queue: RunQueue, limit: int) -> None:
        ticks = self._hv.clock.ticks
        equals = queue.queues[queue.ready.bit_length() - 1]
        vcpu = equals[0]
        if vcpu is not queue.current:
            self._switch(queue, vcpu)
        start = ticks()
        deadline = start + CORE_TURN_TICKS
        if limit < deadline:
            deadline = limit
        if len(equals) > 1:
            slice_ends = start + vcpu.remaining_ns // NS_PER_TICK
            if slice_ends < deadline:
                deadline = slice_ends
        target = vcpu.yield_target
        if target is not None and (vcpu.virq or not self._eligible(target, queue)):
            vcpu.yield_target = target = None
        running = target or vcpu
        if running.proxy is not None:
            # It goes on, so what it ran with vcpu_run does not.
            running.proxy.finish()
        self.running = running
        self._hv.enter(running, deadline)
        self.running = None
        passed = ticks() - start
        running.run_ticks += passed
        vcpu.remaining_ns -= passed * NS_PER_TICK
        if target is not None and vcpu.yield_target is target and (vcpu.virq or not self._eligible(target, queue)):
            vcpu.yield_target = None
        if vcpu.remaining_ns <= 0:
            vcpu.remaining_ns = vcpu.timeslice_ns
            vcpu.yield_target = None
            queue.rotate(vcpu)

    @staticmethod
    def _eligible(target: Vcpu, queue: RunQueue) -> bool:
        return target.runnable and target.affinity in (-1, queue.index)
