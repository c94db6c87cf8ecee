"""A hypervisor whose root VM does what a test says: hypercalls made from here as if the root VM's code made them."""

from __future__ import annotations

from dataclasses import dataclass

from gunyah.abi import pyimage
from gunyah.abi.errors import Error
from gunyah.abi.hypercalls import BY_NAME
from gunyah.abi.types import U64
from gunyah.guest.cpu import Cpu, GuestAbort, GuestUndefined
from gunyah.hypervisor.boot import RootVm, start_root_vm
from gunyah.hypervisor.hypervisor import Hypervisor
from gunyah.hypervisor.python_executor import Program
from gunyah.hypervisor.vcpu import Vcpu
from gunyah.machine.clock import VirtualClock
from gunyah.machine.memory import PhysicalMemory

RAM_BASE, RAM_SIZE = 0x4000_0000, 0x8000_0000
SCRATCH = 0x8048_8000


@dataclass
class Answer:
    """What a call answered: ``error`` as a signed number, ``results`` after it."""

    error: int
    results: tuple[int, ...]

    @property
    def ok(self) -> bool:
        return self.error == 0


def machine(seed: int = 1) -> Hypervisor:
    """A hypervisor on a virtual clock, nothing started."""
    return Hypervisor(PhysicalMemory([(RAM_BASE, RAM_SIZE)]), VirtualClock(), seed=seed)


def load(hv: Hypervisor, function: object, name: str = "test") -> bytes:
    """The image of a Python function."""
    program = Program(name, function, lambda esr, far, text: GuestAbort(esr, far, text), GuestUndefined)  # type: ignore[arg-type]
    return pyimage.pack(hv.register_program(program))


def sleep_for_ever(cpu: Cpu, x0: int) -> None:
    """A program that waits for interrupts and does nothing about them."""
    while True:
        cpu.wfi()


class RootRig:
    """The root VM, its capabilities, and ``call``."""

    def __init__(self, seed: int = 1) -> None:
        self.hv = machine(seed)
        self.root: RootVm = start_root_vm(self.hv, load(self.hv, sleep_for_ever))
        self.vcpu: Vcpu = self.root.vcpu
        self.partition = self.root.capabilities["partition_capid"]
        self.cspace = self.root.capabilities["cspace_capid"]
        self.vic = self.root.capabilities["vic"]
        self.addrspace = self.root.capabilities["addrspace_capid"]
        self.own_vcpu = self.root.capabilities["vcpu_capid"]

    def call(self, name: str, *inputs: int, vcpu: Vcpu | None = None) -> Answer:
        """Make hypercall ``name`` in the native encoding; reserved arguments are filled in."""
        caller = vcpu if vcpu is not None else self.vcpu
        call = BY_NAME[name]
        given = iter(inputs)
        x = caller.x
        for register in range(8):
            x[register] = 0
        for register, argument in enumerate(call.arguments):
            if argument.kind == "res0":
                x[register] = 0
            elif argument.kind == "res1":
                x[register] = U64
            else:
                x[register] = next(given) & U64
        self.hv.dispatcher.hvc(caller, call.hvc)
        error = x[0] & 0xFFFF_FFFF
        return Answer(error - (1 << 32) if error >> 31 else error, tuple(x[1 : 1 + len(call.results)]))

    def create(self, kind: str, cspace: int | None = None) -> int:
        """A new object in INIT; its capability id."""
        answer = self.call(f"partition_create_{kind}", self.partition, self.cspace if cspace is None else cspace)
        assert answer.ok, (kind, Error(answer.error))
        return answer.results[0]

    def active(self, kind: str, *configure: int) -> int:
        """A new object, configured with ``configure`` and activated."""
        capid = self.create(kind)
        if configure:
            assert self.call(f"{kind}_configure", capid, *configure).ok
        assert self.call("object_activate", capid).ok
        return capid
