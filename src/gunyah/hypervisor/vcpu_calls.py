"""Hypercalls on vCPUs and the scheduler (hypercalls.md 3.7 and 3.8)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from gunyah.abi.errors import Error
from gunyah.abi.objects import ObjectType, ThreadRight
from gunyah.abi.vcpu import (
    HINT_MASK,
    POWEROFF_LAST_VCPU,
    POWERON_PRESERVE_CONTEXT,
    POWERON_PRESERVE_ENTRY_POINT,
    TIMESLICE_MAX,
    TIMESLICE_MIN,
    VCPU_PRIORITY_MAX,
    YIELD_IMPLEMENTATION_DEFINED,
    VcpuRegisterSet,
    VcpuRunState,
    VcpuVirqType,
    YieldHint,
)
from gunyah.hypervisor import proxy
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.hypercall import DEFERRED, Deferred, Handler
from gunyah.hypervisor.objects import ACTIVE, INIT
from gunyah.hypervisor.scheduler import CORES
from gunyah.hypervisor.vcpu import ThreadState

if TYPE_CHECKING:
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.vcpu import Vcpu
    from gunyah.hypervisor.vic import Vic
    from gunyah.hypervisor.virq import VirqSource

__all__ = ["HANDLERS"]

_NO_CPU = 0xFFFF


def thread(caller: Vcpu, capid: int, rights: int, *, active: bool) -> Vcpu:
    """The vCPU behind a capability id of the caller, for look-ups that depend on other arguments."""
    cspace = caller.cspace
    assert cspace is not None
    lookup = cspace.lookup if active else cspace.lookup_any_state
    return cast("Vcpu", lookup(capid, ObjectType.THREAD, rights))


def vcpu_configure(hv: Hypervisor, caller: Vcpu, vcpu: Vcpu, options: int) -> None:
    """0x6034: store the requested options; they are judged at activation."""
    vcpu.requested_options = options


def vcpu_poweron(hv: Hypervisor, caller: Vcpu, vcpu: Vcpu, entry: int, context: int, flags: int) -> None:
    """0x6038: ``entry`` is an IPA, not checked."""
    vcpu.power_on(
        None if flags & POWERON_PRESERVE_ENTRY_POINT else entry,
        None if flags & POWERON_PRESERVE_CONTEXT else context,
    )


def vcpu_poweroff(hv: Hypervisor, caller: Vcpu, vcpu: Vcpu, flags: int) -> Deferred:
    """0x6039: only the caller itself; does not return when it succeeds."""
    if vcpu is not caller:
        raise HypervisorError(Error.ARGUMENT_INVALID, f"{caller} asks to power off {vcpu}: only itself is allowed")
    last = flags & POWEROFF_LAST_VCPU != 0
    group = vcpu.vpm
    if group is None:
        allowed = last
    elif group.aggregates:
        allowed = last == (group.online == 1)
    else:
        allowed = True
    if not allowed:
        raise HypervisorError(Error.DENIED, f"{vcpu}: last-vCPU flag {int(last)} is not what its power group says")
    vcpu.power_off()
    return DEFERRED


def vcpu_kill(hv: Hypervisor, caller: Vcpu, vcpu: Vcpu) -> None:
    """0x603A."""
    vcpu.kill()


def vcpu_set_affinity(hv: Hypervisor, caller: Vcpu, capid: int, cpu: int) -> None:
    """0x603D: ``cpu`` 0xffff takes it off all cores; it then runs only where somebody yields to it."""
    if cpu != _NO_CPU and cpu >= CORES:
        raise HypervisorError(Error.ARGUMENT_INVALID, f"CPU {cpu} does not exist, there are {CORES}")
    rights = ThreadRight.AFFINITY | ThreadRight.DISABLE if cpu == _NO_CPU else ThreadRight.AFFINITY
    vcpu = thread(caller, capid, int(rights), active=False)
    if vcpu.state not in (INIT, ACTIVE):
        raise HypervisorError(Error.OBJECT_STATE, f"{vcpu} is neither INIT nor ACTIVE")
    target = -1 if cpu == _NO_CPU else cpu
    if target == vcpu.affinity:
        return
    if vcpu.state == ACTIVE and vcpu.pinned:
        raise HypervisorError(Error.DENIED, f"{vcpu} is pinned to CPU {vcpu.affinity}")
    vcpu.affinity = target
    if vcpu.state == ACTIVE:
        hv.scheduler.update(vcpu)


def vcpu_set_priority(hv: Hypervisor, caller: Vcpu, vcpu: Vcpu, priority: int) -> None:
    """0x6046: before activation only."""
    if priority > VCPU_PRIORITY_MAX:
        raise HypervisorError(Error.DENIED, f"{vcpu}: priority {priority} is above {VCPU_PRIORITY_MAX}")
    vcpu.require_init()
    vcpu.priority = priority


def vcpu_set_timeslice(hv: Hypervisor, caller: Vcpu, vcpu: Vcpu, nanoseconds: int) -> None:
    """0x6047: before activation only."""
    vcpu.require_init()
    if not TIMESLICE_MIN <= nanoseconds <= TIMESLICE_MAX:
        raise HypervisorError(
            Error.ARGUMENT_INVALID,
            f"{vcpu}: a time slice of {nanoseconds} ns is not in {TIMESLICE_MIN}..{TIMESLICE_MAX}",
        )
    vcpu.timeslice_ns = nanoseconds


def _virq_source(vcpu: Vcpu, kind: int) -> VirqSource:
    if kind == VcpuVirqType.HALT:
        return vcpu.halt_source
    if kind == VcpuVirqType.VCPU_RUN_WAKEUP:
        return vcpu.wakeup_source
    raise HypervisorError(Error.ARGUMENT_INVALID, f"{vcpu}: {kind} is not a kind of vCPU interrupt")


def vcpu_bind_virq(hv: Hypervisor, caller: Vcpu, vcpu: Vcpu, vic: Vic, virq: int, kind: int) -> None:
    """0x605C: binding the wake-up interrupt turns on proxy scheduling."""
    source = _virq_source(vcpu, kind)
    wakeup = kind == VcpuVirqType.VCPU_RUN_WAKEUP
    if wakeup and (vcpu is caller or vcpu is hv.scheduler.running):
        raise HypervisorError(Error.BUSY, f"{vcpu} is running")
    vic.bind_shared(source, virq)
    if wakeup and not vcpu.proxied:
        vcpu.set_proxied()


def vcpu_unbind_virq(hv: Hypervisor, caller: Vcpu, vcpu: Vcpu, kind: int) -> None:
    """0x605D: proxy scheduling stays on, as in the reference."""
    _virq_source(vcpu, kind).unbind()


def vcpu_register_write(hv: Hypervisor, caller: Vcpu, vcpu: Vcpu, kind: int, index: int, value: int) -> None:
    """0x6064: registers of a vCPU that is powered off."""
    if vcpu.thread_state in (ThreadState.KILLED, ThreadState.EXITED):
        raise HypervisorError(Error.OBJECT_STATE, f"{vcpu} has been {vcpu.thread_state.name.lower()}")
    if not vcpu.powered_off:
        raise HypervisorError(Error.BUSY, f"{vcpu} is powered on")
    if kind == VcpuRegisterSet.X:
        valid = index < 31
    elif kind == VcpuRegisterSet.PC:
        valid = index == 0 and value % 4 == 0
    elif kind == VcpuRegisterSet.SP_EL:
        valid = index < 2 and value % 16 == 0
    else:
        valid = False
    if not valid:
        raise HypervisorError(
            Error.ARGUMENT_INVALID, f"{vcpu}: register set {kind} index {index} value {value:#x} cannot be written"
        )
    if kind == VcpuRegisterSet.X:
        vcpu.x[index] = value
    elif kind == VcpuRegisterSet.PC:
        vcpu.pc = value
    elif index == 0:
        vcpu.sp_el0 = value
    else:
        vcpu.sp_el1 = value


def vcpu_run(
    hv: Hypervisor, caller: Vcpu, vcpu: Vcpu, data1: int, data2: int, data3: int
) -> Deferred | tuple[int, int, int, int]:
    """0x6065: results state and three words of state data, when the target stops or the caller has to go on."""
    answer = proxy.start(caller, vcpu, (data1, data2, data3))
    return DEFERRED if answer is None else answer


def vcpu_run_check(hv: Hypervisor, caller: Vcpu, vcpu: Vcpu) -> tuple[int, int, int, int]:
    """0x6068: why a vCPU is stopped, without running it."""
    if vcpu.runnable:
        raise HypervisorError(Error.BUSY, f"{vcpu} can run")
    state = proxy.run_state(vcpu)
    if state[0] in (VcpuRunState.READY, VcpuRunState.BLOCKED):
        # Recorded: the state word says "blocked" beside the error.
        raise HypervisorError(Error.BUSY, f"{vcpu} can run", (int(VcpuRunState.BLOCKED),))
    return state


def scheduler_yield(hv: Hypervisor, caller: Vcpu, control: int, argument: int) -> None:
    """0x603B: plain yield, or a directed one to the vCPU whose capability is ``argument``."""
    hint = control & HINT_MASK
    if control & YIELD_IMPLEMENTATION_DEFINED or hint not in (YieldHint.YIELD, YieldHint.YIELD_TO_THREAD):
        raise HypervisorError(Error.ARGUMENT_INVALID, f"{caller}: yield control {control:#x} names no kind of yield")
    if hint == YieldHint.YIELD_TO_THREAD:
        hv.scheduler.yield_to(caller, thread(caller, argument, int(ThreadRight.YIELD_TO), active=True))
    else:
        hv.scheduler.yield_slice(caller)


HANDLERS: Mapping[str, Handler] = {
    "vcpu_configure": vcpu_configure,
    "vcpu_poweron": vcpu_poweron,
    "vcpu_poweroff": vcpu_poweroff,
    "vcpu_kill": vcpu_kill,
    "vcpu_set_affinity": vcpu_set_affinity,
    "vcpu_set_priority": vcpu_set_priority,
    "vcpu_set_timeslice": vcpu_set_timeslice,
    "vcpu_bind_virq": vcpu_bind_virq,
    "vcpu_unbind_virq": vcpu_unbind_virq,
    "vcpu_register_write": vcpu_register_write,
    "vcpu_run": vcpu_run,
    "vcpu_run_check": vcpu_run_check,
    "scheduler_yield": scheduler_yield,
}
