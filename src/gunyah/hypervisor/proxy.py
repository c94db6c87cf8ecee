"""Proxy scheduling: a VMM runs another VM's vCPU in its own time with ``vcpu_run`` (objects.md 7).

The call is answered when the target stops or the caller has to go on: the handler defers, the scheduler runs the
target in the caller's place, and ``finish`` computes the state and writes the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gunyah.abi.errors import Error
from gunyah.abi.smccc import POWER_STATE_DEEPEST
from gunyah.abi.vcpu import VcpuRunState, WakeupSource
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.vcpu import Block, ThreadState

if TYPE_CHECKING:
    from gunyah.hypervisor.vcpu import Vcpu

__all__ = ["ProxyRun", "VmmioAccess", "run_state"]

_PROXY = int(Block.PROXY)
_VMMIO = int(Block.VMMIO)


class VmmioAccess:
    """An access to a declared VMMIO range that waits for the VMM: ``ipa``, ``size`` bytes, ``value`` of a write
    (objects.md 7).
    """

    __slots__ = ("ipa", "size", "value", "write")

    def __init__(self, ipa: int, size: int, write: bool, value: int) -> None:
        self.ipa = ipa
        self.size = size
        self.write = write
        self.value = value


def run_state(vcpu: Vcpu) -> tuple[int, int, int, int]:
    """State and three words of state data of a proxy-scheduled vCPU (objects.md 7's table)."""
    if vcpu.thread_state == ThreadState.EXITED:
        # Before the reset state, which nothing clears: a host that knows no 0x100 would run a dead vCPU for ever.
        return int(VcpuRunState.POWERED_OFF), 1, 0, 0
    blocks = vcpu.blocks
    if vcpu.thread_state == ThreadState.KILLED:
        # It has to be run until it has exited, and nothing that it waits for counts any more.
        return int(VcpuRunState.BLOCKED if blocks & _PROXY else VcpuRunState.READY), 0, 0, 0
    if not blocks & ~_PROXY:
        return int(VcpuRunState.READY), 0, 0, 0
    if vcpu.reset_state is not None:
        kind, cookie = vcpu.reset_state
        return int(VcpuRunState.PSCI_SYSTEM_RESET), kind, cookie, 0
    if blocks & int(Block.FAULT):
        return int(VcpuRunState.FAULT), 0, 0, 0
    if blocks & int(Block.POWERED_OFF):
        return int(VcpuRunState.POWERED_OFF), 0, 0, 0
    access = vcpu.vmmio
    if blocks & _VMMIO and access is not None:
        if access.write:
            return int(VcpuRunState.ADDRSPACE_VMMIO_WRITE), access.ipa, access.size, access.value
        return int(VcpuRunState.ADDRSPACE_VMMIO_READ), access.ipa, access.size, 0
    if blocks & int(Block.SUSPENDED):
        return int(VcpuRunState.EXPECTS_WAKEUP), vcpu.suspend_word, int(WakeupSource.PSCI_CPU_SUSPEND), 0
    if blocks & int(Block.WFI):
        if vcpu.vpm is None:
            # Recorded: WFI is how a vCPU without a group votes for idling, so it shows as a suspend in the deepest
            # state (objects.md 11).
            return int(VcpuRunState.EXPECTS_WAKEUP), POWER_STATE_DEEPEST, int(WakeupSource.PSCI_CPU_SUSPEND), 0
        return int(VcpuRunState.EXPECTS_WAKEUP), 0, int(WakeupSource.WFI), 0
    return int(VcpuRunState.BLOCKED), 0, 0, 0


class ProxyRun:
    """One ``vcpu_run`` in progress."""

    __slots__ = ("caller", "target")

    def __init__(self, caller: Vcpu, target: Vcpu) -> None:
        self.caller = caller
        self.target = target

    def finish(self) -> None:
        """The target stopped, or the caller's turn came: answer the caller's hypercall."""
        state = run_state(self.target)
        self.abandon()
        self.caller.complete((0, *state))

    def abandon(self) -> None:
        """The target runs no more in the caller's time; somebody else may run it."""
        target = self.target
        self.caller.proxy = None
        target.proxy_caller = None
        if target.thread_state != ThreadState.EXITED:
            target.blocks |= _PROXY


def start(caller: Vcpu, target: Vcpu, resume: tuple[int, int, int]) -> tuple[int, int, int, int] | None:
    """Begin ``vcpu_run``: BUSY when the target is not proxy-scheduled or somebody is inside ``vcpu_run`` for it.

    None when ``finish`` answers; the answer itself when the target was only to die, or cannot run.

    DENIED when the target is pinned to another CPU than the caller's.
    """
    if not target.proxied or target.proxy_caller is not None or target is caller:
        raise HypervisorError(Error.BUSY, f"{target} is not proxy-scheduled, or it is being run")
    if target.killed or not target.blocks & ~(_PROXY | _VMMIO):
        # It will run, so it moves to the caller's CPU (objects.md 7); here that costs nothing.
        if target.pinned and target.affinity != caller.affinity:
            raise HypervisorError(
                Error.DENIED, f"{target} is pinned to CPU {target.affinity}, {caller} is on {caller.affinity}"
            )
        target.affinity = caller.affinity
    access = target.vmmio
    if target.blocks & _VMMIO and access is not None:
        target.vmmio = None
        target.vmmio_answer = resume[0]
        target.blocks &= ~_VMMIO
    if target.killed:
        # Nothing of it runs any more. Who kills it and who runs it may be two: neither must find it busy with dying.
        target.exit()
        return run_state(target)
    if target.blocks & ~_PROXY:
        # It cannot run: the answer is its state, and nobody else finds it busy meanwhile.
        return run_state(target)
    target.proxy_caller = caller
    target.started = True
    target.blocks &= ~_PROXY
    caller.proxy = ProxyRun(caller, target)
    caller.hv.scheduler.run_instead(caller, target)
    return None
