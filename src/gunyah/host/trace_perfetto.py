"""A Perfetto trace: a process per VM with a track per vCPU, a slice per hypercall, arrows for messages.

The file is a ``perfetto.protos.Trace``: a sequence of TracePackets (field 1). Times are nanoseconds of the system
counter. A call's slice is written when the call ends, because only then the messages it carried are known; the viewer
sorts. Beside the VMs stands a process "physical cores" (who runs where) and one for the Resource Manager's
conversation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO, Final

from gunyah.host.errors import HostError, reason
from gunyah.host.protobuf import fixed64, message, signed, text, varint
from gunyah.host.trace_rpc import RpcMessage, RpcReader
from gunyah.host.trace_words import NS_PER_TICK, argument_words, result_words, vcpu_name, vm_name
from gunyah.hypervisor.instruments import Instrument, NamedCall, NamedObject, NamedVcpu

__all__ = ["PerfettoTrace", "Field"]

_SEQUENCE: Final = 1
"""trusted_packet_sequence_id: all packets come from one writer."""
_CORES_PID: Final = 1000
_RPC_PID: Final = 1001
_VM_PID: Final = 1
"""A VM's process id is this plus its VMID (0 is the idle process of the viewer)."""
_BUFFER: Final = 256 * 1024


class Field(IntEnum):
    """Field numbers of the trace format that we write."""

    TRACE_PACKET = 1
    PACKET_TIMESTAMP = 8
    PACKET_SEQUENCE = 10
    PACKET_TRACK_EVENT = 11
    PACKET_TRACK_DESCRIPTOR = 60
    TRACK_UUID = 1
    TRACK_NAME = 2
    TRACK_PROCESS = 3
    TRACK_THREAD = 4
    TRACK_PARENT = 5
    PROCESS_PID = 1
    PROCESS_NAME = 6
    THREAD_PID = 1
    THREAD_TID = 2
    THREAD_NAME = 5
    EVENT_ANNOTATION = 4
    EVENT_TYPE = 9
    EVENT_TRACK = 11
    EVENT_CATEGORY = 22
    EVENT_NAME = 23
    EVENT_FLOW = 47
    EVENT_END_FLOW = 48
    ANNOTATION_BOOL = 2
    ANNOTATION_INT = 4
    ANNOTATION_STRING = 6
    ANNOTATION_NAME = 10


class _Type(IntEnum):
    """TrackEvent.Type."""

    SLICE_BEGIN = 1
    SLICE_END = 2
    INSTANT = 3


@dataclass(slots=True)
class _OpenCall:
    """A hypercall that has not returned."""

    call: NamedCall
    args: Sequence[int]
    track: int
    ticks: int
    flows: list[int] = field(default_factory=list)
    ended_flows: list[int] = field(default_factory=list)


def _annotation(name: str, value: int | str | bool) -> bytes:
    content = text(Field.ANNOTATION_NAME, name)
    if isinstance(value, bool):
        content += varint(Field.ANNOTATION_BOOL, value)
    elif isinstance(value, int):
        content += signed(Field.ANNOTATION_INT, value)
    else:
        content += text(Field.ANNOTATION_STRING, value)
    return message(Field.EVENT_ANNOTATION, content)


class PerfettoTrace(Instrument):
    """Writes ``path``; raises HostError when that cannot be written."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._file: BinaryIO | None = self.path.open("wb")
        except OSError as error:
            raise HostError(f"the trace {self.path} cannot be written: {reason(error)}") from error
        self._buffer = bytearray()
        self._processes: set[int] = set()
        self._tracks: dict[tuple[str, int], int] = {}
        self._vcpu_tracks: dict[tuple[int, int], int] = {}
        self._calls: dict[int, _OpenCall] = {}
        self._running: dict[int, int] = {}
        self._rpc = RpcReader()
        self._rpc_lanes: list[int] = []

    # -- packets -------------------------------------------------------------------------------------------------------

    def _packet(self, content: bytes) -> None:
        self._buffer += message(Field.TRACE_PACKET, content + varint(Field.PACKET_SEQUENCE, _SEQUENCE))
        if len(self._buffer) > _BUFFER:
            self._write()

    def _write(self) -> None:
        if self._file is not None:
            self._file.write(self._buffer)
        self._buffer.clear()

    def _event(
        self,
        kind: _Type,
        track: int,
        ticks: int,
        name: str = "",
        category: str = "",
        words: Mapping[str, int | str | bool] | None = None,
        flows: Sequence[int] = (),
        ended_flows: Sequence[int] = (),
    ) -> None:
        content = varint(Field.EVENT_TYPE, kind) + varint(Field.EVENT_TRACK, track)
        if name:
            content += text(Field.EVENT_NAME, name) + text(Field.EVENT_CATEGORY, category)
        for key, value in (words or {}).items():
            content += _annotation(key, value)
        for flow in flows:
            content += fixed64(Field.EVENT_FLOW, flow)
        for flow in ended_flows:
            content += fixed64(Field.EVENT_END_FLOW, flow)
        self._packet(varint(Field.PACKET_TIMESTAMP, ticks * NS_PER_TICK) + message(Field.PACKET_TRACK_EVENT, content))

    # -- tracks --------------------------------------------------------------------------------------------------------

    def _process(self, pid: int, name: str) -> int:
        """The track of a process, described at its first use; its uuid is its pid."""
        if pid not in self._processes:
            self._processes.add(pid)
            process = signed(Field.PROCESS_PID, pid) + text(Field.PROCESS_NAME, name)
            self._describe(varint(Field.TRACK_UUID, pid) + message(Field.TRACK_PROCESS, process))
        return pid

    def _describe(self, descriptor: bytes) -> None:
        self._packet(message(Field.PACKET_TRACK_DESCRIPTOR, descriptor))

    def _vcpu(self, vcpu: NamedVcpu) -> int:
        # A vCPU gets its address space late in its life: what it does before is another track.
        key = (vcpu.serial, vcpu.vmid)
        track = self._vcpu_tracks.get(key)
        if track is None:
            pid = self._process(_VM_PID + vcpu.vmid, vm_name(vcpu.vmid))
            track = self._vcpu_tracks[key] = 1_000_000 + len(self._vcpu_tracks)
            thread = signed(Field.THREAD_PID, pid) + signed(Field.THREAD_TID, track)
            thread += text(Field.THREAD_NAME, vcpu_name(vcpu))
            self._describe(varint(Field.TRACK_UUID, track) + message(Field.TRACK_THREAD, thread))
        return track

    def _named(self, pid: int, process: str, name: str, number: int = 0) -> int:
        """A track of its own inside a process."""
        key = (f"{pid} {name}", number)
        track = self._tracks.get(key)
        if track is None:
            parent = self._process(pid, process)
            track = self._tracks[key] = 2_000_000 + len(self._tracks)
            self._describe(
                varint(Field.TRACK_UUID, track) + varint(Field.TRACK_PARENT, parent) + text(Field.TRACK_NAME, name)
            )
        return track

    # -- events --------------------------------------------------------------------------------------------------------

    def hypercall_enter(self, vcpu: NamedVcpu, call: NamedCall, args: Sequence[int], ticks: int) -> None:
        """Opens a slice."""
        self._calls[vcpu.serial] = _OpenCall(call, tuple(args), self._vcpu(vcpu), ticks)

    def hypercall_exit(
        self, vcpu: NamedVcpu, call: NamedCall, args: Sequence[int], results: Sequence[int], ticks: int
    ) -> None:
        """Writes the slice with arguments, results and the messages it carried."""
        opened = self._calls.pop(vcpu.serial, None) or _OpenCall(call, args, self._vcpu(vcpu), ticks)
        self._begin(opened, result_words(call, results))
        self._event(_Type.SLICE_END, opened.track, ticks)

    def _begin(self, opened: _OpenCall, outcome: Mapping[str, int | str | bool]) -> None:
        self._event(
            _Type.SLICE_BEGIN,
            opened.track,
            opened.ticks,
            opened.call.name,
            "hypercall",
            {**argument_words(opened.call, opened.args), **{f"result {key}": value for key, value in outcome.items()}},
            opened.flows,
            opened.ended_flows,
        )

    def trap(self, vcpu: NamedVcpu, reason: str, value: int, ticks: int) -> None:
        """An instant on the vCPU's track."""
        self._event(_Type.INSTANT, self._vcpu(vcpu), ticks, reason, "trap", {"value": f"{value:#x}"})

    def switch(self, core: int, old: NamedVcpu | None, new: NamedVcpu | None, ticks: int) -> None:
        """A slice per turn on the core's track."""
        track = self._named(_CORES_PID, "physical cores", f"core {core}")
        if self._running.pop(core, None) is not None:
            self._event(_Type.SLICE_END, track, ticks)
        if new is not None:
            self._running[core] = track
            self._event(_Type.SLICE_BEGIN, track, ticks, vcpu_name(new), "switch")

    def interrupt(self, vic: NamedObject, virq: int, asserted: bool, source: str, ticks: int) -> None:
        """An instant on a track of the interrupt controller."""
        if asserted:
            track = self._named(_CORES_PID, "physical cores", f"interrupts of {vic}", vic.serial)
            self._event(_Type.INSTANT, track, ticks, f"interrupt {virq}", "interrupt", {"source": source})

    def interrupt_acknowledge(self, vcpu: NamedVcpu, virq: int, ticks: int) -> None:
        """An instant on the vCPU's track."""
        self._event(_Type.INSTANT, self._vcpu(vcpu), ticks, f"interrupt {virq}", "interrupt")

    def message_send(self, queue: NamedObject, vcpu: NamedVcpu, data: bytes, flow: int, ticks: int) -> None:
        """The start of an arrow, at the call that sends."""
        opened = self._calls.get(vcpu.serial)
        if opened is not None:
            opened.flows.append(flow)
        else:
            self._event(_Type.INSTANT, self._vcpu(vcpu), ticks, f"send to {queue}", "message", flows=(flow,))
        whole = self._rpc.feed(queue, vcpu, data, ticks)
        if whole is not None:
            self._rpc_message(whole)

    def message_receive(self, queue: NamedObject, vcpu: NamedVcpu, data: bytes, flow: int, ticks: int) -> None:
        """The end of an arrow, at the call that receives."""
        opened = self._calls.get(vcpu.serial)
        if opened is not None:
            opened.ended_flows.append(flow)
        else:
            self._event(_Type.INSTANT, self._vcpu(vcpu), ticks, f"receive {queue}", "message", ended_flows=(flow,))

    def _rpc_message(self, whole: RpcMessage) -> None:
        process = "Resource Manager RPC"
        if whole.kind == "notification":
            track = self._named(_RPC_PID, process, "notifications")
            self._event(_Type.INSTANT, track, whole.finished, whole.name, "rpc", {"payload": whole.payload[:64].hex()})
        elif whole.request is not None:
            request = whole.request
            lane = self._rpc_lane(request.started, whole.finished)
            track = self._named(_RPC_PID, process, "requests", lane)
            words: dict[str, int | str | bool] = {
                "from": vm_name(request.sender),
                "sequence": whole.sequence,
                "payload": request.payload[:64].hex(),
                "error": whole.error if whole.error is not None else "none",
                "reply": whole.payload[4:68].hex(),
            }
            self._event(_Type.SLICE_BEGIN, track, request.started, whole.name, "rpc", words)
            self._event(_Type.SLICE_END, track, whole.finished)

    def _rpc_lane(self, started: int, finished: int) -> int:
        """Requests of several clients overlap without nesting, so each takes the first track that was free then."""
        for lane, busy_until in enumerate(self._rpc_lanes):
            if busy_until <= started:
                self._rpc_lanes[lane] = finished
                return lane
        self._rpc_lanes.append(finished)
        return len(self._rpc_lanes) - 1

    def report(self, vcpu: NamedVcpu | None, sentence: str, ticks: int) -> None:
        """An instant on the vCPU's track, or among the cores."""
        track = self._vcpu(vcpu) if vcpu is not None else self._named(_CORES_PID, "physical cores", "reports")
        self._event(_Type.INSTANT, track, ticks, sentence, "report")

    def close(self) -> None:
        """Write the calls that never returned, and the file's end; later events are dropped."""
        if self._file is None:
            return
        for opened in self._calls.values():
            self._begin(opened, {})
        self._calls.clear()
        self._write()
        self._file.close()
        self._file = None
