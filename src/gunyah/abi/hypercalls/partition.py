"""Identification, object creation, object activation and capability space calls (hypercalls.md 3.1 to 3.4)."""

from __future__ import annotations

from gunyah.abi.errors import Error
from gunyah.abi.hypercalls.model import (
    NEW_CAP,
    RES0,
    Capability,
    Hypercall,
    Result,
    Status,
    capid,
    configure,
    u32,
)
from gunyah.abi.objects import OBJECT_ACTIVATE, CSpaceRight, ObjectType, PartitionRight

__all__ = ["CALLS", "CREATED_TYPES", "create_call"]


def create_call(number: int, noun: str, status: Status = Status.PROVIDED) -> Hypercall:
    """The shape that all creation calls share (hypercalls.md 3.2)."""
    provided = status is Status.PROVIDED
    return Hypercall(
        number=number,
        name=f"partition_create_{noun}",
        arguments=(capid("src_partition"), capid("cspace"), RES0),
        results=(NEW_CAP,),
        capabilities=(
            Capability("src_partition", ObjectType.PARTITION, PartitionRight.OBJECT_CREATE),
            Capability("cspace", ObjectType.CSPACE, CSpaceRight.CAP_CREATE),
        )
        if provided
        else (),
        errors=(Error.NOMEM, Error.CSPACE_FULL) if provided else (Error.UNIMPLEMENTED,),
        summary=f"make a {noun} in INIT state and put its master capability into the CSpace",
        section="hypercalls.md 3.2",
        status=status,
        unimplemented_results=(0xFFFF_FFFF_FFFF_FFFF,) if status is Status.UNIMPLEMENTED else (),
    )


CREATED_TYPES: dict[int, ObjectType] = {
    0x02: ObjectType.CSPACE,
    0x03: ObjectType.ADDRSPACE,
    0x04: ObjectType.MEMEXTENT,
    0x05: ObjectType.THREAD,
    0x06: ObjectType.DOORBELL,
    0x07: ObjectType.MSGQUEUE,
    0x0A: ObjectType.VIC,
    0x0B: ObjectType.VPM_GROUP,
    0x48: ObjectType.VIRTIO_MMIO,
}
"""Type of the object that each provided creation call makes."""

_CREATE = (
    create_call(0x01, "partition", Status.UNIMPLEMENTED),
    *(create_call(number, kind.value) for number, kind in CREATED_TYPES.items()),
    create_call(0x09, "watchdog", Status.ABSENT),
)

_IDENTIFY = Hypercall(
    number=0x00,
    name="hypervisor_identify",
    results=(
        Result("hyp_api_info", "u64", "flags"),
        Result("api_flags_0", "u64", "flags"),
        Result("api_flags_1", "u64", "flags"),
        Result("api_flags_2", "u64", "flags"),
    ),
    summary="tell API version, variant and the features that are built in",
    section="hypercalls.md 3.1",
    has_error=False,
)

_ACTIVATE_ERRORS = (
    Error.OBJECT_STATE,
    Error.OBJECT_CONFIG,
    Error.BUSY,
    Error.NOMEM,
    Error.ADDR_INVALID,
    Error.DENIED,
    Error.MEMDB_NOT_OWNER,
)
"""Beyond the state, what the activation of one type or another can refuse."""

_OBJECT = (
    Hypercall(
        number=0x0C,
        name="object_activate",
        arguments=(capid("cap"), RES0),
        capabilities=(Capability("cap", None, OBJECT_ACTIVATE, active=False),),
        errors=_ACTIVATE_ERRORS,
        summary="bring an object from INIT into service; a failure makes it FAILED for good",
        section="hypercalls.md 3.3",
    ),
    Hypercall(
        number=0x0D,
        name="object_activate_from",
        arguments=(capid("cspace"), capid("cap", cspace="cspace"), RES0),
        capabilities=(
            Capability("cspace", ObjectType.CSPACE, CSpaceRight.CAP_CREATE),
            Capability("cap", None, OBJECT_ACTIVATE, active=False),
        ),
        errors=_ACTIVATE_ERRORS,
        summary="activate an object that is named by its id in another CSpace",
        section="hypercalls.md 3.3",
    ),
    Hypercall(
        number=0x0E,
        name="object_reset",
        arguments=(capid("cap"), RES0),
        errors=(Error.UNIMPLEMENTED,),
        summary="bring an object back to INIT; not provided",
        section="hypercalls.md 3.3",
        status=Status.UNIMPLEMENTED,
    ),
    Hypercall(
        number=0x0F,
        name="object_reset_from",
        arguments=(capid("cspace"), capid("cap", cspace="cspace"), RES0),
        errors=(Error.UNIMPLEMENTED,),
        summary="reset an object named by its id in another CSpace; not provided",
        section="hypercalls.md 3.3",
        status=Status.UNIMPLEMENTED,
    ),
)

_CSPACE = (
    Hypercall(
        number=0x22,
        name="cspace_delete_cap_from",
        arguments=(capid("cspace"), capid("cap", cspace="cspace"), RES0),
        capabilities=(Capability("cspace", ObjectType.CSPACE, CSpaceRight.CAP_DELETE),),
        errors=(Error.CSPACE_CAP_NULL, Error.BUSY),
        summary="free a slot, valid or revoked; the last capability to an object lets the object go",
        section="hypercalls.md 3.4",
    ),
    Hypercall(
        number=0x23,
        name="cspace_copy_cap_from",
        arguments=(
            capid("src_cspace"),
            capid("src_cap", cspace="src_cspace"),
            capid("dest_cspace"),
            u32("rights_mask", "rights"),
            RES0,
        ),
        results=(NEW_CAP,),
        capabilities=(
            Capability("src_cspace", ObjectType.CSPACE, CSpaceRight.CAP_COPY),
            Capability("dest_cspace", ObjectType.CSPACE, CSpaceRight.CAP_CREATE),
        ),
        errors=(Error.CSPACE_INSUFFICIENT_RIGHTS, Error.CSPACE_FULL, Error.NOMEM, Error.BUSY),
        summary="copy a capability with its rights cut down to a mask",
        section="hypercalls.md 3.4",
    ),
    Hypercall(
        number=0x24,
        name="cspace_revoke_cap_from",
        arguments=(capid("src_cspace"), capid("src_cap", cspace="src_cspace"), RES0),
        errors=(Error.UNIMPLEMENTED,),
        summary="revoke one capability's copies; not provided",
        section="hypercalls.md 3.4",
        status=Status.UNIMPLEMENTED,
    ),
    Hypercall(
        number=0x25,
        name="cspace_configure",
        arguments=(capid("cspace"), u32("max_caps", "count"), RES0),
        capabilities=(configure("cspace", ObjectType.CSPACE),),
        errors=(Error.ARGUMENT_INVALID,),
        summary="set how many capabilities a CSpace may hold",
        section="hypercalls.md 3.4",
    ),
    Hypercall(
        number=0x3E,
        name="cspace_attach_thread",
        arguments=(capid("cspace"), capid("thread"), RES0),
        capabilities=(
            configure("thread", ObjectType.THREAD),
            Capability("cspace", ObjectType.CSPACE, CSpaceRight.ATTACH),
        ),
        errors=(Error.OBJECT_STATE,),
        summary="give a thread its CSpace, in place of an earlier one",
        section="hypercalls.md 3.4",
    ),
    Hypercall(
        number=0x59,
        name="cspace_revoke_caps_from",
        arguments=(capid("src_cspace"), capid("master_cap", cspace="src_cspace"), RES0),
        capabilities=(Capability("src_cspace", ObjectType.CSPACE, CSpaceRight.CAP_REVOKE),),
        errors=(Error.CSPACE_INSUFFICIENT_RIGHTS, Error.BUSY),
        summary="revoke every other capability to a master capability's object, in every CSpace",
        section="hypercalls.md 3.4",
    ),
)

CALLS: tuple[Hypercall, ...] = (_IDENTIFY, *_CREATE, *_OBJECT, *_CSPACE)
