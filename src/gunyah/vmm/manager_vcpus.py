"""Runs the vCPUs of a proxy-scheduled VM: a task per vCPU around ``vcpu_run`` (vm-loader.md 6).

The hypervisor runs the guest in the primary VM's place until it stops for a reason of its own, or the primary VM has
an interrupt, or its time slice is over. What the guest waits for arrives as the run-wakeup interrupt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gunyah.abi.errors import Error
from gunyah.abi.rm import HypResource
from gunyah.abi.vcpu import POWEREDOFF_EXITED, VcpuRunState
from gunyah.guest.hypercall import HypercallFailed, Hypercalls
from gunyah.guest.tasks import Task
from gunyah.guest.wait import WaitQueue
from gunyah.linux.services import Services
from gunyah.vmm.secondary_devices import MmioBus

__all__ = ["VcpuLoop"]

_READ, _WRITE = int(VcpuRunState.ADDRSPACE_VMMIO_READ), int(VcpuRunState.ADDRSPACE_VMMIO_WRITE)
_WAIT, _OFF, _RESET = (
    int(VcpuRunState.EXPECTS_WAKEUP),
    int(VcpuRunState.POWERED_OFF),
    int(VcpuRunState.PSCI_SYSTEM_RESET),
)
_READY: Final = int(VcpuRunState.READY)
_FAULT: Final = int(VcpuRunState.FAULT)
_NO_VIRQ = 0xFFFF_FFFF
_TURN_TICKS: Final = 62_500
"""How long a guest that accesses devices keeps the CPU (1 ms): a change of VMs costs both their cached translations."""


class VcpuLoop:
    """One vCPU. ``exits`` counts what stopped it, by VcpuRunState; while ``busy()``, other VMs go first.

    ``give_way`` is called when the vCPU has used up its time: the owner's VMs that the hypervisor schedules come below
    the owner, and would get nothing of a core that it fills with vCPUs that it runs itself.
    """

    def __init__(
        self,
        services: Services,
        hyp: Hypercalls,
        vcpu: HypResource,
        bus: MmioBus,
        name: str,
        busy: Callable[[], bool] = lambda: False,
        give_way: Callable[[], object] = lambda: None,
    ) -> None:
        self._busy = busy
        self._give_way = give_way
        self._services = services
        self._hyp = hyp
        self._capability = vcpu.cap_id
        self._bus = bus
        self.name = name
        self.index = vcpu.label
        self.exits: dict[int, int] = {}
        self.failure = ""
        self._stopping = False
        self._paused = False
        self._event = False
        self._wakeup = WaitQueue(services.scheduler)
        self._irq: int | None = None
        if vcpu.virq not in (0, _NO_VIRQ):
            self._irq = services.interrupts.map_intid(vcpu.virq)
            services.interrupts.request_irq(self._irq, self._woken, name)
        self.task: Task | None = None

    def start(self) -> None:
        """Begin to run the vCPU."""
        self.task = self._services.scheduler.spawn(self._run, name=self.name)

    def _woken(self) -> None:
        self._event = True
        self._wakeup.wake_all()

    def pause(self, paused: bool) -> None:
        """Stop running it at the next exit, or go on."""
        self._paused = paused
        self._woken()

    def stop(self) -> None:
        """Ask the task to end."""
        self._stopping = True
        self._woken()

    def end(self) -> None:
        """Ask the task to end, wait for it, and give the interrupt back."""
        self.stop()
        if self.task is not None:
            self.task.join()
            self.task = None
        if self._irq is not None:
            self._services.interrupts.free_irq(self._irq)
            self._irq = None

    def _sleep(self) -> None:
        if not self._event and not self._stopping:
            self._wakeup.wait()
        self._event = False

    def _run(self) -> None:
        run, bus, exits = self._hyp.vcpu_run, self._bus, self.exits
        scheduler, capability = self._services.scheduler, self._capability
        clock = self._services.cpu.ticks
        answer, turn_ends = 0, 0
        while not self._stopping:
            if self._paused:
                self._sleep()
                continue
            try:
                state, data, size, value = run(capability, answer)
            except HypercallFailed as failure:
                if failure.error in (Error.RETRY, Error.BUSY):
                    scheduler.yield_()
                    continue
                # The vCPU is gone: RM has begun to take the VM away.
                self.failure = failure.sentence
                return
            exits[state] = exits.get(state, 0) + 1
            answer = 0
            if state == _WRITE:
                bus.write(data, size, value)
            elif state == _READ:
                answer = bus.read(data, size)
            elif state == _WAIT:
                self._sleep()
            elif state == _OFF:
                if data & POWEREDOFF_EXITED:
                    return
                self._sleep()
            elif state in (_RESET, _FAULT):
                return
            elif state == _READY:
                self._give_way()
            if self._busy():
                # A reply is due: without this RM waits until the time slice of a guest that never sleeps is over.
                self._hyp.scheduler_yield()
            elif state in (_READ, _WRITE) and clock() < turn_ends:
                continue
            # Other tasks, and whoever shares the process with this VM, come between two exits of a busy guest.
            scheduler.yield_()
            turn_ends = clock() + _TURN_TICKS
