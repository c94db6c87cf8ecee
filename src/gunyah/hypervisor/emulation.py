"""What happens when a guest's access does not reach memory (objects.md 4.1).

Order: an attached virtual device, the default GIC window or the vRTC page, a declared VMMIO range of a proxy-
scheduled vCPU, a device of the board that is mapped through, and else a synchronous external abort.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gunyah.hypervisor.proxy import VmmioAccess
from gunyah.hypervisor.vcpu import Block
from gunyah.hypervisor.vdevice import DeviceAbort

if TYPE_CHECKING:
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.stage2 import Stage2Fault
    from gunyah.hypervisor.vcpu import Vcpu

__all__ = ["ExternalAbort", "VmmioExit", "device_access"]

_VMMIO = int(Block.VMMIO)


class ExternalAbort(Exception):
    """The access ends in a synchronous external abort to EL1, FSC 0x10."""


class VmmioExit(Exception):
    """The vCPU has been stopped for its VMM; the access is completed when it is run again."""


def device_access(hv: Hypervisor, vcpu: Vcpu, fault: Stage2Fault, ipa: int, size: int, write: bool, value: int) -> int:
    """Emulate an access of ``size`` bytes at ``ipa`` that stage 2 refused with ``fault``; the value read.

    Raises ExternalAbort, or VmmioExit after stopping a proxy-scheduled vCPU.
    """
    addrspace = vcpu.addrspace
    assert addrspace is not None
    if hv.instruments:
        hv.watch_trap(vcpu, "device write" if write else "device read", ipa)
    found = addrspace.device_at(ipa, vcpu)
    if found is not None:
        device, offset = found
        try:
            if write:
                device.write(vcpu, offset, size, value)
                return 0
            return device.read(vcpu, offset, size)
        except DeviceAbort as refused:
            raise ExternalAbort(f"{vcpu}: {refused}") from None
    if fault.kind == "device":
        try:
            if write:
                hv.bus.write(fault.pa, value, size)
                return 0
            return hv.bus.read(fault.pa, size)
        except LookupError as nothing:
            raise ExternalAbort(f"{vcpu}: {nothing}") from None
    if vcpu.proxied and fault.kind == "translation" and addrspace.vmmio_range_at(ipa, size):
        vcpu.vmmio = VmmioAccess(ipa, size, write, value)
        vcpu.block(_VMMIO)
        raise VmmioExit
    raise ExternalAbort(f"{vcpu}: {fault}")
