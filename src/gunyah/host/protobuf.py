"""Just enough of the protocol-buffers wire format to write messages: tag, varint, fixed64, length-delimited.

A message is the concatenation of its fields; a field is the varint ``number << 3 | wire type`` and its value. Wire
types: 0 varint, 1 fixed64 (8 bytes, little-endian), 2 length-delimited (varint length, then bytes).
"""

from __future__ import annotations

import struct
from typing import Final

__all__ = ["fixed64", "message", "signed", "text", "varint"]

_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_U64: Final = (1 << 64) - 1


def _raw(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def varint(field: int, value: int) -> bytes:
    """An unsigned integer, enumeration or bool field."""
    return _raw(field << 3 | _VARINT) + _raw(value & _U64)


def signed(field: int, value: int) -> bytes:
    """An int32 or int64 field: two's complement of 64 bits."""
    return varint(field, value)


def fixed64(field: int, value: int) -> bytes:
    """A fixed64 field."""
    return _raw(field << 3 | _FIXED64) + struct.pack("<Q", value & _U64)


def text(field: int, value: str) -> bytes:
    """A string field."""
    return message(field, value.encode())


def message(field: int, content: bytes) -> bytes:
    """A sub-message or bytes field."""
    return _raw(field << 3 | _BYTES) + _raw(len(content)) + content
