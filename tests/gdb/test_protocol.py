"""Framing of the remote serial protocol: whatever is cut, damaged or made up, packets come out whole or not at all."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gunyah.host.gdb.protocol import (
    ALL,
    ANY,
    PACKET_SIZE,
    Malformed,
    PacketReader,
    Signal,
    Thread,
    binary,
    frame,
    from_hex,
    number,
    pair,
    thread_selector,
    unescape,
)


def read_in_pieces(data: bytes, cuts: list[int]) -> list[bytes | Signal]:
    """What a reader makes of bytes that arrive in pieces."""
    reader, found, at = PacketReader(), [], 0
    for cut in [*sorted(cuts), len(data)]:
        found += reader.feed(data[at:cut])
        at = max(at, cut)
    return found


@given(st.lists(st.binary(max_size=80), max_size=6), st.lists(st.integers(0, 400), max_size=8))
def test_packets_come_out_as_they_were_sent_however_they_are_cut(contents: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(frame(binary(content)) for content in contents)
    assert [unescape(packet) for packet in read_in_pieces(stream, cuts) if isinstance(packet, bytes)] == contents


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5), st.binary(max_size=20))
def test_any_bytes_before_a_packet_are_got_over(noise: bytes, cuts: list[int], content: bytes) -> None:
    packet = binary(content)
    # Noise may hold the beginning of a packet: then the whole one follows it, or its checksum is wrong.
    found = read_in_pieces(noise + b"#00" + frame(packet), cuts)
    assert packet in found


@given(st.binary(max_size=40), st.integers(1, 255))
def test_a_wrong_checksum_is_noticed(content: bytes, difference: int) -> None:
    packet = frame(binary(content))
    wrong = b"%02x" % ((int(packet[-2:], 16) + difference) & 0xFF)
    assert list(PacketReader().feed(packet[:-2] + wrong)) == [Signal.DAMAGED]


def test_signals_between_packets_keep_their_place() -> None:
    found = list(PacketReader().feed(b"+" + frame(b"g") + b"\x03-" + frame(b"c") + b"+"))
    assert found == [Signal.ACKNOWLEDGED, b"g", Signal.INTERRUPT, Signal.AGAIN, b"c", Signal.ACKNOWLEDGED]


def test_a_packet_without_end_is_dropped_when_it_is_too_long() -> None:
    reader = PacketReader()
    found = [item for _ in range(10) for item in reader.feed(b"$" * (_ == 0) + b"x" * PACKET_SIZE)]
    assert Signal.DAMAGED in found
    assert list(reader.feed(frame(b"?"))) == [b"?"]


def test_a_packet_that_is_begun_anew_replaces_the_broken_one() -> None:
    assert list(PacketReader().feed(b"$m4100$g#67")) == [b"g"]


@given(st.binary(max_size=100))
def test_escaping_is_undone_and_hides_the_frame(data: bytes) -> None:
    escaped = binary(data)
    assert unescape(escaped) == data
    assert not {0x23, 0x24, 0x2A} & set(escaped)


@given(st.binary(max_size=60))
def test_any_bytes_are_decoded_or_malformed_and_nothing_else(text: bytes) -> None:
    for decode in (unescape, number, from_hex, pair, thread_selector):
        with contextlib.suppress(Malformed):
            decode(text)


def test_numbers_are_hexadecimal_and_of_64_bits() -> None:
    assert number(b"ffffffffffffffff") == (1 << 64) - 1
    for text in (b"", b"10000000000000000", b"-1", b"0x1", b" 1", b"1_0", b"g"):
        with pytest.raises(Malformed):
            number(text)


def test_threads_are_spelled_with_their_process() -> None:
    assert str(Thread(255, 1)) == "pff.1"
    assert thread_selector(b"pff.1") == Thread(255, 1)
    assert thread_selector(b"p3.-1") == Thread(3, ALL)
    assert thread_selector(b"p3") == Thread(3, ALL)
    assert thread_selector(b"p-1.-1") == Thread(ALL, ALL)
    assert thread_selector(b"-1") == Thread(ANY, ALL)
    assert thread_selector(b"p0.0") == Thread(ANY, ANY)
