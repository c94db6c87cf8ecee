"""A fresh machine for each scenario: the monitor in place of RM, or as the primary VM under the real RM.

Virtual time, a fixed seed, and the reference's configuration: 8 cores, 1 GB for the primary VM, profile 2023, no
console loopback.
"""

from __future__ import annotations

from collections.abc import Callable

from gunyah.abi import pyimage
from gunyah.guest.cpu import GuestAbort, GuestUndefined, Program
from gunyah.hypervisor import python_executor
from gunyah.hypervisor.boot import RootVm, start_root_vm
from gunyah.hypervisor.hypervisor import Hypervisor
from gunyah.hypervisor.vcpu import Vcpu
from gunyah.machine import board
from gunyah.machine.clock import VirtualClock
from gunyah.machine.empty import attach_empty_slots
from gunyah.machine.memory import PhysicalMemory
from gunyah.machine.pl011 import PL011
from gunyah.machine.pl031 import PL031
from gunyah.vmm.board_tree import board_tree

__all__ = ["Stage"]

EPOCH = 1_704_067_200
"""The machine's date at its start: 2024-01-01."""
SEED = 0x47756E
PATIENCE = 10 * board.COUNTER_FREQUENCY
"""Ticks of virtual time that one scenario may take."""


def _abort(esr: int, far: int, sentence: str) -> Exception:
    return GuestAbort(esr, far, sentence)


def _undefined(sentence: str) -> Exception:
    return GuestUndefined(sentence)


class Stage:
    """One machine, not yet started."""

    def __init__(self, seed: int = SEED) -> None:
        self.memory = PhysicalMemory([(board.RAM.base, board.RAM.size)])
        self.clock = VirtualClock()
        self.hypervisor = Hypervisor(self.memory, self.clock, seed=seed)
        self.root: RootVm | None = None
        self.uart_output = bytearray()
        bus = self.hypervisor.bus
        bus.attach(board.UART.base, board.UART.size, PL011(self.uart_output.extend, lambda level: None))
        attach_empty_slots(bus)
        bus.attach(board.RTC.base, board.RTC.size, PL031(self.clock, EPOCH))

    def register(self, name: str, function: Program) -> int:
        """Make ``function`` a program that an image can name; returns its number."""
        return self.hypervisor.register_program(python_executor.Program(name, function, _abort, _undefined))

    def image_of(self, program: Program) -> bytes:
        """An image that runs ``program`` as a Python VM."""
        return pyimage.pack(self.register("monitor", program))

    def start_root(self, image: bytes) -> None:
        """Boot with ``image`` (at most a page) as the root VM."""
        self.root = start_root_vm(self.hypervisor, image)

    def start_primary(self, image: bytes) -> None:
        """Boot RM, which starts ``image`` as the primary VM."""
        # Here, because a recording of the root VM needs no Resource Manager.
        from gunyah.rm.manager import ResourceManager

        self.memory.write(board.HLOS_ENTRY, image)
        tree = board_tree(memory=[(board.HLOS.base, board.HLOS.size)], cores=board.MAX_CORES)
        self.memory.write(board.HLOS_DEVICE_TREE, tree.pack())
        manager = pyimage.pack(self.register("Resource Manager", ResourceManager().program))
        self.root = start_root_vm(self.hypervisor, manager, extra={"profile": "2023", "console_loopback": False})

    def pause(self, seconds: float) -> None:
        """Let time pass for the monitor that is running."""
        self.clock.advance(int(seconds * board.COUNTER_FREQUENCY))

    def run(self, done: Callable[[], bool]) -> bool:
        """Run until ``done()``; False when the machine stopped, stands still or runs out of patience before."""
        return self.hypervisor.run(done, deadline=self.hypervisor.clock.ticks() + PATIENCE)

    def boot_vcpu(self, vmid: int) -> Vcpu | None:
        """The first vCPU of the VM with that VMID, None while there is none."""
        found = [v for v in self.hypervisor.vcpus.values() if v.vmid == vmid and v.vic_index == 0]
        return found[0] if found else None

    def why_it_ended(self) -> str:
        """A sentence about a machine that did not get to the end of its scenario."""
        hv = self.hypervisor
        if hv.stopped is not None:
            return hv.remarks[-1] if hv.remarks else f"the machine stopped: {hv.stopped}"
        if hv.reports:
            return hv.reports[-1].strip().splitlines()[-1]
        return hv.remarks[-1] if hv.remarks else "everybody waits and nothing can happen any more"

    def close(self) -> None:
        """End every guest; the machine's memory goes with the last reference to it."""
        for vcpu in list(self.hypervisor.vcpus.values()):
            if vcpu.executor is not None:
                vcpu.executor.kill()
