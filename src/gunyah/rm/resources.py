"""VM_GET_HYP_RESOURCES: what of another VM a caller holds capabilities to (rm-rpc.md 7)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from gunyah.abi.errors import RmError
from gunyah.abi.rm import HypResourcesReply, MessageId, VmidWord
from gunyah.abi.types import VMID_HLOS, VMID_RM
from gunyah.rm.errors import RmFailure
from gunyah.rm.vm import Vm

if TYPE_CHECKING:
    from gunyah.rm.manager import Handler, ResourceManager

__all__ = ["HANDLERS"]


def _get_hyp_resources(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    vmid = VmidWord.unpack(payload).vmid
    vm = rm.vms.get(vmid)
    if vm is None:
        raise RmFailure(RmError.ARGUMENT_INVALID, f"there is no VM {vmid}")
    objects = vm.objects
    if objects is None:
        raise RmFailure(RmError.NORESOURCE, f"VM {vmid} is not configured yet")
    owner = client.vmid == vm.owner or (vmid == VMID_RM and client.vmid == VMID_HLOS)
    resources = objects.resources(client, owner)
    for device in client.objects.devices if client.objects is not None and client is not vm else ():
        if device.listed and device.peer == vmid:
            resources += device.resources(client.vmid, vmid)
    for device in objects.devices if client is not vm else ():
        if device.listed and device.peer == client.vmid:
            resources += device.resources(client.vmid, vmid)
    return HypResourcesReply(tuple(resources)).pack()


HANDLERS: Mapping[int, Handler] = MappingProxyType({MessageId.VM_GET_HYP_RESOURCES: _get_hyp_resources})
