"""vCPU, scheduler, virtual PM group, trace and entropy calls (hypercalls.md 3.7, 3.8, 3.12, 3.13, 3.16)."""

from __future__ import annotations

from gunyah.abi.errors import Error
from gunyah.abi.hypercalls.model import (
    RES0,
    RES1,
    Argument,
    Capability,
    Hypercall,
    ReservedBits,
    Result,
    capid,
    configure,
    u32,
    u64,
)
from gunyah.abi.objects import ObjectType, ThreadRight, VicRight, VpmGroupRight

__all__ = ["CALLS"]

_VCPU_OPTIONS_REFUSED = 0x7FFF_FFFF_FFFF_FCC0
_POWERON_FLAGS_RESERVED = 0xFFFF_FFFF_FFFF_FFFC
_POWEROFF_FLAGS_RESERVED = 0xFFFF_FFFF_FFFF_FFFE
_VPM_OPTIONS_RESERVED = 0xFFFF_FFFF_FFFF_FFFE

_RUN_RESULTS = (
    Result("vcpu_state", "u32", "enum"),
    Result("state_data_0", "u64"),
    Result("state_data_1", "u64"),
    Result("state_data_2", "u64"),
)

_VCPU = (
    Hypercall(
        number=0x34,
        name="vcpu_configure",
        arguments=(capid("vcpu"), u64("vcpu_options", "flags"), RES0),
        capabilities=(configure("vcpu", ObjectType.THREAD),),
        reserved_bits=(ReservedBits("vcpu_options", _VCPU_OPTIONS_REFUSED),),
        errors=(Error.ARGUMENT_INVALID,),
        summary="store the options that activation will validate",
        section="hypercalls.md 3.7",
    ),
    Hypercall(
        number=0x38,
        name="vcpu_poweron",
        arguments=(capid("vcpu"), u64("entry_point", "ipa"), u64("context"), u64("flags", "flags")),
        capabilities=(Capability("vcpu", ObjectType.THREAD, ThreadRight.POWER),),
        reserved_bits=(ReservedBits("flags", _POWERON_FLAGS_RESERVED),),
        errors=(Error.ARGUMENT_INVALID, Error.BUSY, Error.FAILURE),
        summary="reset a powered-off vCPU's EL1 state and let it run",
        section="hypercalls.md 3.7",
    ),
    Hypercall(
        number=0x39,
        name="vcpu_poweroff",
        arguments=(capid("vcpu"), u64("flags", "flags")),
        capabilities=(Capability("vcpu", ObjectType.THREAD, ThreadRight.POWER),),
        reserved_bits=(ReservedBits("flags", _POWEROFF_FLAGS_RESERVED),),
        errors=(Error.ARGUMENT_INVALID, Error.DENIED),
        summary="power the calling vCPU off; returns only on failure",
        section="hypercalls.md 3.7",
    ),
    Hypercall(
        number=0x3A,
        name="vcpu_kill",
        arguments=(capid("vcpu"), RES0),
        capabilities=(Capability("vcpu", ObjectType.THREAD, ThreadRight.LIFECYCLE),),
        errors=(Error.ARGUMENT_INVALID, Error.OBJECT_STATE),
        summary="make a vCPU exit the next time it would return to its guest",
        section="hypercalls.md 3.7",
    ),
    Hypercall(
        number=0x3D,
        name="vcpu_set_affinity",
        arguments=(capid("vcpu"), Argument("affinity", "u16", "cpu"), RES1),
        capabilities=(
            Capability("vcpu", ObjectType.THREAD, ThreadRight.AFFINITY, active=False, when="a CPU is given"),
            Capability(
                "vcpu",
                ObjectType.THREAD,
                ThreadRight.AFFINITY | ThreadRight.DISABLE,
                active=False,
                when="affinity is -1",
            ),
        ),
        errors=(Error.ARGUMENT_INVALID, Error.OBJECT_STATE, Error.DENIED, Error.RETRY),
        summary="choose the physical CPU, or with -1 none",
        section="hypercalls.md 3.7",
        note="a CPU index that is neither -1 nor valid is refused (1) before the capability is looked at",
    ),
    Hypercall(
        number=0x46,
        name="vcpu_set_priority",
        arguments=(capid("vcpu"), u32("priority", "priority")),
        capabilities=(Capability("vcpu", ObjectType.THREAD, ThreadRight.PRIORITY, active=False),),
        errors=(Error.ARGUMENT_INVALID, Error.DENIED, Error.OBJECT_STATE),
        summary="set the scheduling priority before activation",
        section="hypercalls.md 3.7",
    ),
    Hypercall(
        number=0x47,
        name="vcpu_set_timeslice",
        arguments=(capid("vcpu"), u64("timeslice", "ns")),
        capabilities=(Capability("vcpu", ObjectType.THREAD, ThreadRight.TIMESLICE, active=False),),
        errors=(Error.ARGUMENT_INVALID, Error.OBJECT_STATE),
        summary="set the timeslice before activation",
        section="hypercalls.md 3.7",
    ),
    Hypercall(
        number=0x5C,
        name="vcpu_bind_virq",
        arguments=(capid("vcpu"), capid("vic"), u32("virq", "virq"), u32("virq_type", "enum"), RES0),
        capabilities=(
            Capability("vcpu", ObjectType.THREAD, ThreadRight.BIND_VIRQ),
            Capability("vic", ObjectType.VIC, VicRight.BIND_SOURCE),
        ),
        errors=(Error.VIRQ_BOUND, Error.BUSY, Error.ARGUMENT_INVALID),
        summary="bind the halt or the run-wakeup interrupt; the latter makes the vCPU proxy-scheduled",
        section="hypercalls.md 3.7",
    ),
    Hypercall(
        number=0x5D,
        name="vcpu_unbind_virq",
        arguments=(capid("vcpu"), u32("virq_type", "enum"), RES0),
        capabilities=(Capability("vcpu", ObjectType.THREAD, ThreadRight.BIND_VIRQ),),
        errors=(Error.ARGUMENT_INVALID,),
        summary="unbind the halt or the run-wakeup interrupt",
        section="hypercalls.md 3.7",
    ),
    Hypercall(
        number=0x64,
        name="vcpu_register_write",
        arguments=(capid("vcpu"), u32("register_set", "enum"), u32("register_index", "index"), u64("value"), RES0),
        capabilities=(Capability("vcpu", ObjectType.THREAD, ThreadRight.WRITE_CONTEXT, active=False),),
        errors=(Error.ARGUMENT_INVALID, Error.OBJECT_STATE, Error.BUSY),
        summary="set a register of a powered-off vCPU",
        section="hypercalls.md 3.7",
    ),
    Hypercall(
        number=0x65,
        name="vcpu_run",
        arguments=(capid("vcpu"), u64("resume_data_0"), u64("resume_data_1"), u64("resume_data_2"), RES0),
        results=_RUN_RESULTS,
        capabilities=(Capability("vcpu", ObjectType.THREAD, ThreadRight.AFFINITY | ThreadRight.YIELD_TO),),
        errors=(Error.ARGUMENT_INVALID, Error.BUSY, Error.RETRY, Error.DENIED),
        summary="run a proxy-scheduled vCPU in the caller's place and tell why it stopped",
        section="hypercalls.md 3.7",
    ),
    Hypercall(
        number=0x68,
        name="vcpu_run_check",
        arguments=(capid("vcpu"), RES0),
        results=_RUN_RESULTS,
        capabilities=(Capability("vcpu", ObjectType.THREAD, ThreadRight.BIND_VIRQ | ThreadRight.STATE),),
        errors=(Error.ARGUMENT_INVALID, Error.BUSY),
        summary="tell why a vCPU is stopped, without running it",
        section="hypercalls.md 3.7",
    ),
    Hypercall(
        number=0x3B,
        name="scheduler_yield",
        arguments=(u32("control", "flags"), u64("arg1"), RES0),
        capabilities=(Capability("arg1", ObjectType.THREAD, ThreadRight.YIELD_TO, when="hint 1, yield to a thread"),),
        errors=(Error.ARGUMENT_INVALID,),
        summary="give up the CPU, to anyone or to one thread",
        section="hypercalls.md 3.8",
    ),
)

_VPM = (
    Hypercall(
        number=0x3C,
        name="vpm_group_attach_vcpu",
        arguments=(capid("vpm_group"), capid("vcpu"), u32("index", "index"), RES0),
        capabilities=(
            Capability("vpm_group", ObjectType.VPM_GROUP, VpmGroupRight.ATTACH_VCPU),
            configure("vcpu", ObjectType.THREAD),
        ),
        errors=(Error.OBJECT_STATE, Error.ARGUMENT_INVALID),
        summary="put a vCPU into a power group, which gives it PSCI",
        section="hypercalls.md 3.12",
    ),
    Hypercall(
        number=0x43,
        name="vpm_group_bind_virq",
        arguments=(capid("vpm_group"), capid("vic"), u32("virq", "virq"), RES0),
        capabilities=(
            Capability("vpm_group", ObjectType.VPM_GROUP, VpmGroupRight.BIND_VIRQ),
            Capability("vic", ObjectType.VIC, VicRight.BIND_SOURCE),
        ),
        errors=(Error.VIRQ_BOUND, Error.BUSY, Error.ARGUMENT_INVALID),
        summary="bind the interrupt that tells of system suspend",
        section="hypercalls.md 3.12",
    ),
    Hypercall(
        number=0x44,
        name="vpm_group_unbind_virq",
        arguments=(capid("vpm_group"), RES0),
        capabilities=(Capability("vpm_group", ObjectType.VPM_GROUP, VpmGroupRight.BIND_VIRQ),),
        summary="unbind the system-suspend interrupt",
        section="hypercalls.md 3.12",
    ),
    Hypercall(
        number=0x45,
        name="vpm_group_get_state",
        arguments=(capid("vpm_group"), RES0),
        results=(Result("vpm_state", "u64", "enum"),),
        capabilities=(Capability("vpm_group", ObjectType.VPM_GROUP, VpmGroupRight.QUERY),),
        summary="tell the power state of the group's VM",
        section="hypercalls.md 3.12",
    ),
    Hypercall(
        number=0x66,
        name="vpm_group_configure",
        arguments=(capid("vpm_group"), u64("flags", "flags"), RES0),
        capabilities=(configure("vpm_group", ObjectType.VPM_GROUP),),
        reserved_bits=(ReservedBits("flags", _VPM_OPTIONS_RESERVED, Error.UNIMPLEMENTED),),
        errors=(Error.UNIMPLEMENTED,),
        summary="set the group's options",
        section="hypercalls.md 3.12",
    ),
)

_OTHER = (
    Hypercall(
        number=0x3F,
        name="trace_update_class_flags",
        arguments=(u64("set_flags", "flags"), u64("clear_flags", "flags"), RES0),
        results=(Result("flags", "u64", "flags"),),
        errors=(Error.DENIED,),
        summary="set and clear trace classes; open to every VM",
        section="hypercalls.md 3.13",
    ),
    Hypercall(
        number=0x57,
        name="prng_get_entropy",
        arguments=(u32("num_bytes", "bytes"), RES0),
        results=(Result("data0", "u32"), Result("data1", "u32"), Result("data2", "u32"), Result("data3", "u32")),
        errors=(Error.ARGUMENT_SIZE, Error.ARGUMENT_ALIGNMENT, Error.BUSY),
        summary="get up to 16 random bytes, at a limited rate",
        section="hypercalls.md 3.16",
    ),
)

CALLS: tuple[Hypercall, ...] = (*_VCPU, *_VPM, *_OTHER)
