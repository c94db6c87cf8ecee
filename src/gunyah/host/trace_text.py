"""The human log of ``--trace``: one line per event: time since the log's first event, who, what.

    0.000 341 216  primary VM vcpu0       msgqueue_send(msgqueue=0x5f…, size=12, …) -> OK, not_full=True
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from gunyah.abi.errors import RmError
from gunyah.host.trace_rpc import RpcMessage, RpcReader
from gunyah.host.trace_words import NS_PER_TICK, argument_words, result_words, vcpu_name, vm_name
from gunyah.hypervisor.instruments import Instrument, NamedCall, NamedObject, NamedVcpu

__all__ = ["TextTrace", "rpc_sentence"]

_NAME_WIDTH = 22


def _time(ticks: int) -> str:
    """Seconds, then milli-, micro- and nanoseconds in groups."""
    seconds, ns = divmod(ticks * NS_PER_TICK, 1_000_000_000)
    us, ns = divmod(ns, 1000)
    return f"{seconds:>5}.{us // 1000:03d} {us % 1000:03d} {ns:03d}"


def _words(words: dict[str, int | str | bool]) -> str:
    return ", ".join(f"{name}={value}" for name, value in words.items())


def rpc_sentence(message: RpcMessage) -> str:
    """``request 7 VM_GET_VMID (0 bytes)``, ``reply 7 VM_GET_VMID: OK (4 bytes, after 52.3 us)``."""
    if message.kind != "reply":
        return f"{message.kind} {message.sequence} {message.name} ({len(message.payload)} bytes)"
    error = message.error
    try:
        outcome = RmError(error).name if error is not None else "no error word"
    except ValueError:
        outcome = f"error {error:#x}"
    after = ""
    if message.request is not None:
        after = f", after {(message.finished - message.request.started) * NS_PER_TICK / 1000:.1f} us"
    return f"reply {message.sequence} {message.name}: {outcome} ({max(0, len(message.payload) - 4)} bytes{after})"


class TextTrace(Instrument):
    """Writes lines to ``stream``; ``quiet`` leaves out the switches, traps and interrupts, which are most of them."""

    def __init__(self, stream: TextIO, *, quiet: bool = False, owns_stream: bool = False) -> None:
        self._stream = stream
        self._quiet = quiet
        self._owns_stream = owns_stream
        self._rpc = RpcReader()
        self._start = -1

    def _line(self, ticks: int, who: str, what: str) -> None:
        if self._start < 0:
            self._start = ticks
        self._stream.write(f"{_time(ticks - self._start)}  {who:<{_NAME_WIDTH}} {what}\n")

    def hypercall_exit(
        self, vcpu: NamedVcpu, call: NamedCall, args: Sequence[int], results: Sequence[int], ticks: int
    ) -> None:
        """One line with arguments and results."""
        outcome = result_words(call, results)
        error = outcome.pop("error", None)
        answer = ", ".join(part for part in (str(error) if error is not None else "", _words(outcome)) if part)
        self._line(ticks, vcpu_name(vcpu), f"{call.name}({_words(argument_words(call, args))}) -> {answer}")

    def trap(self, vcpu: NamedVcpu, reason: str, value: int, ticks: int) -> None:
        """One line."""
        if not self._quiet:
            self._line(ticks, vcpu_name(vcpu), f"trap: {reason} {value:#x}" if value else f"trap: {reason}")

    def switch(self, core: int, old: NamedVcpu | None, new: NamedVcpu | None, ticks: int) -> None:
        """One line: which core, from whom, to whom."""
        if not self._quiet:
            self._line(ticks, f"core {core}", f"{vcpu_name(old)} -> {vcpu_name(new)}")

    def interrupt(self, vic: NamedObject, virq: int, asserted: bool, source: str, ticks: int) -> None:
        """One line."""
        if not self._quiet:
            self._line(ticks, str(vic), f"interrupt {virq} {'raised' if asserted else 'lowered'} by {source}")

    def message_send(self, queue: NamedObject, vcpu: NamedVcpu, data: bytes, flow: int, ticks: int) -> None:
        """One line per complete RPC message."""
        message = self._rpc.feed(queue, vcpu, data, ticks)
        if message is not None:
            self._line(ticks, f"RPC from {vm_name(message.sender)}", rpc_sentence(message))

    def object_event(self, obj: NamedObject, event: str, ticks: int) -> None:
        """One line."""
        if not self._quiet:
            self._line(ticks, "object", f"{event} {obj}")

    def report(self, vcpu: NamedVcpu | None, sentence: str, ticks: int) -> None:
        """One line."""
        self._line(ticks, vcpu_name(vcpu) if vcpu is not None else "hypervisor", sentence)

    def close(self) -> None:
        """Write out what is buffered; close the stream if it is ours."""
        self._stream.flush()
        if self._owns_stream:
            self._stream.close()
