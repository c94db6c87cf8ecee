"""What memory extents and message queues are for, in words: only the Resource Manager knows whose it made them.

Rows of ``gunyah top`` and ``gunyah ledger`` carry these words beside the hypervisor's own names. Looking changes
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from gunyah.abi.rm import MemType
from gunyah.hypervisor.errors import HypervisorError

if TYPE_CHECKING:
    from gunyah.system import System

__all__ = ["owner_words"]


def owner_words(system: System, name_of: Callable[[int], str]) -> dict[str, str]:
    """The hypervisor's name of an object (``memextent #256``) to words; ``name_of`` gives a VM's name by its VMID."""
    if system.root is None or not system.rm.started:
        return {}
    words: dict[str, str] = {}
    for capability, meaning in _capabilities(system, name_of):
        try:
            words[str(system.root.cspace.lookup_any_state(capability, None, 0))] = meaning
        except HypervisorError:
            # RM is at work on it at this moment.
            continue
    return words


def _capabilities(system: System, name_of: Callable[[int], str]) -> Iterator[tuple[int, str]]:
    """(RM's capability, what it is for)."""
    rm = system.rm
    yield rm.memory.ddr, "RAM that RM hands out"
    yield rm.environment.device_extent, "devices that RM hands out"
    for vm in rm.vms:
        name = name_of(vm.vmid)
        for kind, capability in vm.objects.memory.owned.items() if vm.objects is not None else ():
            yield capability, f"{'devices' if kind == MemType.IO else 'RAM'} of {name}"
        for device in vm.objects.devices if vm.objects is not None else ():
            for capability in device.objects:
                yield capability, f"{device.kind} {device.label:#x} of {name} and {name_of(device.peer)}"
    for vmid, link in rm.links.items():
        yield link.receive_queue, f"{name_of(vmid)} to RM"
        yield link.send_queue, f"RM to {name_of(vmid)}"
    for parcel in rm.parcels:
        others = ", ".join(name_of(member.vmid) for member in parcel.members if member.vmid != parcel.owner)
        yield parcel.extent, f"{parcel}: {parcel.trans_type.name.lower()} of {name_of(parcel.owner)} to {others}"
