"""Virtual devices between a VM and its peers: doorbells, queues, shared memory, virtio (rm-behaviour.md 6.5).

A device has ends. The VM that configures it gets its end; a peer that is the owner gets its end at once, without asking
for it. Two siblings find each other: the first one's device waits under its label until the other configures the
counterpart, which then joins it instead of making a second one. When one of the two goes, the other keeps its end and
waits again; whoever comes back joins it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from gunyah.abi.devicetree import VdeviceType
from gunyah.abi.errors import RmError
from gunyah.abi.memory import (
    Access,
    MapMemtype,
    MappingAttributes,
    MemextentAttributes,
    MemextentMemtype,
    MemextentType,
)
from gunyah.abi.objects import DoorbellRight, MsgqueueRight, VirtioMmioRight
from gunyah.abi.rm import ResourceType
from gunyah.abi.types import PAGE_SIZE
from gunyah.guest.hypercall import HypercallFailed, Hypercalls
from gunyah.rm.address import AddressUnavailable
from gunyah.rm.errors import RmFailure
from gunyah.rm.vm import Vm
from gunyah.rm.vm_objects import Device, End, VmObjects
from gunyah.rm.vmconfig import VmConfig
from gunyah.rm.vmconfig_devices import DeviceConfig

if TYPE_CHECKING:
    from gunyah.rm.manager import ResourceManager

__all__ = ["find_peer", "make_all", "make_link"]

_BOTH = int(DoorbellRight.SEND | DoorbellRight.RECEIVE)
_VIRTIO_TYPE_VALID = 1 << 6
_OPPOSITE = {
    ResourceType.DOORBELL: ResourceType.DOORBELL_SRC,
    ResourceType.DOORBELL_SRC: ResourceType.DOORBELL,
    ResourceType.MSG_QUEUE_SEND: ResourceType.MSG_QUEUE_RECV,
    ResourceType.MSG_QUEUE_RECV: ResourceType.MSG_QUEUE_SEND,
}
_RIGHTS = {
    ResourceType.DOORBELL: int(DoorbellRight.RECEIVE),
    ResourceType.DOORBELL_SRC: int(DoorbellRight.SEND),
    ResourceType.MSG_QUEUE_SEND: int(MsgqueueRight.SEND),
    ResourceType.MSG_QUEUE_RECV: int(MsgqueueRight.RECEIVE),
}
_BINDINGS = {
    ResourceType.DOORBELL: ("doorbell_bind_virq", "doorbell_unbind_virq"),
    ResourceType.MSG_QUEUE_SEND: ("msgqueue_bind_send_virq", "msgqueue_unbind_send_virq"),
    ResourceType.MSG_QUEUE_RECV: ("msgqueue_bind_receive_virq", "msgqueue_unbind_receive_virq"),
}
_COUNTERPART = {
    VdeviceType.DOORBELL: VdeviceType.DOORBELL_SOURCE,
    VdeviceType.DOORBELL_SOURCE: VdeviceType.DOORBELL,
    VdeviceType.MESSAGE_QUEUE_PAIR: VdeviceType.MESSAGE_QUEUE_PAIR,
}


def find_peer(rm: ResourceManager, name: str) -> Vm | None:
    """The VM a ``peer`` string means ("vm-name:...", "vm-uri:...", "vm-guid:...")."""
    kind, _, value = name.partition(":")
    for vm in rm.vms:
        if (kind == "vm-name" and vm.name == value) or (kind == "vm-uri" and vm.uri == value):
            return vm
        if kind == "vm-guid" and any(vm.guid) and vm.guid.hex() == value.replace("-", "").lower():
            return vm
    return None


def make_link(rm: ResourceManager, vm: Vm, config: VmConfig) -> None:
    """The rm-rpc device: link to RM, and the VM's console if asked for."""
    for device in config.devices:
        if device.kind is not VdeviceType.RM_RPC or vm.objects is None:
            continue
        virqs = (device.interrupts[0].virq, device.interrupts[1].virq) if len(device.interrupts) == 2 else None
        vm.objects.make_link(device.message_size, device.queue_depth, virqs)
        if device.console:
            rm.consoles.create(vm.vmid, vm.owner)


def make_all(rm: ResourceManager, vm: Vm, config: VmConfig) -> None:
    """Every other device, kind by kind in the reference's order; raises RmFailure or HypercallFailed."""
    maker = _Maker(rm, vm)
    for kinds, make in _ORDER:
        for device in config.devices:
            if device.kind in kinds:
                make(maker, device)


class _Maker:
    def __init__(self, rm: ResourceManager, vm: Vm) -> None:
        if vm.objects is None:
            raise RmFailure(RmError.VM_STATE, f"VM {vm.vmid} has no objects")
        self.rm = rm
        self.vm = vm
        self.objects: VmObjects = vm.objects

    # -- ends ----------------------------------------------------------------------------------------------------------

    def end(
        self,
        device: Device,
        vm: Vm,
        master: int,
        kind: ResourceType,
        *,
        virq: int | None = None,
        rights: int | None = None,
    ) -> End:
        """Give ``vm`` an end of ``master``: a capability, and an interrupt unless it only sends bells."""
        objects = vm.objects
        if objects is None:
            raise RmFailure(
                RmError.NORESOURCE, f"VM {vm.vmid} has no objects for an end of {device.kind} {device.label:#x}"
            )
        hyp = self.rm.hyp
        capability = self.objects.give(master, _RIGHTS[kind] if rights is None else rights, objects.cspace)
        end = End(vm.vmid, kind, capability)
        end.undo.append(lambda: _delete_if_alive(self.rm, vm, objects, capability))
        device.ends.append(end)
        if kind in _BINDINGS:
            bind, unbind = _BINDINGS[kind]
            end.virq = objects.virqs.allocate() if virq is None else virq
            end.undo.append(lambda: objects.virqs.free(end.virq))
            hyp.call(bind, master, objects.vic, end.virq)
            end.undo.append(partial(_call, hyp, unbind, master))
        return end

    def _device(self, config: DeviceConfig, peer: Vm | None) -> Device:
        device = Device(config.kind.value, self.vm.vmid, peer.vmid if peer else 0, config.label)
        device.config = config
        self.objects.devices.append(device)
        return device

    def _peer(self, config: DeviceConfig) -> tuple[Vm | None, bool]:
        """(peer VM if it is known, whether it gets its end without configuring anything)."""
        owner = self.rm.vms.lookup(self.vm.owner)
        if config.peer is None:
            return owner, True
        peer = find_peer(self.rm, config.peer)
        return peer, peer is owner

    def _waiting(self, config: DeviceConfig, peer: Vm | None) -> Device | None:
        """The counterpart a sibling has configured before us, still without our end."""
        wanted = _COUNTERPART.get(config.kind)
        if peer is None or peer.objects is None or wanted is None or peer is self.vm:
            return None
        for device in peer.objects.devices:
            other = device.config
            if device.kind != wanted.value or device.label != config.label or device.partner or other is None:
                continue
            if other.peer is None or find_peer(self.rm, other.peer) is not self.vm:
                continue
            if (other.message_size, other.queue_depth) != (config.message_size, config.queue_depth):
                raise RmFailure(
                    RmError.NORESOURCE,
                    f"{config.path}: {config.queue_depth} messages of {config.message_size} bytes, but VM "
                    f"{peer.vmid} has made the pair {config.label:#x} for {other.queue_depth} of {other.message_size}",
                )
            return device
        return None

    # -- kinds ---------------------------------------------------------------------------------------------------------

    def doorbell(self, config: DeviceConfig) -> None:
        source = config.kind is VdeviceType.DOORBELL_SOURCE
        kind = ResourceType.DOORBELL_SRC if source else ResourceType.DOORBELL
        virq = config.interrupts[0].virq if config.interrupts and not source else None
        rights = _BOTH if config.source_can_clear and source else None
        peer, gets_end = self._peer(config)
        waiting = self._waiting(config, peer)
        if waiting is not None and peer is not None:
            self._join(config, waiting, peer, [(waiting.objects[0], kind, virq, rights)])
            return
        device = self._device(config, peer)
        master = self.objects.make_doorbell()
        device.objects.append(master)
        self.end(device, self.vm, master, kind, virq=virq, rights=rights)
        if gets_end and peer is not None:
            peer_rights = _BOTH if config.source_can_clear and not source else None
            self.end(device, peer, master, _OPPOSITE[kind], rights=peer_rights)

    def message_queue(self, config: DeviceConfig) -> None:
        kind = ResourceType.MSG_QUEUE_SEND if config.is_sender else ResourceType.MSG_QUEUE_RECV
        peer = self.rm.vms.lookup(self.vm.owner)
        device = self._device(config, peer)
        master = self.objects.make_queue(config.queue_depth, config.message_size)
        device.objects.append(master)
        virq = config.interrupts[0].virq if config.interrupts else None
        self.end(device, self.vm, master, kind, virq=virq)
        self.end(device, peer, master, _OPPOSITE[kind])

    def queue_pair(self, config: DeviceConfig) -> None:
        send, receive = ResourceType.MSG_QUEUE_SEND, ResourceType.MSG_QUEUE_RECV
        virqs: list[int | None] = [interrupt.virq for interrupt in config.interrupts]
        virqs = virqs or [None, None]
        peer, gets_end = self._peer(config)
        waiting = self._waiting(config, peer)
        if waiting is not None and peer is not None:
            # What the other sends on, we receive from.
            first, second = waiting.objects
            self._join(config, waiting, peer, [(second, send, virqs[0], None), (first, receive, virqs[1], None)])
            return
        device = self._device(config, peer)
        tx = self.objects.make_queue(config.queue_depth, config.message_size)
        device.objects.append(tx)
        rx = self.objects.make_queue(config.queue_depth, config.message_size)
        device.objects.append(rx)
        self.end(device, self.vm, tx, send, virq=virqs[0])
        self.end(device, self.vm, rx, receive, virq=virqs[1])
        if gets_end and peer is not None:
            self.end(device, peer, rx, send)
            self.end(device, peer, tx, receive)

    def _join(
        self,
        config: DeviceConfig,
        waiting: Device,
        peer: Vm,
        ends: list[tuple[int, ResourceType, int | None, int | None]],
    ) -> None:
        """Take the free ends of a sibling's device."""
        device = self._device(config, peer)
        for master, kind, virq, rights in ends:
            self.end(device, self.vm, master, kind, virq=virq, rights=rights)
        waiting.peer = self.vm.vmid
        waiting.partner, device.partner = device, waiting

    def shared_memory(self, config: DeviceConfig) -> None:
        peer = self.rm.vms.lookup(self.vm.owner)
        device = self._device(config, peer)
        device.listed = False
        if config.kind is not VdeviceType.SHM_DOORBELL:
            return
        for kind in (ResourceType.DOORBELL_SRC, ResourceType.DOORBELL):
            bell = Device(VdeviceType.DOORBELL.value, self.vm.vmid, peer.vmid, config.label)
            self.objects.devices.append(bell)
            master = self.objects.make_doorbell()
            bell.objects.append(master)
            device.ends.append(self.end(bell, self.vm, master, kind))
            self.end(bell, peer, master, _OPPOSITE[kind])

    def io_memory(self, config: DeviceConfig) -> None:
        self._device(config, self.rm.vms.lookup(self.vm.owner)).listed = False

    def virtio(self, config: DeviceConfig) -> None:
        """Register page in RAM: read-only for the VM, writable for the owner's backend (objects.md 15)."""
        rm, hyp, objects = self.rm, self.rm.hyp, self.objects
        peer = rm.vms.lookup(self.vm.owner)
        backend = peer.objects
        if backend is None:
            raise RmFailure(RmError.NORESOURCE, f"VM {peer.vmid} has no objects")
        device = self._device(config, peer)
        page = rm.memory.spare.allocate(PAGE_SIZE)
        device.undo.append(lambda: rm.memory.spare.free(page, PAGE_SIZE))
        extent = objects.make("memextent")
        # The device goes before its page: capabilities are dropped in the order of this list.
        attributes = MemextentAttributes(Access.RWX, MemextentMemtype.ANY, MemextentType.BASIC).pack()
        hyp.memextent_configure(extent, page, PAGE_SIZE, attributes)
        hyp.object_activate(extent)
        own_ipa = _allocate(objects, device)
        peer_ipa = _allocate(backend, device)
        for space, ipa, access in (
            (objects.memory.addrspace, own_ipa, Access.R),
            (backend.memory.addrspace, peer_ipa, Access.RW),
        ):
            mapping = MappingAttributes(access, access, MapMemtype.NORMAL_WB).pack()
            hyp.addrspace_map(space, extent, ipa, mapping)
            device.undo.append(_unmapper(hyp.addrspace_unmap, space, extent, ipa))
        master = objects.make("virtio_mmio")
        device.objects += [master, extent]
        flags = 0 if config.virtio_type is None else _VIRTIO_TYPE_VALID
        hyp.virtio_mmio_configure(master, extent, config.queues, flags, config.virtio_type or 0)
        hyp.object_activate(master)
        own_virq = config.interrupts[0].virq if config.interrupts else objects.virqs.allocate()
        peer_virq = backend.virqs.allocate()
        device.undo.append(lambda: objects.virqs.free(own_virq))
        device.undo.append(lambda: backend.virqs.free(peer_virq))
        hyp.virtio_mmio_backend_bind_virq(master, objects.vic, own_virq)
        hyp.virtio_mmio_frontend_bind_virq(master, backend.vic, peer_virq)
        rights = VirtioMmioRight.ASSERT_VIRQ | VirtioMmioRight.CONFIG
        capability = objects.give(master, int(rights), backend.cspace)
        device.undo.append(lambda: _delete_if_alive(rm, peer, backend, capability))
        device.ends.append(End(peer.vmid, ResourceType.VIRTIO_MMIO, capability, peer_virq, peer_ipa, PAGE_SIZE))
        device.frontend = (own_ipa, own_virq)


def _allocate(objects: VmObjects, device: Device) -> int:
    allocator = objects.memory.allocator
    try:
        ipa = allocator.allocate(PAGE_SIZE)
    except AddressUnavailable as unavailable:
        raise RmFailure(RmError.NORESOURCE, f"VM {objects.vm.vmid}: {unavailable}") from unavailable
    device.undo.append(lambda: allocator.free(ipa, PAGE_SIZE))
    return ipa


def _unmapper(unmap: Callable[[int, int, int], None], space: int, extent: int, ipa: int) -> Callable[[], None]:
    return lambda: unmap(space, extent, ipa)


def _call(hyp: Hypercalls, name: str, capability: int) -> None:
    hyp.call(name, capability)


def _delete_if_alive(rm: ResourceManager, vm: Vm, objects: VmObjects, capability: int) -> None:
    """Remove a capability from a VM's space, if that space is still the one it was given to."""
    if vm.objects is not objects:
        return
    try:
        rm.hyp.cspace_delete_cap_from(objects.cspace, capability)
    except HypercallFailed as failure:
        rm.log.warning(f"VM {vm.vmid}: {failure}")


_V = VdeviceType
_ORDER: tuple[tuple[frozenset[VdeviceType], Callable[[_Maker, DeviceConfig], None]], ...] = (
    (frozenset({_V.IOMEM}), _Maker.io_memory),
    (frozenset({_V.DOORBELL, _V.DOORBELL_SOURCE}), _Maker.doorbell),
    (frozenset({_V.MESSAGE_QUEUE}), _Maker.message_queue),
    (frozenset({_V.MESSAGE_QUEUE_PAIR}), _Maker.queue_pair),
    (frozenset({_V.SHM, _V.SHM_DOORBELL}), _Maker.shared_memory),
    (frozenset({_V.VIRTIO_MMIO}), _Maker.virtio),
)
