"""Messages that later Linux sends and the public RM lacks (rm-rpc.md 13).

The reference answers UNIMPLEMENTED to all of them. Here boot registers are set at start, the address layout says where
the image memparcel goes, demand-paged ranges are checked and kept, and a VM can be suspended and resumed: its vCPUs
leave their cores and come back.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from gunyah.abi.errors import RmError
from gunyah.abi.rm import MessageId, SetAddressLayout, SetBootContext, SetDemandPaging, VmidWord, VmStatus
from gunyah.abi.types import PAGE_MASK
from gunyah.abi.vcpu import VcpuRegisterSet
from gunyah.rm import lifecycle
from gunyah.rm.errors import RmFailure
from gunyah.rm.vm import Vm

if TYPE_CHECKING:
    from gunyah.rm.manager import Handler, ResourceManager

__all__ = ["HANDLERS"]

_INDEX_LIMITS = {VcpuRegisterSet.X: 31, VcpuRegisterSet.PC: 1, VcpuRegisterSet.SP_EL: 2}
_ALIGNMENT = {VcpuRegisterSet.X: 1, VcpuRegisterSet.PC: 4, VcpuRegisterSet.SP_EL: 16}
_BOOT_REGISTERS_MAX = 64
_IMAGE, _FIRMWARE = 0, 1


def _not_started(rm: ResourceManager, client: Vm, vmid: int) -> Vm:
    vm = rm.vms.owned(vmid, client)
    if vm.state not in (VmStatus.INIT, VmStatus.READY):
        raise RmFailure(RmError.VM_STATE, f"VM {vmid} is {vm.state.name}, INIT or READY is needed")
    return vm


def _set_boot_context(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    request = SetBootContext.unpack(payload)
    vm = _not_started(rm, client, request.vmid)
    if request.register_set not in VcpuRegisterSet._value2member_map_:
        raise RmFailure(RmError.ARGUMENT_INVALID, f"register set {request.register_set} is unknown")
    kind = VcpuRegisterSet(request.register_set)
    if request.index >= _INDEX_LIMITS[kind] or request.value % _ALIGNMENT[kind]:
        raise RmFailure(RmError.ARGUMENT_INVALID, f"{kind.name}[{request.index}] = {request.value:#x} is not possible")
    key = (int(kind), request.index)
    vm.boot_registers = [entry for entry in vm.boot_registers if entry[:2] != key]
    if len(vm.boot_registers) >= _BOOT_REGISTERS_MAX:
        raise RmFailure(RmError.NORESOURCE, "too many registers")
    vm.boot_registers.append((*key, request.value))
    return b""


def _set_demand_paging(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    request = SetDemandPaging.unpack(payload)
    vm = _not_started(rm, client, request.vmid)
    for base, size in request.ranges:
        if not size or (base | size) & PAGE_MASK or base + size > 1 << 36:
            raise RmFailure(RmError.ARGUMENT_INVALID, f"range {base:#x}+{size:#x} is not of whole pages below 2^36")
    vm.paged_ranges = [(base, size) for base, size in request.ranges]
    return b""


def _set_address_layout(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    request = SetAddressLayout.unpack(payload)
    vm = _not_started(rm, client, request.vmid)
    if request.range_id not in (_IMAGE, _FIRMWARE):
        raise RmFailure(RmError.ARGUMENT_INVALID, f"range id {request.range_id} is neither image (0) nor firmware (1)")
    if (request.base | request.size) & PAGE_MASK or request.base + request.size > 1 << 36:
        raise RmFailure(RmError.ARGUMENT_INVALID, f"range {request.base:#x}+{request.size:#x} is not of whole pages")
    vm.layout[request.range_id] = (request.base, request.size)
    return b""


def _suspend(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    vm = rm.vms.owned(VmidWord.unpack(payload).vmid, client)
    if not vm.may_become(VmStatus.PAUSED) or vm.objects is None:
        raise RmFailure(RmError.VM_STATE, f"VM {vm.vmid} is {vm.state.name} or refuses to be stopped")
    lifecycle.park(rm, vm, vm.objects)
    vm.become(VmStatus.PAUSED)
    rm.send_status(vm)
    return b""


def _resume(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    vm = rm.vms.owned(VmidWord.unpack(payload).vmid, client)
    if vm.state is not VmStatus.PAUSED:
        raise RmFailure(RmError.VM_STATE, f"VM {vm.vmid} is {vm.state.name}, PAUSED is needed")
    lifecycle.unpark(rm, vm)
    vm.become(VmStatus.RUNNING)
    rm.send_status(vm)
    return b""


HANDLERS: Mapping[int, Handler] = MappingProxyType(
    {
        MessageId.VM_SET_CONTEXT: _set_boot_context,
        MessageId.VM_SET_DEMAND_PAGING: _set_demand_paging,
        MessageId.VM_SET_ADDRESS_LAYOUT: _set_address_layout,
        MessageId.VM_SUSPEND: _suspend,
        MessageId.VM_RESUME: _resume,
    }
)
