"""Register frames of an interrupt controller in an address space: which device, where, and for how long."""

from __future__ import annotations

from typing import Any

from tests.hypervisor.yard import Yard, sleep_for_ever

from gunyah.abi.errors import Error
from gunyah.abi.objects import ObjectType

GICD, GICR = 0x5000_0000, 0x5002_0000


def place(yard: Yard) -> tuple[Any, Any, Any]:
    """A VIC with two vCPUs whose distributor and second redistributor stand in another address space."""
    vm = yard.vm(sleep_for_ever, sleep_for_ever)
    other = yard.active("addrspace", 99)
    yard.ok("addrspace_attach_vdevice", other, vm.vic, 0, GICD, 0x1_0000, 0)
    yard.ok("addrspace_attach_vdevice", other, vm.vic, 2, GICR, 0x2_0000, 0)
    addrspace = yard.root.cspace.lookup(other, ObjectType.ADDRSPACE, 0)
    vic = yard.root.cspace.lookup(vm.vic, ObjectType.VIC, 0)
    return vm, addrspace, vic


def test_a_frame_is_the_distributor_or_a_redistributor_at_its_place() -> None:
    vm, addrspace, vic = place(Yard())
    distributor, redistributor = addrspace.devices
    assert (distributor.base, distributor.size) == (GICD, 0x1_0000)
    assert distributor.device is vic.distributor
    assert (redistributor.base, redistributor.size) == (GICR, 0x2_0000)
    assert redistributor.device.redistributor is vic.redistributor(1).redistributor
    assert addrspace.device_at(GICD + 8, vm.vcpus[0]) == (vic.distributor, 8)


def test_frames_go_with_what_they_belong_to() -> None:
    yard = Yard()
    vm, addrspace, _ = place(yard)
    assert addrspace.references == 3
    for thread in vm.threads:
        yard.ok("vcpu_kill", thread)
    yard.settle()
    for capid in (*vm.threads, vm.vic):
        yard.ok("cspace_delete_cap_from", yard.cspace, capid)
    assert (addrspace.devices, addrspace.references) == ((), 1)


def test_a_frame_in_the_way_of_another_is_refused_and_the_vic_may_try_elsewhere() -> None:
    yard = Yard()
    vm, addrspace, vic = place(yard)
    other = next(cap.id for cap in addrspace.capabilities)
    before = addrspace.devices
    assert yard.call("addrspace_attach_vdevice", other, vm.vic, 1, GICD + 0x8000, 0x2_0000, 0).error == Error.BUSY
    assert addrspace.devices == before
    yard.ok("addrspace_attach_vdevice", other, vm.vic, 1, GICR + 0x2_0000, 0x2_0000, 0)
    assert addrspace.devices[-1].device.redistributor is vic.redistributor(0).redistributor
