"""The eight bytes at the start of every Resource Manager packet, and the limits of a message (rm-rpc.md 1.2 to 1.5)."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from gunyah.abi.layout import PayloadError

__all__ = [
    "API_VERSION",
    "CONTINUATIONS_MAX",
    "ERROR_SIZE",
    "HEADER_SIZE",
    "HEADER_WORDS",
    "Header",
    "MessageType",
    "PACKET_MAX",
    "PACKET_PAYLOAD_MAX",
    "PAYLOAD_MAX",
    "VERSION_BYTE",
]

HEADER_SIZE = 8
"""Bytes."""
API_VERSION = 1
HEADER_WORDS = 2
"""Header length in 32-bit words."""
VERSION_BYTE = API_VERSION | HEADER_WORDS << 4
"""Byte 0 of every packet: 0x21."""

PACKET_MAX = 240
"""Bytes RM puts into one queue message."""
PACKET_PAYLOAD_MAX = PACKET_MAX - HEADER_SIZE
CONTINUATIONS_MAX = 62
"""Packets that may follow the first of a message."""
PAYLOAD_MAX = PACKET_PAYLOAD_MAX * (CONTINUATIONS_MAX + 1)
"""Bytes of a whole payload, the error word of a reply included."""
ERROR_SIZE = 4
"""Bytes of the error word at the start of a reply's payload."""

_LAYOUT = struct.Struct("<BBHI")


class MessageType(IntEnum):
    """Bits 1:0 of byte 1 (rm-rpc.md 1.3)."""

    CONTINUATION = 0
    REQUEST = 1
    REPLY = 2
    NOTIFICATION = 3


class Header(NamedTuple):
    """``struct gh_rm_rpc_hdr``: u8 version and words, u8 type and fragments, u16 seq, u32 msg_id."""

    type: int
    msg_id: int
    seq: int = 0
    fragments: int = 0
    """Continuation packets that follow the first one; the same in every packet of a message."""

    def pack(self) -> bytes:
        """The eight bytes; PayloadError when a field does not fit."""
        if not 0 <= self.fragments <= CONTINUATIONS_MAX:
            raise PayloadError(f"{self.fragments} continuation packets are more than {CONTINUATIONS_MAX}")
        try:
            return _LAYOUT.pack(VERSION_BYTE, self.type | self.fragments << 2, self.seq, self.msg_id)
        except struct.error as error:
            raise PayloadError(f"header {self!r} cannot be packed: {error}") from None

    @classmethod
    def unpack(cls, packet: bytes) -> Header:
        """The header of ``packet``; PayloadError when it is short, of another version, or has too many fragments."""
        if len(packet) < HEADER_SIZE:
            raise PayloadError(f"packet of {len(packet)} bytes is shorter than the {HEADER_SIZE}-byte header")
        version, word, seq, msg_id = _LAYOUT.unpack_from(packet)
        if version != VERSION_BYTE:
            raise PayloadError(f"packet starts with {version:#04x}, not with {VERSION_BYTE:#04x}")
        fragments = word >> 2
        if fragments > CONTINUATIONS_MAX:
            raise PayloadError(f"packet announces {fragments} continuation packets, more than {CONTINUATIONS_MAX}")
        return cls(word & 3, msg_id, seq, fragments)
