"""Every Resource Manager payload survives the wire, and bytes that are not a payload are refused with a sentence."""

from __future__ import annotations

import struct
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gunyah.abi import layout, loader, rm
from gunyah.abi.bootenv import ResourceManagerBlock, RuntimeBlock
from gunyah.abi.errors import RmError
from gunyah.abi.rm import query

_WIDTHS = {"B": 8, "H": 16, "I": 32, "Q": 64}


def _subclasses(kind: type[layout.Payload]) -> list[type[layout.Payload]]:
    return [kind, *(deeper for sub in kind.__subclasses__() for deeper in _subclasses(sub))]


PAYLOADS = sorted(
    # dataclass(slots=True) makes a second class; the module's name leads to the one that counts.
    {cls for cls in _subclasses(layout.Payload) if getattr(sys.modules[cls.__module__], cls.__name__) is cls}
    - {layout.Payload},
    key=lambda cls: f"{cls.__module__}.{cls.__name__}",
)
FIXED = (RuntimeBlock, ResourceManagerBlock, loader.MapMem, rm.VmConfigImage)


def _entries(field: layout.ListOf) -> st.SearchStrategy[Any]:
    numbers = [st.integers(0, 2 ** _WIDTHS[c] - 1) for c in field.entry.format if c in _WIDTHS]
    if field.record is None:
        return numbers[0]
    record = field.record
    return st.tuples(*numbers).map(lambda values: record(*values))


def _values(field: layout.Field) -> dict[str, st.SearchStrategy[Any]]:
    match field:
        case layout.Number():
            return {field.name: st.integers(0, 256**field.size - 1)}
        case layout.Raw():
            return {field.name: st.binary(min_size=field.size, max_size=field.size)}
        case layout.Blob():
            return {field.name: st.binary(max_size=min(field.limit, 60))}
        case layout.Tail():
            return {field.name: st.binary(min_size=4, max_size=20)}
        case layout.Words():
            return {field.name: st.lists(st.integers(0, 2**32 - 1), max_size=4).map(tuple)}
        case layout.ListOf():
            most = min(field.limit, 5)
            values: dict[str, st.SearchStrategy[Any]] = {
                field.name: st.lists(_entries(field), max_size=most).map(tuple)
            }
            if field.second:
                values[field.second] = st.integers(0, 0xFFFF)
            return values
        case layout.Pad():
            return {}
        case _:
            identity = st.builds(query.Identity, st.integers(0, 255), st.binary(max_size=20))
            return {field.names[0]: st.lists(identity, max_size=4).map(tuple)}


def payloads(cls: type[layout.Payload]) -> st.SearchStrategy[layout.Payload]:
    values: dict[str, st.SearchStrategy[Any]] = {}
    for field in cls.LAYOUT:
        values |= _values(field)
    return st.builds(cls, **values)


@pytest.mark.parametrize("cls", PAYLOADS, ids=lambda cls: cls.__name__)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_every_payload_comes_back_from_the_wire(cls: type[layout.Payload], data: st.DataObject) -> None:
    payload = data.draw(payloads(cls))
    wire = payload.pack()
    assert len(wire) >= cls.MIN_LENGTH
    if wire or cls.EMPTY_ERROR is RmError.MSG_INVALID:
        assert cls.unpack(wire) == payload


@pytest.mark.parametrize("cls", PAYLOADS, ids=lambda cls: cls.__name__)
@settings(max_examples=40, deadline=None)
@given(noise=st.binary(max_size=64))
def test_any_bytes_are_a_payload_or_refused_with_a_payload_error(cls: type[layout.Payload], noise: bytes) -> None:
    try:
        payload = cls.unpack(noise)
    except rm.PayloadError as error:
        assert str(error)
        assert error.error in (RmError.MSG_INVALID, RmError.NORESOURCE, RmError.ARGUMENT_INVALID, RmError.DENIED)
    else:
        assert cls.unpack(payload.pack()) == payload


@pytest.mark.parametrize("cls", FIXED, ids=lambda cls: cls.__name__)
@given(data=st.data())
def test_a_payload_cut_short_anywhere_is_refused(cls: type[layout.Payload], data: st.DataObject) -> None:
    wire = data.draw(payloads(cls)).pack()
    cut = data.draw(st.integers(0, len(wire) - 1))
    with pytest.raises(rm.PayloadError):
        cls.unpack(wire[:cut])


def test_every_payload_class_is_used_by_the_catalogue_or_stands_beside_one() -> None:
    used = {m.request for m in rm.MESSAGES.values()} | {n.payload for n in rm.NOTIFICATIONS.values()}
    used |= {m.reply for m in rm.MESSAGES.values() if m.reply} | {m.failure for m in rm.MESSAGES.values() if m.failure}
    inner = {rm.NotifyVmids, rm.IpaFixedList, rm.IpaAllocateList, rm.VmidReply16}
    declared = {cls for cls in PAYLOADS if cls.__module__.startswith("gunyah.abi.rm")}
    assert declared == used | inner


# Bytes that a Linux guest and RM exchanged, header included.

TRACE = [
    ("2101000081000056 00000000", rm.Header(1, 0x5600_0081, 0, 0), rm.VmidWord(0)),
    ("2101070083000056 0000020068 69", rm.Header(1, 0x5600_0083, 7, 0), rm.ConsoleWrite(0, b"hi")),
    ("2103340080001056 2000020068 69", rm.Header(3, 0x5610_0080, 0x34, 0), rm.ConsoleWrite(0x20, b"hi")),
    ("2101020081000056 2d000000", rm.Header(1, 0x5600_0081, 2, 0), rm.VmidWord(0x2D)),
]


@pytest.mark.parametrize(("packet", "header", "payload"), TRACE)
def test_traced_packets_are_reproduced_byte_for_byte(packet: str, header: rm.Header, payload: rm.Payload) -> None:
    wire = bytes.fromhex(packet)
    assert rm.Header.unpack(wire) == header
    assert header.pack() + payload.pack() == wire
    assert type(payload).unpack(wire[rm.HEADER_SIZE :]) == payload


def test_replies_start_with_their_error_word() -> None:
    assert rm.pack_reply(0, rm.VmidReply16(0x2D)).hex() == "000000002d00"
    assert rm.pack_reply(RmError.UNIMPLEMENTED).hex() == "ffffffff"
    assert rm.unpack_reply(bytes.fromhex("0000000003000000")) == (0, b"\x03\0\0\0")
    with pytest.raises(rm.PayloadError, match="no error word"):
        rm.unpack_reply(b"\0\0\0")


def test_a_recorded_lend_request_is_reproduced() -> None:
    wire = bytes.fromhex(
        "0000000000000000 01000000 80000700 01000000 0000005000000000 0000200000000000 00000000".replace(" ", "")
    )
    lend = rm.MemCreate(0, 0, 0, (rm.AclEntry(0x80, 7),), (rm.SglEntry(0x5000_0000, 0x20_0000),))
    assert lend.pack() == wire
    assert rm.MemCreate.unpack(wire) == lend


def test_recorded_replies_are_understood() -> None:
    identities = bytes.fromhex("0300000000001000" + "00" * 16 + "02000400484c4f53030003004e2f4100")
    reply = rm.GetIdReply.unpack(identities)
    assert reply.identities == (
        rm.Identity(rm.IdType.GUID, bytes(16)),
        rm.Identity(rm.IdType.NAME, b"HLOS"),
        rm.Identity(rm.IdType.SIGN_AUTH, b"N/A"),
    )
    assert reply.pack() == identities
    assert rm.HOST_TYPE.pack().hex() == "64010001"
    exited = rm.VmExited.unpack(bytes.fromhex("800007000400000000000000"))
    assert exited == rm.VmExited(0x80, rm.ExitType.VM_STOP_FORCED, (0,))
    status = rm.VmStatusNotification.unpack(bytes.fromhex("8000000009000000"))
    assert (status.vmid, status.vm_status) == (0x80, rm.VmStatus.EXITED)


def test_a_hypervisor_resource_entry_has_44_bytes() -> None:
    resource = rm.HypResource(4, 0, 0, 1, 0xED83_1AA3_1445_EE9A, 0, 0x3C2, 0, 0)
    wire = rm.HypResourcesReply((resource,)).pack()
    assert len(wire) == 4 + 44
    assert struct.unpack_from("<Q", wire, 4 + 12) == (resource.cap_id,)
    assert struct.unpack_from("<I", wire, 4 + 24) == (0x3C2,)


def refusal(cls: type[rm.Payload], wire: bytes) -> RmError:
    with pytest.raises(rm.PayloadError) as caught:
        cls.unpack(wire)
    return caught.value.error


def test_refusals_carry_the_error_rm_answers() -> None:
    assert refusal(rm.VmidWord, bytes(5)) is RmError.MSG_INVALID
    assert refusal(rm.VmInit, b"\x80\0\x01\0") is RmError.MSG_INVALID
    assert refusal(rm.VmExit, b"\0\0\0\x01") is RmError.MSG_INVALID
    assert refusal(rm.LookupGuid, b"") is RmError.ARGUMENT_INVALID
    assert refusal(rm.LookupGuid, bytes(15)) is RmError.MSG_INVALID
    assert refusal(rm.LookupText, struct.pack("<HH", 80, 0) + bytes(80)) is RmError.ARGUMENT_INVALID
    assert refusal(rm.LookupText, b"\x03\0\0\0abc\x01") is RmError.MSG_INVALID
    assert refusal(rm.ConsoleWrite, bytes.fromhex("00000500616263")) is RmError.MSG_INVALID
    assert refusal(rm.ConsoleWrite, b"") is RmError.MSG_INVALID
    assert refusal(rm.FwSetVmFirmware, b"") is RmError.DENIED
    assert refusal(rm.MemCreate, bytes(16)) is RmError.MSG_INVALID
    assert refusal(rm.MemCreate, bytes(24)) is RmError.MSG_INVALID
    assert refusal(rm.MemCreate, bytes(8) + struct.pack("<HH", 513, 0) + bytes(8)) is RmError.NORESOURCE


def test_lists_may_be_missing_at_the_end_only() -> None:
    assert rm.MemLookupSgl.unpack(bytes(16)) == rm.MemLookupSgl(0, 0, (), ())
    assert refusal(rm.MemLookupSgl, bytes(12)) is RmError.MSG_INVALID
    assert rm.IrqNotifyRequest.unpack(bytes(8)).vmids == ()


def test_release_tolerates_more_bytes() -> None:
    assert rm.MemRelease.unpack(struct.pack("<IB", 7, 1) + bytes(227)) == rm.MemRelease(7, 1)


def test_values_that_do_not_fit_their_field_are_refused_when_packed() -> None:
    with pytest.raises(rm.PayloadError, match="vmid 0x10000 does not fit in 2 bytes"):
        rm.VmidWord(0x10000).pack()
    with pytest.raises(rm.PayloadError, match="more than 512"):
        rm.MemAppend(0, 0, (rm.SglEntry(0, 0),) * 513).pack()
    with pytest.raises(rm.PayloadError, match="acl cannot be packed"):
        rm.MemCreate(0, 0, 0, (rm.AclEntry(0x10000, 7),), ()).pack()


# Header


@given(st.integers(0, 3), st.integers(0, 2**32 - 1), st.integers(0, 0xFFFF), st.integers(0, 62))
def test_headers_round_trip(kind: int, msg_id: int, seq: int, fragments: int) -> None:
    header = rm.Header(kind, msg_id, seq, fragments)
    wire = header.pack()
    assert len(wire) == rm.HEADER_SIZE
    assert wire[0] == 0x21
    assert wire[1] == fragments << 2 | kind
    assert rm.Header.unpack(wire) == header


@pytest.mark.parametrize("packet", ["", "21010000810000", "2201000081000056", "2001000081000056", "21fd000081000056"])
def test_packets_with_a_bad_header_are_refused(packet: str) -> None:
    with pytest.raises(rm.PayloadError):
        rm.Header.unpack(bytes.fromhex(packet))


def test_limits_of_a_message() -> None:
    assert (rm.PACKET_MAX, rm.PACKET_PAYLOAD_MAX, rm.CONTINUATIONS_MAX, rm.PAYLOAD_MAX) == (240, 232, 62, 14616)
    with pytest.raises(rm.PayloadError):
        rm.Header(0, 0, 0, 63).pack()
