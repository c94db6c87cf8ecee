"""What RM holds in the hypervisor for one VM: spaces, controller, vCPUs, links, devices.

``VmObjects`` makes objects with ordinary hypercalls and keeps the capability of each, so that ``destroy`` gives
everything back in reverse order. Objects are made complete or not at all: a creation that fails leaves its parts in the
list for ``destroy``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from gunyah.abi.errors import RmError
from gunyah.abi.memory import (
    ATTACH_REDISTRIBUTOR_LAST,
    ATTACH_REDISTRIBUTOR_LAST_VALID,
    Access,
    MapMemtype,
    MappingAttributes,
    MemextentAttributes,
    MemextentMemtype,
    MemextentType,
)
from gunyah.abi.msgqueue import CreateInfo
from gunyah.abi.objects import MsgqueueRight, ThreadRight
from gunyah.abi.rm import HypResource, ResourceType
from gunyah.abi.types import PAGE_SIZE, U32
from gunyah.abi.vcpu import VcpuVirqType
from gunyah.guest.hypercall import HypercallFailed
from gunyah.rm.address import AddressAllocator, AddressUnavailable
from gunyah.rm.errors import RmFailure
from gunyah.rm.link import Link
from gunyah.rm.memory import VmMemory
from gunyah.rm.virq import VirqAllocator
from gunyah.rm.vm import Vm

if TYPE_CHECKING:
    from gunyah.rm.manager import ResourceManager
    from gunyah.rm.vmconfig_devices import DeviceConfig

__all__ = ["CAPABILITIES", "Device", "End", "LinkEnds", "VcpuObject", "VmObjects"]

CAPABILITIES = 1024
"""Capability space of each VM (rm-behaviour.md 1.2)."""
VIC_SHARED = 988
GICD_SIZE = 0x1_0000

_SEND = int(MsgqueueRight.SEND)
_RECEIVE = int(MsgqueueRight.RECEIVE)


@dataclass(slots=True)
class End:
    """One VM's end of a device: what VM_GET_HYP_RESOURCES lists and a device tree describes."""

    vmid: int
    type: ResourceType
    capability: int
    virq: int = 0
    base: int = 0
    size: int = 0
    undo: list[Callable[[], None]] = field(default_factory=list)
    """Takes the end away from its VM, newest first."""


@dataclass(slots=True, eq=False)
class Device:
    """A virtual device between a VM and a peer. ``vmid`` is the VM whose configuration asked for it."""

    kind: str
    vmid: int
    peer: int
    label: int
    ends: list[End] = field(default_factory=list)
    listed: bool = True
    """VM_GET_HYP_RESOURCES shows it."""
    objects: list[int] = field(default_factory=list)
    """Master capabilities in RM's space."""
    undo: list[Callable[[], None]] = field(default_factory=list)
    partner: Device | None = None
    """The device by which a sibling, once it has configured its side, holds the other ends of the same objects."""
    config: DeviceConfig | None = None
    frontend: tuple[int, int] | None = None
    """(IPA, interrupt) of a virtio-MMIO frontend."""

    def ends_of(self, vmid: int) -> list[End]:
        """The ends of one VM, in order."""
        return [end for end in self.ends if end.vmid == vmid]

    def resources(self, vmid: int, partner: int) -> list[HypResource]:
        """The entries VM ``vmid`` sees when it asks about ``partner``."""
        return [
            HypResource(end.type, partner, 0, self.label, end.capability, 0, end.virq, end.base, end.size)
            for end in self.ends_of(vmid)
        ]


@dataclass(slots=True, eq=False)
class VcpuObject:
    """One vCPU. ``capability`` is RM's master, the others are copies in the owner's and the VM's own space."""

    capability: int
    index: int
    core: int
    proxy: bool
    boot: bool
    owner_capability: int = 0
    own_capability: int = 0
    halt_virq: int = 0
    wakeup_virq: int = U32
    exited: bool = False
    parked: bool = False
    """Taken off its core while the VM is suspended."""
    node: str = ""
    """Path of its node in the device tree."""


@dataclass(slots=True)
class LinkEnds:
    """The VM's side of its RM link: capabilities in its space, interrupts of its controller, sizes."""

    tx: int
    rx: int
    tx_virq: int
    rx_virq: int
    message_size: int
    queue_depth: int


class VmObjects:
    """All objects of one VM."""

    def __init__(self, rm: ResourceManager, vm: Vm, memory: VmMemory) -> None:
        self.rm = rm
        self.vm = vm
        self.memory = memory
        self.cspace = 0
        self.vic = 0
        self.vpm = 0
        self.vcpus: list[VcpuObject] = []
        self.devices: list[Device] = []
        self.virqs = VirqAllocator()
        self.link_ends: LinkEnds | None = None
        self.gicd = 0
        self.gicr = 0
        self.gicr_stride = 0
        self._held: list[int] = []
        self._undo: list[Callable[[], None]] = []

    # -- primitives ----------------------------------------------------------------------------------------------------

    def make(self, kind: str) -> int:
        """A new object of type ``kind`` (memextent, cspace, ...) in INIT; RM's master capability."""
        rm = self.rm
        rm.faults.before("create")
        environment = rm.environment
        capability = rm.hyp.call(f"partition_create_{kind}", environment.partition, environment.cspace)[1]
        self._held.append(capability)
        return capability

    def drop(self, capability: int) -> None:
        """Delete one of RM's capabilities before its time."""
        self._held.remove(capability)
        self.rm.memory.delete(capability)

    def give(self, capability: int, rights: int, cspace: int | None = None) -> int:
        """Copy a capability of RM into the VM's space (or another) with fewer rights; its id there."""
        rm = self.rm
        home = self.cspace if cspace is None else cspace
        return rm.hyp.cspace_copy_cap_from(rm.environment.cspace, capability, home, rights)

    def on_destroy(self, action: Callable[[], None]) -> None:
        """Run ``action`` when the VM's objects are destroyed, newest first."""
        self._undo.append(action)

    # -- spaces and controller -----------------------------------------------------------------------------------------

    def make_cspace(self) -> None:
        """Capability space of 1024 entries, active."""
        hyp = self.rm.hyp
        self.cspace = self.make("cspace")
        hyp.cspace_configure(self.cspace, CAPABILITIES)
        hyp.object_activate(self.cspace)

    def make_addrspace(self, allocator: AddressAllocator, vmmio: tuple[int, int] | None = None) -> None:
        """Address space tagged with the VMID; ``vmmio`` (base, size) faults go to the vcpu_run caller.

        The VM's information page is its first device: 4 KiB, zeroed, read-only (rm-behaviour.md 3 and 5.3).
        """
        hyp = self.rm.hyp
        addrspace = self.make("addrspace")
        hyp.addrspace_configure(addrspace, self.vm.vmid)
        page, ipa = self._make_info_page(allocator)
        hyp.addrspace_configure_info_area(addrspace, page, ipa)
        if vmmio is not None:
            hyp.addrspace_configure_vmmio(addrspace, *vmmio, 0)
        hyp.object_activate(addrspace)
        hyp.addrspace_map(addrspace, page, ipa, MappingAttributes(Access.R, Access.R, MapMemtype.NORMAL_WB).pack())
        self.memory.addrspace = addrspace
        self.memory.allocator = allocator

    def _make_info_page(self, allocator: AddressAllocator) -> tuple[int, int]:
        """RM's capability to a page of its own for the VM to read, and its IPA there."""
        hyp, spare = self.rm.hyp, self.rm.memory.spare
        try:
            ipa = allocator.allocate(PAGE_SIZE)
            page = spare.allocate(PAGE_SIZE)
        except AddressUnavailable as unavailable:
            raise RmFailure(RmError.NORESOURCE, f"VM {self.vm.vmid}, information page: {unavailable}") from unavailable
        self.on_destroy(lambda: spare.free(page, PAGE_SIZE))
        extent = self.make("memextent")
        attributes = MemextentAttributes(Access.RW, MemextentMemtype.ANY, MemextentType.BASIC).pack()
        hyp.memextent_configure(extent, page, PAGE_SIZE, attributes)
        hyp.object_activate(extent)
        return extent, ipa

    def make_vic(self, vcpus: int, mpidr: bool, options: int = 0) -> None:
        """Interrupt controller with 988 shared interrupts; ``mpidr``: linear layout of virtual MPIDRs (5.2)."""
        hyp = self.rm.hyp
        self.vic = self.make("vic")
        hyp.vic_configure(self.vic, vcpus, VIC_SHARED, options, 0)
        if mpidr:
            hyp.vgic_set_mpidr_mapping(self.vic, 0x7FFF, 0, 8, 16, 24, 0)
        hyp.object_activate(self.vic)

    def make_vpm(self, options: int = 0) -> None:
        """Power-management group: PSCI for the vCPUs attached to it."""
        hyp = self.rm.hyp
        self.vpm = self.make("vpm_group")
        if options:
            hyp.vpm_group_configure(self.vpm, options)
        hyp.object_activate(self.vpm)

    def attach_gic(self, distributor: int, redistributor: int, stride: int) -> None:
        """Place the distributor and, for each active vCPU, its redistributor frame (IPAs)."""
        hyp, addrspace = self.rm.hyp, self.memory.addrspace
        self.gicd, self.gicr, self.gicr_stride = distributor, redistributor, stride
        hyp.addrspace_attach_vdevice(addrspace, self.vic, 0, distributor, GICD_SIZE, 0)
        last = max(vcpu.index for vcpu in self.vcpus)
        for vcpu in self.vcpus:
            flags = ATTACH_REDISTRIBUTOR_LAST_VALID | (ATTACH_REDISTRIBUTOR_LAST if vcpu.index == last else 0)
            base = redistributor + vcpu.index * stride
            hyp.addrspace_attach_vdevice(addrspace, self.vic, vcpu.index + 1, base, stride, flags)

    # -- vCPUs ---------------------------------------------------------------------------------------------------------

    def make_vcpu(
        self,
        index: int,
        core: int,
        options: int,
        *,
        boot: bool,
        proxy: bool = False,
        priority: int | None = None,
        timeslice: int | None = None,
    ) -> VcpuObject:
        """A vCPU attached to everything the VM has and activated; ``core`` 0xffff: none."""
        hyp = self.rm.hyp
        capability = self.make("thread")
        hyp.vcpu_set_affinity(capability, core)
        if priority is not None:
            hyp.vcpu_set_priority(capability, priority)
        if timeslice is not None:
            hyp.vcpu_set_timeslice(capability, timeslice)
        hyp.cspace_attach_thread(self.cspace, capability)
        hyp.addrspace_attach_thread(self.memory.addrspace, capability)
        if self.vpm:
            hyp.vpm_group_attach_vcpu(self.vpm, capability, index)
        hyp.vic_attach_vcpu(self.vic, capability, index)
        hyp.vcpu_configure(capability, options)
        hyp.object_activate(capability)
        vcpu = VcpuObject(capability, index, core, proxy, boot)
        self.vcpus.append(vcpu)
        return vcpu

    def bind_halt(self, vcpu: VcpuObject, handler: Callable[[VcpuObject], None]) -> None:
        """Let RM know when the vCPU stops for good."""
        rm = self.rm
        vcpu.halt_virq = rm.own_virqs.allocate()
        rm.hyp.vcpu_bind_virq(vcpu.capability, rm.environment.vic, vcpu.halt_virq, VcpuVirqType.HALT)
        rm.gic.enable(vcpu.halt_virq, lambda: rm.post(lambda: handler(vcpu)))

    def share_vcpu(self, vcpu: VcpuObject, owner: VmObjects) -> None:
        """The owner's copy (affinity, yield-to), its wake-up interrupt for a proxy, the VM's own copy without PSCI."""
        hyp = self.rm.hyp
        rights = ThreadRight.AFFINITY | ThreadRight.YIELD_TO
        vcpu.owner_capability = self.give(vcpu.capability, int(rights), owner.cspace)
        if not self.vpm:
            vcpu.own_capability = self.give(vcpu.capability, int(ThreadRight.POWER))
        if vcpu.proxy:
            virq = owner.virqs.allocate()
            try:
                hyp.vcpu_bind_virq(vcpu.capability, owner.vic, virq, VcpuVirqType.VCPU_RUN_WAKEUP)
            except HypercallFailed:
                owner.virqs.free(virq)
                raise
            vcpu.wakeup_virq = virq

    # -- queues and doorbells ------------------------------------------------------------------------------------------

    def make_queue(self, depth: int, size: int) -> int:
        """An active message queue; RM's master capability."""
        hyp = self.rm.hyp
        queue = self.make("msgqueue")
        hyp.msgqueue_configure(queue, CreateInfo(depth, size).pack())
        hyp.object_activate(queue)
        return queue

    def make_doorbell(self) -> int:
        """An active doorbell; RM's master capability."""
        doorbell = self.make("doorbell")
        self.rm.hyp.object_activate(doorbell)
        return doorbell

    def make_link(self, message_size: int, queue_depth: int, virqs: tuple[int, int] | None = None) -> Link:
        """The VM's RM link: queue pair, four interrupts, RM's side served from now on.

        ``virqs`` are the VM's two interrupts if they have been reserved already.
        """
        rm, hyp = self.rm, self.rm.hyp
        environment = rm.environment
        to_rm = self.make_queue(queue_depth, message_size)
        to_vm = self.make_queue(queue_depth, message_size)
        tx_virq, rx_virq = virqs or (self.virqs.allocate(), self.virqs.allocate())
        own_rx, own_tx = rm.own_virqs.allocate(), rm.own_virqs.allocate()
        buffers = rm.heap.allocate(message_size), rm.heap.allocate(message_size)
        link = Link(
            rm.cpu,
            hyp,
            self.vm,
            receive_queue=to_rm,
            send_queue=to_vm,
            message_size=message_size,
            packet_size=self.vm.profile.rm_packet_max,
            buffers=buffers,
            sequence=rm.next_sequence,
        )

        def undo() -> None:
            rm.links.pop(self.vm.vmid, None)
            for virq in (own_rx, own_tx):
                rm.gic.disable(virq)
                rm.own_virqs.free(virq)
            link.close()

        self.on_destroy(undo)
        hyp.msgqueue_bind_send_virq(to_rm, self.vic, tx_virq)
        hyp.msgqueue_bind_receive_virq(to_rm, environment.vic, own_rx)
        hyp.msgqueue_bind_send_virq(to_vm, environment.vic, own_tx)
        hyp.msgqueue_bind_receive_virq(to_vm, self.vic, rx_virq)
        rm.gic.enable(own_rx, link.receive_interrupt)
        rm.gic.enable(own_tx, link.transmit_interrupt)
        tx, rx = self.give(to_rm, _SEND), self.give(to_vm, _RECEIVE)
        self.link_ends = LinkEnds(tx, rx, tx_virq, rx_virq, message_size, queue_depth)
        rm.links[self.vm.vmid] = link
        return link

    # -- sight ---------------------------------------------------------------------------------------------------------

    def resources(self, client: Vm, listed_owner: bool) -> list[HypResource]:
        """vCPU entries for the owner (rm-rpc.md 7)."""
        if not listed_owner:
            return []
        return [
            HypResource(
                ResourceType.VIRTUAL_CPU,
                0,
                0,
                vcpu.index if vcpu.proxy else vcpu.core,
                vcpu.owner_capability,
                0,
                vcpu.wakeup_virq,
                0,
                0,
            )
            for vcpu in self.vcpus
        ]

    # -- end -----------------------------------------------------------------------------------------------------------

    def destroy_device(self, device: Device) -> None:
        """Take one device away from its VM and from an owner; what a sibling has joined stays with the sibling."""
        self.devices.remove(device)
        for end in reversed(device.ends):
            self._undo_all(end.undo)
        self._undo_all(device.undo)
        partner, device.partner = device.partner, None
        if partner is not None:
            self._leave_to(partner, device)
        for capability in device.objects:
            if capability in self._held:
                self._attempt(partial(self.drop, capability))

    def _undo_all(self, actions: list[Callable[[], None]]) -> None:
        while actions:
            self._attempt(actions.pop())

    def _leave_to(self, partner: Device, device: Device) -> None:
        """The sibling keeps the objects, without what was under way to this VM, until this one comes back or it goes
        too.
        """
        partner.partner = None
        hyp = self.rm.hyp
        vm = self.rm.vms.get(partner.vmid)
        if vm is None or vm.objects is None:
            return
        if device.objects:
            # Its ends are the opposite ones: what was sent on is received from.
            partner.objects, device.objects = device.objects[::-1], []
            for capability in partner.objects:
                self._held.remove(capability)
                vm.objects._held.append(capability)
        for end in device.ends:
            if end.type is ResourceType.MSG_QUEUE_RECV:
                # The pair's second object, seen from the one that goes; the other one's first.
                self._attempt(partial(hyp.msgqueue_flush, partner.objects[0]))
            elif end.type is ResourceType.DOORBELL:
                self._attempt(partial(hyp.doorbell_reset, partner.objects[0]))

    def destroy(self) -> None:
        """Give everything back: interrupts, links, copies in other VMs' spaces, objects newest first."""
        rm = self.rm
        for device in reversed(self.devices[:]):
            self.destroy_device(device)
        owner = rm.vms.get(self.vm.owner)
        for vcpu in self.vcpus:
            if vcpu.halt_virq:
                rm.gic.disable(vcpu.halt_virq)
                rm.own_virqs.free(vcpu.halt_virq)
            if vcpu.owner_capability and owner is not None and owner.objects is not None:
                self._delete_from(owner.objects.cspace, vcpu.owner_capability)
                if vcpu.wakeup_virq != U32:
                    owner.objects.virqs.free(vcpu.wakeup_virq)
        for action in reversed(self._undo):
            self._attempt(action)
        self._undo.clear()
        while self._held:
            capability = self._held.pop()
            self._attempt(partial(rm.memory.delete, capability))
        for extent in self.memory.owned.values():
            self._attempt(partial(rm.memory.delete, extent))
        self.memory.owned.clear()
        self.vcpus.clear()

    def _delete_from(self, cspace: int, capability: int) -> None:
        self._attempt(lambda: self.rm.hyp.cspace_delete_cap_from(cspace, capability))

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except HypercallFailed as failure:
            self.rm.log.error(f"VM {self.vm.vmid}: {failure}")
