"""The part of CBOR (RFC 8949) that the root VM's environment uses (boot.md 5.3).

Integers, byte and text strings, arrays, maps with text keys, booleans and null, all of definite length. Decoding is
bounded: an item that reaches past the data, nests deeper than ``MAX_DEPTH`` or announces more elements than bytes are
left is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

__all__ = ["MAX_DEPTH", "CborError", "Value", "decode", "encode"]

Value: TypeAlias = "int | bool | str | bytes | Sequence[Value] | Mapping[str, Value] | None"
"""What an item becomes in Python; decoding gives lists and dicts."""

MAX_DEPTH = 16
"""Nested arrays and maps that decoding accepts."""

_UINT, _NINT, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_FALSE, _TRUE, _NULL = 20, 21, 22
_WIDTHS = {24: 1, 25: 2, 26: 4, 27: 8}


class CborError(ValueError):
    """The bytes are not one well-formed item of the accepted subset, or the value cannot be encoded."""


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes([major << 5 | argument])
    for info, width in _WIDTHS.items():
        if argument < 1 << 8 * width:
            return bytes([major << 5 | info]) + argument.to_bytes(width, "big")
    raise CborError(f"integer {argument:#x} does not fit in 64 bits")


def encode(value: Value) -> bytes:
    """``value`` in its shortest definite-length form; CborError when it has no form in the subset."""
    if value is None:
        return bytes([_SIMPLE << 5 | _NULL])
    if isinstance(value, bool):
        return bytes([_SIMPLE << 5 | (_TRUE if value else _FALSE)])
    if isinstance(value, int):
        return _head(_UINT, value) if value >= 0 else _head(_NINT, -1 - value)
    if isinstance(value, bytes):
        return _head(_BYTES, len(value)) + value
    if isinstance(value, str):
        text = value.encode()
        return _head(_TEXT, len(text)) + text
    if isinstance(value, Mapping):
        items = b"".join(encode(key) + encode(item) for key, item in value.items())
        return _head(_MAP, len(value)) + items
    if isinstance(value, Sequence):
        return _head(_ARRAY, len(value)) + b"".join(encode(item) for item in value)
    raise CborError(f"a {type(value).__name__} has no form here")


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self.data):
            left = len(self.data) - self.position
            raise CborError(f"item at byte {self.position} needs {size} bytes, {left} are left")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def head(self) -> tuple[int, int, int]:
        first = self.take(1)[0]
        major, info = first >> 5, first & 31
        if info < 24:
            return major, info, info
        if info not in _WIDTHS:
            raise CborError(f"length form {info} at byte {self.position - 1} is not accepted")
        return major, info, int.from_bytes(self.take(_WIDTHS[info]), "big")

    def count(self, argument: int, least: int) -> int:
        left = len(self.data) - self.position
        if argument * least > left:
            raise CborError(f"{argument} elements announced at byte {self.position}, {left} bytes left")
        return argument

    def text(self, size: int) -> str:
        try:
            return self.take(size).decode()
        except UnicodeDecodeError as error:
            raise CborError(f"text before byte {self.position} is not UTF-8") from error

    def item(self, depth: int) -> Value:
        if depth > MAX_DEPTH:
            raise CborError(f"more than {MAX_DEPTH} levels at byte {self.position}")
        start = self.position
        major, info, argument = self.head()
        if major == _UINT:
            return argument
        if major == _NINT:
            return -1 - argument
        if major == _BYTES:
            return self.take(argument)
        if major == _TEXT:
            return self.text(argument)
        if major == _ARRAY:
            return [self.item(depth + 1) for _ in range(self.count(argument, 1))]
        if major == _MAP:
            return self.map(self.count(argument, 2), depth)
        if major == _SIMPLE and info in (_FALSE, _TRUE):
            return info == _TRUE
        if major == _SIMPLE and info == _NULL:
            return None
        raise CborError(f"major type {major}, value {argument} at byte {start} is not accepted")

    def map(self, count: int, depth: int) -> dict[str, Value]:
        result: dict[str, Value] = {}
        for _ in range(count):
            key = self.item(depth + 1)
            if not isinstance(key, str):
                raise CborError(f"map key {key!r} before byte {self.position} is not text")
            if key in result:
                raise CborError(f"map key {key!r} appears twice")
            result[key] = self.item(depth + 1)
        return result


def decode(data: bytes) -> Value:
    """The one item that ``data`` holds; raises CborError for anything else, trailing bytes included."""
    reader = _Reader(data)
    value = reader.item(0)
    if reader.position != len(data):
        raise CborError(f"{len(data) - reader.position} bytes follow the item")
    return value
