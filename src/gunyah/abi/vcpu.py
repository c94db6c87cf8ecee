"""vCPU and scheduler words: options, power flags, run states, register sets, priorities (errors-and-types.md 8, 9)."""

from __future__ import annotations

from enum import IntEnum, IntFlag

__all__ = [
    "DEFAULT_PRIORITY",
    "HINT_MASK",
    "IDLE_PRIORITY",
    "POWEREDOFF_EXITED",
    "POWEROFF_LAST_VCPU",
    "POWEROFF_RESERVED",
    "POWERON_PRESERVE_CONTEXT",
    "POWERON_PRESERVE_ENTRY_POINT",
    "POWERON_RESERVED",
    "PRIORITY_LEVELS",
    "RESET_TYPE_MASK",
    "RESET_TYPE_SMC64",
    "RESET_TYPE_SYSTEM_RESET",
    "ROOT_VM_PRIORITY",
    "ResumeAction",
    "TIMESLICE_DEFAULT",
    "TIMESLICE_MAX",
    "TIMESLICE_MIN",
    "VCPU_PRIORITY_MAX",
    "VcpuOption",
    "VCPU_OPTIONS_RESERVED",
    "VcpuRegisterSet",
    "VcpuRunState",
    "VcpuVirqType",
    "WakeupSource",
    "YIELD_IMPLEMENTATION_DEFINED",
    "YieldHint",
    "system_reset2_type",
]


class VcpuOption(IntFlag):
    """``vcpu_option_flags``: bits of ``vcpu_configure`` (64-bit word)."""

    PINNED = 1 << 0
    RAS_ERROR_HANDLER = 1 << 1
    AMU_COUNTING_DISABLED = 1 << 2
    SVE_ALLOWED = 1 << 3
    DEBUG_ALLOWED = 1 << 4
    TRACE_ALLOWED = 1 << 5
    CRITICAL = 1 << 8
    VCPU_RUN_SCHEDULED = 1 << 9
    HLOS_VM = 1 << 63


VCPU_OPTIONS_RESERVED = 0x7FFF_FFFF_FFFF_FCC0
"""Option bits refused with 1."""

POWERON_PRESERVE_ENTRY_POINT = 1 << 0
POWERON_PRESERVE_CONTEXT = 1 << 1
POWERON_RESERVED = 0xFFFF_FFFF_FFFF_FFFC
POWEROFF_LAST_VCPU = 1 << 0
POWEROFF_RESERVED = 0xFFFF_FFFF_FFFF_FFFE


class VcpuVirqType(IntEnum):
    """Which interrupt ``vcpu_bind_virq`` binds."""

    HALT = 0
    VCPU_RUN_WAKEUP = 1


class VcpuRegisterSet(IntEnum):
    """Register set of ``vcpu_register_write``."""

    X = 0
    """X0..X30."""
    PC = 1
    """Index 0, 4-byte aligned."""
    SP_EL = 2
    """Index 0 SP_EL0, index 1 SP_EL1, 16-byte aligned."""


class VcpuRunState(IntEnum):
    """State that ``vcpu_run`` and ``vcpu_run_check`` report."""

    READY = 0
    EXPECTS_WAKEUP = 1
    POWERED_OFF = 2
    BLOCKED = 3
    ADDRSPACE_VMMIO_READ = 4
    ADDRSPACE_VMMIO_WRITE = 5
    FAULT = 6
    ADDRSPACE_PAGE_FAULT = 7
    """Known to later Linux only; the reference never reports it (vm-loader.md 6.1)."""
    PSCI_SYSTEM_RESET = 0x100


POWEREDOFF_EXITED = 1 << 0
"""State data 1 of POWERED_OFF: the vCPU is gone for good."""


class WakeupSource(IntEnum):
    """State data 2 of EXPECTS_WAKEUP."""

    UNSPECIFIED = 0
    WFI = 1
    PSCI_CPU_SUSPEND = 2
    PSCI_SYSTEM_SUSPEND = 3


class ResumeAction(IntEnum):
    """Resume data 1 after an MMIO state, as later Linux passes it (vm-loader.md 6.1)."""

    EMULATE = 0
    RETRY = 1
    FAULT = 2


RESET_TYPE_MASK = 0xFFFF_FFFF
"""State data 1 of PSCI_SYSTEM_RESET: SYSTEM_RESET2's reset type; 0 for SYSTEM_RESET."""
RESET_TYPE_SMC64 = 1 << 62
"""SYSTEM_RESET2 was called by its SMC64 id."""
RESET_TYPE_SYSTEM_RESET = 1 << 63
"""It was SYSTEM_RESET, not SYSTEM_RESET2."""


def system_reset2_type(reset_type: int, *, smc64: bool) -> int:
    """Reset type word (state data 1 of PSCI_SYSTEM_RESET) of a SYSTEM_RESET2 call."""
    return reset_type & RESET_TYPE_MASK | (RESET_TYPE_SMC64 if smc64 else 0)


class YieldHint(IntEnum):
    """Bits 15:0 of ``scheduler_yield``'s control word."""

    YIELD = 0
    YIELD_TO_THREAD = 1
    YIELD_LOWER = 2
    """Defined and refused."""


HINT_MASK = 0xFFFF
YIELD_IMPLEMENTATION_DEFINED = 1 << 31
"""Always refused."""

PRIORITY_LEVELS = 64
"""0 is lowest."""
VCPU_PRIORITY_MAX = 62
DEFAULT_PRIORITY = 32
ROOT_VM_PRIORITY = 32
IDLE_PRIORITY = 0

TIMESLICE_MIN = 100_000
"""Nanoseconds, like the two below."""
TIMESLICE_MAX = 100_000_000
TIMESLICE_DEFAULT = 5_000_000
