"""Makes and destroys VMs as a root VM does: by hypercalls alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from gunyah.abi.memory import (
    Access,
    MapMemtype,
    MappingAttributes,
    MemextentAttributes,
    MemextentMemtype,
    MemextentType,
)
from gunyah.abi.msgqueue import CreateInfo
from gunyah.guest.cpu import Cpu
from gunyah.guest.hypercall import Hypercalls
from gunyah.rm.environment import read_environment

__all__ = ["FIRST_BASE", "Vm", "VmMaker"]

FIRST_BASE = 0x5000_0000
DEPTH, MESSAGE = 8, 240
OUT_VIRQ, IN_VIRQ, BELL_VIRQ = 40, 41, 42


@dataclass
class Vm:
    """``base``: where its memory is, in its own and in the root VM's address space."""

    base: int
    vcpus: list[int] = field(default_factory=list)
    masters: list[int] = field(default_factory=list)
    """Every object's master capability, oldest first."""


class VmMaker:
    """``cpu``, ``x0``: as the root VM's program has them."""

    def __init__(self, cpu: Cpu, x0: int) -> None:
        self.hyp = Hypercalls(cpu)
        self._given = read_environment(cpu, x0)
        self._next = FIRST_BASE

    def make(
        self, vmid: int, *, vcpus: int, memory: int, queues: int = 0, doorbells: int = 0, base: int | None = None
    ) -> Vm:
        """A VM with ``memory`` bytes, ready to be powered on; raises what the hypervisor refuses."""
        hyp, given = self.hyp, self._given
        partition, cspace = given.partition, given.cspace
        if base is None:
            base = self._next
            self._next += memory
        vm = Vm(base)
        extent = hyp.partition_create_memextent(partition, cspace)
        attributes = MemextentAttributes(Access.RWX, MemextentMemtype.ANY, MemextentType.BASIC).pack()
        hyp.memextent_configure(extent, base, memory, attributes)
        hyp.object_activate(extent)
        space = hyp.partition_create_addrspace(partition, cspace)
        hyp.addrspace_configure(space, vmid)
        hyp.object_activate(space)
        mapping = MappingAttributes(Access.RWX, Access.RWX, MapMemtype.NORMAL_WB).pack()
        hyp.addrspace_map(given.addrspace, extent, base, mapping)
        hyp.addrspace_map(space, extent, base, mapping)
        own = hyp.partition_create_cspace(partition, cspace)
        hyp.cspace_configure(own, 64)
        hyp.object_activate(own)
        vic = hyp.partition_create_vic(partition, cspace)
        hyp.vic_configure(vic, vcpus, 64)
        hyp.object_activate(vic)
        vm.masters += [extent, space, own, vic]
        for index in range(vcpus):
            vcpu = hyp.partition_create_thread(partition, cspace)
            hyp.vcpu_configure(vcpu, 0)
            hyp.cspace_attach_thread(own, vcpu)
            hyp.addrspace_attach_thread(space, vcpu)
            hyp.vic_attach_vcpu(vic, vcpu, index)
            hyp.vcpu_set_affinity(vcpu, 0)
            hyp.object_activate(vcpu)
            vm.vcpus.append(vcpu)
            vm.masters.append(vcpu)
        for number in range(queues):
            queue = hyp.partition_create_msgqueue(partition, cspace)
            hyp.msgqueue_configure(queue, CreateInfo(DEPTH, MESSAGE).pack())
            hyp.object_activate(queue)
            if number % 2:
                hyp.msgqueue_bind_send_virq(queue, vic, OUT_VIRQ)
            else:
                hyp.msgqueue_bind_receive_virq(queue, vic, IN_VIRQ)
            vm.masters.append(queue)
        for number in range(doorbells):
            doorbell = hyp.partition_create_doorbell(partition, cspace)
            hyp.object_activate(doorbell)
            hyp.doorbell_bind_virq(doorbell, vic, BELL_VIRQ + number)
            vm.masters.append(doorbell)
        return vm

    def destroy(self, vm: Vm) -> None:
        """Let go of every object, the youngest first."""
        for vcpu in vm.vcpus:
            # A thread that has been activated holds its spaces until it has ended.
            self.hyp.vcpu_kill(vcpu)
        for capability in reversed(vm.masters):
            self.hyp.cspace_delete_cap_from(self._given.cspace, capability)
