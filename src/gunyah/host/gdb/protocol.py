"""The remote serial protocol's framing: packets, acknowledgements, escapes, thread ids, numbers.

A packet is ``$data#checksum``; ``#``, ``$``, ``}`` and ``*`` in data are escaped with ``}`` and exclusive or 0x20. What
comes in is checked and bounded: whatever somebody sends, ``PacketReader`` gives packets, or drops bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Final, NamedTuple

__all__ = [
    "ALL",
    "ANY",
    "PACKET_SIZE",
    "Malformed",
    "PacketReader",
    "Signal",
    "Thread",
    "binary",
    "frame",
    "from_hex",
    "number",
    "pair",
    "thread_selector",
    "unescape",
]

PACKET_SIZE: Final = 0x4000
"""Longest packet that gdb is told to send, in bytes."""
_LONGEST: Final = 2 * PACKET_SIZE + 64
"""Bytes kept of a packet whose end has not come: a longer one is dropped."""
_DIGITS: Final = 16
"""Hexadecimal digits of the largest number, 64 bits."""

ALL: Final = -1
"""PID or TID of a selector that means all."""
ANY: Final = 0
"""PID or TID of a selector that leaves the choice."""


class Malformed(ValueError):
    """A packet that does not follow the protocol."""


class Signal(Enum):
    """What else than packets comes in."""

    ACKNOWLEDGED = b"+"
    AGAIN = b"-"
    """Send the last packet again."""
    INTERRUPT = b"\x03"
    DAMAGED = b"#"
    """A packet with a wrong checksum."""


class Thread(NamedTuple):
    """A thread id, or a selector of threads with ``ALL`` and ``ANY``: PID is the VMID, TID the vCPU's index plus 1."""

    pid: int
    tid: int

    def __str__(self) -> str:
        """As packets spell it."""
        return f"p{_signed(self.pid)}.{_signed(self.tid)}"


def _signed(value: int) -> str:
    return "-1" if value == ALL else f"{value:x}"


class PacketReader:
    """Takes bytes as they come, gives packets (bytes, still escaped) and signals in their order."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._inside = False

    def feed(self, received: bytes) -> Iterator[bytes | Signal]:
        """Everything that is complete with these bytes."""
        self._data += received
        while self._data:
            if self._inside:
                end = self._data.find(b"#")
                start = self._data.find(b"$", 1)
                if start >= 0 and (end < 0 or start < end):
                    # The packet that was begun is never ended: its sender has started anew.
                    del self._data[:start]
                    continue
                if end < 0 or len(self._data) < end + 3:
                    if len(self._data) > _LONGEST:
                        self._data.clear()
                        self._inside = False
                        yield Signal.DAMAGED
                    return
                content, checksum = bytes(self._data[1:end]), bytes(self._data[end + 1 : end + 3])
                del self._data[: end + 3]
                self._inside = False
                yield content if checksum.lower() == b"%02x" % (sum(content) & 0xFF) else Signal.DAMAGED
            else:
                first = self._data[0]
                if first == 0x24:
                    self._inside = True
                    continue
                del self._data[:1]
                if first in b"+-\x03":
                    yield Signal(bytes((first,)))


def frame(content: bytes, *, notification: bool = False) -> bytes:
    """A whole packet around content that is escaped where it needs to be."""
    return (b"%" if notification else b"$") + content + b"#%02x" % (sum(content) & 0xFF)


def binary(data: bytes) -> bytes:
    """Escape bytes for a packet."""
    if not any(byte in data for byte in b"}$#*"):
        return data
    escaped = bytearray()
    for byte in data:
        if byte in b"}$#*":
            escaped += bytes((0x7D, byte ^ 0x20))
        else:
            escaped.append(byte)
    return bytes(escaped)


def unescape(content: bytes) -> bytes:
    """Undo ``binary``; raises Malformed when an escape has nothing behind it."""
    if b"}" not in content:
        return content
    data = bytearray()
    at = 0
    while at < len(content):
        byte = content[at]
        if byte == 0x7D:
            at += 1
            if at == len(content):
                raise Malformed("an escape at the end of a packet")
            byte = content[at] ^ 0x20
        data.append(byte)
        at += 1
    return bytes(data)


def number(text: bytes) -> int:
    """An unsigned number of up to 64 bits in hexadecimal; raises Malformed."""
    if not 0 < len(text) <= _DIGITS or text.strip(b"0123456789abcdefABCDEF"):
        raise Malformed(f"{text[:32]!r} is not a number")
    return int(text, 16)


def from_hex(text: bytes) -> bytes:
    """Bytes from pairs of hexadecimal digits; raises Malformed."""
    if len(text) % 2 or text.strip(b"0123456789abcdefABCDEF"):
        raise Malformed(f"{len(text)} characters are not pairs of hexadecimal digits")
    return bytes.fromhex(text.decode("ascii"))


def pair(text: bytes, separator: bytes = b",") -> tuple[int, int]:
    """Two numbers, ``ADDRESS,LENGTH``; raises Malformed."""
    first, found, second = text.partition(separator)
    if not found:
        raise Malformed(f"{text[:40]!r} is not two numbers")
    return number(first), number(second)


def thread_selector(text: bytes) -> Thread:
    """``pPID.TID``, ``pPID`` (all of its threads), or ``TID`` alone (PID 0); raises Malformed."""
    if not text.startswith(b"p"):
        return Thread(ANY, _part(text))
    process, found, thread = text[1:].partition(b".")
    return Thread(_part(process), _part(thread) if found else ALL)


def _part(text: bytes) -> int:
    return ALL if text == b"-1" else number(text)
