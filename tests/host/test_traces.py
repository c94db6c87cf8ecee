"""Traces tell what passed: the human log, JSON lines, and a Perfetto file that the format's own descriptors read."""

from __future__ import annotations

import io
import json
import struct
from dataclasses import dataclass
from pathlib import Path

import pytest
from google.protobuf.unknown_fields import UnknownFieldSet
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

from gunyah.abi.hypercalls import BY_NAME
from gunyah.host.errors import HostError
from gunyah.host.trace import open_trace
from gunyah.host.trace_json import JsonTrace
from gunyah.host.trace_perfetto import PerfettoTrace
from gunyah.host.trace_rpc import RpcReader
from gunyah.host.trace_text import TextTrace
from gunyah.hypervisor.instruments import Instrument

SEND, RECEIVE = BY_NAME["msgqueue_send"], BY_NAME["msgqueue_receive"]
GET_VMID = 0x56000024


@dataclass(frozen=True)
class Watched:
    """A kernel object as an instrument sees it."""

    serial: int
    name: str
    vmid: int = 0

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Service:
    """A call that is not in the hypercall table."""

    name: str


LINUX, RM = Watched(1, "vm3.vcpu0", 3), Watched(2, "vm255.vcpu0", 255)
TO_RM, FROM_RM = Watched(10, "msgqueue #10"), Watched(11, "msgqueue #11")


def packet(kind: int, sequence: int, message_id: int, payload: bytes, fragments: int = 0) -> bytes:
    return struct.pack("<BBHI", 0x21, fragments << 2 | kind, sequence, message_id) + payload


def conversation(instrument: Instrument) -> None:
    """A request of the primary VM to RM and its answer, as the hypervisor tells it, ticks 100 to 800."""
    request, reply = packet(1, 7, GET_VMID, b""), packet(2, 7, GET_VMID, bytes(4) + b"\x03\0\0\0")
    instrument.switch(0, None, LINUX, 100)
    instrument.hypercall_enter(LINUX, SEND, [0x1234, 8, 0x4000_0000, 1, 0], 110)
    instrument.message_send(TO_RM, LINUX, request, 501, 112)
    instrument.interrupt(Watched(20, "vic #20"), 33, True, "msgqueue receive", 115)
    instrument.hypercall_exit(LINUX, SEND, [0x1234, 8, 0x4000_0000, 1, 0], [0, 1], 120)
    instrument.trap(LINUX, "wfi", 0, 130)
    instrument.switch(0, LINUX, RM, 140)
    instrument.interrupt_acknowledge(RM, 33, 145)
    instrument.interrupt_end(RM, 33, 146)
    instrument.hypercall_enter(RM, RECEIVE, [0x99, 0x8000, 240, 0], 150)
    instrument.message_receive(TO_RM, RM, request, 501, 155)
    instrument.hypercall_exit(RM, RECEIVE, [0x99, 0x8000, 240, 0], [0, 8, 0], 160)
    instrument.hypercall_enter(RM, SEND, [0x77, 16, 0x9000, 1, 0], 200)
    instrument.message_send(FROM_RM, RM, reply, 502, 205)
    instrument.hypercall_exit(RM, SEND, [0x77, 16, 0x9000, 1, 0], [61, 0], 210)
    instrument.hypercall_enter(LINUX, Service("PSCI_VERSION"), [0, 0, 0], 300)
    instrument.hypercall_exit(LINUX, Service("PSCI_VERSION"), [0, 0, 0], [0x10001, 0, 0, 0], 301)
    instrument.object_event(TO_RM, "activate", 400)
    instrument.report(None, "something to read", 500)
    instrument.switch(0, RM, None, 800)


def test_rpc_reader_joins_fragments_and_finds_the_request_of_a_reply() -> None:
    reader = RpcReader()
    assert reader.feed(TO_RM, LINUX, packet(1, 9, 0x56000083, b"a" * 232, 1), 10) is None
    request = reader.feed(TO_RM, LINUX, packet(0, 9, 0x56000083, b"b", 1), 20)
    assert request is not None
    assert (request.kind, request.sender, request.payload) == ("request", 3, b"a" * 232 + b"b")
    assert (request.started, request.finished, request.error) == (10, 20, None)
    reply = reader.feed(FROM_RM, RM, packet(2, 9, 0x56000083, b"\x06\0\0\0"), 30)
    assert reply is not None
    assert (reply.kind, reply.error, reply.request) == ("reply", 6, request)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x21", b"\x20" + bytes(8), packet(0, 1, 2, b"orphan"), packet(1, 1, 2, b"", 63)],
    ids=["empty", "short", "other version", "continuation of nothing", "too many fragments"],
)
def test_rpc_reader_ignores_what_is_no_packet(data: bytes) -> None:
    assert RpcReader().feed(TO_RM, LINUX, data, 0) is None


def test_rpc_reader_keeps_a_bounded_number_of_unanswered_requests() -> None:
    reader = RpcReader()
    for sequence in range(5000):
        reader.feed(TO_RM, LINUX, packet(1, sequence, GET_VMID, b""), sequence)
    reply = reader.feed(FROM_RM, RM, packet(2, 0, GET_VMID, bytes(4)), 6000)
    assert reply is not None
    assert reply.request is None


def test_human_log_names_who_what_and_the_outcome() -> None:
    stream = io.StringIO()
    trace = TextTrace(stream)
    conversation(trace)
    trace.close()
    lines = stream.getvalue().splitlines()
    call = next(line for line in lines if "msgqueue_send" in line)
    assert "primary VM vcpu0" in call
    assert "0x1234" in call
    assert "-> OK" in call
    assert call.split("  ")[0].strip() or call.startswith(" ")
    assert any("RM vcpu0" in line and "-> MSGQUEUE_FULL" in line for line in lines)
    assert any("RPC from primary VM" in line and "request 7" in line for line in lines)
    assert any("RPC from RM" in line and "reply 7" in line and "OK (4 bytes, after 1.5 us)" in line for line in lines)
    assert any("VM_GET_VMID" in line for line in lines)
    assert any("PSCI_VERSION" in line and "0x10001" in line for line in lines)
    assert any("hypervisor" in line and "something to read" in line for line in lines)
    assert any("core 0" in line and "primary VM vcpu0 -> RM vcpu0" in line for line in lines)


def test_quiet_human_log_leaves_out_switches_traps_and_interrupts() -> None:
    stream = io.StringIO()
    conversation(TextTrace(stream, quiet=True))
    assert "core 0" not in stream.getvalue()
    assert "trap" not in stream.getvalue()
    assert "interrupt 33" not in stream.getvalue()
    assert "msgqueue_receive" in stream.getvalue()


def test_json_lines_are_one_object_per_event_with_time_in_nanoseconds() -> None:
    stream = io.StringIO()
    conversation(JsonTrace(stream))
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert {event["event"] for event in events} == {
        *("hypercall", "trap", "switch", "interrupt", "acknowledge", "end"),
        *("send", "receive", "rpc", "object", "report"),
    }
    call = next(event for event in events if event["event"] == "hypercall")
    assert (call["t"], call["took"], call["vm"], call["call"]) == (1920, 160, 3, "msgqueue_send")
    assert call["results"]["error"] == "OK"
    sent = next(event for event in events if event["event"] == "send")
    received = next(event for event in events if event["event"] == "receive")
    assert sent["flow"] == received["flow"] == 501
    reply = next(event for event in events if event["event"] == "rpc" and event["kind"] == "reply")
    assert (reply["sequence"], reply["error"], reply["payload"]) == (7, 0, "0000000003000000")


def perfetto(path: Path) -> Trace:
    trace = PerfettoTrace(path)
    conversation(trace)
    trace.hypercall_enter(LINUX, SEND, [0x1234, 8, 0x4000_0000, 1, 0], 900)
    trace.close()
    trace.close()
    parsed = Trace()
    parsed.ParseFromString(path.read_bytes())
    return parsed


def test_perfetto_trace_reads_back_whole(tmp_path: Path) -> None:
    parsed = perfetto(tmp_path / "run.perfetto-trace")
    assert not any(len(UnknownFieldSet(part)) for packet in parsed.packet for part in (packet, packet.track_event))
    assert all(packet.trusted_packet_sequence_id == 1 for packet in parsed.packet)
    assert all(packet.HasField("track_event") or packet.HasField("track_descriptor") for packet in parsed.packet)
    described = {packet.track_descriptor.uuid for packet in parsed.packet if packet.HasField("track_descriptor")}
    for packet in parsed.packet:
        if packet.HasField("track_event"):
            assert packet.track_event.track_uuid in described


def test_perfetto_trace_has_a_process_per_vm_and_a_thread_per_vcpu(tmp_path: Path) -> None:
    descriptors = [
        packet.track_descriptor
        for packet in perfetto(tmp_path / "run.perfetto-trace").packet
        if packet.HasField("track_descriptor")
    ]
    processes = {d.process.pid: d.process.process_name for d in descriptors if d.HasField("process")}
    threads = {(processes[d.thread.pid], d.thread.thread_name) for d in descriptors if d.HasField("thread")}
    assert threads == {("primary VM", "primary VM vcpu0"), ("RM", "RM vcpu0")}
    assert {"physical cores", "Resource Manager RPC"} <= set(processes.values())


def test_perfetto_slices_nest_and_messages_are_arrows_from_call_to_call(tmp_path: Path) -> None:
    events = [
        (packet.timestamp, packet.track_event)
        for packet in perfetto(tmp_path / "run.perfetto-trace").packet
        if packet.HasField("track_event")
    ]
    send = next((t, e) for t, e in events if e.name == "msgqueue_send")
    receive = next((t, e) for t, e in events if e.name == "msgqueue_receive")
    assert send[0] == 110 * 16
    assert list(send[1].flow_ids) == list(receive[1].terminating_flow_ids) == [501]
    assert send[1].track_uuid != receive[1].track_uuid
    words = {a.name: a.string_value or a.int_value or a.bool_value for a in send[1].debug_annotations}
    assert words["result error"] == "OK"
    depth: dict[int, int] = {}
    for _, event in sorted(events, key=lambda pair: pair[0]):
        if event.type == TrackEvent.TYPE_SLICE_BEGIN:
            depth[event.track_uuid] = depth.get(event.track_uuid, 0) + 1
        elif event.type == TrackEvent.TYPE_SLICE_END:
            depth[event.track_uuid] -= 1
            assert depth[event.track_uuid] >= 0
    # Only the call that never returned is open at the end.
    assert sum(depth.values()) == 1


def test_perfetto_shows_a_request_from_its_send_to_its_answer(tmp_path: Path) -> None:
    packets = [p for p in perfetto(tmp_path / "run.perfetto-trace").packet if p.HasField("track_event")]
    begin = next(p for p in packets if "rpc" in p.track_event.categories)
    end = next(
        p
        for p in packets
        if p.track_event.track_uuid == begin.track_event.track_uuid
        and p.track_event.type == TrackEvent.TYPE_SLICE_END
    )
    assert (begin.timestamp, end.timestamp) == (112 * 16, 205 * 16)


@pytest.mark.parametrize("name", ["run.perfetto-trace", "run.jsonl", "run.log"])
def test_the_files_name_chooses_the_trace(tmp_path: Path, name: str) -> None:
    trace = open_trace(tmp_path / name)
    conversation(trace)
    trace.close()
    assert (tmp_path / name).stat().st_size > 100


@pytest.mark.parametrize("name", ["run.perfetto-trace", "run.jsonl", "run.log"])
def test_a_trace_that_cannot_be_written_is_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(HostError, match=rf"the trace .*/absent/{name} cannot be written: No such file or directory"):
        open_trace(tmp_path / "absent" / name)
