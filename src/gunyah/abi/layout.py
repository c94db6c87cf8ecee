"""How a message payload is declared: fields in wire order, packed and unpacked by one piece of code.

All numbers are little-endian. A payload class is a frozen dataclass with a ``LAYOUT``; ``pack`` and ``unpack`` follow
it. Bytes that a layout calls padding are written as 0 and ignored when read, unless declared ``zero=True``, as RM
checks only few of them (rm-rpc.md 6). Every list is a count, mostly with a second 16-bit field beside it, and entries
of fixed size; a list may be missing at the very end of a payload, which means it is empty (rm-rpc.md 8.1).
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self

from gunyah.abi.errors import RmError

__all__ = [
    "Blob",
    "Field",
    "LIST_MAX",
    "ListOf",
    "Number",
    "Pad",
    "Payload",
    "PayloadError",
    "Raw",
    "Tail",
    "U16",
    "U32",
    "U64",
    "U8",
    "Words",
]

LIST_MAX = 512
"""Entries a list may have (rm-rpc.md 8.1)."""


class PayloadError(ValueError):
    """Bytes that are not the payload they should be, or a payload that has no bytes; one sentence.

    ``error`` is what RM answers to such a request.
    """

    def __init__(self, sentence: str, error: RmError = RmError.MSG_INVALID) -> None:
        super().__init__(sentence)
        self.error = error


class Field(ABC):
    """One piece of a layout. ``names`` are the dataclass attributes it carries."""

    names: tuple[str, ...] = ()

    @abstractmethod
    def write(self, payload: object, out: bytearray) -> None:
        """Append the field of ``payload`` to ``out``."""

    @abstractmethod
    def read(self, data: bytes, offset: int, values: dict[str, Any]) -> int:
        """Put the field at ``offset`` into ``values``; the offset behind it."""


def _need(data: bytes, offset: int, size: int, what: str) -> None:
    if len(data) - offset < size:
        raise PayloadError(f"{what} needs {size} bytes at offset {offset}, the payload ends at {len(data)}")


class Number(Field):
    """An unsigned number of 1, 2, 4 or 8 bytes."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size, self.names = name, size, (name,)

    def write(self, payload: object, out: bytearray) -> None:
        value: int = getattr(payload, self.name)
        if not 0 <= value < 1 << 8 * self.size:
            raise PayloadError(f"{self.name} {value:#x} does not fit in {self.size} bytes")
        out += int(value).to_bytes(self.size, "little")

    def read(self, data: bytes, offset: int, values: dict[str, Any]) -> int:
        _need(data, offset, self.size, self.name)
        end = offset + self.size
        values[self.name] = int.from_bytes(data[offset:end], "little")
        return end


def U8(name: str) -> Number:
    """A ``u8``."""
    return Number(name, 1)


def U16(name: str) -> Number:
    """A ``u16``."""
    return Number(name, 2)


def U32(name: str) -> Number:
    """A ``u32``."""
    return Number(name, 4)


def U64(name: str) -> Number:
    """A ``u64``."""
    return Number(name, 8)


class Pad(Field):
    """Bytes without meaning; with ``zero`` they are refused unless 0."""

    def __init__(self, size: int, *, zero: bool = False) -> None:
        self.size, self.zero = size, zero

    def write(self, payload: object, out: bytearray) -> None:
        out += bytes(self.size)

    def read(self, data: bytes, offset: int, values: dict[str, Any]) -> int:
        _need(data, offset, self.size, "padding")
        end = offset + self.size
        if self.zero and any(data[offset:end]):
            raise PayloadError(f"reserved bytes {data[offset:end].hex()} at offset {offset} must be 0")
        return end


class Raw(Field):
    """A fixed number of bytes."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size, self.names = name, size, (name,)

    def write(self, payload: object, out: bytearray) -> None:
        value: bytes = getattr(payload, self.name)
        if len(value) != self.size:
            raise PayloadError(f"{self.name} has {len(value)} bytes, not {self.size}")
        out += value

    def read(self, data: bytes, offset: int, values: dict[str, Any]) -> int:
        _need(data, offset, self.size, self.name)
        end = offset + self.size
        values[self.name] = bytes(data[offset:end])
        return end


class Blob(Field):
    """u16 length, then that many bytes; ``head`` bytes in all before them, zero-padded to a multiple of ``align``.

    A length above ``limit`` is ARGUMENT_INVALID. Padding behind the bytes must be 0.
    """

    def __init__(self, name: str, *, head: int = 2, align: int = 1, limit: int = 0xFFFF) -> None:
        self.name, self.head, self.align, self.limit, self.names = name, head, align, limit, (name,)

    def write(self, payload: object, out: bytearray) -> None:
        value: bytes = getattr(payload, self.name)
        if len(value) > self.limit:
            raise PayloadError(f"{self.name} of {len(value)} bytes exceeds {self.limit}", RmError.ARGUMENT_INVALID)
        out += len(value).to_bytes(2, "little") + bytes(self.head - 2) + value + bytes(-len(value) % self.align)

    def read(self, data: bytes, offset: int, values: dict[str, Any]) -> int:
        _need(data, offset, self.head, f"length of {self.name}")
        length = int.from_bytes(data[offset : offset + 2], "little")
        if length > self.limit:
            raise PayloadError(f"{self.name} of {length} bytes exceeds {self.limit}", RmError.ARGUMENT_INVALID)
        start = offset + self.head
        padding = -length % self.align
        _need(data, start, length + padding, self.name)
        end = start + length
        values[self.name] = bytes(data[start:end])
        if any(data[end : end + padding]):
            raise PayloadError(f"padding {data[end : end + padding].hex()} behind {self.name} must be 0")
        return end + padding


class Tail(Field):
    """Whatever is left, not interpreted here."""

    def __init__(self, name: str) -> None:
        self.name, self.names = name, (name,)

    def write(self, payload: object, out: bytearray) -> None:
        out += getattr(payload, self.name)

    def read(self, data: bytes, offset: int, values: dict[str, Any]) -> int:
        values[self.name] = bytes(data[offset:])
        return len(data)


class ListOf(Field):
    """A count and entries.

    ``entry`` is the ``struct`` format of an entry; ``record`` makes a named tuple of its values, without it an entry
    is one plain int. ``count`` is the format of the count: "<H" alone, "<I", or "<HH", whose second half is the
    attribute ``second`` (0 and ignored if unnamed). More than ``limit`` entries is NORESOURCE.
    """

    def __init__(
        self,
        name: str,
        entry: str,
        record: Callable[..., tuple[Any, ...]] | None = None,
        *,
        count: str = "<HH",
        second: str = "",
        limit: int = LIST_MAX,
        optional: bool = True,
    ) -> None:
        self.name, self.second, self.limit, self.optional = name, second, limit, optional
        self.entry = struct.Struct(entry)
        self.count = struct.Struct(count)
        self.record = record
        self.names = (name, second) if second else (name,)

    def write(self, payload: object, out: bytearray) -> None:
        entries: tuple[Any, ...] = getattr(payload, self.name)
        if len(entries) > self.limit:
            raise PayloadError(f"{self.name} has {len(entries)} entries, more than {self.limit}", RmError.NORESOURCE)
        second = (getattr(payload, self.second) if self.second else 0,) if self.count.format == "<HH" else ()
        try:
            out += self.count.pack(len(entries), *second)
            for entry in entries:
                out += self.entry.pack(*entry) if self.record is not None else self.entry.pack(entry)
        except struct.error as error:
            raise PayloadError(f"{self.name} cannot be packed: {error}") from None

    def read(self, data: bytes, offset: int, values: dict[str, Any]) -> int:
        if self.optional and offset == len(data):
            values[self.name] = ()
            if self.second:
                values[self.second] = 0
            return offset
        _need(data, offset, self.count.size, f"count of {self.name}")
        head: tuple[int, ...] = self.count.unpack_from(data, offset)
        count = head[0]
        if count > self.limit:
            raise PayloadError(f"{self.name} has {count} entries, more than {self.limit}", RmError.NORESOURCE)
        start = offset + self.count.size
        end = start + count * self.entry.size
        _need(data, start, count * self.entry.size, f"{self.name} ({count} entries)")
        raw = self.entry.iter_unpack(data[start:end])
        record = self.record
        values[self.name] = tuple(record(*entry) for entry in raw) if record else tuple(entry[0] for entry in raw)
        if self.second:
            values[self.second] = head[1]
        return end


class Words(Field):
    """u32 size in bytes, then 32-bit words."""

    def __init__(self, name: str) -> None:
        self.name, self.names = name, (name,)

    def write(self, payload: object, out: bytearray) -> None:
        words: tuple[int, ...] = getattr(payload, self.name)
        try:
            out += struct.pack(f"<I{len(words)}I", 4 * len(words), *words)
        except struct.error as error:
            raise PayloadError(f"{self.name} cannot be packed: {error}") from None

    def read(self, data: bytes, offset: int, values: dict[str, Any]) -> int:
        _need(data, offset, 4, f"size of {self.name}")
        size = int.from_bytes(data[offset : offset + 4], "little")
        if size % 4:
            raise PayloadError(f"{self.name} of {size} bytes is not a number of 32-bit words")
        _need(data, offset + 4, size, self.name)
        end = offset + 4 + size
        values[self.name] = struct.unpack(f"<{size // 4}I", data[offset + 4 : end])
        return end


class Payload:
    """Base of all message payloads. Subclasses are frozen dataclasses whose attributes are those of ``LAYOUT``."""

    __slots__ = ()

    LAYOUT: ClassVar[tuple[Field, ...]] = ()
    MIN_LENGTH: ClassVar[int] = 0
    """Bytes a payload must at least have, even where a list at its end could be missing."""
    TRAILING: ClassVar[bool] = False
    """Bytes behind the last field are tolerated."""
    EMPTY_ERROR: ClassVar[RmError] = RmError.MSG_INVALID
    """What RM answers to an empty payload."""

    def pack(self) -> bytes:
        """The bytes on the wire; PayloadError when a value does not fit its field."""
        out = bytearray()
        for field in self.LAYOUT:
            field.write(self, out)
        return bytes(out)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """The payload in ``data``; PayloadError for a wrong length or for reserved bytes that are not 0."""
        name = cls.__name__
        if not data and cls.EMPTY_ERROR is not RmError.MSG_INVALID:
            raise PayloadError(f"{name} is empty", cls.EMPTY_ERROR)
        if len(data) < cls.MIN_LENGTH:
            raise PayloadError(f"{name} has {len(data)} bytes, at least {cls.MIN_LENGTH} are needed")
        values: dict[str, Any] = {}
        offset = 0
        for field in cls.LAYOUT:
            offset = field.read(data, offset, values)
        if offset != len(data) and not cls.TRAILING:
            raise PayloadError(f"{name} has {len(data)} bytes, {len(data) - offset} more than it describes")
        return cls(**values)
