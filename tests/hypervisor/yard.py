"""VMs of Python functions, made by the root VM's hypercalls, for tests that watch vCPUs run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.hypervisor.root_rig import Answer, RootRig, load

from gunyah.abi.hypercalls import BY_NAME
from gunyah.abi.objects import ObjectType
from gunyah.guest.cpu import Cpu
from gunyah.hypervisor.hypervisor import Hypervisor
from gunyah.hypervisor.vcpu import Vcpu

ENTRY = 0x4000_0000
DATA = 0x4001_0000
SIZE = 0x2_0000
GICD, GICR = 0x0800_0000, 0x080A_0000
RWX_WB = 0xF_0077
ALL = 0xFFFF_FFFF
MILLISECOND = 62_500
SECOND = 62_500_000

Program = Callable[[Cpu, int], None]


@dataclass
class Vm:
    """Capability ids are the root VM's; ``vcpus`` the objects, in the order of the programs."""

    space: int
    addrspace: int
    extent: int
    vic: int
    group: int
    base: int
    threads: list[int] = field(default_factory=list)
    vcpus: list[Vcpu] = field(default_factory=list)
    entries: list[int] = field(default_factory=list)


class Yard(RootRig):
    """The root rig, with VMs."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__(seed)
        self._made = 0

    def vcpu_of(self, capid: int) -> Vcpu:
        """The object behind a thread capability of the root VM."""
        found = self.root.cspace.lookup_any_state(capid, ObjectType.THREAD, 0)
        assert isinstance(found, Vcpu)
        return found

    def ok(self, name: str, *inputs: int) -> tuple[int, ...]:
        """A call that must succeed; its results."""
        answer = self.call(name, *inputs)
        assert answer.ok, (name, [hex(value) for value in inputs], answer, self.vcpu.last_failure)
        return answer.results

    def vm(
        self,
        *programs: Program,
        group: bool = True,
        aggregate: bool = True,
        proxied: bool = False,
        cpus: tuple[int, ...] = (),
        priority: int = 20,
        options: int = 0,
        timeslice: int = 5_000_000,
        on: bool = True,
    ) -> Vm:
        """One vCPU for each program, all with the same memory; switched on in order, x0 the index."""
        self._made += 1
        base = 0x6000_0000 + 0x10_0000 * self._made
        space = self.active("cspace", 64)
        addrspace = self.active("addrspace", self._made)
        extent = self.active("memextent", base, SIZE, 7)
        self.ok("addrspace_map", addrspace, extent, ENTRY, RWX_WB, 0, 0, 0)
        vic = self.active("vic", max(1, len(programs)), 64, 0, 0)
        pm = 0
        if group:
            pm = self.create("vpm_group")
            self.ok("vpm_group_configure", pm, int(not aggregate))
            self.ok("object_activate", pm)
        vm = Vm(space, addrspace, extent, vic, pm, base)
        for index, program in enumerate(programs):
            self.hv.memory.write(base + 0x1000 * index, load(self.hv, program, program.__name__))
            thread = self.thread(
                vm, index, cpus[index] if cpus else 0, priority, options | (0x200 if proxied else 0), timeslice
            )
            vm.entries.append(ENTRY + 0x1000 * index)
            if on:
                self.ok("vcpu_poweron", thread, vm.entries[index], index, 0)
        return vm

    def thread(
        self, vm: Vm, index: int, cpu: int = 0, priority: int = 20, options: int = 0, timeslice: int = 5_000_000
    ) -> int:
        """An active vCPU of a VM, not powered on."""
        thread = self.create("thread")
        self.ok("cspace_attach_thread", vm.space, thread)
        self.ok("addrspace_attach_thread", vm.addrspace, thread)
        self.ok("vic_attach_vcpu", vm.vic, thread, index)
        if vm.group:
            self.ok("vpm_group_attach_vcpu", vm.group, thread, index)
        self.ok("vcpu_set_priority", thread, priority)
        self.ok("vcpu_set_timeslice", thread, timeslice)
        self.ok("vcpu_configure", thread, options)
        self.ok("vcpu_set_affinity", thread, cpu & 0xFFFF)
        self.ok("object_activate", thread)
        vm.threads.append(thread)
        vm.vcpus.append(self.vcpu_of(thread))
        return thread

    def give(self, vm: Vm, capid: int, rights: int = ALL) -> int:
        """A copy of a root capability for the VM; the id in its space."""
        return self.ok("cspace_copy_cap_from", self.cspace, capid, vm.space, rights)[0]

    def run(self, until: Callable[[], bool] | None = None, ms: float = 100.0) -> bool:
        """Run the machine until something holds, at most for ``ms`` milliseconds of its clock."""
        return self.hv.run(until, self.hv.clock.ticks() + int(ms * MILLISECOND))

    def settle(self) -> None:
        """Run until nothing in the machine moves any more."""
        assert not self.hv.run(None, self.hv.clock.ticks() + SECOND)


def call(cpu: Cpu, name: str, *inputs: int) -> Answer:
    """Make a hypercall as guest code, native encoding, reserved arguments filled in."""
    row = BY_NAME[name]
    given = iter(inputs)
    x = cpu.x
    for register, argument in enumerate(row.arguments):
        reserved = {"res0": 0, "res1": (1 << 64) - 1}
        x[register] = reserved[argument.kind] if argument.kind in reserved else next(given)
    cpu.hvc(row.hvc)
    error = x[0] & 0xFFFF_FFFF
    return Answer(error - (1 << 32) if error >> 31 else error, tuple(x[1 : 1 + len(row.results)]))


def smccc(cpu: Cpu, function: int, *arguments: int, conduit: str = "hvc") -> tuple[int, int, int, int]:
    """Make an SMCCC call; X0..X3 after it."""
    cpu.x[0] = function
    cpu.x[1 : 1 + len(arguments)] = arguments
    getattr(cpu, conduit)(0)
    x = cpu.x
    return x[0], x[1], x[2], x[3]


def sleep_for_ever(cpu: Cpu, x0: int) -> None:
    """Wait for interrupts and do nothing about them."""
    while True:
        cpu.wfi()


def spin(cpu: Cpu, x0: int) -> None:
    """Make calls for ever."""
    while True:
        cpu.hvc(0x6000)


def machine_of(yard: Yard) -> Hypervisor:
    """The hypervisor of a yard."""
    return yard.hv
