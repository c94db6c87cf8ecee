"""The hypervisor as a whole: its objects, the dispatcher bound to them, and the loop that gives vCPUs their time.

One instance owns one machine. Everything runs on the thread that calls ``run``; several instances in one process do
not know of each other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, MutableMapping, MutableSequence, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from gunyah.abi.profile import PUBLIC_2023, Profile
from gunyah.hypervisor import calls
from gunyah.hypervisor.entropy import Entropy
from gunyah.hypervisor.hypercall import Dispatcher
from gunyah.hypervisor.native_start import native_executor
from gunyah.hypervisor.partition import create_partitions
from gunyah.hypervisor.python_executor import Program, PythonExecutor, program_at_entry
from gunyah.hypervisor.scheduler import Scheduler
from gunyah.hypervisor.services import Services
from gunyah.hypervisor.timers import TimerQueue
from gunyah.hypervisor.vcpu import ThreadState
from gunyah.machine.bus import Bus
from gunyah.machine.clock import VirtualClock

if TYPE_CHECKING:
    from gunyah.hypervisor.instruments import Instrument, NamedCall
    from gunyah.hypervisor.msgqueue import MsgQueue
    from gunyah.hypervisor.native_cpu import NativeCpu
    from gunyah.hypervisor.objects import KernelObject
    from gunyah.hypervisor.vcpu import Executor, Vcpu
    from gunyah.machine.clock import Clock
    from gunyah.machine.memory import PhysicalMemory

__all__ = ["HostLoop", "Hypervisor"]

INITIAL_TRACE_CLASSES = 0x300E5

# Ticks between two looks at the host's files while guests keep the thread busy (0.5 ms).
HOST_POLL_TICKS = 31_250
# How exactly the host waits for files.
HOST_GRAIN_SECONDS = 0.002
_FOREVER = 1 << 63
_KILLED = int(ThreadState.KILLED)


class HostLoop(Protocol):
    """What the host gives the loop: its files and timers (gunyah.host.loop)."""

    def poll(self, timeout: float | None, /) -> object:
        """Serve what is ready, wait at most ``timeout`` seconds for something (None: for ever)."""


class Hypervisor:
    """EL2. ``instruments`` is empty by default and costs nothing then (gunyah.hypervisor.instruments)."""

    def __init__(self, memory: PhysicalMemory, clock: Clock, *, seed: int, bus: Bus | None = None) -> None:
        self.memory = memory
        self.clock: Clock = clock
        self.random: Entropy = Entropy(seed)
        self.bus = bus if bus is not None else Bus()
        self.instruments: list[Instrument] = []
        self.timers = TimerQueue()
        self.private_partition, self.root_partition = create_partitions(memory)
        self.root_partition.system.on_destroy = self._destroyed
        self.scheduler = Scheduler(self)
        self.dispatcher = Dispatcher(self, calls.HANDLERS)
        self.services = Services(self)
        self.programs: dict[int, Program] = {}
        self.profiles: dict[int, Profile] = {}
        self.native_cpu: NativeCpu | None = None
        self.host: HostLoop | None = None
        self.trace_classes = INITIAL_TRACE_CLASSES
        self.vcpus: dict[int, Vcpu] = {}
        # Why the machine stopped: "off" or "reset" by a critical vCPU, None while it runs.
        self.stopped: str | None = None
        self.remarks: deque[str] = deque(maxlen=256)
        self.reports: deque[str] = deque(maxlen=32)
        # Told of every report, for a person who does not look.
        self.reporter: Callable[[str], object] | None = None
        self._next_host_poll = 0
        self._stop_requested = False

    # -- programs and executors ----------------------------------------------------------------------------------------

    def register_program(self, program: Program) -> int:
        """Make a Python function loadable; the number goes into its image (gunyah.abi.pyimage)."""
        number = len(self.programs) + 1
        self.programs[number] = program
        return number

    def executor_for(self, vcpu: Vcpu, entry: int) -> Executor:
        """What will run the code at ``entry`` (IPA): Python if a Python image lies there, else the CPU engine.

        What the vCPU ran before is unwound. Raises HypervisorError where the host cannot run the engine.
        """
        program = program_at_entry(self, vcpu, entry)
        if program is not None:
            if vcpu.executor is not None:
                vcpu.executor.kill()
            return PythonExecutor(self, vcpu, program)
        return native_executor(self, vcpu)

    def profile_of(self, vcpu: Vcpu) -> Profile:
        """ABI generation of the VM that the vCPU belongs to."""
        return self.profiles.get(vcpu.vmid, PUBLIC_2023)

    # -- the loop ------------------------------------------------------------------------------------------------------

    def run(self, until: Callable[[], bool] | None = None, deadline: int | None = None) -> bool:
        """Run the machine until ``until()`` holds (True), or ``deadline`` (ticks) or a stop comes first (False).

        Returns False too when nothing can ever happen again: everybody waits and no timer or host file is left.
        """
        clock = self.clock
        timers = self.timers
        scheduler = self.scheduler
        self._stop_requested = False
        while True:
            if until is not None and until():
                return True
            if self.stopped is not None or self._stop_requested:
                return False
            now = clock.ticks()
            if deadline is not None and now >= deadline:
                return False
            upcoming = timers.next()
            if upcoming is not None and upcoming <= now:
                # What that changed may be what ``until`` waits for.
                timers.expire(now)
                continue
            limit = upcoming if upcoming is not None else _FOREVER
            if deadline is not None and deadline < limit:
                limit = deadline
            if scheduler.step(limit):
                if self.host is not None and now >= self._next_host_poll:
                    self._next_host_poll = now + HOST_POLL_TICKS
                    self.host.poll(0.0)
            elif not self._idle(limit):
                return False

    def _idle(self, limit: int) -> bool:
        """All cores idle until ``limit`` (ticks) unless the host brings something."""
        clock = self.clock
        host = self.host
        if limit == _FOREVER:
            if host is None:
                return False
            host.poll(None)
            return True
        if isinstance(clock, VirtualClock):
            if host is not None:
                host.poll(0.0)
            if not self.scheduler.busy:
                clock.advance_to(limit)
        else:
            if host is not None:
                # Files are waited for in whole milliseconds, rounded up, which is late for a timer.
                left = clock.seconds_until(limit) - HOST_GRAIN_SECONDS
                if host.poll(max(left, 0.0)) or left > 0 or self.scheduler.busy:
                    return True
            clock.wait_until(limit)
        return True

    def request_stop(self) -> None:
        """Make ``run`` return False soon; for signal handlers and host callbacks."""
        self._stop_requested = True
        self.scheduler.preempt()

    def due(self) -> bool:
        """A timer's time has come."""
        upcoming = self.timers.next()
        return upcoming is not None and upcoming <= self.clock.ticks()

    def enter(self, vcpu: Vcpu, deadline: int) -> None:
        """Let one vCPU run until it has to come back (the scheduler's step)."""
        if vcpu.thread_state == _KILLED:
            vcpu.exit()
            return
        executor = vcpu.executor
        if executor is not None and self.stopped is None:
            executor.run(deadline)
            if vcpu.thread_state == _KILLED:
                vcpu.exit()

    # -- life of vCPUs -------------------------------------------------------------------------------------------------

    def vcpu_activated(self, vcpu: Vcpu) -> None:
        """A vCPU may run from now on."""
        vcpu.name = vcpu.name or f"vm{vcpu.vmid}.vcpu{vcpu.vic_index}"
        self.vcpus[vcpu.serial] = vcpu
        if vcpu.requested_options >> 63:
            self.scheduler.set_primary(vcpu)

    def vcpu_exited(self, vcpu: Vcpu) -> None:
        """A vCPU is gone; a critical one takes the machine with it."""
        self.vcpus.pop(vcpu.serial, None)
        if vcpu.critical:
            self.stop("fault", f"critical {vcpu} exited")

    def vcpu_faulted(self, vcpu: Vcpu, sentence: str) -> None:
        """A vCPU stopped for good; the VM alone is affected unless it is the root VM."""
        self.report(vcpu, sentence)
        if vcpu.critical:
            self.stop("fault", sentence)

    def system_off(self, vcpu: Vcpu) -> None:
        """PSCI SYSTEM_OFF of a critical vCPU: the machine is off."""
        self.stop("off", f"{vcpu} switched the machine off")

    def system_reset(self, vcpu: Vcpu) -> None:
        """PSCI SYSTEM_RESET of a critical vCPU: the machine is to start again."""
        self.stop("reset", f"{vcpu} asked for a reset of the machine")

    def stop(self, why: str, sentence: str) -> None:
        """End of the machine: nobody runs any more."""
        if self.stopped is None:
            self.stopped = why
            self.remarks.append(sentence)
        for vcpu in self.vcpus.values():
            vcpu.attention = True
        self.scheduler.preempt()

    # -- sight ---------------------------------------------------------------------------------------------------------

    def remark(self, vcpu: Vcpu | None, sentence: str) -> None:
        """Something a person who looks would want to know and the guest is not told."""
        self.remarks.append(sentence)

    def report(self, vcpu: Vcpu | None, sentence: str) -> None:
        """Something a person should read even without looking."""
        self.remarks.append(sentence)
        if self.reporter is not None:
            self.reporter(sentence)
        ticks = self.clock.ticks()
        for instrument in self.instruments:
            instrument.report(vcpu, sentence, ticks)

    def keep_report(self, vcpu: Vcpu, text: str) -> None:
        """Keep a traceback for ``reports``."""
        self.reports.append(f"{vcpu}\n{text}")

    def objects(self) -> Iterator[KernelObject]:
        """Every live object, oldest first."""
        yield from self.root_partition.objects

    def watch_call(
        self,
        vcpu: Vcpu,
        call: Any,
        first: int,
        table: MutableSequence[Callable[[Vcpu], None]] | MutableMapping[int, Callable[[Vcpu], None]],
        key: int,
    ) -> None:
        """Make a hypercall with the instruments looking on; ``first`` is the register of its first argument."""
        args = tuple(vcpu.x[first : first + len(call.arguments)])
        count = len(call.results) + call.has_error
        self.watch_enter(vcpu, call, args)
        before = vcpu.complete
        vcpu.complete = _unanswered
        table[key](vcpu)
        answer = vcpu.complete
        if answer is _unanswered:
            vcpu.complete = before
            self.watch_exit(vcpu, call, args, tuple(vcpu.x[:count]))
        else:

            def complete(results: tuple[int, ...]) -> None:
                answer(results)
                self.watch_exit(vcpu, call, args, tuple(vcpu.x[:count]))

            vcpu.complete = complete

    def watch_enter(self, vcpu: Vcpu, call: NamedCall, args: Sequence[int]) -> None:
        """Tell the instruments of a call."""
        ticks = self.clock.ticks()
        for instrument in self.instruments:
            instrument.hypercall_enter(vcpu, call, args, ticks)

    def watch_exit(self, vcpu: Vcpu, call: NamedCall, args: Sequence[int], results: Sequence[int]) -> None:
        """Tell the instruments of a call's answer."""
        ticks = self.clock.ticks()
        for instrument in self.instruments:
            instrument.hypercall_exit(vcpu, call, args, results, ticks)

    def watch_trap(self, vcpu: Vcpu, reason: str, value: int) -> None:
        """Tell the instruments of another exit."""
        ticks = self.clock.ticks()
        for instrument in self.instruments:
            instrument.trap(vcpu, reason, value, ticks)

    def watch_switch(self, core: int, old: Vcpu | None, new: Vcpu | None) -> None:
        """Tell the instruments of a world switch."""
        ticks = self.clock.ticks()
        for instrument in self.instruments:
            instrument.switch(core, old, new, ticks)

    def watch_object(self, obj: KernelObject, event: str) -> None:
        """Tell the instruments of an object's life."""
        ticks = self.clock.ticks()
        for instrument in self.instruments:
            instrument.object_event(obj, event, ticks)

    def _destroyed(self, obj: KernelObject) -> None:
        if self.instruments:
            self.watch_object(obj, "destroy")

    def message_sent(self, vcpu: Vcpu, queue: MsgQueue, message: bytes) -> None:
        """Tell the instruments of a message; its flow number is the queue and the position in its stream."""
        ticks = self.clock.ticks()
        flow = queue.serial << 32 | queue.sent
        for instrument in self.instruments:
            instrument.message_send(queue, vcpu, message, flow, ticks)

    def message_received(self, vcpu: Vcpu, queue: MsgQueue, message: bytes) -> None:
        """Tell the instruments that a message was taken."""
        ticks = self.clock.ticks()
        flow = queue.serial << 32 | queue.taken_count
        for instrument in self.instruments:
            instrument.message_receive(queue, vcpu, message, flow, ticks)


def _unanswered(results: tuple[int, ...]) -> None:
    raise AssertionError(f"nobody waits for {results}")
