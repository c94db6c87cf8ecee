"""Payloads of the VM notifications (rm-rpc.md 12)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gunyah.abi.layout import U8, U16, U32, Field, Pad, Payload, Words

__all__ = ["VmExited", "VmShutdown", "VmStatusNotification", "common_reason"]


@dataclass(frozen=True, slots=True)
class VmStatusNotification(Payload):
    """VM_STATUS: the VM's new state."""

    vmid: int
    vm_status: int
    os_status: int
    app_status: int

    LAYOUT: ClassVar[tuple[Field, ...]] = (
        U16("vmid"),
        Pad(2),
        U8("vm_status"),
        U8("os_status"),
        U16("app_status"),
    )


@dataclass(frozen=True, slots=True)
class VmShutdown(Payload):
    """VM_SHUTDOWN: the stop reason, for the VM itself."""

    reason: int

    LAYOUT: ClassVar[tuple[Field, ...]] = (U32("reason"),)


@dataclass(frozen=True, slots=True)
class VmExited(Payload):
    """VM_EXITED: u16 vmid, u16 exit type, u32 size in bytes of the reason, its words.

    The first word is the common reason; for PSCI_SYSTEM_RESET2 three more follow: reset type, cookie low, cookie high.
    """

    vmid: int
    exit_type: int
    reason: tuple[int, ...] = (0,)

    LAYOUT: ClassVar[tuple[Field, ...]] = (U16("vmid"), U16("exit_type"), Words("reason"))


def common_reason(exit_flags: int, exit_code: int) -> int:
    """First word of an exit reason: bits 15:0 flags (ExitFlag), bits 23:16 code (ExitCode)."""
    return exit_flags | exit_code << 16
