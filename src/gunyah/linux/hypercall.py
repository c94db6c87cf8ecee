"""arch/arm64/gunyah/hypercall.c: the four calls of the driver stack, and the mapping of Gunyah errors to errno.

HVC #0 with SMCCC ids, results from x0 (linux-drivers.md 5 and 8). Buffers are kernel virtual addresses. The mapping
changed over the revisions of the series, so it belongs to the VM's profile (linux-drivers.md 3).
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from types import MappingProxyType

from gunyah.abi import smccc
from gunyah.abi.errors import Error
from gunyah.abi.identify import ApiInfo
from gunyah.abi.types import U32
from gunyah.guest.cpu import Cpu
from gunyah.guest.hypercall import Encoding, Hypercalls

__all__ = ["ERRNO_LATER", "ERRNO_TABLES", "ERRNO_V4", "GunyahHypercalls", "HypIdentity"]

_SERIES = {
    Error.OK: 0,
    Error.NOMEM: errno.ENOMEM,
    Error.DENIED: errno.EACCES,
    Error.BUSY: errno.EBUSY,
    Error.IDLE: errno.EBUSY,
    Error.VIRQ_BOUND: errno.EPERM,
    Error.VIRQ_NOT_BOUND: errno.EPERM,
    Error.CSPACE_CAP_NULL: errno.EACCES,
    Error.CSPACE_CAP_REVOKED: errno.EACCES,
    Error.CSPACE_WRONG_OBJECT_TYPE: errno.EACCES,
    Error.CSPACE_INSUFFICIENT_RIGHTS: errno.EACCES,
    Error.CSPACE_FULL: errno.EACCES,
    Error.MSGQUEUE_EMPTY: errno.EPERM,
    Error.MSGQUEUE_FULL: errno.EPERM,
}

ERRNO_V4: Mapping[int, int] = MappingProxyType({int(code): number for code, number in _SERIES.items()})
"""Gunyah error -> errno of v4 and v5; whatever is missing is EINVAL."""

ERRNO_LATER: Mapping[int, int] = MappingProxyType(
    {
        **ERRNO_V4,
        int(Error.UNIMPLEMENTED): errno.EOPNOTSUPP,
        int(Error.RETRY): errno.EAGAIN,
        int(Error.VIRQ_BOUND): errno.EIO,
        int(Error.VIRQ_NOT_BOUND): errno.EIO,
        int(Error.CSPACE_FULL): errno.EBUSY,
        int(Error.MSGQUEUE_EMPTY): errno.EIO,
        int(Error.MSGQUEUE_FULL): errno.EIO,
    }
)
"""The same as of v17."""

ERRNO_TABLES: Mapping[str, Mapping[int, int]] = MappingProxyType({"v4": ERRNO_V4, "2023": ERRNO_LATER})
"""By the name of the VM's profile."""


class HypIdentity:
    """struct gh_hypercall_hyp_identify_resp: API info and three words of feature flags."""

    __slots__ = ("api", "flags")

    def __init__(self, api_info: int, flags: tuple[int, int, int]) -> None:
        self.api = ApiInfo.unpack(api_info)
        self.flags = flags


class GunyahHypercalls:
    """The hypercall wrappers of the kernel. ``errno_table`` maps Gunyah errors (int32) to errno."""

    def __init__(self, cpu: Cpu, errno_table: Mapping[int, int] = ERRNO_LATER) -> None:
        self.cpu = cpu
        self.calls = Hypercalls(cpu, Encoding.SMCCC)
        self.errno_table = errno_table
        self.msgq_send = self.calls.try_msgqueue_send
        """msgq_send(capability, size, address, flags) -> (Gunyah error, ready)."""
        self.msgq_recv = self.calls.try_msgqueue_receive
        """msgq_recv(capability, address, size) -> (Gunyah error, bytes received, ready)."""

    def get_uid(self) -> tuple[int, int, int, int]:
        """gh_hypercall_get_uid: four 32-bit words; all ones in the first when the call is unknown."""
        x = self.cpu.x
        x[0] = smccc.VENDOR_HYP_CALL_UID
        self.cpu.hvc(0)
        return x[0] & U32, x[1] & U32, x[2] & U32, x[3] & U32

    def hyp_identify(self) -> HypIdentity:
        """gh_hypercall_hyp_identify."""
        return HypIdentity(*self.calls.hypervisor_identify())

    def remap_error(self, gh_error: int) -> int:
        """gh_remap_error: the errno (positive, 0 for OK) of a Gunyah error."""
        return self.errno_table.get(gh_error, errno.EINVAL)
