"""Memory that RM accepts on behalf of a VM: image, firmware, device memory, extra RAM (rm-behaviour.md 5.4 and 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gunyah.abi.devicetree import VdeviceType
from gunyah.abi.errors import RmError
from gunyah.abi.rm import AclEntry, AuthType, MemAcceptFlag, MemTrans, MemType, SglEntry
from gunyah.rm.errors import RmFailure
from gunyah.rm.memparcel import Memparcel
from gunyah.rm.vm import Vm
from gunyah.rm.vmconfig import VmConfig
from gunyah.rm.vmconfig_devices import DeviceConfig

if TYPE_CHECKING:
    from gunyah.rm.manager import ResourceManager

__all__ = [
    "accept_at",
    "accept_firmware",
    "accept_image",
    "accept_private",
    "accept_remaining",
    "base_ranges",
    "process_memparcel",
]

_RWX, _WRITE, _READ = 7, 2, 4
_DONE = MemAcceptFlag.DONE
_CONTIGUOUS = MemAcceptFlag.MAP_CONTIGUOUS
_SANITIZE = MemAcceptFlag.SANITIZE


def config_of(vm: Vm) -> VmConfig:
    """The VM's configuration; raises RmFailure VM_STATE before VM_INIT."""
    if vm.config is None:
        raise RmFailure(RmError.VM_STATE, f"VM {vm.vmid} is not configured")
    return vm.config


def _base_flags(vm: Vm) -> int:
    """Base memory of an unauthenticated VM goes back as it is; others have it zeroed (rm-behaviour.md 5.2)."""
    kept = vm.image is not None and vm.image.auth is AuthType.NONE
    return int(_DONE) | (0 if kept else int(_SANITIZE))


def _sanitize_flag(vm: Vm, parcel: Memparcel, owner_sensitive: bool) -> int:
    """Zero what a sensitive VM could write and its owner cannot read, or only secretly (rm-behaviour.md 9)."""
    member, owner = parcel.member(vm.vmid), parcel.member(parcel.owner)
    writes = member is not None and bool(member.rights & _WRITE)
    readable = owner is not None and bool(owner.rights & _READ)
    return int(_SANITIZE) if vm.sensitive and writes and (not readable or owner_sensitive) else 0


def _accept_exclusive(rm: ResourceManager, vm: Vm, parcel: Memparcel, ipa: int, flags: int) -> None:
    """Accept memory that nobody but the VM (and, for a share, its owner) may reach, with RWX, at one address."""
    member = parcel.member(vm.vmid)
    others = [other.vmid for other in parcel.members if other.vmid not in (vm.vmid, parcel.owner)]
    if parcel.trans_type is MemTrans.DONATE:
        raise RmFailure(RmError.ARGUMENT_INVALID, f"{parcel} is a donation; an image is lent or shared")
    if member is None or member.rights != _RWX or others:
        raise RmFailure(
            RmError.VALIDATE_FAILED, f"{parcel} must give VM {vm.vmid} rwx and no other VM anything: {parcel.members}"
        )
    if parcel.type_code != MemType.NORMAL:
        raise RmFailure(
            RmError.ARGUMENT_INVALID, f"{parcel} is of memory type {parcel.type_code}, normal (0) is needed"
        )
    if parcel.attributes and parcel.trans_type is MemTrans.LEND:
        raise RmFailure(RmError.VALIDATE_FAILED, f"{parcel} is lent with memory attributes; a VM's own memory has none")
    if config_of(vm).memory.direct:
        rm.parcels.accept(vm, parcel.handle, parcel.type_code, parcel.trans_type, flags)
        return
    where = [SglEntry(ipa, parcel.size)]
    rm.parcels.accept(vm, parcel.handle, parcel.type_code, parcel.trans_type, flags | _CONTIGUOUS, sgl=where)


def accept_image(rm: ResourceManager, vm: Vm) -> None:
    """The image memparcel at the configured base; locked as long as the VM needs it. An image that is shared serves
    too.
    """
    if vm.image is None:
        raise RmFailure(RmError.VM_STATE, f"VM {vm.vmid} has no image")
    parcel = rm.parcels.lookup(vm.image.handle)
    _accept_exclusive(rm, vm, parcel, config_of(vm).memory.base, _base_flags(vm))
    parcel.locked = True


def accept_firmware(rm: ResourceManager, vm: Vm) -> None:
    """The firmware memparcel at firmware-address, unless firmware lies inside the image."""
    image, memory = vm.image, config_of(vm).memory
    if image is None or not image.firmware_size:
        return
    if image.firmware_offset + image.firmware_size > memory.firmware_size_max:
        raise RmFailure(
            RmError.MEM_INVALID,
            f"firmware at {image.firmware_offset:#x}+{image.firmware_size:#x} exceeds firmware-size-max",
        )
    if memory.firmware_base is None:
        raise RmFailure(RmError.MEM_INVALID, "firmware is set but the configuration has no firmware-address")
    parcel = rm.parcels.lookup(image.firmware_handle if image.firmware_handle is not None else image.handle)
    if parcel.handle == image.handle:
        end = memory.base + parcel.size
        if not memory.base <= memory.firmware_base <= end - memory.firmware_size_max:
            raise RmFailure(
                RmError.MEM_INVALID, f"firmware-address {memory.firmware_base:#x} is outside the image memory"
            )
        return
    if not parcel.is_exclusive(vm.vmid) or parcel.trans_type is not MemTrans.LEND:
        raise RmFailure(RmError.VALIDATE_FAILED, f"{parcel} with firmware must be lent to VM {vm.vmid} alone")
    _accept_exclusive(rm, vm, parcel, memory.firmware_base, int(_DONE | _SANITIZE))
    parcel.locked = True


def _device_for(vm: Vm, parcel: Memparcel) -> DeviceConfig | None:
    for device in config_of(vm).devices:
        if device.memory is not None and device.memory.label == parcel.label:
            return device
    return None


def process_memparcel(rm: ResourceManager, vm: Vm, parcel: Memparcel) -> None:
    """Accept a memparcel whose label is that of a device with a fixed address, or of IO memory."""
    member, device = parcel.member(vm.vmid), _device_for(vm, parcel)
    if member is None or member.shared or device is None or device.memory is None:
        return
    if device.kind is VdeviceType.IOMEM:
        _accept_io(rm, vm, parcel, device)
    elif device.memory.base is not None:
        accept_at(rm, vm, parcel, device.memory.base)


def _accept_io(rm: ResourceManager, vm: Vm, parcel: Memparcel, device: DeviceConfig) -> None:
    wanted = {(entry.address, entry.size) for entry in device.ranges}
    missing = [region for region in parcel.regions if wanted and (region.pa, region.size) not in wanted]
    if missing:
        raise RmFailure(
            RmError.DENIED,
            f"{parcel}: {missing[0].pa:#x}+{missing[0].size:#x} is not in qcom,rm_sglist of {device.path}",
        )
    flags = int(_DONE)
    acl = device.acl or [AclEntry(member.vmid, member.rights) for member in parcel.members]
    attributes = device.attributes or parcel.attributes
    flags |= MemAcceptFlag.VALIDATE_ACL_ATTR
    rm.parcels.accept(vm, parcel.handle, parcel.type_code, parcel.trans_type, flags, acl=acl, attributes=attributes)
    if device.memory is not None and device.memory.tag is not None:
        parcel.tag, parcel.tag_set = device.memory.tag, True


def accept_at(rm: ResourceManager, vm: Vm, parcel: Memparcel, ipa: int) -> None:
    """Accept a memparcel at one address (or one to one where nothing else is possible)."""
    flags = int(_DONE) | _sanitize_flag(vm, parcel, _owner_sensitive(rm, parcel))
    if config_of(vm).memory.direct or parcel.mem_type is MemType.IO:
        rm.parcels.accept(vm, parcel.handle, parcel.type_code, parcel.trans_type, flags)
        return
    where = [SglEntry(ipa, parcel.size)]
    rm.parcels.accept(vm, parcel.handle, parcel.type_code, parcel.trans_type, flags | int(_CONTIGUOUS), sgl=where)


def _owner_sensitive(rm: ResourceManager, parcel: Memparcel) -> bool:
    owner = rm.vms.get(parcel.owner)
    return owner is not None and owner.sensitive


def accept_remaining(rm: ResourceManager, vm: Vm) -> None:
    """Labelled memparcels that nothing has claimed yet, at addresses RM chooses."""
    for parcel in rm.parcels.targeting(vm.vmid):
        member = parcel.member(vm.vmid)
        if member is None or member.shared or parcel.is_private(vm.vmid) or parcel.trans_type is MemTrans.DONATE:
            continue
        flags = int(_DONE) | _sanitize_flag(vm, parcel, _owner_sensitive(rm, parcel))
        if parcel.type_code == MemType.NORMAL and not config_of(vm).memory.direct:
            flags |= int(_CONTIGUOUS)
        rm.parcels.accept(vm, parcel.handle, parcel.type_code, parcel.trans_type, flags)


def accept_private(rm: ResourceManager, vm: Vm, size: int) -> int:
    """Accept private memparcels behind ``size`` bytes of base memory; the new size. Failures only warn."""
    memory = config_of(vm).memory
    for parcel in rm.parcels.targeting(vm.vmid):
        member = parcel.member(vm.vmid)
        if member is None or member.shared or not parcel.is_private(vm.vmid) or parcel.trans_type is not MemTrans.LEND:
            continue
        if size + parcel.size > memory.size_max:
            rm.log.warning(f"VM {vm.vmid}: {parcel} would make memory larger than size-max {memory.size_max:#x}")
            continue
        try:
            _accept_exclusive(rm, vm, parcel, memory.base + size, _base_flags(vm))
        except RmFailure as failure:
            rm.log.warning(f"VM {vm.vmid}: private {parcel} is not accepted: {failure}")
            continue
        size += parcel.size
    if size < memory.size_min:
        rm.log.warning(f"VM {vm.vmid}: {size:#x} bytes of memory, size-min is {memory.size_min:#x}")
    return size


def base_ranges(rm: ResourceManager, vm: Vm) -> list[tuple[int, int]]:
    """(IPA, size) of all general memory accepted so far, sorted and merged: image and private memparcels."""
    ranges: list[tuple[int, int]] = []
    for handle in vm.accepted:
        parcel = rm.parcels.lookup(handle)
        member = parcel.member(vm.vmid)
        is_image = vm.image is not None and handle == vm.image.handle
        if member is not None and (is_image or parcel.is_private(vm.vmid)):
            ranges += [(ipa, region.size) for ipa, region in parcel.ipas_of(member)]
    merged: list[tuple[int, int]] = []
    for base, size in sorted(ranges):
        if merged and merged[-1][0] + merged[-1][1] == base:
            merged[-1] = merged[-1][0], merged[-1][1] + size
        else:
            merged.append((base, size))
    return merged
