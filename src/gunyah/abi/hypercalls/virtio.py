"""Virtio-MMIO and virtio input calls (hypercalls.md 3.15 and 3.16).

"backend" and "frontend" name the end that raises the interrupt, not the one that receives it.
"""

from __future__ import annotations

from gunyah.abi.errors import Error
from gunyah.abi.hypercalls.model import (
    RES0,
    Capability,
    Hypercall,
    Result,
    capid,
    configure,
    u32,
    u64,
)
from gunyah.abi.objects import MemextentRight, ObjectType, VicRight, VirtioMmioRight

__all__ = ["CALLS"]

_BIND_ERRORS = (Error.VIRQ_BOUND, Error.BUSY, Error.ARGUMENT_INVALID)
_VIC_BIND = Capability("vic", ObjectType.VIC, VicRight.BIND_SOURCE)


def _device(right: VirtioMmioRight) -> Capability:
    return Capability("virtio_mmio", ObjectType.VIRTIO_MMIO, right)


_CONFIG = (_device(VirtioMmioRight.CONFIG),)

_MMIO = (
    Hypercall(
        number=0x49,
        name="virtio_mmio_configure",
        arguments=(
            capid("virtio_mmio"),
            capid("memextent"),
            u32("vqs_num", "count"),
            u64("flags", "flags"),
            u32("device_type", "enum"),
        ),
        capabilities=(
            Capability("memextent", ObjectType.MEMEXTENT, MemextentRight.ATTACH),
            configure("virtio_mmio", ObjectType.VIRTIO_MMIO),
        ),
        errors=(Error.ARGUMENT_INVALID,),
        summary="give a device its register page, queues and type",
        section="hypercalls.md 3.15",
    ),
    Hypercall(
        number=0x4A,
        name="virtio_mmio_backend_bind_virq",
        arguments=(capid("virtio_mmio"), capid("vic"), u32("virq", "virq"), RES0),
        capabilities=(_device(VirtioMmioRight.BIND_BACKEND_VIRQ), _VIC_BIND),
        errors=_BIND_ERRORS,
        summary="bind the interrupt the backend raises, in the frontend's VIC",
        section="hypercalls.md 3.15",
    ),
    Hypercall(
        number=0x4B,
        name="virtio_mmio_backend_unbind_virq",
        arguments=(capid("virtio_mmio"), RES0),
        capabilities=(_device(VirtioMmioRight.BIND_BACKEND_VIRQ),),
        summary="unbind the interrupt the backend raises",
        section="hypercalls.md 3.15",
    ),
    Hypercall(
        number=0x4C,
        name="virtio_mmio_frontend_bind_virq",
        arguments=(capid("virtio_mmio"), capid("vic"), u32("virq", "virq"), RES0),
        capabilities=(_device(VirtioMmioRight.BIND_FRONTEND_VIRQ), _VIC_BIND),
        errors=_BIND_ERRORS,
        summary="bind the interrupt that frontend register writes raise, in the backend's VIC",
        section="hypercalls.md 3.15",
    ),
    Hypercall(
        number=0x4D,
        name="virtio_mmio_frontend_unbind_virq",
        arguments=(capid("virtio_mmio"), RES0),
        capabilities=(_device(VirtioMmioRight.BIND_FRONTEND_VIRQ),),
        summary="unbind the interrupt that frontend register writes raise",
        section="hypercalls.md 3.15",
    ),
    Hypercall(
        number=0x4E,
        name="virtio_mmio_backend_assert_virq",
        arguments=(capid("virtio_mmio"), u32("interrupt_status", "flags"), RES0),
        capabilities=(_device(VirtioMmioRight.ASSERT_VIRQ),),
        errors=(Error.DENIED,),
        summary="set interrupt status bits and interrupt the frontend",
        section="hypercalls.md 3.15",
    ),
    Hypercall(
        number=0x4F,
        name="virtio_mmio_backend_set_dev_features",
        arguments=(capid("virtio_mmio"), u32("sel", "index"), u32("dev_feat", "flags"), RES0),
        capabilities=_CONFIG,
        errors=(Error.ARGUMENT_INVALID, Error.DENIED),
        summary="set 32 of the features the device offers",
        section="hypercalls.md 3.15",
    ),
    Hypercall(
        number=0x50,
        name="virtio_mmio_backend_set_queue_num_max",
        arguments=(capid("virtio_mmio"), u32("sel", "index"), u32("queue_num_max", "count"), RES0),
        capabilities=_CONFIG,
        errors=(Error.ARGUMENT_INVALID,),
        summary="set the largest size of a queue",
        section="hypercalls.md 3.15",
    ),
    Hypercall(
        number=0x51,
        name="virtio_mmio_backend_get_drv_features",
        arguments=(capid("virtio_mmio"), u32("sel", "index"), RES0),
        results=(Result("drv_feat", "u32", "flags"),),
        capabilities=_CONFIG,
        errors=(Error.ARGUMENT_INVALID,),
        summary="read 32 of the features the driver accepted",
        section="hypercalls.md 3.15",
    ),
    Hypercall(
        number=0x52,
        name="virtio_mmio_backend_get_queue_info",
        arguments=(capid("virtio_mmio"), u32("sel", "index"), RES0),
        results=(
            Result("queue_num", "u32", "count"),
            Result("queue_ready", "u32"),
            Result("queue_desc", "u64", "ipa"),
            Result("queue_drv", "u64", "ipa"),
            Result("queue_dev", "u64", "ipa"),
        ),
        capabilities=_CONFIG,
        errors=(Error.ARGUMENT_INVALID,),
        summary="read how the driver set a queue up",
        section="hypercalls.md 3.15",
    ),
    Hypercall(
        number=0x53,
        name="virtio_mmio_backend_get_notification",
        arguments=(capid("virtio_mmio"), RES0),
        results=(Result("vqs_bitmap", "u64", "flags"), Result("reason", "u64", "flags")),
        capabilities=_CONFIG,
        summary="read and clear which queues were kicked and why",
        section="hypercalls.md 3.15",
    ),
    Hypercall(
        number=0x54,
        name="virtio_mmio_backend_acknowledge_reset",
        arguments=(capid("virtio_mmio"), RES0),
        capabilities=_CONFIG,
        summary="finish a reset the driver asked for: Status reads 0",
        section="hypercalls.md 3.15",
    ),
    Hypercall(
        number=0x55,
        name="virtio_mmio_backend_update_status",
        arguments=(capid("virtio_mmio"), u32("val", "flags"), RES0),
        capabilities=_CONFIG,
        summary="set bits of the Status register",
        section="hypercalls.md 3.15",
    ),
)

_INPUT = (
    Hypercall(
        number=0x5E,
        name="virtio_input_configure",
        arguments=(
            capid("virtio_mmio"),
            u64("devids"),
            u32("prop_bits", "flags"),
            u32("num_evtypes", "count"),
            u32("num_absaxes", "count"),
            RES0,
        ),
        capabilities=_CONFIG,
        errors=(Error.OBJECT_CONFIG, Error.ARGUMENT_INVALID, Error.NOMEM, Error.BUSY),
        summary="make room for an input device's description",
        section="hypercalls.md 3.16",
    ),
    Hypercall(
        number=0x5F,
        name="virtio_input_set_data",
        arguments=(
            capid("virtio_mmio"),
            u32("sel", "enum"),
            u32("subsel", "index"),
            u32("size", "bytes"),
            u64("data", "va"),
            RES0,
        ),
        capabilities=_CONFIG,
        errors=(
            Error.CSPACE_WRONG_OBJECT_TYPE,
            Error.ARGUMENT_INVALID,
            Error.ARGUMENT_SIZE,
            Error.NORESOURCES,
            Error.ADDR_INVALID,
            Error.DENIED,
        ),
        summary="store one item of an input device's description",
        section="hypercalls.md 3.16",
    ),
)

CALLS: tuple[Hypercall, ...] = (*_MMIO, *_INPUT)
