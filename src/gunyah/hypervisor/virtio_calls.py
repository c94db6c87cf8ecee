"""Hypercalls on virtio-MMIO devices (hypercalls.md 3.15 and 3.16)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gunyah.abi.errors import Error
from gunyah.abi.virtio import (
    DEVICE_FEATURE_ACCESS_PLATFORM,
    DEVICE_FEATURE_NOTIFICATION_DATA,
    DEVICE_FEATURE_VERSION_1,
)
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.stage2 import Stage2Fault

if TYPE_CHECKING:
    from gunyah.hypervisor.hypercall import Handler
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.memextent import MemExtent
    from gunyah.hypervisor.vcpu import Vcpu
    from gunyah.hypervisor.vic import Vic
    from gunyah.hypervisor.virtio_mmio import VirtioMmio

__all__ = ["HANDLERS"]

_REQUIRED = (DEVICE_FEATURE_VERSION_1 | DEVICE_FEATURE_ACCESS_PLATFORM) >> 32
_FORBIDDEN = DEVICE_FEATURE_NOTIFICATION_DATA >> 32


def virtio_mmio_configure(
    hv: Hypervisor, vcpu: Vcpu, device: VirtioMmio, extent: MemExtent, queues: int, flags: int, device_type: int
) -> None:
    """0x6049."""
    device.configure(extent, queues, flags, device_type)


def virtio_mmio_backend_bind_virq(hv: Hypervisor, vcpu: Vcpu, device: VirtioMmio, vic: Vic, virq: int) -> None:
    """0x604A: the interrupt that the backend raises, in the frontend's VIC."""
    vic.bind_shared(device.backend_source, virq)


def virtio_mmio_backend_unbind_virq(hv: Hypervisor, vcpu: Vcpu, device: VirtioMmio) -> None:
    """0x604B."""
    device.backend_source.unbind()


def virtio_mmio_frontend_bind_virq(hv: Hypervisor, vcpu: Vcpu, device: VirtioMmio, vic: Vic, virq: int) -> None:
    """0x604C: the interrupt that frontend writes raise, in the backend's VIC."""
    vic.bind_shared(device.frontend_source, virq)


def virtio_mmio_frontend_unbind_virq(hv: Hypervisor, vcpu: Vcpu, device: VirtioMmio) -> None:
    """0x604D."""
    device.frontend_source.unbind()


def virtio_mmio_backend_assert_virq(hv: Hypervisor, vcpu: Vcpu, device: VirtioMmio, bits: int) -> None:
    """0x604E."""
    device.assert_interrupt(bits)


def virtio_mmio_backend_set_dev_features(
    hv: Hypervisor, vcpu: Vcpu, device: VirtioMmio, select: int, features: int
) -> None:
    """0x604F: word 1 must offer VERSION_1 and ACCESS_PLATFORM and not NOTIFICATION_DATA."""
    if select > 1:
        raise HypervisorError(Error.ARGUMENT_INVALID, f"{device}: feature word {select} of 2")
    if select == 1 and (features & _REQUIRED != _REQUIRED or features & _FORBIDDEN):
        raise HypervisorError(Error.DENIED, f"{device}: feature word 1 {features:#x} is not one that can be offered")
    device.device_features[select] = features


def virtio_mmio_backend_set_queue_num_max(
    hv: Hypervisor, vcpu: Vcpu, device: VirtioMmio, queue: int, maximum: int
) -> None:
    """0x6050."""
    device.queue(queue).num_max = maximum


def virtio_mmio_backend_get_drv_features(hv: Hypervisor, vcpu: Vcpu, device: VirtioMmio, select: int) -> tuple[int]:
    """0x6051: result uint32_t features."""
    if select > 1:
        raise HypervisorError(Error.ARGUMENT_INVALID, f"{device}: feature word {select} of 2")
    return (device.driver_features[select],)


def virtio_mmio_backend_get_queue_info(
    hv: Hypervisor, vcpu: Vcpu, device: VirtioMmio, number: int
) -> tuple[int, int, int, int, int]:
    """0x6052: results size, ready, and three IPAs of the frontend."""
    queue = device.queue(number)
    return (queue.num, queue.ready, queue.desc, queue.driver, queue.device)


def virtio_mmio_backend_get_notification(hv: Hypervisor, vcpu: Vcpu, device: VirtioMmio) -> tuple[int, int]:
    """0x6053: results queue bitmap and reason bits, both cleared."""
    return device.take_notification()


def virtio_mmio_backend_acknowledge_reset(hv: Hypervisor, vcpu: Vcpu, device: VirtioMmio) -> None:
    """0x6054."""
    device.acknowledge_reset()


def virtio_mmio_backend_update_status(hv: Hypervisor, vcpu: Vcpu, device: VirtioMmio, bits: int) -> None:
    """0x6055."""
    device.update_status(bits)


def virtio_input_configure(
    hv: Hypervisor, vcpu: Vcpu, device: VirtioMmio, devids: int, properties: int, event_types: int, axes: int
) -> None:
    """0x605E."""
    if device.input is None:
        raise HypervisorError(Error.OBJECT_CONFIG, f"{device} is not an input device")
    device.input.configure(devids, properties, event_types, axes)


def virtio_input_set_data(
    hv: Hypervisor, vcpu: Vcpu, device: VirtioMmio, select: int, subselect: int, size: int, data: int
) -> None:
    """0x605F: ``data`` is a VA of the caller."""
    if device.input is None:
        raise HypervisorError(Error.CSPACE_WRONG_OBJECT_TYPE, f"{device} is not an input device")
    device.input.check(select, subselect, size)
    if data + size > 1 << 64:
        raise HypervisorError(Error.ADDR_OVERFLOW, f"{device}: {size} bytes at {data:#x} leave the address space")
    try:
        item = vcpu.copy_in(data, size)
    except Stage2Fault as fault:
        code = Error.DENIED if fault.kind == "permission" else Error.ADDR_INVALID
        raise HypervisorError(code, f"{device}: {fault}") from None
    device.input.store(select, subselect, item)


HANDLERS: Mapping[str, Handler] = {
    "virtio_mmio_configure": virtio_mmio_configure,
    "virtio_mmio_backend_bind_virq": virtio_mmio_backend_bind_virq,
    "virtio_mmio_backend_unbind_virq": virtio_mmio_backend_unbind_virq,
    "virtio_mmio_frontend_bind_virq": virtio_mmio_frontend_bind_virq,
    "virtio_mmio_frontend_unbind_virq": virtio_mmio_frontend_unbind_virq,
    "virtio_mmio_backend_assert_virq": virtio_mmio_backend_assert_virq,
    "virtio_mmio_backend_set_dev_features": virtio_mmio_backend_set_dev_features,
    "virtio_mmio_backend_set_queue_num_max": virtio_mmio_backend_set_queue_num_max,
    "virtio_mmio_backend_get_drv_features": virtio_mmio_backend_get_drv_features,
    "virtio_mmio_backend_get_queue_info": virtio_mmio_backend_get_queue_info,
    "virtio_mmio_backend_get_notification": virtio_mmio_backend_get_notification,
    "virtio_mmio_backend_acknowledge_reset": virtio_mmio_backend_acknowledge_reset,
    "virtio_mmio_backend_update_status": virtio_mmio_backend_update_status,
    "virtio_input_configure": virtio_input_configure,
    "virtio_input_set_data": virtio_input_set_data,
}
