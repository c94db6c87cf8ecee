"""Hypercalls on objects of every type: creation, activation, capability spaces (hypercalls.md 3.2, 3.3, 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from gunyah.hypervisor.addrspace import Addrspace
from gunyah.hypervisor.cspace import CSpace
from gunyah.hypervisor.doorbell import Doorbell
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.memextent import MemExtent
from gunyah.hypervisor.msgqueue import MsgQueue
from gunyah.hypervisor.objects import ACTIVE
from gunyah.hypervisor.vcpu import Vcpu
from gunyah.hypervisor.vic import Vic
from gunyah.hypervisor.virtio_mmio import VirtioMmio
from gunyah.hypervisor.vpm import VpmGroup

if TYPE_CHECKING:
    from gunyah.hypervisor.hypercall import Handler
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.objects import KernelObject
    from gunyah.hypervisor.partition import Partition

__all__ = ["HANDLERS"]

Maker = Callable[["Hypervisor", "Partition"], "KernelObject"]

MAKERS: dict[str, Maker] = {
    "partition_create_cspace": lambda hv, partition: CSpace(partition, hv.random.randbytes(32)),
    "partition_create_addrspace": lambda hv, partition: Addrspace(partition),
    "partition_create_memextent": lambda hv, partition: MemExtent(partition),
    "partition_create_thread": lambda hv, partition: Vcpu(partition, hv),
    "partition_create_doorbell": lambda hv, partition: Doorbell(partition),
    "partition_create_msgqueue": lambda hv, partition: MsgQueue(partition),
    "partition_create_vic": lambda hv, partition: Vic(partition, hv),
    "partition_create_vpm_group": lambda hv, partition: VpmGroup(partition),
    "partition_create_virtio_mmio": lambda hv, partition: VirtioMmio(partition),
}


def _create(make: Maker, hv: Hypervisor, vcpu: Vcpu, partition: Partition, cspace: CSpace) -> tuple[int]:
    """hypercalls.md 3.2: result cap_id_t of a master capability."""
    obj = make(hv, partition)
    if hv.instruments:
        hv.watch_object(obj, "create")
    try:
        return (cspace.create_master(obj),)
    except HypervisorError:
        obj.put()
        raise


def _activate(hv: Hypervisor, obj: KernelObject) -> None:
    obj.require_init()
    try:
        obj.activate()
    finally:
        if hv.instruments:
            hv.watch_object(obj, "activate" if obj.state == ACTIVE else "fail")


def object_activate(hv: Hypervisor, vcpu: Vcpu, obj: KernelObject) -> None:
    """0x600C."""
    _activate(hv, obj)


def object_activate_from(hv: Hypervisor, vcpu: Vcpu, cspace: CSpace, obj: KernelObject) -> None:
    """0x600D: the capability id is one of ``cspace``."""
    _activate(hv, obj)


def cspace_delete_cap_from(hv: Hypervisor, vcpu: Vcpu, cspace: CSpace, capid: int) -> None:
    """0x6022."""
    cspace.delete(capid)


def cspace_copy_cap_from(
    hv: Hypervisor, vcpu: Vcpu, source: CSpace, capid: int, destination: CSpace, rights: int
) -> tuple[int]:
    """0x6023: result cap_id_t in the destination."""
    return (destination.copy_from(source, capid, rights),)


def cspace_configure(hv: Hypervisor, vcpu: Vcpu, cspace: CSpace, max_caps: int) -> None:
    """0x6025."""
    cspace.configure(max_caps)


def cspace_attach_thread(hv: Hypervisor, vcpu: Vcpu, cspace: CSpace, thread: Vcpu) -> None:
    """0x603E."""
    thread.attach_cspace(cspace)


def cspace_revoke_caps_from(hv: Hypervisor, vcpu: Vcpu, cspace: CSpace, capid: int) -> None:
    """0x6059."""
    cspace.revoke_others(capid)


HANDLERS: Mapping[str, Handler] = {
    **{name: partial(_create, make) for name, make in MAKERS.items()},
    "object_activate": object_activate,
    "object_activate_from": object_activate_from,
    "cspace_delete_cap_from": cspace_delete_cap_from,
    "cspace_copy_cap_from": cspace_copy_cap_from,
    "cspace_configure": cspace_configure,
    "cspace_attach_thread": cspace_attach_thread,
    "cspace_revoke_caps_from": cspace_revoke_caps_from,
}
