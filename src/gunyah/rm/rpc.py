"""RM-RPC framing as RM does it: reassembly of what a client sends, queues of what it gets (rm-rpc.md 1).

Both halves are plain state machines without hypercalls. ``Assembler`` takes queue messages and gives whole messages; it
holds at most one, so its memory is bounded by 63 packets. ``Outbox`` holds the message in flight, at most one waiting
reply, and at most ``NOTIFICATIONS_MAX`` waiting notifications. Nothing a client sends raises: what breaks a rule of
section 1.6 is dropped and counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Final, NamedTuple

from gunyah.abi.rm import CONTINUATIONS_MAX, HEADER_SIZE, Header, MessageType, PayloadError

__all__ = ["Assembler", "Message", "NOTIFICATIONS_MAX", "Outbox", "packets"]

NOTIFICATIONS_MAX = 256
"""Notifications that wait for one client; the oldest is dropped for the next (rm-rpc.md 1.5)."""


_TYPES: Final = tuple(MessageType)


class Message(NamedTuple):
    """A whole message: ``type`` request, reply or notification; ``payload`` without any header."""

    type: MessageType
    id: int
    sequence: int
    payload: bytes


def packets(message: Message, packet_size: int) -> list[bytes]:
    """The queue messages that carry ``message``, each at most ``packet_size`` bytes, every one but the last full (1.5).

    Raises ValueError for a payload that needs more than 62 continuations.
    """
    room = packet_size - HEADER_SIZE
    payload = message.payload
    fragments = max(0, (len(payload) + room - 1) // room - 1)
    if fragments > CONTINUATIONS_MAX:
        raise ValueError(
            f"{len(payload)} bytes of payload need {fragments} continuations, {CONTINUATIONS_MAX} are possible"
        )
    first = Header(message.type, message.id, message.sequence, fragments).pack() + payload[:room]
    if not fragments:
        return [first]
    head = Header(MessageType.CONTINUATION, message.id, message.sequence, fragments).pack()
    return [first, *(head + payload[at : at + room] for at in range(room, len(payload), room))]


class Assembler:
    """The receiving half of one client's link."""

    def __init__(self) -> None:
        self._first: Header | None = None
        self._parts: list[bytes] = []
        self.dropped = 0
        """Packets and partial messages thrown away so far."""

    @property
    def partial_bytes(self) -> int:
        """Payload bytes held of an unfinished message."""
        return sum(map(len, self._parts))

    def feed(self, packet: bytes) -> Message | None:
        """Take one queue message; the whole message if this completed one."""
        try:
            header = Header.unpack(packet)
        except PayloadError:
            self.dropped += 1
            return None
        if header.type == MessageType.CONTINUATION:
            first = self._first
            if first is None or first[1:] != header[1:]:
                self.dropped += 1
                return None
            self._parts.append(packet[HEADER_SIZE:])
        else:
            if self._first is not None:
                self.dropped += 1
            first = self._first = header
            self._parts = [packet[HEADER_SIZE:]]
        if len(self._parts) <= first.fragments:
            return None
        message = Message(_TYPES[first.type], first.msg_id, first.seq, b"".join(self._parts))
        self._first, self._parts = None, []
        return message

    def reset(self) -> None:
        """Forget an unfinished message (the client went away)."""
        self._first, self._parts = None, []


class Outbox:
    """The sending half of one client's link: one message in flight, replies before notifications (rm-rpc.md 1.5).

    ``send`` hands one packet to the queue and says whether the queue took it; a full queue ends ``pump`` until the
    transmit interrupt calls it again. ``sequence`` numbers notifications; RM shares one over all clients.
    """

    def __init__(self, send: Callable[[bytes], bool], packet_size: int, sequence: Callable[[], int]) -> None:
        self._send = send
        self._packet_size = packet_size
        self._sequence = sequence
        self._in_flight: deque[bytes] = deque()
        self._reply: Message | None = None
        self._notifications: deque[tuple[int, bytes]] = deque()
        self.dropped = 0
        """Replies and notifications thrown away so far."""

    @property
    def idle(self) -> bool:
        """Nothing waits."""
        return not (self._in_flight or self._reply or self._notifications)

    @property
    def reply_waits(self) -> bool:
        """A reply waits behind the message in flight."""
        return self._reply is not None

    @property
    def waiting(self) -> int:
        """Whole messages that wait behind the one in flight."""
        return len(self._notifications) + (self._reply is not None)

    def reply(self, request: Message, payload: bytes) -> None:
        """Answer ``request``; an older reply that still waits is dropped."""
        if self._reply is not None:
            self.pump()
        if self._reply is not None:
            self.dropped += 1
        self._reply = Message(MessageType.REPLY, request.id, request.sequence, payload)
        self.pump()

    def notify(self, message_id: int, payload: bytes) -> None:
        """Queue a notification; with 256 waiting the oldest is dropped."""
        if len(self._notifications) >= NOTIFICATIONS_MAX:
            self._notifications.popleft()
            self.dropped += 1
        self._notifications.append((message_id, payload))
        self.pump()

    def pump(self) -> None:
        """Send until everything is gone or the queue is full."""
        in_flight = self._in_flight
        while True:
            while in_flight:
                if not self._send(in_flight[0]):
                    return
                in_flight.popleft()
            if self._reply is not None:
                message, self._reply = self._reply, None
            elif self._notifications:
                message_id, payload = self._notifications.popleft()
                message = Message(MessageType.NOTIFICATION, message_id, self._sequence(), payload)
            else:
                return
            in_flight.extend(packets(message, self._packet_size))

    def reset(self) -> None:
        """Throw everything away (the client went away)."""
        self._in_flight.clear()
        self._notifications.clear()
        self._reply = None


def sequence_numbers() -> Callable[[], int]:
    """RM's counter of notifications: 16 bits from 0, one for all clients (rm-rpc.md 1.7)."""
    numbers = count()
    return lambda: next(numbers) & 0xFFFF
