"""An example of every hypercall that works, run as a test and printed on the call's page.

Each function is named after its call and gets a ``Lab``: the root VM, where ``vm.hyp`` makes the calls.
"""

from __future__ import annotations

from gunyah.abi.errors import Error
from gunyah.abi.memory import Access, MemextentAttributes, MemextentMemtype, MemextentType
from gunyah.abi.msgqueue import CreateInfo
from gunyah.abi.objects import DoorbellRight

from .lab import RW, RWX, Lab


def hypervisor_identify(vm: Lab) -> None:
    identity = vm.hyp.hypervisor_identify()
    assert identity.api_info & 0x3FFF == 1  # API version
    assert identity.flags[0] >> 2 & 1  # message queues are there


def partition_create_cspace(vm: Lab) -> None:
    cspace = vm.hyp.partition_create_cspace(vm.partition, vm.cspace)
    vm.hyp.cspace_configure(cspace, 100)
    vm.hyp.object_activate(cspace)


def partition_create_addrspace(vm: Lab) -> None:
    space = vm.hyp.partition_create_addrspace(vm.partition, vm.cspace)
    vm.hyp.addrspace_configure(space, 0x21)
    vm.hyp.object_activate(space)


def partition_create_memextent(vm: Lab) -> None:
    extent = vm.hyp.partition_create_memextent(vm.partition, vm.cspace)
    attributes = MemextentAttributes(Access.RW, MemextentMemtype.ANY, MemextentType.BASIC).pack()
    vm.hyp.memextent_configure(extent, 0x4000_0000, 0x20_0000, attributes)
    vm.hyp.object_activate(extent)


def partition_create_thread(vm: Lab) -> None:
    vcpu = vm.hyp.partition_create_thread(vm.partition, vm.cspace)
    vm.hyp.vcpu_set_priority(vcpu, 20)


def partition_create_doorbell(vm: Lab) -> None:
    doorbell = vm.hyp.partition_create_doorbell(vm.partition, vm.cspace)
    vm.hyp.object_activate(doorbell)


def partition_create_msgqueue(vm: Lab) -> None:
    queue = vm.hyp.partition_create_msgqueue(vm.partition, vm.cspace)
    vm.hyp.msgqueue_configure(queue, CreateInfo(8, 240).pack())
    vm.hyp.object_activate(queue)


def partition_create_vic(vm: Lab) -> None:
    vic = vm.hyp.partition_create_vic(vm.partition, vm.cspace)
    vm.hyp.vic_configure(vic, 2, 988)
    vm.hyp.object_activate(vic)


def partition_create_vpm_group(vm: Lab) -> None:
    group = vm.hyp.partition_create_vpm_group(vm.partition, vm.cspace)
    vm.hyp.object_activate(group)


def partition_create_virtio_mmio(vm: Lab) -> None:
    device = vm.hyp.partition_create_virtio_mmio(vm.partition, vm.cspace)
    vm.hyp.virtio_mmio_configure(device, vm.extent(0x1000), 1, 0, 0)
    vm.hyp.object_activate(device)


def object_activate(vm: Lab) -> None:
    doorbell = vm.hyp.partition_create_doorbell(vm.partition, vm.cspace)
    vm.hyp.object_activate(doorbell)
    error, _ = vm.hyp.try_call("object_activate", doorbell)
    assert error == Error.OBJECT_STATE  # it is active already


def object_activate_from(vm: Lab) -> None:
    other = vm.new_cspace()
    doorbell = vm.hyp.partition_create_doorbell(vm.partition, other)  # an id of the other space
    vm.hyp.object_activate_from(other, doorbell)


def doorbell_bind_virq(vm: Lab) -> None:
    doorbell = vm.doorbell()
    vm.hyp.doorbell_bind_virq(doorbell, vm.vic, 40)
    error, _ = vm.hyp.try_call("doorbell_bind_virq", doorbell, vm.vic, 41)
    assert error == Error.VIRQ_BOUND


def doorbell_unbind_virq(vm: Lab) -> None:
    doorbell = vm.doorbell()
    vm.hyp.doorbell_bind_virq(doorbell, vm.vic, 40)
    vm.hyp.doorbell_unbind_virq(doorbell)
    vm.hyp.doorbell_unbind_virq(doorbell)  # harmless


def doorbell_send(vm: Lab) -> None:
    doorbell = vm.doorbell()
    assert vm.hyp.doorbell_send(doorbell, 0b101) == 0
    assert vm.hyp.doorbell_send(doorbell, 0b010) == 0b101  # the flags before


def doorbell_receive(vm: Lab) -> None:
    doorbell = vm.doorbell()
    vm.hyp.doorbell_send(doorbell, 0b111)
    assert vm.hyp.doorbell_receive(doorbell, 0b001) == 0b111  # and flag 0 is cleared
    assert vm.hyp.doorbell_receive(doorbell, 0b110) == 0b110


def doorbell_reset(vm: Lab) -> None:
    doorbell = vm.doorbell()
    vm.hyp.doorbell_send(doorbell, 0b1)
    vm.hyp.doorbell_reset(doorbell)
    assert vm.hyp.doorbell_receive(doorbell, 0b1) == 0


def doorbell_mask(vm: Lab) -> None:
    doorbell = vm.doorbell()
    vm.hyp.doorbell_mask(doorbell, 0b1, 0b1)  # flag 0 interrupts, and is cleared by interrupting
    vm.hyp.doorbell_send(doorbell, 0b1)
    assert vm.hyp.doorbell_receive(doorbell, 0b1) == 0


def msgqueue_bind_send_virq(vm: Lab) -> None:
    vm.hyp.msgqueue_bind_send_virq(vm.queue(), vm.vic, 41)


def msgqueue_bind_receive_virq(vm: Lab) -> None:
    vm.hyp.msgqueue_bind_receive_virq(vm.queue(), vm.vic, 42)


def msgqueue_unbind_send_virq(vm: Lab) -> None:
    queue = vm.queue()
    vm.hyp.msgqueue_bind_send_virq(queue, vm.vic, 41)
    vm.hyp.msgqueue_unbind_send_virq(queue)


def msgqueue_unbind_receive_virq(vm: Lab) -> None:
    queue = vm.queue()
    vm.hyp.msgqueue_bind_receive_virq(queue, vm.vic, 42)
    vm.hyp.msgqueue_unbind_receive_virq(queue)


def msgqueue_send(vm: Lab) -> None:
    queue = vm.queue(depth=2)
    vm.cpu.write(vm.buffer, b"hello")
    assert vm.hyp.msgqueue_send(queue, 5, vm.buffer, 0)  # there is room for more
    assert not vm.hyp.msgqueue_send(queue, 5, vm.buffer, 0)  # now it is full
    error, _ = vm.hyp.try_msgqueue_send(queue, 5, vm.buffer)
    assert error == Error.MSGQUEUE_FULL


def msgqueue_receive(vm: Lab) -> None:
    queue = vm.queue()
    vm.cpu.write(vm.buffer, b"hello")
    vm.hyp.msgqueue_send(queue, 5, vm.buffer, 0)
    size, more = vm.hyp.msgqueue_receive(queue, vm.buffer + 0x100, 64)
    assert (size, more) == (5, False)
    assert vm.cpu.read(vm.buffer + 0x100, size) == b"hello"


def msgqueue_flush(vm: Lab) -> None:
    queue = vm.queue()
    vm.hyp.msgqueue_send(queue, 5, vm.buffer, 0)
    vm.hyp.msgqueue_flush(queue)
    assert vm.hyp.try_msgqueue_receive(queue, vm.buffer, 64)[0] == Error.MSGQUEUE_EMPTY


def msgqueue_configure_send(vm: Lab) -> None:
    vm.hyp.msgqueue_configure_send(vm.queue(depth=4), 0)  # interrupt the sender when the queue is empty


def msgqueue_configure_receive(vm: Lab) -> None:
    vm.hyp.msgqueue_configure_receive(vm.queue(depth=4), 3)  # interrupt the receiver at the third message


def msgqueue_configure(vm: Lab) -> None:
    queue = vm.hyp.partition_create_msgqueue(vm.partition, vm.cspace)
    vm.hyp.msgqueue_configure(queue, CreateInfo(8, 240).pack())
    error, _ = vm.hyp.try_call("msgqueue_configure", queue, CreateInfo(0, 240).pack())
    assert error == Error.ARGUMENT_INVALID


def cspace_delete_cap_from(vm: Lab) -> None:
    doorbell = vm.doorbell()
    vm.hyp.cspace_delete_cap_from(vm.cspace, doorbell)
    error, _ = vm.hyp.try_call("doorbell_send", doorbell, 1)
    assert error == Error.CSPACE_CAP_NULL


def cspace_copy_cap_from(vm: Lab) -> None:
    doorbell = vm.doorbell()
    sender = vm.hyp.cspace_copy_cap_from(vm.cspace, doorbell, vm.cspace, int(DoorbellRight.SEND))
    vm.hyp.doorbell_send(sender, 1)
    error, _ = vm.hyp.try_call("doorbell_receive", sender, 1)
    assert error == Error.CSPACE_INSUFFICIENT_RIGHTS


def cspace_revoke_caps_from(vm: Lab) -> None:
    doorbell = vm.doorbell()
    copy = vm.hyp.cspace_copy_cap_from(vm.cspace, doorbell, vm.cspace, int(DoorbellRight.SEND))
    vm.hyp.cspace_revoke_caps_from(vm.cspace, doorbell)
    error, _ = vm.hyp.try_call("doorbell_send", copy, 1)
    assert error == Error.CSPACE_CAP_REVOKED


def cspace_configure(vm: Lab) -> None:
    cspace = vm.hyp.partition_create_cspace(vm.partition, vm.cspace)
    vm.hyp.cspace_configure(cspace, 1024)


def cspace_attach_thread(vm: Lab) -> None:
    vm.hyp.cspace_attach_thread(vm.new_cspace(), vm.thread())


def hwirq_bind_virq(vm: Lab) -> None:
    vic = vm.new_vic(interrupts=988)
    vm.hyp.vic_attach_vcpu(vic, vm.thread(), 0)
    error, _ = vm.hyp.try_call("hwirq_bind_virq", vm.hwirqs[34], vic, 16)
    assert error == Error.ARGUMENT_INVALID  # a physical SPI needs a virtual SPI


def hwirq_unbind_virq(vm: Lab) -> None:
    error, _ = vm.hyp.try_call("hwirq_unbind_virq", vm.hwirqs[34])
    assert error == Error.VIRQ_NOT_BOUND


def vic_configure(vm: Lab) -> None:
    vic = vm.hyp.partition_create_vic(vm.partition, vm.cspace)
    vm.hyp.vic_configure(vic, 4, 988)
    error, _ = vm.hyp.try_call("vic_configure", vic, 9, 988, 0, 0)
    assert error == Error.ARGUMENT_INVALID  # the board has eight cores


def vic_attach_vcpu(vm: Lab) -> None:
    vm.hyp.vic_attach_vcpu(vm.new_vic(), vm.thread(), 0)


def vic_bind_msi_source(vm: Lab) -> None:
    error, _ = vm.hyp.try_call("vic_bind_msi_source", vm.vic, vm.doorbell())
    assert error == Error.CSPACE_WRONG_OBJECT_TYPE  # this board has no MSI sources


def vgic_set_mpidr_mapping(vm: Lab) -> None:
    vic = vm.hyp.partition_create_vic(vm.partition, vm.cspace)
    vm.hyp.vgic_set_mpidr_mapping(vic, 0x7, 0, 0, 0, 0, False)  # the index is Aff0


def addrspace_attach_thread(vm: Lab) -> None:
    vm.hyp.addrspace_attach_thread(vm.new_addrspace(), vm.thread())


def addrspace_map(vm: Lab) -> None:
    vm.hyp.addrspace_map(vm.addrspace, vm.extent(), 0x6000_0000, RWX)
    vm.cpu.write(0x6000_0000, b"now this VM sees it")


def addrspace_unmap(vm: Lab) -> None:
    extent = vm.extent()
    vm.hyp.addrspace_map(vm.addrspace, extent, 0x6000_0000, RW)
    vm.hyp.addrspace_unmap(vm.addrspace, extent, 0x6000_0000)


def addrspace_update_access(vm: Lab) -> None:
    extent = vm.extent()
    vm.hyp.addrspace_map(vm.addrspace, extent, 0x6000_0000, RW)
    read_only = int(Access.R) | int(Access.R) << 4
    vm.hyp.addrspace_update_access(vm.addrspace, extent, 0x6000_0000, read_only)


def addrspace_configure(vm: Lab) -> None:
    space = vm.hyp.partition_create_addrspace(vm.partition, vm.cspace)
    vm.hyp.addrspace_configure(space, 0x21)
    error, _ = vm.hyp.try_call("addrspace_configure", space, 256)
    assert error == Error.ARGUMENT_INVALID


def addrspace_attach_vdma(vm: Lab) -> None:
    error, _ = vm.hyp.try_call("addrspace_attach_vdma", vm.addrspace, vm.doorbell(), 0)
    assert error == Error.CSPACE_WRONG_OBJECT_TYPE  # no object here has a DMA port


def addrspace_lookup(vm: Lab) -> None:
    extent = vm.extent()
    vm.hyp.addrspace_map(vm.addrspace, extent, 0x6000_0000, RW)
    offset, size, attributes = vm.hyp.addrspace_lookup(vm.addrspace, extent, 0x6000_1000, 0x1000)
    assert (offset, size, attributes) == (0x1000, 0x1000, RW)


def addrspace_configure_info_area(vm: Lab) -> None:
    space = vm.hyp.partition_create_addrspace(vm.partition, vm.cspace)
    vm.hyp.addrspace_configure(space, 0x21)
    vm.hyp.addrspace_configure_info_area(space, vm.extent(0x1000), 0x7000_0000)


def addrspace_configure_vmmio(vm: Lab) -> None:
    space = vm.new_addrspace()
    vm.hyp.addrspace_configure_vmmio(space, 0x1000_0000, 0x1_0000, 0)  # its faults go to who runs the vCPU


def addrspace_attach_vdevice(vm: Lab) -> None:
    vm.hyp.addrspace_attach_vdevice(vm.new_addrspace(), vm.new_vic(), 0, 0x0800_0000, 0x1_0000)


def memextent_modify(vm: Lab) -> None:
    extent = vm.extent()
    vm.hyp.addrspace_map(vm.addrspace, extent, 0x6000_0000, RW)
    vm.hyp.memextent_modify(extent, 0)  # unmap it everywhere


def memextent_configure(vm: Lab) -> None:
    extent = vm.hyp.partition_create_memextent(vm.partition, vm.cspace)
    attributes = MemextentAttributes(Access.RW, MemextentMemtype.ANY, MemextentType.BASIC).pack()
    vm.hyp.memextent_configure(extent, 0x4000_0000, 0x20_0000, attributes)


def memextent_configure_derive(vm: Lab) -> None:
    child = vm.hyp.partition_create_memextent(vm.partition, vm.cspace)
    attributes = MemextentAttributes(Access.RW, MemextentMemtype.ANY, MemextentType.BASIC).pack()
    vm.hyp.memextent_configure_derive(child, vm.extent(), 0x1000, 0x1000, attributes)
    vm.hyp.object_activate(child)


def memextent_donate(vm: Lab) -> None:
    parent = vm.extent(kind=MemextentType.SPARSE)  # of the partition, and empty until memory is given to it
    vm.hyp.memextent_donate(0, vm.partition, parent, 0, 0x1000)


def vcpu_configure(vm: Lab) -> None:
    vcpu = vm.thread()
    vm.hyp.vcpu_configure(vcpu, 1 << 9)  # it will only run by vcpu_run


def vcpu_poweron(vm: Lab) -> None:
    vcpu = vm.proxy_vcpu()
    vm.hyp.vcpu_poweron(vcpu, 0x8000_0000, 0x1234)
    error, _ = vm.hyp.try_call("vcpu_poweron", vcpu, 0x8000_0000, 0, 0)
    assert error == Error.BUSY


def vcpu_poweroff(vm: Lab) -> None:
    error, _ = vm.hyp.try_call("vcpu_poweroff", vm.proxy_vcpu(), 0)
    assert error == Error.ARGUMENT_INVALID  # a vCPU can switch only itself off


def vcpu_kill(vm: Lab) -> None:
    vcpu = vm.proxy_vcpu()
    vm.hyp.vcpu_kill(vcpu)


def scheduler_yield(vm: Lab) -> None:
    vm.hyp.scheduler_yield()


def vcpu_set_affinity(vm: Lab) -> None:
    vm.hyp.vcpu_set_affinity(vm.thread(), 3)


def vcpu_set_priority(vm: Lab) -> None:
    vcpu = vm.thread()
    vm.hyp.vcpu_set_priority(vcpu, 62)
    error, _ = vm.hyp.try_call("vcpu_set_priority", vcpu, 63)
    assert error == Error.DENIED


def vcpu_set_timeslice(vm: Lab) -> None:
    vm.hyp.vcpu_set_timeslice(vm.thread(), 5_000_000)


def vcpu_bind_virq(vm: Lab) -> None:
    vm.hyp.vcpu_bind_virq(vm.proxy_vcpu(), vm.vic, 50, 1)  # interrupt 50 when it can go on


def vcpu_unbind_virq(vm: Lab) -> None:
    vm.hyp.vcpu_unbind_virq(vm.proxy_vcpu(), 1)


def vcpu_register_write(vm: Lab) -> None:
    vcpu = vm.proxy_vcpu()
    vm.hyp.vcpu_register_write(vcpu, 0, 5, 0xABCD)  # X5


def vcpu_run(vm: Lab) -> None:
    state, *_ = vm.hyp.vcpu_run(vm.proxy_vcpu())
    assert state == 2  # powered off


def vcpu_run_check(vm: Lab) -> None:
    state, *_ = vm.hyp.vcpu_run_check(vm.proxy_vcpu())
    assert state == 2  # powered off


def vpm_group_attach_vcpu(vm: Lab) -> None:
    vm.hyp.vpm_group_attach_vcpu(vm.vpm_group(), vm.thread(), 0)


def vpm_group_bind_virq(vm: Lab) -> None:
    vm.hyp.vpm_group_bind_virq(vm.vpm_group(), vm.vic, 44)


def vpm_group_unbind_virq(vm: Lab) -> None:
    group = vm.vpm_group()
    vm.hyp.vpm_group_bind_virq(group, vm.vic, 44)
    vm.hyp.vpm_group_unbind_virq(group)


def vpm_group_get_state(vm: Lab) -> None:
    assert vm.hyp.vpm_group_get_state(vm.vpm_group()) == 2  # nobody is on


def vpm_group_configure(vm: Lab) -> None:
    group = vm.hyp.partition_create_vpm_group(vm.partition, vm.cspace)
    vm.hyp.vpm_group_configure(group, 1)  # without power aggregation


def trace_update_class_flags(vm: Lab) -> None:
    before = vm.hyp.trace_update_class_flags(0, 0)
    assert vm.hyp.trace_update_class_flags(1 << 20, 0) == before | 1 << 20


def prng_get_entropy(vm: Lab) -> None:
    first, second, *rest = vm.hyp.prng_get_entropy(8)
    assert rest == [0, 0]
    assert (first, second) != (0, 0)


def virtio_mmio_configure(vm: Lab) -> None:
    device = vm.hyp.partition_create_virtio_mmio(vm.partition, vm.cspace)
    vm.hyp.virtio_mmio_configure(device, vm.extent(0x1000), 2, 0, 0)


def virtio_mmio_backend_bind_virq(vm: Lab) -> None:
    vm.hyp.virtio_mmio_backend_bind_virq(vm.virtio(), vm.vic, 45)


def virtio_mmio_backend_unbind_virq(vm: Lab) -> None:
    vm.hyp.virtio_mmio_backend_unbind_virq(vm.virtio())


def virtio_mmio_frontend_bind_virq(vm: Lab) -> None:
    vm.hyp.virtio_mmio_frontend_bind_virq(vm.virtio(), vm.vic, 46)


def virtio_mmio_frontend_unbind_virq(vm: Lab) -> None:
    vm.hyp.virtio_mmio_frontend_unbind_virq(vm.virtio())


def virtio_mmio_backend_assert_virq(vm: Lab) -> None:
    vm.hyp.virtio_mmio_backend_assert_virq(vm.virtio(), 1)


def virtio_mmio_backend_set_dev_features(vm: Lab) -> None:
    vm.hyp.virtio_mmio_backend_set_dev_features(vm.virtio(), 0, 0x1234)


def virtio_mmio_backend_set_queue_num_max(vm: Lab) -> None:
    vm.hyp.virtio_mmio_backend_set_queue_num_max(vm.virtio(), 0, 256)


def virtio_mmio_backend_get_drv_features(vm: Lab) -> None:
    assert vm.hyp.virtio_mmio_backend_get_drv_features(vm.virtio(), 0) == 0  # no driver yet


def virtio_mmio_backend_get_queue_info(vm: Lab) -> None:
    number, ready, *addresses = vm.hyp.virtio_mmio_backend_get_queue_info(vm.virtio(), 0)
    assert (number, ready, addresses) == (0, 0, [0, 0, 0])  # no driver yet


def virtio_mmio_backend_get_notification(vm: Lab) -> None:
    queues, reason = vm.hyp.virtio_mmio_backend_get_notification(vm.virtio())
    assert (queues, reason) == (0, 0)


def virtio_mmio_backend_acknowledge_reset(vm: Lab) -> None:
    vm.hyp.virtio_mmio_backend_acknowledge_reset(vm.virtio())


def virtio_mmio_backend_update_status(vm: Lab) -> None:
    vm.hyp.virtio_mmio_backend_update_status(vm.virtio(), 0x40)  # the device needs a reset


def virtio_input_configure(vm: Lab) -> None:
    device = vm.virtio(device_type=18)
    vm.hyp.virtio_input_configure(device, 0x0001_0002_0003_0004, 0, 4, 2)


def virtio_input_set_data(vm: Lab) -> None:
    device = vm.virtio(device_type=18)
    vm.hyp.virtio_input_configure(device, 0, 0, 1, 0)
    vm.cpu.write(vm.buffer, b"keyboard")
    vm.hyp.virtio_input_set_data(device, 1, 0, 8, vm.buffer)  # its name
