"""Start of the machine: the root VM is built by hand, gets its environment, and everything else is its work (boot.md 3
to 6).

What the root VM owns afterwards it holds by master capabilities in its own capability space; the environment tells it
their ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gunyah.abi import cbor
from gunyah.abi.bootenv import RUNTIME_AREA_SIZE, RUNTIME_SIZE, ResourceManagerBlock, RuntimeBlock
from gunyah.abi.memory import (
    Access,
    MapMemtype,
    MappingAttributes,
    MemextentAttributes,
    MemextentMemtype,
    MemextentType,
)
from gunyah.abi.types import CAP_INVALID, VMID_RM
from gunyah.abi.vcpu import ROOT_VM_PRIORITY, VcpuOption
from gunyah.abi.vic import VIC_OPTION_DISABLE_DEFAULT_ADDR
from gunyah.hypervisor.addrspace import Addrspace
from gunyah.hypervisor.cspace import CSpace
from gunyah.hypervisor.hwirq import HwIrq, usable_interrupts
from gunyah.hypervisor.memextent import MemExtent
from gunyah.hypervisor.vcpu import Vcpu
from gunyah.hypervisor.vic import Vic
from gunyah.machine import board

if TYPE_CHECKING:
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.objects import KernelObject
    from gunyah.hypervisor.vdevice import VirtualDevice

__all__ = ["RootVm", "start_root_vm"]

ROOT_CAPABILITIES = 2048
ROOT_SHARED_VIRQS = 64
IMAGE_SIZE = 0x1000
ROOT_GICD_SIZE = 0xFFD0
REDISTRIBUTOR_NOT_LAST = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RootVm:
    """What was built: the objects, and the capability ids by the environment's keys (``partition_capid`` ...)."""

    vcpu: Vcpu
    cspace: CSpace
    addrspace: Addrspace
    vic: Vic
    environment: Mapping[str, cbor.Value]
    environment_ipa: int
    capabilities: Mapping[str, int] = field(default_factory=dict)
    hwirqs: Mapping[int, HwIrq] = field(default_factory=dict)


def _give(cspace: CSpace, obj: KernelObject) -> int:
    """A master capability to an object that the hypervisor itself goes on holding."""
    obj.get()
    return cspace.create_master(obj)


def start_root_vm(
    hv: Hypervisor,
    image: bytes,
    *,
    usable_cores: int = 0xFF,
    hlos_size: int = board.HLOS.size,
    extra: Mapping[str, cbor.Value] | None = None,
) -> RootVm:
    """Build and power on the root VM whose code is ``image`` (at most one page), with the environment of boot.md 5.

    ``extra`` adds keys to the environment map. The root VM's vCPU gets the IPA of the environment in X0.
    """
    if len(image) > IMAGE_SIZE:
        raise ValueError(f"a root image of {len(image)} bytes is larger than {IMAGE_SIZE}")
    root = hv.root_partition
    cspace = CSpace(root, hv.random.randbytes(32))
    cspace.configure(ROOT_CAPABILITIES)
    cspace.activate()
    vcpu = Vcpu(root, hv)
    vcpu.name = "root"
    vcpu.affinity = 0
    vcpu.priority = ROOT_VM_PRIORITY
    vcpu.requested_options = int(VcpuOption.CRITICAL)
    vcpu.attach_cspace(cspace)
    capabilities = {
        "cspace_capid": _give(cspace, cspace),
        "partition_capid": _give(cspace, root),
        "vcpu_capid": _give(cspace, vcpu),
    }
    free_ranges = [list(piece) for piece in root.free_ranges()]
    vic = Vic(root, hv)
    vic.configure(1, ROOT_SHARED_VIRQS, VIC_OPTION_DISABLE_DEFAULT_ADDR, 0)
    vic.activate()
    vic.attach_vcpu(vcpu, 0)
    capabilities["vic"] = _give(cspace, vic)
    hwirqs = {}
    capids: list[int] = [CAP_INVALID] * (max(usable_interrupts()) + 1)
    for number in usable_interrupts():
        hwirq = hwirqs[number] = HwIrq(root, number)
        hwirq.activate()
        capids[number] = _give(cspace, hwirq)
    addrspace = Addrspace(root)
    addrspace.configure(VMID_RM)
    addrspace.activate()
    addrspace.attach_thread(vcpu)
    capabilities["addrspace_capid"] = _give(cspace, addrspace)
    extent = MemExtent(root)
    extent.configure(
        board.ROOT_VM.base, board.ROOT_VM.size, _attributes(Access.RWX, MemextentMemtype.ANY, MemextentType.BASIC)
    )
    extent.activate()
    extent.map(addrspace, board.ROOT_VM.base, MappingAttributes(Access.RWX, Access.RWX, MapMemtype.NORMAL_WB))
    capabilities["me_capid"] = _give(cspace, extent)
    device = MemExtent.device(
        root,
        board.DEVICES.base,
        board.DEVICES.size,
        _attributes(Access.RW, MemextentMemtype.DEVICE, MemextentType.SPARSE),
    )
    capabilities["device_me_capid"] = _give(cspace, device)
    # The GIC and the UART are derived out of the device extent, so it no longer owns them (boot.md 6).
    for window in (board.GICD, board.GICR):
        _derive(hv, device, window)
    capabilities["uart_me_capid"] = _give(cspace, _derive(hv, device, board.UART))
    environment: dict[str, cbor.Value] = {
        **capabilities,
        "vic_hwirq": capids,
        "free_ranges": free_ranges,
        "me_ipa_base": board.ROOT_VM.base,
        "me_size": board.ROOT_VM.size,
        "ipa_offset": 0,
        "device_me_base": board.DEVICES.base,
        "device_me_size": board.DEVICES.size,
        "uart_address": board.UART.base,
        "gicd_base": board.GICD.base,
        "gicr_stride": board.GICR_STRIDE,
        "gicr_ranges": [[board.GICR.base, board.MAX_CORES]],
        "boot_core": 0,
        "usable_cores": usable_cores,
        "hlos_vm_base": board.HLOS.base,
        "hlos_vm_size": hlos_size,
        "entry_hlos": board.HLOS_ENTRY,
        "hlos_dt_base": board.HLOS_DEVICE_TREE,
        "hlos_ramfs_base": board.HLOS_RAMDISK,
        "watchdog_supported": 0,
        "sve_supported": True,
        **(extra or {}),
    }
    entry = board.ROOT_VM.base
    environment_ipa = entry + IMAGE_SIZE
    _write_environment(addrspace, entry, environment_ipa, capabilities["vcpu_capid"], environment)
    addrspace.write(entry, image)
    vcpu.activate()
    # Recorded: the identification registers are outside the root VM's distributor frame, and its redistributor is not
    # "last".
    vic.attach_frame(0, 0, _placer(addrspace, board.GICD.base, ROOT_GICD_SIZE))
    vic.attach_frame(1, REDISTRIBUTOR_NOT_LAST, _placer(addrspace, board.GICR.base, board.GICR_STRIDE))
    vcpu.power_on(entry, environment_ipa)
    return RootVm(
        vcpu=vcpu,
        cspace=cspace,
        addrspace=addrspace,
        vic=vic,
        environment=environment,
        environment_ipa=environment_ipa,
        capabilities=capabilities,
        hwirqs=hwirqs,
    )


def _placer(addrspace: Addrspace, base: int, size: int) -> Callable[[VirtualDevice], Callable[[], None]]:
    def place(device: VirtualDevice) -> Callable[[], None]:
        attached = addrspace.attach_vdevice(device, base, size)
        return lambda: addrspace.detach_vdevice(attached)

    return place


def _attributes(access: Access, memtype: MemextentMemtype, kind: MemextentType) -> int:
    return MemextentAttributes(access, memtype, kind).pack()


def _derive(hv: Hypervisor, parent: MemExtent, window: board.Window) -> MemExtent:
    child = MemExtent(hv.root_partition)
    attributes = _attributes(Access.RW, MemextentMemtype.DEVICE, MemextentType.BASIC)
    child.configure_derive(parent, window.base - parent.base, window.size, attributes)
    child.activate()
    return child


def _write_environment(
    addrspace: Addrspace, image: int, address: int, vcpu_capid: int, environment: Mapping[str, cbor.Value]
) -> None:
    payload = cbor.encode(environment)
    block = ResourceManagerBlock(len(payload)).pack() + payload
    room = RUNTIME_AREA_SIZE - RUNTIME_SIZE
    if len(block) > room:
        raise ValueError(f"the root environment needs {len(block)} bytes, there are {room}")
    heap = address + RUNTIME_AREA_SIZE
    runtime = RuntimeBlock(
        runtime_ipa=image,
        app_ipa=image,
        app_heap_ipa=heap,
        app_heap_size=board.ROOT_VM.end - heap,
        vcpu_capid=vcpu_capid,
        timer_freq=board.COUNTER_FREQUENCY,
        gicd_base=board.GICD.base,
        gicr_base=board.GICR.base,
    )
    addrspace.write(address, runtime.pack() + block)
