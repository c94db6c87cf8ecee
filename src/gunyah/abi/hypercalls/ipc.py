"""Doorbell and message queue calls (hypercalls.md 3.9 and 3.10)."""

from __future__ import annotations

from gunyah.abi.errors import Error
from gunyah.abi.hypercalls.model import (
    RES0,
    RES1,
    Capability,
    Hypercall,
    Result,
    capid,
    configure,
    u32,
    u64,
)
from gunyah.abi.objects import DoorbellRight, MsgqueueRight, ObjectType, VicRight

__all__ = ["CALLS"]

_BIND_ERRORS = (Error.VIRQ_BOUND, Error.BUSY, Error.ARGUMENT_INVALID)
_VIC_BIND = Capability("vic", ObjectType.VIC, VicRight.BIND_SOURCE)


def _doorbell(right: DoorbellRight) -> Capability:
    return Capability("doorbell", ObjectType.DOORBELL, right)


def _msgqueue(right: MsgqueueRight) -> Capability:
    return Capability("msgqueue", ObjectType.MSGQUEUE, right)


_DOORBELL = (
    Hypercall(
        number=0x10,
        name="doorbell_bind_virq",
        arguments=(capid("doorbell"), capid("vic"), u32("virq", "virq"), RES0),
        capabilities=(_doorbell(DoorbellRight.BIND), _VIC_BIND),
        errors=_BIND_ERRORS,
        summary="bind a doorbell to a shared interrupt",
        section="hypercalls.md 3.9",
    ),
    Hypercall(
        number=0x11,
        name="doorbell_unbind_virq",
        arguments=(capid("doorbell"), RES0),
        capabilities=(_doorbell(DoorbellRight.BIND),),
        summary="unbind a doorbell's interrupt",
        section="hypercalls.md 3.9",
    ),
    Hypercall(
        number=0x12,
        name="doorbell_send",
        arguments=(capid("doorbell"), u64("new_flags", "flags"), RES0),
        results=(Result("old_flags", "u64", "flags"),),
        capabilities=(_doorbell(DoorbellRight.SEND),),
        summary="set flags, raise the interrupt, and tell the flags as they were",
        section="hypercalls.md 3.9",
    ),
    Hypercall(
        number=0x13,
        name="doorbell_receive",
        arguments=(capid("doorbell"), u64("clear_flags", "flags"), RES0),
        results=(Result("old_flags", "u64", "flags"),),
        capabilities=(_doorbell(DoorbellRight.RECEIVE),),
        errors=(Error.ARGUMENT_INVALID,),
        summary="clear flags and tell the flags as they were",
        section="hypercalls.md 3.9",
    ),
    Hypercall(
        number=0x14,
        name="doorbell_reset",
        arguments=(capid("doorbell"), RES0),
        capabilities=(_doorbell(DoorbellRight.RECEIVE),),
        summary="put flags and masks back to their initial values",
        section="hypercalls.md 3.9",
    ),
    Hypercall(
        number=0x15,
        name="doorbell_mask",
        arguments=(capid("doorbell"), u64("enable_mask", "flags"), u64("ack_mask", "flags"), RES0),
        capabilities=(_doorbell(DoorbellRight.RECEIVE),),
        summary="choose which flags interrupt and which clear themselves",
        section="hypercalls.md 3.9",
    ),
)

_MSGQUEUE = (
    Hypercall(
        number=0x17,
        name="msgqueue_bind_send_virq",
        arguments=(capid("msgqueue"), capid("vic"), u32("virq", "virq"), RES0),
        capabilities=(_msgqueue(MsgqueueRight.BIND_SEND), _VIC_BIND),
        errors=_BIND_ERRORS,
        summary="bind the sender's interrupt",
        section="hypercalls.md 3.10",
    ),
    Hypercall(
        number=0x18,
        name="msgqueue_bind_receive_virq",
        arguments=(capid("msgqueue"), capid("vic"), u32("virq", "virq"), RES0),
        capabilities=(_msgqueue(MsgqueueRight.BIND_RECEIVE), _VIC_BIND),
        errors=_BIND_ERRORS,
        summary="bind the receiver's interrupt",
        section="hypercalls.md 3.10",
    ),
    Hypercall(
        number=0x19,
        name="msgqueue_unbind_send_virq",
        arguments=(capid("msgqueue"), RES0),
        capabilities=(_msgqueue(MsgqueueRight.BIND_SEND),),
        summary="unbind the sender's interrupt",
        section="hypercalls.md 3.10",
    ),
    Hypercall(
        number=0x1A,
        name="msgqueue_unbind_receive_virq",
        arguments=(capid("msgqueue"), RES0),
        capabilities=(_msgqueue(MsgqueueRight.BIND_RECEIVE),),
        summary="unbind the receiver's interrupt",
        section="hypercalls.md 3.10",
    ),
    Hypercall(
        number=0x1B,
        name="msgqueue_send",
        arguments=(capid("msgqueue"), u64("size", "bytes"), u64("data", "va"), u32("send_flags", "flags"), RES0),
        results=(Result("not_full", "bool"),),
        capabilities=(_msgqueue(MsgqueueRight.SEND),),
        errors=(Error.MSGQUEUE_FULL, Error.ARGUMENT_SIZE, Error.ADDR_INVALID),
        summary="queue a message copied from the caller's EL1 virtual address",
        section="hypercalls.md 3.10",
    ),
    Hypercall(
        number=0x1C,
        name="msgqueue_receive",
        arguments=(capid("msgqueue"), u64("buffer", "va"), u64("buf_size", "bytes"), RES0),
        results=(Result("size", "u64", "bytes"), Result("not_empty", "bool")),
        capabilities=(_msgqueue(MsgqueueRight.RECEIVE),),
        errors=(Error.MSGQUEUE_EMPTY, Error.ADDR_INVALID, Error.ADDR_OVERFLOW),
        summary="take the oldest message into the caller's EL1 virtual address",
        section="hypercalls.md 3.10",
    ),
    Hypercall(
        number=0x1D,
        name="msgqueue_flush",
        arguments=(capid("msgqueue"), RES0),
        capabilities=(_msgqueue(MsgqueueRight.RECEIVE),),
        summary="drop every message",
        section="hypercalls.md 3.10",
    ),
    Hypercall(
        number=0x1F,
        name="msgqueue_configure_send",
        arguments=(
            capid("msgqueue"),
            u32("not_full_threshold", "count"),
            u32("not_full_holdoff", "microseconds"),
            RES1,
        ),
        capabilities=(_msgqueue(MsgqueueRight.SEND),),
        errors=(Error.UNIMPLEMENTED, Error.ARGUMENT_INVALID),
        summary="choose at which depth the sender is told of room",
        section="hypercalls.md 3.10",
    ),
    Hypercall(
        number=0x20,
        name="msgqueue_configure_receive",
        arguments=(
            capid("msgqueue"),
            u32("not_empty_threshold", "count"),
            u32("not_empty_holdoff", "microseconds"),
            RES1,
        ),
        capabilities=(_msgqueue(MsgqueueRight.RECEIVE),),
        errors=(Error.UNIMPLEMENTED, Error.ARGUMENT_INVALID),
        summary="choose at which depth the receiver is told of messages",
        section="hypercalls.md 3.10",
    ),
    Hypercall(
        number=0x21,
        name="msgqueue_configure",
        arguments=(capid("msgqueue"), u64("create_info", "flags"), RES0),
        capabilities=(configure("msgqueue", ObjectType.MSGQUEUE),),
        errors=(Error.ARGUMENT_INVALID,),
        summary="set depth and message size",
        section="hypercalls.md 3.10",
    ),
)

CALLS: tuple[Hypercall, ...] = (*_DOORBELL, *_MSGQUEUE)
