"""The machine as a debugger's target: VMs and vCPUs, stopped and resumed, and why they stopped.

A vCPU is stopped with the block reason PAUSED, so that the scheduler passes it by like one that sleeps; the others run
on. Native vCPUs run through ``Target.run`` while a debugger is there (hypervisor.native_cpu), which sets up debug
registers, watches for the debugger's exceptions and says what happened to ``on_stop``. A Python VM is stopped and
resumed the same way, at its next call; it has no instructions to step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from gunyah.abi.types import VMID_HLOS
from gunyah.host.gdb.breakpoints import Breakpoints, Watch
from gunyah.host.gdb.debug_registers import DebugRegisters
from gunyah.host.gdb.memory import GuestMemory
from gunyah.host.gdb.protocol import Thread
from gunyah.hypervisor.native_executor import NativeExecutor
from gunyah.hypervisor.python_executor import PythonExecutor
from gunyah.hypervisor.vcpu import Block
from gunyah.machine.engine import EC, EXECUTE
from gunyah.machine.engine.debug import Debug
from gunyah.machine.engine.decode import SysregAccess

if TYPE_CHECKING:
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.native_cpu import NativeCpu
    from gunyah.hypervisor.vcpu import Vcpu

__all__ = ["NotThere", "Step", "Stop", "Target", "Why", "first_vcpu", "is_python", "thread_of", "virtual_machines"]

_PAUSED: Final = int(Block.PAUSED)
_PSTATE_SS: Final = 1 << 21
_BKPT32: Final = 0x38
_LOWER_TO_SAME: Final = 1 << 26
"""The exception class of a debug exception that EL1 takes from itself is one above that from a lower level."""


class Why(Enum):
    """Why a vCPU has stopped."""

    SOFTWARE = "swbreak"
    HARDWARE = "hwbreak"
    WRITE = "watch"
    READ = "rwatch"
    ACCESS = "awatch"
    STEP = "step"
    ASKED = "asked"
    """The debugger asked for it and knows."""
    INTERRUPT = "interrupt"
    FAULT = "fault"
    """The hypervisor stopped it for good."""
    GONE = "gone"
    """The whole VM has ended."""


@dataclass(frozen=True, slots=True)
class Stop:
    """One stop: which vCPU, why, and the watched address that was touched."""

    thread: Thread
    why: Why
    address: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """Step on while PC is in ``first <= PC < end``; at least one instruction."""

    first: int = 0
    end: int = 0


class NotThere(LookupError):
    """There is no such VM or vCPU (any more)."""


def thread_of(vcpu: Vcpu) -> Thread:
    """PID is the VMID, TID the index in the VM plus 1."""
    return Thread(vcpu.vmid, vcpu.vic_index + 1)


def is_python(vcpu: Vcpu) -> bool:
    """Its code is a Python function."""
    return isinstance(vcpu.executor, PythonExecutor)


def virtual_machines(hv: Hypervisor) -> dict[int, list[Vcpu]]:
    """vCPUs by VMID and index, the primary VM first; nobody when the machine has stopped."""
    found: dict[int, list[Vcpu]] = {}
    if hv.stopped is None:
        for vcpu in hv.vcpus.values():
            if vcpu.vmid:
                found.setdefault(vcpu.vmid, []).append(vcpu)
    for vcpus in found.values():
        vcpus.sort(key=lambda vcpu: vcpu.vic_index)
    return dict(sorted(found.items(), key=lambda item: (item[0] != VMID_HLOS, item[0])))


def first_vcpu(hv: Hypervisor) -> Vcpu | None:
    """The vCPU that gdb is shown first: of the primary VM if that is a native one, or of another native one."""
    everybody = [vcpu for vcpus in virtual_machines(hv).values() for vcpu in vcpus]
    native = [vcpu for vcpu in everybody if isinstance(vcpu.executor, NativeExecutor)]
    return next(iter(native or everybody), None)


class Target:
    """One machine under one debugger. ``on_stop`` hears of every stop that the debugger did not ask for itself.

    ``whole_vms``: a vCPU that stops takes the other vCPUs of its VM along (gdb's all-stop mode).
    """

    def __init__(self, hv: Hypervisor, on_stop: Callable[[Stop], object]) -> None:
        self.hv = hv
        self.whole_vms = True
        self.breakpoints = Breakpoints(hv.memory)
        self.memory = GuestMemory(hv, self.breakpoints)
        self._on_stop = on_stop
        self._native: NativeCpu | None = None
        self._debug: Debug | None = None
        self._handlers: tuple[Callable[[int], bool], ...] = ()
        self._registers: dict[int, DebugRegisters] = {}
        self._held: set[int] = set()
        self._steps: dict[int, Step] = {}
        self._faulted = {v.serial for v in hv.vcpus.values() if v.blocks & int(Block.FAULT)}
        # What the exception that the engine came back with was: set in the middle of it, dealt with behind it.
        self._caught: Stop | None = None
        self._pass_over = False
        self._stepped = False
        self.connect()

    # -- who is there --------------------------------------------------------------------------------------------------

    def vms(self) -> dict[int, list[Vcpu]]:
        """vCPUs by VMID, the primary VM first; nobody when the machine has stopped."""
        return virtual_machines(self.hv)

    def vm(self, vmid: int) -> list[Vcpu]:
        """The vCPUs of a VM by index; raises NotThere."""
        try:
            return self.vms()[vmid]
        except KeyError:
            raise NotThere(f"there is no VM {vmid}") from None

    def vcpu(self, thread: Thread) -> Vcpu:
        """One vCPU; raises NotThere."""
        for vcpu in self.vm(thread.pid):
            if vcpu.vic_index == thread.tid - 1:
                return vcpu
        raise NotThere(f"VM {thread.pid} has no vCPU {thread.tid - 1}")

    # -- stop and go ---------------------------------------------------------------------------------------------------

    def held(self, vcpu: Vcpu) -> bool:
        """The debugger keeps it from running."""
        return vcpu.serial in self._held

    def hold(self, vcpus: Iterable[Vcpu]) -> None:
        """Stop them where they are."""
        vmids = set()
        for vcpu in vcpus:
            self._steps.pop(vcpu.serial, None)
            self._held.add(vcpu.serial)
            vcpu.block(_PAUSED)
            vmids.add(vcpu.vmid)
        for vmid in vmids:
            self._stop_time(vmid)

    def resume(self, vcpu: Vcpu, step: Step | None = None) -> None:
        """Let it run on, or step."""
        self.connect()
        if step is not None:
            self._steps[vcpu.serial] = step
        else:
            self._steps.pop(vcpu.serial, None)
        self._let_go(vcpu)

    def _let_go(self, vcpu: Vcpu) -> None:
        if vcpu.serial in self._held:
            self._start_time(vcpu.vmid)
            self._held.discard(vcpu.serial)
            vcpu.unblock(_PAUSED)

    def _stop_time(self, vmid: int) -> None:
        """A VM that stands still as a whole does not see time pass."""
        vcpus = self.vms().get(vmid, [])
        if all(self.held(vcpu) or vcpu.powered_off for vcpu in vcpus):
            for vcpu in vcpus:
                vcpu.virtual_timer.stop()

    def _start_time(self, vmid: int) -> None:
        for vcpu in self.vms().get(vmid, []):
            vcpu.virtual_timer.start()
            if isinstance(vcpu.executor, NativeExecutor):
                vcpu.executor.virtual_counter_changed()

    def look(self) -> None:
        """Tell of vCPUs that the hypervisor has stopped for good since the last look."""
        for vcpu in list(self.hv.vcpus.values()):
            if vcpu.blocks & int(Block.FAULT) and vcpu.serial not in self._faulted:
                self._faulted.add(vcpu.serial)
                self._stopped(vcpu, Stop(thread_of(vcpu), Why.FAULT))

    def kill(self, vmid: int) -> None:
        """End a VM; the machine with it if it is critical."""
        vcpus = self.vm(vmid)
        if any(vcpu.critical for vcpu in vcpus):
            self.hv.stop("off", f"VM {vmid} was killed from gdb")
            return
        for vcpu in vcpus:
            vcpu.kill()
        self.release(vmid)

    def release(self, vmid: int) -> None:
        """Let go of a VM: no breakpoints, everybody runs."""
        self.breakpoints.clear(vmid)
        for vcpu in self.vms().get(vmid, []):
            self._give_back(vcpu)
            self.resume(vcpu)
        self._set_watches()

    def close(self) -> None:
        """Let go of everything; the machine is as if no debugger had been there."""
        self.breakpoints.clear()
        self._set_watches()
        for vcpu in list(self.hv.vcpus.values()):
            self._give_back(vcpu)
            self._steps.pop(vcpu.serial, None)
            self._let_go(vcpu)
        native = self._native
        if native is not None:
            exits = native.core.exits
            exits.debug, exits.other = self._handlers
            native.debugger = None
        self._native = None

    def connect(self) -> None:
        """Stand beside the CPU engine, as soon as there is one."""
        native = self.hv.native_cpu
        if native is None or self._native is not None:
            return
        self._native = native
        self._debug = Debug(native.core)
        exits = native.core.exits
        self._handlers = exits.debug, exits.other
        exits.debug, exits.other = self._debug_exception, self._other_exception
        native.debugger = self

    # -- watchpoints ---------------------------------------------------------------------------------------------------

    def watch(self, watch: Watch) -> None:
        """Set a watchpoint; raises NoMore."""
        self.connect()
        self.breakpoints.insert_watch(watch)

    def unwatch(self, watch: Watch) -> None:
        """Give up a watchpoint."""
        self.breakpoints.remove_watch(watch)

    def _set_watches(self) -> None:
        if self._debug is not None:
            self._debug.watch([each for watch in self.breakpoints.watches for each in watch.ranges])

    # -- running native vCPUs ------------------------------------------------------------------------------------------

    def run(self, executor: NativeExecutor, deadline: int) -> None:
        """Run the vCPU that is on the engine until its turn is over or something stops it."""
        vcpu = executor.vcpu
        native, debug = self._native, self._debug
        assert native is not None and debug is not None
        core = native.core
        step = self._steps.get(vcpu.serial)
        if step is None:
            self._set_watches()
        if step is None and not self.breakpoints.wanted_by(vcpu.vmid):
            self._give_back(vcpu)
            core.run_until(deadline)
            return
        registers = self._registers.get(vcpu.serial)
        if registers is None:
            registers = self._registers[vcpu.serial] = DebugRegisters(executor, core, debug)
        addresses = self.breakpoints.hardware(vcpu.vmid)
        go_on = True
        while go_on:
            self._caught, self._pass_over = None, False
            if step is not None:
                go_on = self._step_on(executor, registers, addresses, step, deadline)
            else:
                debug.armed = any(watch.vmid == vcpu.vmid for watch in self.breakpoints.watches)
                registers.take(addresses, step=False)
                core.run_until(deadline)
                debug.armed = False
                # A breakpoint of another VM in memory that both have, or a near miss: nothing has happened here.
                go_on = self._pass_over and self._one_step(executor, registers, addresses, deadline)
            go_on = go_on and vcpu.runnable and not vcpu.attention and core.clock.ticks() < deadline
        if self._caught is not None:
            self._stopped(vcpu, self._caught)

    def _step_on(
        self, executor: NativeExecutor, registers: DebugRegisters, addresses: list[int], step: Step, deadline: int
    ) -> bool:
        """One instruction of a step; True if more belong to it."""
        assert self._native is not None
        vcpu, core = executor.vcpu, self._native.core
        if not self._one_step(executor, registers, addresses, deadline):
            return False
        pc = executor.context.registers.pc
        if not step.first <= pc < step.end:
            self._caught = Stop(thread_of(vcpu), Why.STEP)
            return False
        pa = core.physical(pc, EXECUTE)
        if pa is not None and self.breakpoints.patched(pa) and self.breakpoints.belongs_to(pa, vcpu.vmid):
            self._caught = Stop(thread_of(vcpu), Why.SOFTWARE)
        elif pc in addresses:
            self._caught = Stop(thread_of(vcpu), Why.HARDWARE)
        return self._caught is None

    def _one_step(
        self, executor: NativeExecutor, registers: DebugRegisters, addresses: list[int], deadline: int
    ) -> bool:
        """Execute one instruction without interrupts, breakpoints and watchpoints; True if it was executed."""
        assert self._native is not None
        vcpu, context = executor.vcpu, executor.context
        core = self._native.core
        before, elr = context.registers.pc, context.registers.elr_el1
        lifted = core.physical(before, EXECUTE)
        if lifted is not None and self.breakpoints.patched(lifted):
            self.breakpoints.lift(lifted)
        else:
            lifted = None
        self._stepped = False
        registers.take(addresses, step=True)
        context.set_virq(False)
        try:
            core.run_until(deadline)
            # What EL2 has done for the vCPU is a step too, and may have ended its turn.
            done = self._stepped or registers.consumed
        finally:
            registers.stepped()
            context.set_virq(vcpu.virq)
            if lifted is not None:
                self.breakpoints.drop(lifted)
        live = context.registers
        if live.pc != before and live.elr_el1 != elr and live.spsr_el1 & _PSTATE_SS:
            # An exception was taken to EL1: the guest is not to see that it was being stepped.
            live.spsr_el1 &= ~_PSTATE_SS
        return done

    def _stopped(self, vcpu: Vcpu, stop: Stop) -> None:
        others = self.vms().get(vcpu.vmid, []) if self.whole_vms else []
        self.hold([vcpu, *(other for other in others if other is not vcpu and not self.held(other))])
        self._on_stop(stop)

    def _give_back(self, vcpu: Vcpu) -> None:
        """Let a vCPU have its debug registers; it goes on the engine for that."""
        registers = self._registers.pop(vcpu.serial, None)
        executor, native = vcpu.executor, self._native
        if registers is None or native is None or not isinstance(executor, NativeExecutor) or not registers.taken:
            return
        if native.current is not executor:
            native.switch_to(executor)
            # The vCPU's registers are the engine's now.
            executor.taken_off()
        registers.give_back()

    # -- exceptions ----------------------------------------------------------------------------------------------------

    def _debug_exception(self, esr: int) -> bool:
        """A debug exception has come to EL2: the debugger's, or the guest's own to be passed on."""
        native = self._native
        assert native is not None
        vcpu, core = native.vcpu, native.core
        assert vcpu is not None
        kind = esr >> 26
        if kind == EC.STEP_LOWER:
            self._stepped = True
            return False
        thread = thread_of(vcpu)
        pc = core.registers.pc
        if kind == EC.BRK64:
            pa = core.physical(pc, EXECUTE)
            if pa is not None and self.breakpoints.patched(pa):
                if self.breakpoints.belongs_to(pa, vcpu.vmid):
                    self._caught = Stop(thread, Why.SOFTWARE)
                else:
                    self._pass_over = True
                return False
        elif kind == EC.BREAKPOINT_LOWER and pc in self.breakpoints.hardware(vcpu.vmid):
            self._caught = Stop(thread, Why.HARDWARE)
            return False
        elif kind == EC.WATCHPOINT_LOWER and self._watched(vcpu):
            return False
        if kind != EC.BRK64 and core.registers.current_el:
            esr += _LOWER_TO_SAME
        core.inject(esr)
        return not vcpu.attention

    def _watched(self, vcpu: Vcpu) -> bool:
        assert self._debug is not None
        hit = self._debug.take_hit()
        if hit is None:
            return False
        for watch in self.breakpoints.watches:
            address = watch.address_of(hit) if watch.vmid == vcpu.vmid else None
            if address is not None:
                why = Why.ACCESS if watch.read and watch.write else Why.WRITE if watch.write else Why.READ
                self._caught = Stop(thread_of(vcpu), why, address)
                return True
        self._pass_over = True
        return True

    def system_register(self, iss: int) -> bool:
        """A trapped register access: one of the debug registers that are taken, or the hypervisor's."""
        native = self._native
        assert native is not None and native.vcpu is not None
        registers = self._registers.get(native.vcpu.serial)
        return registers is not None and registers.taken and registers.access(SysregAccess.from_iss(iss))

    def _other_exception(self, esr: int) -> bool:
        """BKPT of AArch32 code comes to EL2 with the debug exceptions; everything else is the hypervisor's business."""
        native = self._native
        assert native is not None and native.vcpu is not None
        if esr >> 26 != _BKPT32:
            return self._handlers[1](esr)
        native.core.inject(esr)
        return not native.vcpu.attention
