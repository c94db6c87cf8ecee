"""Numbers without a call, and calls without a number (hypercalls.md 3.14, 3.17 and 4).

The watchdog calls are named by the API document only: to a caller their numbers are like the reserved ones. The
clock calls work but no public number leads to them.
"""

from __future__ import annotations

from gunyah.abi.errors import Error
from gunyah.abi.hypercalls.model import RES0, Capability, Hypercall, Status, capid, u32, u64
from gunyah.abi.hypercalls.partition import create_call
from gunyah.abi.objects import AddrspaceRight, ObjectType, VrtcRight

__all__ = ["CALLS", "VENDOR_CALLS"]


def _reserved(number: int, name: str) -> Hypercall:
    return Hypercall(
        number=number,
        name=name,
        errors=(Error.UNIMPLEMENTED,),
        summary="no call",
        section="hypercalls.md 4",
        status=Status.RESERVED,
    )


_RESERVED = tuple(_reserved(number, "reserved") for number in (0x08, 0x16, 0x1E))
_UNASSIGNED = tuple(_reserved(number, "unassigned") for number in (0x33, 0x35, 0x36, 0x37))

_WATCHDOG = (
    Hypercall(
        number=0x40,
        name="watchdog_attach_vcpu",
        arguments=(capid("watchdog"), capid("vcpu"), RES0),
        errors=(Error.UNIMPLEMENTED,),
        summary="give a vCPU its watchdog; not built",
        section="hypercalls.md 3.14",
        status=Status.ABSENT,
    ),
    Hypercall(
        number=0x41,
        name="watchdog_bind_virq",
        arguments=(capid("watchdog"), capid("vic"), u32("virq", "virq"), u64("flags", "flags")),
        errors=(Error.UNIMPLEMENTED,),
        summary="bind the bark or bite interrupt; not built",
        section="hypercalls.md 3.14",
        status=Status.ABSENT,
    ),
    Hypercall(
        number=0x42,
        name="watchdog_unbind_virq",
        arguments=(capid("watchdog"), u64("flags", "flags")),
        errors=(Error.UNIMPLEMENTED,),
        summary="unbind the bark or bite interrupt; not built",
        section="hypercalls.md 3.14",
        status=Status.ABSENT,
    ),
    Hypercall(
        number=0x58,
        name="watchdog_configure",
        arguments=(capid("watchdog"), u64("flags", "flags"), RES0),
        errors=(Error.UNIMPLEMENTED,),
        summary="set the watchdog's options; not built",
        section="hypercalls.md 3.14",
        status=Status.ABSENT,
    ),
    Hypercall(
        number=0x63,
        name="watchdog_manage",
        arguments=(capid("watchdog"), u32("operation", "enum")),
        errors=(Error.UNIMPLEMENTED,),
        summary="freeze or unfreeze a watchdog; not built",
        section="hypercalls.md 3.14",
        status=Status.ABSENT,
    ),
)

CALLS: tuple[Hypercall, ...] = (*_RESERVED, *_UNASSIGNED, *_WATCHDOG)

VENDOR_CALLS: tuple[Hypercall, ...] = (
    create_call(-1, "vrtc"),
    Hypercall(
        number=-1,
        name="vrtc_configure",
        arguments=(capid("vrtc"), u64("ipa", "ipa"), RES0),
        capabilities=(Capability("vrtc", ObjectType.VRTC, VrtcRight.CONFIGURE, active=False),),
        errors=(Error.ADDR_INVALID, Error.OBJECT_STATE),
        summary="set the IPA of the clock's register page",
        section="hypercalls.md 3.17",
        note="a misaligned or wrapping IPA is refused (22) before the capability is looked at",
    ),
    Hypercall(
        number=-1,
        name="vrtc_attach_addrspace",
        arguments=(capid("vrtc"), capid("addrspace"), RES0),
        capabilities=(
            Capability("vrtc", ObjectType.VRTC, VrtcRight.ATTACH_ADDRSPACE),
            Capability("addrspace", ObjectType.ADDRSPACE, AddrspaceRight.MAP, active=False),
        ),
        errors=(Error.OBJECT_STATE,),
        summary="make the clock visible in an address space",
        section="hypercalls.md 3.17",
    ),
    Hypercall(
        number=-1,
        name="vrtc_set_time_base",
        arguments=(capid("vrtc"), u64("time_base", "ns"), u64("sys_timer_ref", "ticks"), RES0),
        capabilities=(Capability("vrtc", ObjectType.VRTC, VrtcRight.SET_TIME_BASE),),
        errors=(Error.BUSY, Error.ARGUMENT_INVALID),
        summary="set the clock once, from a time and the counter value it belongs to",
        section="hypercalls.md 3.17",
    ),
)
"""Clock calls: complete but for a number, as products assign them (hypercalls.md 3.17)."""
