"""vCPUs: threads that run a guest (objects.md 5, hypercalls.md 3.7).

To the hypervisor a vCPU is registers, a capability space, an address space, a place in a VIC and in a virtual-PM
group, and an *executor* that runs its code: Python or native. A vCPU runs when no block reason is set; what the
reference keeps as thread states and block bits is kept here under the same names.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, MutableSequence
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Protocol

from gunyah.abi.errors import Error
from gunyah.abi.objects import ObjectType
from gunyah.abi.vcpu import VcpuOption
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.objects import INIT, KernelObject
from gunyah.hypervisor.performance_monitor import PPI_PMU, PerformanceMonitor
from gunyah.hypervisor.timer import PHYSICAL_TIMER_PPI, VIRTUAL_TIMER_PPI, GenericTimer
from gunyah.hypervisor.virq import VirqSource

if TYPE_CHECKING:
    from gunyah.hypervisor.addrspace import Addrspace
    from gunyah.hypervisor.cspace import CSpace
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.partition import Partition
    from gunyah.hypervisor.proxy import ProxyRun, VmmioAccess
    from gunyah.hypervisor.vgic_cpu_interface import CpuInterface
    from gunyah.hypervisor.vic import Vic
    from gunyah.hypervisor.vpm import VpmGroup

__all__ = ["Block", "Executor", "ThreadState", "Vcpu"]

DEFAULT_PRIORITY = 32
MAX_PRIORITY = 62
DEFAULT_TIMESLICE_NS = 5_000_000
MIN_TIMESLICE_NS = 100_000
MAX_TIMESLICE_NS = 100_000_000
NO_AFFINITY = -1

SCTLR_EL1_RESET = 0x30D0_0800
PSTATE_RESET = 0x3C5  # EL1h, D A I F masked


Answer = Callable[[tuple[int, ...]], None]

_ZEROS = tuple((0,) * n for n in range(9))


class ThreadState(IntEnum):
    """objects.md 5.1."""

    INIT = 0
    READY = 1
    KILLED = 2
    EXITED = 3


class Block(IntFlag):
    """Reasons why a thread does not run (objects.md 5.1)."""

    LIFECYCLE = 1
    POWERED_OFF = 2
    SUSPENDED = 4
    WFI = 8
    FAULT = 16
    AFFINITY_CHANGING = 32
    PROXY = 64
    VMMIO = 128
    PAUSED = 256


# Plain ints for the paths that run at every wake-up.
_WAKEABLE = int(Block.WFI | Block.SUSPENDED)
_SUSPENDED, _POWERED_OFF, _PROXY = int(Block.SUSPENDED), int(Block.POWERED_OFF), int(Block.PROXY)
_KILLED = int(ThreadState.KILLED)
_IGNORED_BY_KILLED = ~int(Block.PROXY | Block.AFFINITY_CHANGING)


class Executor(Protocol):
    """Runs a vCPU's code; the scheduler and the object know no more of it."""

    def run(self, deadline: int, /) -> None:
        """Run guest code until the vCPU blocks, ``vcpu.attention`` asks for the scheduler, or ``deadline`` (ticks) is
        over.
        """

    def power_on(self, entry: int, context: int, /) -> None:
        """Start at ``entry`` (IPA) with ``context`` in X0 the next time it runs."""

    def interrupt(self) -> None:
        """Make ``run`` return soon; may be called while it is running, from inside a callback of it."""

    def set_virq(self, level: bool, /) -> None:
        """Drive the vCPU's virtual IRQ line; may be called while it is running, from inside a callback of it."""

    def kill(self) -> None:
        """Drop all guest state; ``run`` is never called again."""

    def copy_in(self, address: int, size: int, /) -> bytes:
        """Read guest virtual memory under the current stage 1 and stage 2; raises Stage2Fault."""

    def copy_out(self, address: int, data: bytes, /) -> None:
        """Write guest virtual memory under the current stage 1 and stage 2; raises Stage2Fault."""


class Vcpu(KernelObject):
    """thread_t. ``x`` is X0..X30 (uint64_t each); while a native vCPU is on its core, it is the live register file."""

    type = ObjectType.THREAD
    heap_size = 4096

    def __init__(self, partition: Partition | None, hv: Hypervisor) -> None:
        super().__init__(partition)
        self.hv = hv
        self.name = ""
        self.x: MutableSequence[int] = [0] * 31
        self.pc = 0
        self.sp_el0 = 0
        self.sp_el1 = 0
        self.sctlr_el1: int = SCTLR_EL1_RESET
        self.cspace: CSpace | None = None
        self.addrspace: Addrspace | None = None
        self.vic: Vic | None = None
        self.vic_index = 0
        self.gic: CpuInterface | None = None
        self.vpm: VpmGroup | None = None
        self.vpm_index = 0
        self.requested_options = 0
        self.options = 0
        self.affinity = NO_AFFINITY
        self.priority = DEFAULT_PRIORITY
        self.timeslice_ns = DEFAULT_TIMESLICE_NS
        self.thread_state = ThreadState.INIT
        self.blocks = int(Block.LIFECYCLE | Block.POWERED_OFF)
        self.executor: Executor | None = None
        # Set while the executor must come back to the hypervisor before the next guest instruction.
        self.attention = False
        self.virq = False
        self.queued_on = NO_AFFINITY
        self.remaining_ns = DEFAULT_TIMESLICE_NS
        self.run_ticks = 0
        self.yield_target: Vcpu | None = None
        # As the caller of vcpu_run, and as the vCPU that is run (objects.md 7).
        self.proxy: ProxyRun | None = None
        self.proxied = False
        self.proxy_caller: Vcpu | None = None
        self.vmmio: VmmioAccess | None = None
        self.vmmio_answer = 0
        # Has run since it was powered on.
        self.started = False
        self.suspend_word = 0
        self.suspend_resume: tuple[int, int] | None = None
        self.reset_state: tuple[int, int] | None = None
        # How the two encodings write results, and the one that a deferred call will use.
        self.answer_native: Answer = self._answer_native
        self.answer_smccc: Answer = self._answer_smccc
        self.complete: Answer = self._answer_native
        self.last_failure: HypervisorError | None = None
        self.entropy_calls: deque[int] = deque()
        self.halt_source = VirqSource(self, "vcpu halt", always_edge=True)
        self.wakeup_source = VirqSource(self, "vcpu run wakeup")
        self.virtual_timer: GenericTimer = GenericTimer(self, VIRTUAL_TIMER_PPI, "virtual timer")
        self.physical_timer: GenericTimer = GenericTimer(self, PHYSICAL_TIMER_PPI, "physical timer")
        self.performance_monitor: PerformanceMonitor = PerformanceMonitor(self)

    # -- properties ----------------------------------------------------------------------------------------------------

    @property
    def vmid(self) -> int:
        """VMID of the address space, 0 before one is attached."""
        return self.addrspace.vmid if self.addrspace is not None else 0

    @property
    def pinned(self) -> bool:
        """The vCPU cannot migrate."""
        return self.options & (VcpuOption.PINNED | VcpuOption.HLOS_VM) != 0

    @property
    def critical(self) -> bool:
        """The system stops when this vCPU exits."""
        return self.options & (VcpuOption.CRITICAL | VcpuOption.HLOS_VM) != 0

    @property
    def killed(self) -> bool:
        """Asked to die and not dead yet."""
        return self.thread_state == _KILLED

    @property
    def powered_off(self) -> bool:
        """Not powered on, or gone."""
        return self.blocks & _POWERED_OFF != 0

    @property
    def runnable(self) -> bool:
        """No block reason keeps it from running (affinity is the scheduler's business)."""
        if self.thread_state == _KILLED:
            return self.blocks & ~_IGNORED_BY_KILLED == 0
        return self.blocks == 0

    # -- blocking ------------------------------------------------------------------------------------------------------

    def block(self, reason: int) -> None:
        """Add a block reason; a running vCPU leaves its executor before the next instruction."""
        self.blocks |= reason
        self.attention = True
        self.hv.scheduler.update(self)

    def unblock(self, reason: int) -> None:
        """Remove a block reason; the last one makes the vCPU ready."""
        if self.blocks & reason:
            self.blocks &= ~reason
            self.hv.scheduler.update(self)

    def set_virq(self, pending: bool) -> None:
        """The VIC's output towards this vCPU: a deliverable interrupt is pending. Also the wake-up event (objects.md
        10.6).
        """
        self.virq = pending
        executor = self.executor
        if executor is not None:
            executor.set_virq(pending)
        if pending:
            if self.blocks & _WAKEABLE:
                self.wake()
            elif self.yield_target is not None:
                # A directed yield ends when the yielder gets a wake-up (objects.md 6).
                self.hv.scheduler.end_yield(self)

    def wake(self) -> None:
        """Leave WFI or suspend; a vCPU that waits to be run by its proxy scheduler tells it."""
        resume = self.suspend_resume
        if resume is not None and self.blocks & _SUSPENDED:
            # A power-down suspend comes back through the entry point (objects.md 5.2, warm reset).
            self.suspend_resume = None
            try:
                self._start(*resume)
            except HypervisorError as failure:
                self.fault(str(failure))
        self.unblock(_WAKEABLE)
        if self.blocks & _PROXY:
            self.wakeup_source.assert_(edge_only=True)

    # -- configuration -------------------------------------------------------------------------------------------------

    def _activate(self) -> None:
        # The first that objects says why: places that are taken, then what is missing, the options last.
        if self.vpm is not None:
            self.vpm.check_free(self.vpm_index)
        if self.vic is not None:
            self.vic.check_free(self.vic_index)
        if self.addrspace is None:
            raise HypervisorError(Error.OBJECT_CONFIG, f"{self} has no address space")
        if self.vic is None:
            raise HypervisorError(Error.ARGUMENT_INVALID, f"{self} has no VIC for its timer interrupts")
        if self.cspace is None:
            raise HypervisorError(Error.OBJECT_CONFIG, f"{self} has no capability space")
        options = self.requested_options
        self._check_options(options)
        self.options = options
        # Refuses forwarded PPIs that this vCPU cannot have; the slot and the three PPIs below are free.
        self.vic.vcpu_activated(self)
        if self.vpm is not None:
            self.vpm.vcpu_activated(self)
        self.vic.bind_private(self.virtual_timer.source, self, VIRTUAL_TIMER_PPI)
        self.vic.bind_private(self.physical_timer.source, self, PHYSICAL_TIMER_PPI)
        self.vic.bind_private(self.performance_monitor.source, self, PPI_PMU)
        self.remaining_ns = self.timeslice_ns
        if options & VcpuOption.VCPU_RUN_SCHEDULED:
            self.set_proxied()
        self.thread_state = ThreadState.READY
        self.blocks &= ~int(Block.LIFECYCLE)
        # An active thread keeps itself alive until it exits (objects.md 1.1).
        self.get()
        self.hv.vcpu_activated(self)

    def _check_options(self, options: int) -> None:
        privileged = self.partition is None or self.partition.privileged
        hlos = options & VcpuOption.HLOS_VM
        if options & VcpuOption.SVE_ALLOWED and not hlos:
            raise HypervisorError(Error.OBJECT_CONFIG, f"{self}: SVE is allowed for the primary VM's vCPUs only")
        if options & (VcpuOption.CRITICAL | VcpuOption.HLOS_VM) and not privileged:
            raise HypervisorError(Error.OBJECT_CONFIG, f"{self}: a critical vCPU needs a privileged partition")
        if (hlos or options & VcpuOption.PINNED) and self.affinity == NO_AFFINITY:
            raise HypervisorError(Error.OBJECT_CONFIG, f"{self}: a pinned vCPU needs an affinity")
        if hlos and self.hv.scheduler.primary(self.affinity) is not None:
            raise HypervisorError(Error.OBJECT_CONFIG, f"{self}: CPU {self.affinity} has a primary vCPU already")

    # -- power ---------------------------------------------------------------------------------------------------------

    def power_on(self, entry: int | None, context: int | None) -> None:
        """Reset EL1, set PC and X0 unless preserved (None), and unblock (objects.md 5.2). BUSY unless powered off."""
        if not self.powered_off:
            # Recorded: dying does not power off, so this comes first (reference.md 5).
            raise HypervisorError(Error.BUSY, f"{self} is powered on")
        if self.thread_state != ThreadState.READY:
            raise HypervisorError(Error.FAILURE, f"{self} has been {self.thread_state.name.lower()}")
        self._start(self.pc if entry is None else entry, self.x[0] if context is None else context)
        was_proxied = self.blocks & int(Block.PROXY)
        self.started = not was_proxied
        self.unblock(int(Block.POWERED_OFF))
        if was_proxied:
            self.wakeup_source.assert_(edge_only=True)

    def _start(self, entry: int, context: int) -> None:
        """EL1 in reset, code at ``entry`` (IPA) with ``context`` in X0; FAILURE where the host cannot run it."""
        self.executor = self.hv.executor_for(self, entry)
        self.sctlr_el1 = SCTLR_EL1_RESET
        self.pc = entry
        self.x[0] = context
        self.executor.power_on(entry, context)

    def power_off(self) -> None:
        """Stop at once: timers off, executor dropped; may be powered on again."""
        self.virtual_timer.disable()
        self.physical_timer.disable()
        if self.gic is not None:
            self.gic.stop()
        self.blocks &= ~_WAKEABLE
        self.block(int(Block.POWERED_OFF))
        if self.vpm is not None:
            self.vpm.vcpu_stopped(self)

    def fault(self, sentence: str) -> None:
        """Stop for good with state 'fault' and raise the halt interrupt (objects.md 4.1, 5.4)."""
        self.block(int(Block.FAULT))
        self.hv.vcpu_faulted(self, sentence)
        self.halt_source.assert_(edge_only=True)

    def kill(self) -> None:
        """Ask the thread to die: it exits the next time it would return to the guest (objects.md 5.4)."""
        if self.thread_state in (ThreadState.KILLED, ThreadState.EXITED):
            return
        self.thread_state = ThreadState.KILLED
        self.attention = True
        self.hv.scheduler.end_yield(self)
        if self.blocks & int(Block.PROXY):
            self.wakeup_source.assert_(edge_only=True)
        self.hv.scheduler.hasten(self)
        self.hv.scheduler.update(self)
        if self.executor is not None:
            self.executor.interrupt()

    def exit(self) -> None:
        """Terminal: leave the VIC and the groups and give up the thread's reference to itself."""
        if self.thread_state == ThreadState.EXITED:
            return
        self.thread_state = ThreadState.EXITED
        self.hv.scheduler.end_yield(self)
        if self.proxy is not None:
            self.proxy.abandon()
        self.blocks |= int(Block.LIFECYCLE)
        self.hv.scheduler.update(self)
        self.virtual_timer.disable()
        self.physical_timer.disable()
        if self.gic is not None:
            self.gic.stop()
        if self.executor is not None:
            self.executor.kill()
            self.executor = None
        if self.vpm is not None:
            self.vpm.vcpu_stopped(self)
        self.hv.vcpu_exited(self)
        self.put()

    def _deactivate(self) -> None:
        self.hv.scheduler.forget(self)
        self.halt_source.unbind()
        self.wakeup_source.unbind()
        self.virtual_timer.unbind()
        self.physical_timer.unbind()
        self.performance_monitor.source.unbind()
        if self.vic is not None:
            self.vic.vcpu_gone(self)
        if self.vpm is not None:
            self.vpm.vcpu_gone(self)

    def _cleanup(self) -> None:
        if self.executor is not None:
            self.executor.kill()
            self.executor = None
        if self.addrspace is not None:
            self.addrspace.detach_thread(self)
        for holder in (self.cspace, self.vic, self.vpm):
            if holder is not None:
                holder.put()
        self.cspace = self.vic = self.vpm = None

    def set_proxied(self) -> None:
        """From now on only ``vcpu_run`` gives it time (objects.md 7)."""
        self.proxied = True
        self.hv.scheduler.end_yield(self)
        self.blocks |= int(Block.PROXY)
        self.hv.scheduler.update(self)

    def attach_cspace(self, cspace: CSpace) -> None:
        """Set the capability space, replacing an earlier one; OBJECT_STATE unless the thread is INIT."""
        self.require_init()
        cspace.get()
        if self.cspace is not None:
            self.cspace.put()
        self.cspace = cspace

    @property
    def is_init(self) -> bool:
        """Still configurable."""
        return self.state == INIT

    # -- guest buffers -------------------------------------------------------------------------------------------------

    def copy_in(self, address: int, size: int) -> bytes:
        """``size`` bytes from guest virtual ``address`` under the vCPU's current translation; raises Stage2Fault."""
        assert self.executor is not None
        return self.executor.copy_in(address, size)

    def copy_out(self, address: int, data: bytes) -> None:
        """Write ``data`` to guest virtual ``address`` under the vCPU's current translation; raises Stage2Fault."""
        assert self.executor is not None
        self.executor.copy_out(address, data)

    # -- answers -------------------------------------------------------------------------------------------------------

    def _answer_native(self, results: tuple[int, ...]) -> None:
        """Registers after HVC #0x60xx: results, other X0..X7 zero, X8 kept, X9 the return address, X10..X17 zero."""
        count = len(results)
        x = self.x
        x[:8] = results + _ZEROS[8 - count]
        x[9:18] = (self.pc, 0, 0, 0, 0, 0, 0, 0, 0)

    def _answer_smccc(self, results: tuple[int, ...]) -> None:
        """Registers after an SMCCC hypercall: the declared results, nothing else (hypercalls.md 1.2)."""
        self.x[: len(results)] = results

    def __str__(self) -> str:
        return self.name or super().__str__()
