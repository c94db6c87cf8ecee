"""JSON lines: one object per event, for scripts.

Every line has ``t`` (nanoseconds of the system counter) and ``event``: hypercall, trap, switch, interrupt, acknowledge,
end, send, receive, rpc, object, report. Numbers that people read in hexadecimal are strings such as ``"0x1000"``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TextIO

from gunyah.host.trace_rpc import RpcReader
from gunyah.host.trace_words import NS_PER_TICK, argument_words, result_words, vcpu_name
from gunyah.hypervisor.instruments import Instrument, NamedCall, NamedObject, NamedVcpu

__all__ = ["JsonTrace"]


class JsonTrace(Instrument):
    """Writes lines to ``stream``."""

    def __init__(self, stream: TextIO, *, owns_stream: bool = False) -> None:
        self._stream = stream
        self._owns_stream = owns_stream
        self._rpc = RpcReader()
        self._entered: dict[int, int] = {}

    def _line(self, event: str, ticks: int, **fields: object) -> None:
        record = {"t": ticks * NS_PER_TICK, "event": event, **fields}
        self._stream.write(json.dumps(record, separators=(",", ":")) + "\n")

    def hypercall_enter(self, vcpu: NamedVcpu, call: NamedCall, args: Sequence[int], ticks: int) -> None:
        """Remembered for ``took``."""
        self._entered[vcpu.serial] = ticks

    def hypercall_exit(
        self, vcpu: NamedVcpu, call: NamedCall, args: Sequence[int], results: Sequence[int], ticks: int
    ) -> None:
        """``hypercall``: vm, vcpu, call, args, results, took (ns)."""
        entered = self._entered.pop(vcpu.serial, ticks)
        self._line(
            "hypercall",
            ticks,
            vm=vcpu.vmid,
            vcpu=vcpu_name(vcpu),
            call=call.name,
            args=argument_words(call, args),
            results=result_words(call, results),
            took=(ticks - entered) * NS_PER_TICK,
        )

    def trap(self, vcpu: NamedVcpu, reason: str, value: int, ticks: int) -> None:
        """``trap``: vm, vcpu, reason, value."""
        self._line("trap", ticks, vm=vcpu.vmid, vcpu=vcpu_name(vcpu), reason=reason, value=f"{value:#x}")

    def switch(self, core: int, old: NamedVcpu | None, new: NamedVcpu | None, ticks: int) -> None:
        """``switch``: core, old, new."""
        self._line("switch", ticks, core=core, old=vcpu_name(old), new=vcpu_name(new))

    def interrupt(self, vic: NamedObject, virq: int, asserted: bool, source: str, ticks: int) -> None:
        """``interrupt``: vic, virq, asserted, source."""
        self._line("interrupt", ticks, vic=str(vic), virq=virq, asserted=asserted, source=source)

    def interrupt_acknowledge(self, vcpu: NamedVcpu, virq: int, ticks: int) -> None:
        """``acknowledge``: vm, vcpu, virq."""
        self._line("acknowledge", ticks, vm=vcpu.vmid, vcpu=vcpu_name(vcpu), virq=virq)

    def interrupt_end(self, vcpu: NamedVcpu, virq: int, ticks: int) -> None:
        """``end``: vm, vcpu, virq."""
        self._line("end", ticks, vm=vcpu.vmid, vcpu=vcpu_name(vcpu), virq=virq)

    def message_send(self, queue: NamedObject, vcpu: NamedVcpu, data: bytes, flow: int, ticks: int) -> None:
        """``send``: queue, vm, flow, bytes (hexadecimal); then ``rpc`` when that completes a message."""
        self._line("send", ticks, queue=str(queue), vm=vcpu.vmid, flow=flow, bytes=data.hex())
        message = self._rpc.feed(queue, vcpu, data, ticks)
        if message is not None:
            self._line(
                "rpc",
                ticks,
                vm=message.sender,
                kind=message.kind,
                sequence=message.sequence,
                name=message.name,
                id=f"{message.message_id:#010x}",
                error=message.error,
                payload=message.payload.hex(),
            )

    def message_receive(self, queue: NamedObject, vcpu: NamedVcpu, data: bytes, flow: int, ticks: int) -> None:
        """``receive``: queue, vm, flow, size."""
        self._line("receive", ticks, queue=str(queue), vm=vcpu.vmid, flow=flow, size=len(data))

    def object_event(self, obj: NamedObject, event: str, ticks: int) -> None:
        """``object``: object, what."""
        self._line("object", ticks, object=str(obj), what=event)

    def report(self, vcpu: NamedVcpu | None, sentence: str, ticks: int) -> None:
        """``report``: vcpu (or null), sentence."""
        self._line("report", ticks, vcpu=vcpu_name(vcpu) if vcpu is not None else None, sentence=sentence)

    def close(self) -> None:
        """Write out what is buffered; close the stream if it is ours."""
        self._stream.flush()
        if self._owns_stream:
            self._stream.close()
