"""What happens when a guest's access does not reach memory (objects.md 4.1).

Order: an attached virtual device, the default GIC window or the vRTC page, a device of the board that is mapped
through, a declared VMMIO range of a proxy-scheduled vCPU, and else a synchronous external abort.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from gunyah.abi.memory import Access
from gunyah.hypervisor.proxy import VmmioAccess
from gunyah.hypervisor.vcpu import Block
from gunyah.hypervisor.vdevice import DeviceAbort

if TYPE_CHECKING:
    from gunyah.hypervisor.addrspace import Addrspace
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.stage2 import Stage2Fault
    from gunyah.hypervisor.vcpu import Vcpu
    from gunyah.machine.bus import Device

__all__ = ["DevicePage", "ExternalAbort", "VmmioExit", "device_access", "device_page", "fault_access"]

_VMMIO = int(Block.VMMIO)
_R, _W = int(Access.R), int(Access.W)
_PAGE = 0xFFF


class ExternalAbort(Exception):
    """The access ends in a synchronous external abort to EL1, FSC 0x10."""


class VmmioExit(Exception):
    """The vCPU has been stopped for its VMM; the access is completed when it is run again."""


class DevicePage(NamedTuple):
    """Who answers in a whole page of a vCPU's IPA space; the page is at ``base`` of the device."""

    read: Callable[[Vcpu, int, int], int]
    """``read(vcpu, offset, size)``; raises DeviceAbort."""
    write: Callable[[Vcpu, int, int, int], None]
    """``write(vcpu, offset, size, value)``; raises DeviceAbort."""
    base: int


class _Passthrough:
    """A device of the board with the calls of a virtual device."""

    def __init__(self, device: Device) -> None:
        self._read = device.read
        self._write = device.write

    def read(self, vcpu: Vcpu, offset: int, size: int) -> int:
        return self._read(offset, size)

    def write(self, vcpu: Vcpu, offset: int, size: int, value: int) -> None:
        self._write(offset, value, size)


def _board_device_at(hv: Hypervisor, addrspace: Addrspace, ipa: int, write: bool) -> tuple[Device, int] | None:
    """The device of the board that is mapped through at ``ipa``, and the offset in it; None if there is none."""
    fault = addrspace.fault_at(ipa, _W if write else _R)
    if fault is None or fault.kind != "device":
        return None
    try:
        return hv.bus.find(fault.pa)
    except LookupError:
        return None


def device_page(hv: Hypervisor, vcpu: Vcpu, ipa: int) -> DevicePage | None:
    """The one device that answers everywhere in the page of ``ipa``, as long as nothing changes in the address space.

    None where the parts of a page differ, and where reads and writes do: ask ``fault_access`` each time then.
    """
    addrspace = vcpu.addrspace
    assert addrspace is not None
    first, last = ipa & ~_PAGE, ipa | _PAGE
    if addrspace.fault_at(ipa, _R) is None:
        # Readable memory whose writes a device sees (virtio).
        return None
    found, end = addrspace.device_at(first, vcpu), addrspace.device_at(last, vcpu)
    if found is not None and end is not None and found[0] is end[0] and end[1] - found[1] == _PAGE:
        device, offset = found
        return DevicePage(device.read, device.write, offset)
    if found is not None or end is not None:
        return None
    through, beyond = _board_device_at(hv, addrspace, first, True), _board_device_at(hv, addrspace, last, True)
    if through is not None and beyond is not None and through[0] is beyond[0] and beyond[1] - through[1] == _PAGE:
        passed = _Passthrough(through[0])
        return DevicePage(passed.read, passed.write, through[1])
    return None


def fault_access(hv: Hypervisor, vcpu: Vcpu, ipa: int, size: int, write: bool, value: int) -> int:
    """Emulate an access of ``size`` bytes at ``ipa`` that did not reach memory; the value read.

    Raises ExternalAbort, or VmmioExit after stopping a proxy-scheduled vCPU.
    """
    addrspace = vcpu.addrspace
    assert addrspace is not None
    return _access(hv, vcpu, addrspace, addrspace.fault_at(ipa, _W if write else _R), ipa, size, write, value)


def device_access(hv: Hypervisor, vcpu: Vcpu, fault: Stage2Fault, ipa: int, size: int, write: bool, value: int) -> int:
    """As ``fault_access``, by who has ``fault`` in hand."""
    addrspace = vcpu.addrspace
    assert addrspace is not None
    return _access(hv, vcpu, addrspace, fault, ipa, size, write, value)


def _access(
    hv: Hypervisor,
    vcpu: Vcpu,
    addrspace: Addrspace,
    fault: Stage2Fault | None,
    ipa: int,
    size: int,
    write: bool,
    value: int,
) -> int:
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
    if fault is None:
        raise ExternalAbort(f"{vcpu}: access to IPA {ipa:#x} that memory should have answered")
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
