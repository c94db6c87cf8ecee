"""SMCCC function ids that Gunyah answers, and how such an id is composed (errors-and-types.md 11, hypercalls.md 1)."""

from __future__ import annotations

__all__ = [
    "AFFINITY_OFF",
    "AFFINITY_ON",
    "AFFINITY_ON_PENDING",
    "CLASS_HYPERCALL",
    "CLASS_PLATFORM",
    "CLASS_SERVICE",
    "FAST",
    "HINT_SVE",
    "MUST_BE_ZERO",
    "NOT_SUPPORTED",
    "OWNER_ARCH",
    "OWNER_CPU",
    "OWNER_OEM",
    "OWNER_SIP",
    "OWNER_STANDARD",
    "OWNER_STANDARD_HYP",
    "OWNER_VENDOR_HYP",
    "POWER_STATE_CPU_LEVEL",
    "POWER_STATE_DEEPEST",
    "POWER_STATE_POWERDOWN",
    "PSCI_AFFINITY_INFO_32",
    "PSCI_AFFINITY_INFO_64",
    "PSCI_CPU_DEFAULT_SUSPEND_32",
    "PSCI_CPU_DEFAULT_SUSPEND_64",
    "PSCI_CPU_FREEZE",
    "PSCI_CPU_OFF",
    "PSCI_CPU_ON_32",
    "PSCI_CPU_ON_64",
    "PSCI_CPU_SUSPEND_32",
    "PSCI_CPU_SUSPEND_64",
    "PSCI_FEATURES",
    "PSCI_FEATURES_CPU_SUSPEND",
    "PSCI_MIGRATE_INFO_TYPE",
    "PSCI_SET_SUSPEND_MODE",
    "PSCI_SYSTEM_OFF",
    "PSCI_SYSTEM_RESET",
    "PSCI_SYSTEM_RESET2_32",
    "PSCI_SYSTEM_RESET2_64",
    "PSCI_SYSTEM_SUSPEND_32",
    "PSCI_SYSTEM_SUSPEND_64",
    "PSCI_VERSION",
    "PSCI_VERSION_1_1",
    "PV_TIME_FEATURES",
    "PV_TIME_ST",
    "SMC64",
    "SMCCC_ARCH_FEATURES",
    "SMCCC_VERSION",
    "SMCCC_VERSION_1_3",
    "STANDARD_HYP_CALL_UID",
    "STANDARD_HYP_REVISION",
    "STANDARD_HYP_REVISION_MAJOR",
    "STANDARD_HYP_REVISION_MINOR",
    "TRNG_BITS_MAX_32",
    "TRNG_BITS_MAX_64",
    "TRNG_FEATURES",
    "TRNG_GET_UUID",
    "TRNG_RND_32",
    "TRNG_RND_64",
    "TRNG_UNASSIGNED",
    "TRNG_UUID",
    "TRNG_VERSION",
    "TRNG_VERSION_1_0",
    "VENDOR_HYP_CALL_COUNT",
    "VENDOR_HYP_CALL_UID",
    "VENDOR_HYP_REVISION",
    "function_id",
    "function_name",
    "function_of",
    "is_64bit",
    "is_fast",
    "owner_of",
    "vendor_class_of",
    "vendor_number_of",
]

# Composition

FAST = 1 << 31
SMC64 = 1 << 30
HINT_SVE = 1 << 16
"""SMCCC 1.3: the caller's SVE state is dead. Ignored."""
MUST_BE_ZERO = 0x00FE_0000
"""Bits 23:17; a Gunyah id with one of them set is unknown."""

OWNER_ARCH = 0
OWNER_CPU = 1
OWNER_SIP = 2
OWNER_OEM = 3
OWNER_STANDARD = 4
OWNER_STANDARD_HYP = 5
OWNER_VENDOR_HYP = 6

CLASS_PLATFORM = 0
"""Vendor-hypervisor class of bits 15:14: platform calls, none on this board."""
CLASS_HYPERCALL = 2
CLASS_SERVICE = 3

NOT_SUPPORTED = -1
"""X0 of an unknown function id, 64 bits wide."""


def function_id(owner: int, function: int, *, smc64: bool, fast: bool = True) -> int:
    """The 32-bit id of ``function`` (16 bits) of ``owner`` (6 bits)."""
    return (FAST if fast else 0) | (SMC64 if smc64 else 0) | owner << 24 | function


def is_fast(function: int) -> bool:
    """Bit 31."""
    return bool(function & FAST)


def is_64bit(function: int) -> bool:
    """Bit 30: arguments and results are 64-bit."""
    return bool(function & SMC64)


def owner_of(function: int) -> int:
    """Bits 29:24."""
    return function >> 24 & 0x3F


def function_of(function: int) -> int:
    """Bits 15:0."""
    return function & 0xFFFF


def vendor_class_of(function: int) -> int:
    """Bits 15:14 of an owner-6 id."""
    return function >> 14 & 3


def vendor_number_of(function: int) -> int:
    """Bits 13:0 of an owner-6 id: the call number of a hypercall."""
    return function & 0x3FFF


# Arm architecture (hypercalls.md 1.5)

SMCCC_VERSION = 0x8000_0000
SMCCC_ARCH_FEATURES = 0x8000_0001
SMCCC_VERSION_1_3 = 0x0001_0003

# PSCI (objects.md 11)

PSCI_VERSION = 0x8400_0000
PSCI_CPU_SUSPEND_32 = 0x8400_0001
PSCI_CPU_SUSPEND_64 = 0xC400_0001
PSCI_CPU_OFF = 0x8400_0002
PSCI_CPU_ON_32 = 0x8400_0003
PSCI_CPU_ON_64 = 0xC400_0003
PSCI_AFFINITY_INFO_32 = 0x8400_0004
PSCI_AFFINITY_INFO_64 = 0xC400_0004
PSCI_MIGRATE_INFO_TYPE = 0x8400_0006
PSCI_SYSTEM_OFF = 0x8400_0008
PSCI_SYSTEM_RESET = 0x8400_0009
PSCI_FEATURES = 0x8400_000A
PSCI_CPU_FREEZE = 0x8400_000B
PSCI_CPU_DEFAULT_SUSPEND_32 = 0x8400_000C
PSCI_CPU_DEFAULT_SUSPEND_64 = 0xC400_000C
PSCI_SYSTEM_SUSPEND_32 = 0x8400_000E
PSCI_SYSTEM_SUSPEND_64 = 0xC400_000E
PSCI_SET_SUSPEND_MODE = 0x8400_000F
PSCI_SYSTEM_RESET2_32 = 0x8400_0012
PSCI_SYSTEM_RESET2_64 = 0xC400_0012

PSCI_VERSION_1_1 = 0x0001_0001
PSCI_FEATURES_CPU_SUSPEND = 2
"""PSCI_FEATURES of CPU_SUSPEND: extended state format, platform-coordinated."""

POWER_STATE_POWERDOWN = 1 << 16
"""Type bit of the "original" power-state format (errors-and-types.md 12)."""
POWER_STATE_CPU_LEVEL = 0xF
"""Bits of the "original" format that say how deep the CPU itself sleeps; 0 is awake."""
POWER_STATE_DEEPEST = POWER_STATE_POWERDOWN | 1
"""A core in its deepest state, powered down."""

AFFINITY_ON = 0
AFFINITY_OFF = 1
AFFINITY_ON_PENDING = 2

# TRNG firmware interface (objects.md 13)

TRNG_VERSION = 0x8400_0050
TRNG_FEATURES = 0x8400_0051
TRNG_GET_UUID = 0x8400_0052
TRNG_RND_32 = 0x8400_0053
TRNG_RND_64 = 0xC400_0053
TRNG_UNASSIGNED = range(0x8400_0054, 0x8400_0060)
"""Ids set aside for TRNG functions to come, 32-bit convention."""

TRNG_VERSION_1_0 = 0x0001_0000
TRNG_UUID = (0x4554_6E21, 0x92A1_433D, 0xA2EA_5FE2, 0x1639_7D4E)
"""W0..W3 of TRNG_GET_UUID."""
TRNG_BITS_MAX_32 = 96
TRNG_BITS_MAX_64 = 192

# Standard hypervisor (hypercalls.md 1.4)

STANDARD_HYP_CALL_UID = 0x8500_FF01
STANDARD_HYP_REVISION = 0x8500_FF03
STANDARD_HYP_REVISION_MAJOR = 1
STANDARD_HYP_REVISION_MINOR = 0
PV_TIME_FEATURES = 0xC500_0020
PV_TIME_ST = 0xC500_0021

# Vendor hypervisor (hypercalls.md 1.4)

VENDOR_HYP_CALL_COUNT = 0x8600_FF00
"""Deprecated: answered with -1."""
VENDOR_HYP_CALL_UID = 0x8600_FF01
VENDOR_HYP_REVISION = 0x8600_FF03

_NAMES: dict[int, str] = {
    value: name
    for name, value in globals().items()
    if name.startswith(("SMCCC_", "PSCI_", "TRNG_", "PV_TIME_", "STANDARD_HYP_", "VENDOR_HYP_"))
    and isinstance(value, int)
    and value & FAST
}


def function_name(function: int) -> str:
    """Name of a function id as used here (``PSCI_CPU_ON_64``), or its number in hex."""
    return _NAMES.get(function, f"{function:#010x}")
