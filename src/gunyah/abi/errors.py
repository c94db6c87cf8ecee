"""Result codes of every interface: hypercalls, Resource Manager RPC, PSCI and TRNG.

A hypercall's error is a signed 32-bit value in X0; the native encoding leaves its upper half 0, SMCCC sign-extends it
(errors-and-types.md 1, hypercalls.md 1.1). RM errors are unsigned 32-bit words at the start of a reply (rm-rpc.md 3).
PSCI and TRNG results are signed, of the width of the function id that was called (errors-and-types.md 12).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType

__all__ = [
    "ERROR_TO_RM",
    "INTERNAL_ERRORS",
    "Error",
    "PsciError",
    "RmError",
    "TrngError",
    "rm_error_of",
]


class Error(IntEnum):
    """``error_t``: result of a hypercall, int32 (errors-and-types.md 1)."""

    OK = 0
    UNIMPLEMENTED = -1
    RETRY = -2
    ARGUMENT_INVALID = 1
    ARGUMENT_SIZE = 2
    ARGUMENT_ALIGNMENT = 3
    NOMEM = 10
    NORESOURCES = 11
    ADDR_OVERFLOW = 20
    ADDR_UNDERFLOW = 21
    ADDR_INVALID = 22
    DENIED = 30
    BUSY = 31
    IDLE = 32
    OBJECT_STATE = 33
    OBJECT_CONFIG = 34
    OBJECT_CONFIGURED = 35
    FAILURE = 36
    VIRQ_BOUND = 40
    VIRQ_NOT_BOUND = 41
    CSPACE_CAP_NULL = 50
    CSPACE_CAP_REVOKED = 51
    CSPACE_WRONG_OBJECT_TYPE = 52
    CSPACE_INSUFFICIENT_RIGHTS = 53
    CSPACE_FULL = 54
    MSGQUEUE_EMPTY = 60
    MSGQUEUE_FULL = 61
    STRING_TRUNCATED = 90
    STRING_REACHED_END = 91
    STRING_INVALID_FORMAT = 92
    STRING_MISSING_PLACEHOLDER = 93
    STRING_MISSING_ARGUMENT = 94
    ALLOCATOR_RANGE_OVERLAPPING = 100
    ALLOCATOR_MEM_INUSE = 101
    MEMDB_EMPTY = 110
    MEMDB_NOT_OWNER = 111
    MEMEXTENT_MAPPINGS_FULL = 120
    MEMEXTENT_TYPE = 121
    EXISTING_MAPPING = 200


INTERNAL_ERRORS = frozenset(
    {
        Error.ADDR_UNDERFLOW,
        Error.STRING_TRUNCATED,
        Error.STRING_REACHED_END,
        Error.STRING_INVALID_FORMAT,
        Error.STRING_MISSING_PLACEHOLDER,
        Error.STRING_MISSING_ARGUMENT,
        Error.ALLOCATOR_RANGE_OVERLAPPING,
        Error.ALLOCATOR_MEM_INUSE,
        Error.EXISTING_MAPPING,
    }
)
"""Codes the hypervisor uses only inside itself; no hypercall returns them (errors-and-types.md 1)."""


class RmError(IntEnum):
    """Error word of a Resource Manager reply, uint32 (rm-rpc.md 3)."""

    OK = 0x0
    UNIMPLEMENTED = 0xFFFF_FFFF
    NOMEM = 0x1
    NORESOURCE = 0x2
    DENIED = 0x3
    MSG_INVALID = 0x4
    BUSY = 0x5
    ARGUMENT_INVALID = 0x6
    HANDLE_INVALID = 0x7
    VALIDATE_FAILED = 0x8
    MAP_FAILED = 0x9
    MEM_INVALID = 0xA
    MEM_INUSE = 0xB
    MEM_RELEASED = 0xC
    VMID_INVALID = 0xD
    LOOKUP_FAILED = 0xE
    IRQ_INVALID = 0xF
    IRQ_INUSE = 0x10
    IRQ_RELEASED = 0x11
    IN_USE = 0x12
    IRQ_NOT_MAPPED = 0x13
    VM_STATE = 0x14


ERROR_TO_RM: Mapping[int, RmError] = MappingProxyType(
    {
        Error.OK: RmError.OK,
        Error.UNIMPLEMENTED: RmError.UNIMPLEMENTED,
        Error.NOMEM: RmError.NOMEM,
        Error.NORESOURCES: RmError.NORESOURCE,
        Error.DENIED: RmError.DENIED,
        Error.BUSY: RmError.BUSY,
        Error.ADDR_INVALID: RmError.MEM_INVALID,
        Error.ADDR_OVERFLOW: RmError.MEM_INVALID,
        Error.ADDR_UNDERFLOW: RmError.MEM_INVALID,
        Error.ARGUMENT_INVALID: RmError.ARGUMENT_INVALID,
    }
)
"""How RM words a hypercall's error towards its client; whatever is missing here becomes DENIED (rm-rpc.md 3)."""


def rm_error_of(error: int) -> RmError:
    """RM's translation of hypercall error ``error`` (int32) (rm-rpc.md 3)."""
    return ERROR_TO_RM.get(error, RmError.DENIED)


class PsciError(IntEnum):
    """Result of a PSCI call, int32 or int64 by the width of the function id (errors-and-types.md 12)."""

    SUCCESS = 0
    NOT_SUPPORTED = -1
    INVALID_PARAMETERS = -2
    DENIED = -3
    ALREADY_ON = -4
    ON_PENDING = -5
    INTERNAL_FAILURE = -6
    NOT_PRESENT = -7
    DISABLED = -8
    INVALID_ADDRESS = -9


class TrngError(IntEnum):
    """Result of a TRNG firmware call, int32 or int64 by the width of the function id (errors-and-types.md 12)."""

    SUCCESS = 0
    NOT_SUPPORTED = -1
    INVALID_PARAMETERS = -2
    NO_ENTROPY = -3
