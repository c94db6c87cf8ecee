"""RM requests from words: ``VM_GET_STATE vmid=0x80`` to a payload, and replies to JSON values, by the table's layouts.

Numbers are decimal or 0x...; bytes are text, or ``hex:00ff``; lists have commas between entries and colons between an
entry's parts: ``acl=0x80:7,3:6 sgl=0x50000000:0x200000``. What is left out is 0 or empty.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from gunyah.abi.layout import Field, ListOf, Number, Payload, PayloadError, Words
from gunyah.abi.rm import MESSAGES, Message, MessageId
from gunyah.host.errors import HostError

__all__ = ["as_json", "find_message", "payload_of", "reply_of", "usage"]


def find_message(name: str) -> Message:
    """The request with that name (any case, ``-`` for ``_``) or id; raises HostError."""
    wanted = name.upper().replace("-", "_")
    try:
        return MESSAGES[MessageId[wanted].value]
    except KeyError:
        pass
    try:
        return MESSAGES[int(name, 0)]
    except (ValueError, KeyError):
        near = [entry.name for entry in MESSAGES.values() if wanted in entry.name or entry.name.startswith(wanted[:6])]
        hint = f"; do you mean {', '.join(near[:6])}?" if near else "; gunyah rm list names them"
        raise HostError(f"{name!r} is no request of the Resource Manager{hint}") from None


def _fields(payload: type[Payload]) -> dict[str, Field]:
    return {name: field for field in payload.LAYOUT for name in field.names}


def usage(message: Message) -> str:
    """``VM_STOP vmid=N [flags=N] [reason=N]``."""
    words = [message.name]
    for field in dataclasses.fields(message.request):  # type: ignore[arg-type]
        layout = _fields(message.request)[field.name]
        form = f"{field.name}={'N' if field.name == getattr(layout, 'second', '') else _form(layout)}"
        needed = field.default is dataclasses.MISSING
        words.append(form if needed else f"[{form}]")
    return " ".join(words)


def _form(field: Field) -> str:
    if isinstance(field, Number):
        return "N"
    if isinstance(field, ListOf):
        names = getattr(field.record, "_fields", ("N",))
        return f"{':'.join(names)},…"
    return "N,…" if isinstance(field, Words) else "TEXT"


def payload_of(message: Message, given: Mapping[str, str]) -> bytes:
    """The request's payload; raises HostError with one sentence for a value or a name that is not possible."""
    fields = _fields(message.request)
    unknown = [name for name in given if name not in fields]
    if unknown:
        known = ", ".join(fields) or "none"
        raise HostError(f"{message.name} has no field {unknown[0]!r}; it has {known}")
    values: dict[str, Any] = {}
    for field in dataclasses.fields(message.request):  # type: ignore[arg-type]
        if field.name in given:
            values[field.name] = _value(message, field.name, fields[field.name], given[field.name])
        elif field.default is dataclasses.MISSING:
            if isinstance(fields[field.name], Number):
                if field.name == "handle":
                    raise HostError(f"{message.name} needs a handle: {usage(message)}")
                values[field.name] = 0
            else:
                values[field.name] = () if isinstance(fields[field.name], ListOf | Words) else b""
    try:
        return message.request(**values).pack()
    except PayloadError as error:
        raise HostError(f"{message.name}: {error}") from error


def _value(message: Message, name: str, field: Field, words: str) -> Any:
    try:
        if isinstance(field, Number) or name == getattr(field, "second", ""):
            return int(words, 0)
        if isinstance(field, ListOf):
            entries = [entry for entry in words.split(",") if entry]
            if field.record is None:
                return tuple(int(entry, 0) for entry in entries)
            return tuple(field.record(*(int(part, 0) for part in entry.split(":"))) for entry in entries)
        if isinstance(field, Words):
            return tuple(int(entry, 0) for entry in words.split(",") if entry)
        return bytes.fromhex(words[4:]) if words.startswith("hex:") else words.encode()
    except (ValueError, TypeError):
        raise HostError(f"{message.name}: {name}={words} is not of the form {name}={_form(field)}") from None


def reply_of(message: Message, data: bytes) -> dict[str, Any]:
    """A reply's data (behind the error word) as JSON values; raw in hex where the table's layout does not fit."""
    if not data:
        return {}
    if message.reply is not None:
        try:
            return as_json(message.reply.unpack(data))
        except PayloadError:
            pass
    return {"data": data.hex()}


def as_json(payload: Payload | bytes) -> dict[str, Any]:
    """A payload's fields; bytes as text where they are text."""
    if isinstance(payload, bytes):
        return {"data": payload.hex()}
    return {
        field.name: _plain(getattr(payload, field.name))
        for field in dataclasses.fields(payload)  # type: ignore[arg-type]
    }


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        text = value.decode("latin-1")
        return text if text.isprintable() and text.isascii() else value.hex()
    if isinstance(value, tuple):
        names = getattr(value, "_fields", None)
        if names is not None:
            return {name: _plain(part) for name, part in zip(names, value, strict=True)}
        return [_plain(part) for part in value]
    return int(value) if isinstance(value, int) else value
