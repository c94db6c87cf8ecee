"""The hypercall table: every call number with its arguments, results, demands and errors, as data.

Dispatcher, guest wrappers, traces, documentation and tests all read this one table (hypercalls.md 1 to 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from gunyah.abi.hypercalls import absent, interrupt, ipc, memory, partition, vcpu, virtio
from gunyah.abi.hypercalls.absent import VENDOR_CALLS
from gunyah.abi.hypercalls.model import (
    CALL_NUMBER_MAX,
    HVC_BASE,
    HVC_WINDOW,
    KIND_MASKS,
    SMCCC_BASE,
    Argument,
    Capability,
    Hypercall,
    ReservedBits,
    Result,
    Status,
)
from gunyah.abi.hypercalls.partition import CREATED_TYPES

__all__ = [
    "BY_NAME",
    "CALL_NUMBER_MAX",
    "CREATED_TYPES",
    "HVC_BASE",
    "HVC_WINDOW",
    "HYPERCALLS",
    "KIND_MASKS",
    "SMCCC_BASE",
    "VENDOR_CALLS",
    "Argument",
    "Capability",
    "Hypercall",
    "ReservedBits",
    "Result",
    "Status",
]

_CALLS = sorted(
    (
        *partition.CALLS,
        *memory.CALLS,
        *vcpu.CALLS,
        *ipc.CALLS,
        *interrupt.CALLS,
        *virtio.CALLS,
        *absent.CALLS,
    ),
    key=lambda call: call.number,
)

HYPERCALLS: Mapping[int, Hypercall] = MappingProxyType({call.number: call for call in _CALLS})
"""Every call number 0x00..0x68, those without a call included."""

BY_NAME: Mapping[str, Hypercall] = MappingProxyType(
    {call.name: call for call in (*_CALLS, *VENDOR_CALLS) if call.status is not Status.RESERVED}
)
"""Every named call, vendor calls (number -1) and those not built included."""
