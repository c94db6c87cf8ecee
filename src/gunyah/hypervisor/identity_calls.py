"""Hypercalls that need no object: identification, trace classes, entropy (hypercalls.md 3.1, 3.13, 3.16)."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from gunyah.abi.errors import Error
from gunyah.abi.identify import API_FLAGS_0, API_FLAGS_1, API_FLAGS_2, API_INFO
from gunyah.abi.trace import UNCHANGEABLE_FLAGS
from gunyah.hypervisor.errors import HypervisorError
from gunyah.machine.clock import NS_PER_TICK

if TYPE_CHECKING:
    from gunyah.hypervisor.hypercall import Handler
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.vcpu import Vcpu

__all__ = ["HANDLERS"]

_IDENTITY = (API_INFO, API_FLAGS_0, API_FLAGS_1, API_FLAGS_2)

ENTROPY_MAX_BYTES = 16
ENTROPY_CALLS = 4
ENTROPY_WINDOW_TICKS = 33_000_000 // NS_PER_TICK


def hypervisor_identify(hv: Hypervisor, vcpu: Vcpu) -> tuple[int, ...]:
    """0x6000: hyp_api_info and three words of flags."""
    return _IDENTITY


def trace_update_class_flags(hv: Hypervisor, vcpu: Vcpu, set_flags: int, clear_flags: int) -> tuple[int]:
    """0x603F: result uint64_t the classes that are on; open to every VM. A class in both words is on afterwards."""
    before = hv.trace_classes
    wanted = before & ~clear_flags | set_flags
    hv.trace_classes = wanted & ~UNCHANGEABLE_FLAGS | before & UNCHANGEABLE_FLAGS
    return (hv.trace_classes,)


def prng_get_entropy(hv: Hypervisor, vcpu: Vcpu, size: int) -> tuple[int, int, int, int]:
    """0x6057: ``size`` bytes (4, 8, 12 or 16), 32 bits a register; at most 4 calls in 33 ms a vCPU."""
    if not 0 < size <= ENTROPY_MAX_BYTES:
        raise HypervisorError(Error.ARGUMENT_SIZE, f"{vcpu}: {size} bytes of entropy, not 1..{ENTROPY_MAX_BYTES}")
    if size % 4:
        raise HypervisorError(Error.ARGUMENT_ALIGNMENT, f"{vcpu}: {size} bytes of entropy are not whole words")
    now = hv.clock.ticks()
    recent: deque[int] = vcpu.entropy_calls
    while recent and now - recent[0] >= ENTROPY_WINDOW_TICKS:
        recent.popleft()
    if len(recent) >= ENTROPY_CALLS:
        raise HypervisorError(Error.BUSY, f"{vcpu}: {ENTROPY_CALLS} requests for entropy within 33 ms")
    recent.append(now)
    data = hv.random.randbytes(size).ljust(ENTROPY_MAX_BYTES, b"\0")
    words = [int.from_bytes(data[at : at + 4], "little") for at in range(0, ENTROPY_MAX_BYTES, 4)]
    return (words[0], words[1], words[2], words[3])


HANDLERS: Mapping[str, Handler] = {
    "hypervisor_identify": hypervisor_identify,
    "trace_update_class_flags": trace_update_class_flags,
    "prng_get_entropy": prng_get_entropy,
}
