"""Hardware interrupt and virtual interrupt controller calls (hypercalls.md 3.11)."""

from __future__ import annotations

from gunyah.abi.errors import Error
from gunyah.abi.hypercalls.model import (
    RES0,
    Argument,
    Capability,
    Hypercall,
    ReservedBits,
    capid,
    configure,
    u32,
    u64,
)
from gunyah.abi.objects import HwirqRight, ObjectType, VicRight

__all__ = ["CALLS"]

_VIC_OPTIONS_RESERVED = 0xFFFF_FFFF_FFFF_FFFC

CALLS: tuple[Hypercall, ...] = (
    Hypercall(
        number=0x26,
        name="hwirq_bind_virq",
        arguments=(capid("hwirq"), capid("vic"), u32("virq", "virq"), RES0),
        capabilities=(
            Capability("hwirq", ObjectType.HWIRQ, HwirqRight.BIND_VIC),
            Capability("vic", ObjectType.VIC, VicRight.BIND_SOURCE),
        ),
        errors=(
            Error.ARGUMENT_INVALID,
            Error.VIRQ_BOUND,
            Error.BUSY,
            Error.DENIED,
            Error.RETRY,
            Error.NOMEM,
        ),
        summary="forward a physical interrupt to a virtual one",
        section="hypercalls.md 3.11",
    ),
    Hypercall(
        number=0x27,
        name="hwirq_unbind_virq",
        arguments=(capid("hwirq"), RES0),
        capabilities=(Capability("hwirq", ObjectType.HWIRQ, HwirqRight.BIND_VIC),),
        errors=(Error.VIRQ_NOT_BOUND,),
        summary="disable a forwarded interrupt and disconnect it",
        section="hypercalls.md 3.11",
    ),
    Hypercall(
        number=0x28,
        name="vic_configure",
        arguments=(
            capid("vic"),
            u32("max_vcpus", "count"),
            u32("max_virqs", "count"),
            u64("vic_options", "flags"),
            u32("max_msis", "count"),
        ),
        capabilities=(configure("vic", ObjectType.VIC),),
        reserved_bits=(ReservedBits("vic_options", _VIC_OPTIONS_RESERVED, early=False),),
        errors=(Error.ARGUMENT_INVALID,),
        summary="set how many vCPUs, shared interrupts and MSIs a VIC serves",
        section="hypercalls.md 3.11",
    ),
    Hypercall(
        number=0x29,
        name="vic_attach_vcpu",
        arguments=(capid("vic"), capid("vcpu"), u32("index", "index"), RES0),
        capabilities=(
            Capability("vic", ObjectType.VIC, VicRight.ATTACH_VCPU),
            configure("vcpu", ObjectType.THREAD),
        ),
        errors=(Error.OBJECT_STATE, Error.ARGUMENT_INVALID),
        summary="give a vCPU its place at a VIC",
        section="hypercalls.md 3.11",
    ),
    Hypercall(
        number=0x56,
        name="vic_bind_msi_source",
        arguments=(capid("vic"), capid("msi_source"), RES0),
        capabilities=(Capability("vic", ObjectType.VIC, VicRight.BIND_SOURCE),),
        errors=(Error.CSPACE_WRONG_OBJECT_TYPE,),
        summary="take interrupts from an MSI source; no object is one",
        section="hypercalls.md 3.11",
    ),
    Hypercall(
        number=0x67,
        name="vgic_set_mpidr_mapping",
        arguments=(
            capid("vic"),
            u64("mask"),
            u32("aff0_shift", "count"),
            u32("aff1_shift", "count"),
            u32("aff2_shift", "count"),
            u32("aff3_shift", "count"),
            Argument("mt", "bool"),
        ),
        capabilities=(configure("vic", ObjectType.VIC),),
        errors=(Error.ARGUMENT_INVALID,),
        summary="choose how a vCPU's index becomes its MPIDR",
        section="hypercalls.md 3.11",
    ),
)
