"""Numbers that Resource Manager messages carry (rm-rpc.md 4)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, IntFlag
from types import MappingProxyType

__all__ = [
    "APPEND_DONE",
    "AuthType",
    "ExitCode",
    "ExitFlag",
    "ExitType",
    "IdType",
    "IpaReserveKind",
    "IrqNotify",
    "MEM_RIGHTS",
    "MemAcceptFlag",
    "MemAcceptReplyFlag",
    "MemAttribute",
    "MemCreateFlag",
    "MemNotify",
    "MemRights",
    "MemTrans",
    "MemType",
    "OsStatus",
    "RECLAIM_SANITIZE",
    "RELEASE_SANITIZE",
    "ResourceType",
    "STOP_FORCE",
    "VM_TRANSITIONS",
    "VmStatus",
]


class VmStatus(IntEnum):
    """``vm_status``, u8."""

    NONE = 0
    INIT = 1
    READY = 2
    RUNNING = 3
    PAUSED = 4
    LOAD = 5
    AUTH = 6
    INIT_FAILED = 8
    EXITED = 9
    RESETTING = 10
    RESET = 11


VM_TRANSITIONS: Mapping[VmStatus, frozenset[VmStatus]] = MappingProxyType(
    {
        VmStatus.INIT: frozenset({VmStatus.LOAD, VmStatus.AUTH, VmStatus.RESET}),
        VmStatus.READY: frozenset({VmStatus.INIT}),
        VmStatus.RUNNING: frozenset({VmStatus.READY, VmStatus.PAUSED}),
        VmStatus.PAUSED: frozenset({VmStatus.RUNNING}),
        VmStatus.LOAD: frozenset({VmStatus.NONE}),
        VmStatus.AUTH: frozenset({VmStatus.LOAD, VmStatus.RESET}),
        VmStatus.INIT_FAILED: frozenset(
            {VmStatus.INIT, VmStatus.READY, VmStatus.LOAD, VmStatus.AUTH, VmStatus.RESET}
        ),
        VmStatus.EXITED: frozenset({VmStatus.RUNNING, VmStatus.PAUSED}),
        VmStatus.RESETTING: frozenset({VmStatus.EXITED, VmStatus.READY, VmStatus.INIT_FAILED}),
        VmStatus.RESET: frozenset({VmStatus.RESETTING}),
        VmStatus.NONE: frozenset({VmStatus.RESET}),
    }
)
"""States from which each state may be entered (rm-rpc.md 4.1); VM attributes can forbid more."""


class OsStatus(IntEnum):
    """``os_status``, u8."""

    NONE = 0
    EARLY_BOOT = 1
    BOOT = 2
    INIT = 3
    RUN = 4
    SHUTDOWN = 5
    HALTED = 6
    CRASHED = 7


class ExitType(IntEnum):
    """Why a VM exited, u16."""

    VM_EXIT = 0
    PLATFORM_OFF = 1
    PLATFORM_RESET = 2
    PSCI_SYSTEM_RESET2 = 3
    WATCHDOG_BITE = 4
    SOFTWARE_ERROR = 5
    ASYNC_HW_ERROR = 6
    VM_STOP_FORCED = 7


class ExitCode(IntEnum):
    """``exit_code`` of VM_EXIT, u8; UNKNOWN_ERROR is refused there."""

    NORMAL = 0
    SOFTWARE_ERROR = 1
    UNKNOWN_ERROR = 2
    BUS_ERROR = 3
    DEVICE_ERROR = 4


class ExitFlag(IntFlag):
    """``exit_flags``, u16."""

    RESTART = 1 << 0
    SYSTEM_RESET2_64 = 1 << 15
    """Set by RM for a 64-bit SYSTEM_RESET2 call."""


class AuthType(IntEnum):
    """VM authentication type, u16."""

    NONE = 0
    PLATFORM = 1
    ANDROID = 2


class IdType(IntEnum):
    """Kind of an identity in VM_GET_ID, u8."""

    GUID = 0
    URI = 1
    NAME = 2
    SIGN_AUTH = 3


class ResourceType(IntEnum):
    """Kind of a hypervisor resource, u8, under RM's names."""

    DOORBELL_SRC = 0
    DOORBELL = 1
    MSG_QUEUE_SEND = 2
    MSG_QUEUE_RECV = 3
    VIRTUAL_CPU = 4
    VIRTUAL_PM = 5
    VIRTIO_MMIO = 6
    VRTC = 7
    WATCHDOG = 8
    MEM_EXTENT = 9
    """Later Linux only, like the next."""
    ADDR_SPACE = 10


class MemType(IntEnum):
    """``mem_type``, u8."""

    NORMAL = 0
    IO = 1


class MemTrans(IntEnum):
    """``trans_type``, u8."""

    DONATE = 0
    LEND = 1
    SHARE = 2


class MemRights(IntFlag):
    """``rights`` of an ACL entry, u8."""

    X = 1
    W = 2
    R = 4


MEM_RIGHTS = frozenset({4, 5, 6, 7})
"""Rights an ACL entry may have: R, RX, RW, RWX. IO memory may not have X."""


class MemAttribute(IntEnum):
    """Memory attribute, u16."""

    NORMAL = 0
    DEVICE = 1
    UNCACHED = 2
    CACHED = 3


class MemCreateFlag(IntFlag):
    """Flags of MEM_DONATE, MEM_LEND and MEM_SHARE, u8."""

    SANITIZE = 1 << 0
    APPEND = 1 << 1


APPEND_DONE = 1 << 0
"""Flag of MEM_APPEND: this was the last part."""


class MemAcceptFlag(IntFlag):
    """Flags of MEM_ACCEPT, u8."""

    VALIDATE_SANITIZED = 1 << 0
    VALIDATE_ACL_ATTR = 1 << 1
    VALIDATE_LABEL = 1 << 2
    MAP_OTHER = 1 << 3
    MAP_CONTIGUOUS = 1 << 4
    SANITIZE = 1 << 5
    DONE = 1 << 7


class MemAcceptReplyFlag(IntFlag):
    """Flags of the MEM_ACCEPT reply, u8."""

    INCOMPLETE = 1 << 0


RELEASE_SANITIZE = 1 << 0
"""Flag of MEM_RELEASE: zero the memory when it is reclaimed."""
RECLAIM_SANITIZE = 1 << 0
"""Flag of MEM_RECLAIM: zero the memory now."""


class MemNotify(IntEnum):
    """Flag of MEM_NOTIFY, u8: exactly one."""

    SHARED = 1
    RELEASED = 2
    ACCEPTED = 4
    RECALL = 8


class IrqNotify(IntEnum):
    """Flag of VM_IRQ_NOTIFY, u32: exactly one."""

    LENT = 1
    RELEASED = 2
    ACCEPTED = 4


STOP_FORCE = 1 << 0
"""Flag of VM_STOP."""


class IpaReserveKind(IntEnum):
    """Kind of an IPA_RESERVE request, u8."""

    FIXED = 0
    ALLOCATE = 1
