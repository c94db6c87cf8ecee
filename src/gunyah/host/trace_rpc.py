"""The Resource Manager's conversation, read from the messages that pass through its queues (rm-rpc.md 1).

EL2 sees bytes only. A message whose first byte is 0x21 (version 1, two header words) is taken for a packet of the
protocol; packets are put together per queue, and a reply finds its request by sequence number and id.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from gunyah.hypervisor.instruments import NamedObject, NamedVcpu

__all__ = ["RpcMessage", "RpcReader", "message_name"]

_HEADER: Final = struct.Struct("<BBHI")
_VERSION: Final = 0x21
_KINDS: Final = ("continuation", "request", "reply", "notification")
_CONTINUATION: Final = 0
_MAX_FRAGMENTS: Final = 62
_REMEMBERED: Final = 1024
"""Requests without a reply that are kept; a client that never gets answers must not fill the memory."""


def message_name(message_id: int) -> str:
    """``VM_GET_VMID``, or the number where the table has no name."""
    # The table is big, and wanted only when somebody traces.
    from gunyah.abi.rm import MESSAGES, NOTIFICATIONS

    message = MESSAGES.get(message_id) or NOTIFICATIONS.get(message_id)
    return message.name if message is not None else f"{message_id:#010x}"


@dataclass(frozen=True, slots=True)
class RpcMessage:
    """A whole message of the protocol."""

    kind: str
    """"request", "reply" or "notification"."""
    sender: int
    """VMID."""
    sequence: int
    message_id: int
    payload: bytes
    """All fragments; of a reply with the error word."""
    started: int
    """Ticks when the first packet entered its queue."""
    finished: int
    """Ticks when the last packet did."""
    request: RpcMessage | None = None
    """Of a reply: what it answers, when that was seen."""

    @property
    def name(self) -> str:
        """Name of the message id."""
        return message_name(self.message_id)

    @property
    def error(self) -> int | None:
        """Of a reply: its error word (rm-rpc.md 3)."""
        if self.kind != "reply" or len(self.payload) < 4:
            return None
        return int.from_bytes(self.payload[:4], "little")


@dataclass(slots=True)
class _Partial:
    kind: str
    sequence: int
    message_id: int
    fragments: int
    missing: int
    started: int
    payload: bytearray


class RpcReader:
    """Puts packets together; feed it every ``message_send``."""

    def __init__(self) -> None:
        self._partial: dict[int, _Partial] = {}
        self._requests: OrderedDict[tuple[int, int], RpcMessage] = OrderedDict()

    def feed(self, queue: NamedObject, vcpu: NamedVcpu, data: bytes, ticks: int) -> RpcMessage | None:
        """A message entered ``queue``; the whole RPC message when this packet completes one."""
        if len(data) < _HEADER.size or data[0] != _VERSION:
            return None
        _, type_and_fragments, sequence, message_id = _HEADER.unpack_from(data)
        fragments, kind = type_and_fragments >> 2, type_and_fragments & 3
        if fragments > _MAX_FRAGMENTS:
            return None
        if kind == _CONTINUATION:
            partial = self._partial.get(queue.serial)
            if partial is None or (partial.sequence, partial.message_id, partial.fragments) != (
                sequence,
                message_id,
                fragments,
            ):
                return None
            partial.missing -= 1
        else:
            partial = _Partial(_KINDS[kind], sequence, message_id, fragments, fragments, ticks, bytearray())
            self._partial[queue.serial] = partial
        partial.payload += data[_HEADER.size :]
        if partial.missing:
            return None
        del self._partial[queue.serial]
        return self._complete(partial, vcpu.vmid, ticks)

    def _complete(self, partial: _Partial, sender: int, ticks: int) -> RpcMessage:
        key = (partial.sequence, partial.message_id)
        message = RpcMessage(
            partial.kind,
            sender,
            partial.sequence,
            partial.message_id,
            bytes(partial.payload),
            partial.started,
            ticks,
            self._requests.pop(key, None) if partial.kind == "reply" else None,
        )
        if message.kind == "request":
            self._requests[key] = message
            if len(self._requests) > _REMEMBERED:
                self._requests.popitem(last=False)
        return message
