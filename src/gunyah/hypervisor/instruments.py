"""Watching the hypervisor: the interface of an instrument.

``hypervisor.instruments`` is a list, empty by default; the core asks ``if instruments:`` and nothing more, so that
watching is free when nobody watches. An instrument derives from ``Instrument`` and overrides what it wants to see. It
is called on the machine's one thread in the middle of the operation: it must not change the machine, run guest code,
block or raise.

All times are ticks of the system counter (62.5 MHz). Remote procedure calls of the Resource Manager are not events
here: to EL2 they are bytes in a message queue, and whoever wants them reads ``message_send`` (gunyah.host.trace_rpc).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["Instrument", "NamedCall", "NamedObject", "NamedVcpu"]


class NamedObject(Protocol):
    """A vCPU, VIC, message queue or any other kernel object; ``str()`` is its name for people.

    ``serial`` is unique in one hypervisor.
    """

    serial: int


class NamedVcpu(NamedObject, Protocol):
    """A vCPU; ``vmid`` is that of its address space, 0 before it has one."""

    @property
    def vmid(self) -> int:
        """uint16_t; 255 is the Resource Manager, 3 the primary VM."""


class NamedCall(Protocol):
    """What was called: an entry of the hypercall table, or a PSCI, TRNG or other SMCCC function."""

    @property
    def name(self) -> str:
        """The name that the interface's documents use."""


class Instrument:
    """Does nothing at every event; override what you want to watch."""

    def hypercall_enter(self, vcpu: NamedVcpu, call: NamedCall, args: Sequence[int], ticks: int) -> None:
        """A vCPU calls; ``args`` are X1 upwards (hypercall) or X1..X3 (SMCCC service), uint64_t."""

    def hypercall_exit(
        self, vcpu: NamedVcpu, call: NamedCall, args: Sequence[int], results: Sequence[int], ticks: int
    ) -> None:
        """The call answers; ``results`` are X0 upwards as the guest reads them, ``results[0]`` its error if it has one.

        A call that never returns (power-off) has no exit. Other vCPUs may have run since the entry.
        """

    def trap(self, vcpu: NamedVcpu, reason: str, value: int, ticks: int) -> None:
        """A vCPU enters EL2 for another reason: "wfi", "data abort", "system register", "preempted", ...

        ``value`` belongs to the reason: the guest-physical address of an abort, the syndrome of a trapped register.
        """

    def switch(self, core: int, old: NamedVcpu | None, new: NamedVcpu | None, ticks: int) -> None:
        """Physical core ``core`` leaves vCPU ``old`` and goes on with ``new``; None is the idle loop."""

    def interrupt(self, vic: NamedObject, virq: int, asserted: bool, source: str, ticks: int) -> None:
        """A source raised (or lowered) interrupt ``virq`` of a VIC; ``source`` names it for people."""

    def interrupt_acknowledge(self, vcpu: NamedVcpu, virq: int, ticks: int) -> None:
        """A vCPU took interrupt ``virq`` (read of ICC_IAR1_EL1)."""

    def interrupt_end(self, vcpu: NamedVcpu, virq: int, ticks: int) -> None:
        """A vCPU ended interrupt ``virq`` (write of ICC_EOIR1_EL1)."""

    def message_send(self, queue: NamedObject, vcpu: NamedVcpu, data: bytes, flow: int, ticks: int) -> None:
        """A message entered ``queue``; ``flow`` is unique to the message and comes back in ``message_receive``."""

    def message_receive(self, queue: NamedObject, vcpu: NamedVcpu, data: bytes, flow: int, ticks: int) -> None:
        """Message ``flow`` was taken out of ``queue``. A flushed message is never received."""

    def object_event(self, obj: NamedObject, event: str, ticks: int) -> None:
        """The life of a kernel object: "create", "activate", "fail" or "destroy"."""

    def report(self, vcpu: NamedVcpu | None, sentence: str, ticks: int) -> None:
        """Something that a person should read: a VM stopped by an unexpected fault, with the reason."""
