"""Reading the specification's state out of a running hypervisor; changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gunyah.abi.objects import ObjectState
from gunyah.hypervisor.addrspace import Addrspace
from gunyah.hypervisor.cspace import CSpace
from gunyah.hypervisor.doorbell import Doorbell
from gunyah.hypervisor.hwirq import HwIrq
from gunyah.hypervisor.memdb import OwnerKind
from gunyah.hypervisor.memextent import MemExtent
from gunyah.hypervisor.msgqueue import MsgQueue
from gunyah.hypervisor.objects import KernelObject
from gunyah.hypervisor.partition import Partition
from gunyah.hypervisor.specification.state import Extent, Owner, Slot, Space, Thing, World
from gunyah.hypervisor.vcpu import Vcpu
from gunyah.hypervisor.vgic_redistributor import RedistributorFrame
from gunyah.hypervisor.vic import Vic
from gunyah.hypervisor.virtio_mmio import VirtioMmio
from gunyah.hypervisor.vpm import VpmGroup

if TYPE_CHECKING:
    from gunyah.hypervisor.hypervisor import Hypervisor

__all__ = ["Observer", "observe"]

_PLAIN = frozenset({Partition, HwIrq, Doorbell, MsgQueue, Vic, VpmGroup})
"""Classes of which there is nothing more to know than what all objects have."""
_REVOKED = Slot(0, 0, False, valid=False)


class Observer:
    """Reads one hypervisor again and again; what did not change since the last time is not made anew."""

    def __init__(self, hv: Hypervisor) -> None:
        self._hv = hv
        self._partition = hv.root_partition
        # By serial: what a thing was made from, and the thing.
        self._known: dict[int, tuple[tuple[object, ...], Thing]] = {}

    def observe(self) -> World:
        """The state of the root partition's objects, and the owners of all memory."""
        objects: list[KernelObject] = [self._partition, *self._partition.objects]
        holds = {obj.serial: held for obj in objects if obj.__class__ not in _PLAIN and (held := _holds(obj))}
        _add_frames(objects, holds)
        counted: dict[int, int] = {}
        for held in holds.values():
            for serial in held:
                counted[serial] = counted.get(serial, 0) + 1
        known = self._known
        things = {}
        seen = {}
        for obj in objects:
            serial = obj.serial
            accounted = counted.get(serial, 0) + bool(obj.capabilities)
            kept = holds.get(serial)
            details = () if obj.__class__ in _PLAIN else _details(obj)
            made_from = (obj.state, obj.references - accounted, tuple(sorted(kept)) if kept else (), *details)
            before = known.get(serial)
            entry = before if before is not None and before[0] == made_from else (made_from, _thing(obj, made_from))
            seen[serial] = entry
            things[serial] = entry[1]
        self._known = seen
        return World(things, _owners(self._hv))


def observe(hv: Hypervisor) -> World:
    """The state of one moment."""
    return Observer(hv).observe()


def _details(obj: KernelObject) -> tuple[object, ...]:
    """What a thing is made from, beyond what all have: cheap to read, and equal only if nothing changed."""
    if isinstance(obj, CSpace):
        return obj.max_capabilities, obj.capabilities_held, obj.revoked_ids, len(obj.ids)
    if isinstance(obj, MemExtent):
        return obj.base, obj.size, obj.access, obj.memtype, obj.kind, obj.parent, obj.attached
    if isinstance(obj, Addrspace):
        return (obj.vmid,)
    return (obj.vic_index,) if isinstance(obj, Vcpu) else ()


def _thing(obj: KernelObject, made_from: tuple[object, ...]) -> Thing:
    _, pins, holds, *_ = made_from
    assert isinstance(pins, int) and isinstance(holds, tuple)
    return Thing(
        obj.type,
        ObjectState(obj.state),
        holds,
        pins,
        obj.vmid if isinstance(obj, Addrspace) else 0,
        obj.vic_index if isinstance(obj, Vcpu) else 0,
        _space(obj) if isinstance(obj, CSpace) else None,
        _extent(obj) if isinstance(obj, MemExtent) else None,
    )


def _holds(obj: KernelObject) -> list[int]:
    held: list[KernelObject | None] = []
    if isinstance(obj, Vcpu):
        held = [obj.cspace, obj.addrspace, obj.vic, obj.vpm]
    elif isinstance(obj, MemExtent):
        held = [obj.parent]
    elif isinstance(obj, VirtioMmio):
        held = [obj.extent]
    elif isinstance(obj, Addrspace):
        held = [obj.info_extent]
    return [each.serial for each in held if each is not None]


def _add_frames(objects: list[KernelObject], holds: dict[int, list[int]]) -> None:
    """Who keeps what around an interrupt controller.

    A register frame stands in an address space for as long as the controller, or the vCPU, that it belongs to; a
    hardware interrupt holds the controller to which it is forwarded.
    """
    owner_of: dict[int, int] = {}
    for obj in objects:
        if isinstance(obj, Vic):
            owner_of[id(obj.distributor)] = obj.serial
            for vcpu in obj.active_vcpus():
                owner_of[id(obj.redistributor(vcpu.vic_index).redistributor)] = vcpu.serial
            for forwarded in obj.forwarded:
                holds.setdefault(forwarded.hwirq.serial, []).append(obj.serial)
    for obj in objects:
        if isinstance(obj, Addrspace):
            for frame in obj.devices:
                device = frame.device
                registers = device.redistributor if isinstance(device, RedistributorFrame) else device
                holds.setdefault(owner_of[id(registers)], []).append(obj.serial)


def _space(space: CSpace) -> Space:
    slots = {each.id: Slot(each.object.serial, each.rights, each.master) for each in space.capabilities_held}
    slots.update(dict.fromkeys(space.revoked_ids, _REVOKED))
    return Space(space.max_capabilities, slots, frozenset(space.ids))


def _extent(extent: MemExtent) -> Extent:
    parent = extent.parent.serial if extent.parent is not None else None
    return Extent(extent.base, extent.size, extent.access, extent.memtype, extent.sparse, parent, extent.attached)


def _owners(hv: Hypervisor) -> tuple[tuple[int, int, Owner], ...]:
    found = []
    for pa, size, owner in hv.root_partition.system.database.ranges():
        holder = owner.holder
        name: Owner = f"{owner.kind.value} {getattr(holder, 'name', '')}".strip()
        if owner.kind is OwnerKind.EXTENT and isinstance(holder, MemExtent):
            name = holder.serial
        found.append((pa, pa + size, name))
    return tuple(found)
