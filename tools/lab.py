"""Where the examples of the reference pages run: the root VM, with short ways to make active objects."""

from __future__ import annotations

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

__all__ = ["RW", "RWX", "Lab"]

RW = MappingAttributes(Access.RW, Access.RW, MapMemtype.NORMAL_WB).pack()
RWX = MappingAttributes(Access.RWX, Access.RWX, MapMemtype.NORMAL_WB).pack()
MEGABYTE2 = 0x20_0000


class Lab:
    """``partition``, ``cspace``, ``addrspace``, ``vcpu``, ``vic`` are the root VM's own capabilities; ``buffer`` an
    IPA."""

    def __init__(self, cpu: Cpu, x0: int) -> None:
        given = read_environment(cpu, x0)
        self.cpu = cpu
        self.hyp = Hypercalls(cpu)
        self.partition = given.partition
        self.cspace = given.cspace
        self.addrspace = given.addrspace
        self.vcpu = given.vcpu
        self.vic = given.vic
        self.hwirqs = given.hwirqs
        self.device = given.device_extent
        self.buffer = given.heap_base
        self._next = 0x4000_0000

    def doorbell(self) -> int:
        doorbell = self.hyp.partition_create_doorbell(self.partition, self.cspace)
        self.hyp.object_activate(doorbell)
        return doorbell

    def queue(self, depth: int = 4, size: int = 64) -> int:
        queue = self.hyp.partition_create_msgqueue(self.partition, self.cspace)
        self.hyp.msgqueue_configure(queue, CreateInfo(depth, size).pack())
        self.hyp.object_activate(queue)
        return queue

    def new_cspace(self, capabilities: int = 16) -> int:
        cspace = self.hyp.partition_create_cspace(self.partition, self.cspace)
        self.hyp.cspace_configure(cspace, capabilities)
        self.hyp.object_activate(cspace)
        return cspace

    def new_vic(self, vcpus: int = 1, interrupts: int = 64) -> int:
        vic = self.hyp.partition_create_vic(self.partition, self.cspace)
        self.hyp.vic_configure(vic, vcpus, interrupts)
        self.hyp.object_activate(vic)
        return vic

    def new_addrspace(self, vmid: int = 0x21) -> int:
        space = self.hyp.partition_create_addrspace(self.partition, self.cspace)
        self.hyp.addrspace_configure(space, vmid)
        self.hyp.object_activate(space)
        return space

    def extent(self, size: int = MEGABYTE2, kind: MemextentType = MemextentType.BASIC) -> int:
        """Free memory as an active extent with all rights."""
        extent = self.hyp.partition_create_memextent(self.partition, self.cspace)
        attributes = MemextentAttributes(Access.RWX, MemextentMemtype.ANY, kind).pack()
        self.hyp.memextent_configure(extent, self._next, size, attributes)
        self._next += (size + MEGABYTE2 - 1) // MEGABYTE2 * MEGABYTE2
        self.hyp.object_activate(extent)
        return extent

    def thread(self) -> int:
        """A vCPU that is not activated yet."""
        return self.hyp.partition_create_thread(self.partition, self.cspace)

    def proxy_vcpu(self) -> int:
        """An active vCPU of a VM of its own that only runs when somebody calls ``vcpu_run``; it is powered off."""
        vcpu = self.thread()
        self.hyp.vcpu_configure(vcpu, 1 << 9)
        self.hyp.cspace_attach_thread(self.new_cspace(), vcpu)
        self.hyp.addrspace_attach_thread(self.new_addrspace(), vcpu)
        self.hyp.vic_attach_vcpu(self.new_vic(), vcpu, 0)
        self.hyp.object_activate(vcpu)
        return vcpu

    def vpm_group(self) -> int:
        group = self.hyp.partition_create_vpm_group(self.partition, self.cspace)
        self.hyp.object_activate(group)
        return group

    def virtio(self, queues: int = 2, device_type: int | None = None) -> int:
        device = self.hyp.partition_create_virtio_mmio(self.partition, self.cspace)
        flags = 0 if device_type is None else 1 << 6
        self.hyp.virtio_mmio_configure(device, self.extent(0x1000), queues, flags, device_type or 0)
        self.hyp.object_activate(device)
        return device
