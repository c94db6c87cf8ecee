"""The Resource Manager's transport from a client's side, written for replaying: no driver, no state but the sequence
number.

Packets of up to 240 bytes with an 8-byte header (rm-rpc.md 1). It is independent of RM's own implementation and of the
Linux driver's, so that a fault shared by those two does not hide here.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from gunyah.abi.errors import Error
from gunyah.abi.hypercalls import BY_NAME
from gunyah.abi.layout import PayloadError
from gunyah.abi.rm.header import HEADER_SIZE, PACKET_MAX, PACKET_PAYLOAD_MAX, Header, MessageType
from gunyah.host.conformance.monitor import Monitor

__all__ = ["Message", "NoAnswer", "RmClient"]

TURNS = 4096
"""How often the monitor gives its time away before it calls a request unanswered."""
QUIET_TURNS = 64
"""Empty looks after which nothing more is expected to come by itself."""


class NoAnswer(Exception):
    """RM did not answer; ``str()`` says what was tried."""


@dataclass(frozen=True)
class Message:
    """A whole message: type (2 reply, 3 notification), sequence number, id and payload bytes."""

    kind: int
    sequence: int
    message: int
    payload: bytes


class RmClient:
    """``tx``/``rx`` are capabilities of the monitor's VM, ``buffer`` an IPA of 512 bytes it may use."""

    def __init__(self, monitor: Monitor, tx: int, rx: int, buffer: int) -> None:
        self._monitor = monitor
        self._tx = tx
        self._rx = rx
        self._buffer = buffer
        self._sequence = 0
        self._first: Header | None = None
        self._left = 0
        self._body = bytearray()
        self.notifications: deque[Message] = deque()

    def request(self, message: int, payload: bytes) -> Message:
        """Send a request and wait for its reply; notifications on the way are kept. Raises NoAnswer."""
        self._sequence = (self._sequence + 1) & 0xFFFF
        self._send(self._sequence, message, payload)
        for _ in range(TURNS):
            got = self._receive()
            if got is None:
                self._give_time()
            elif got.kind == MessageType.NOTIFICATION:
                self.notifications.append(got)
            elif got.kind == MessageType.REPLY and got.sequence == self._sequence and got.message == message:
                return got
        raise NoAnswer(f"no reply to {message:#x} with sequence number {self._sequence} after {TURNS} turns")

    def wait_notification(self) -> Message | None:
        """The next notification, waiting for it while RM is still busy; None when none comes."""
        quiet = 0
        while not self.notifications and quiet < QUIET_TURNS:
            got = self._receive()
            if got is not None and got.kind == MessageType.NOTIFICATION:
                self.notifications.append(got)
            elif got is None:
                quiet += 1
                self._give_time()
        return self.notifications.popleft() if self.notifications else None

    def _give_time(self) -> None:
        self._monitor.hypercall(BY_NAME["scheduler_yield"].number)

    def _send(self, sequence: int, message: int, payload: bytes) -> None:
        starts = range(0, len(payload), PACKET_PAYLOAD_MAX)
        slices = [payload[start : start + PACKET_PAYLOAD_MAX] for start in starts] or [b""]
        for index, part in enumerate(slices):
            kind = MessageType.CONTINUATION if index else MessageType.REQUEST
            packet = Header(kind, message, sequence, len(slices) - 1).pack() + part
            self._monitor.cpu.write(self._buffer, packet)
            self._push(len(packet))

    def _push(self, size: int) -> None:
        number = BY_NAME["msgqueue_send"].number
        for _ in range(TURNS):
            error = self._monitor.hypercall(number, self._tx, size, self._buffer, 1, 0)[0]
            if error == Error.OK:
                return
            if error != Error.MSGQUEUE_FULL:
                raise NoAnswer(f"msgqueue_send answered {error:#x}")
            self._give_time()
        raise NoAnswer(f"RM takes no messages: its queue stayed full for {TURNS} turns")

    def _receive(self) -> Message | None:
        """One whole message if its last packet is here; None when the queue is empty."""
        while True:
            number = BY_NAME["msgqueue_receive"].number
            x = self._monitor.hypercall(number, self._rx, self._buffer, PACKET_MAX + 16, 0)
            if x[0] == Error.MSGQUEUE_EMPTY:
                return None
            if x[0] != Error.OK:
                raise NoAnswer(f"msgqueue_receive answered {x[0]:#x}")
            packet = self._monitor.cpu.read(self._buffer, x[1])
            try:
                header = Header.unpack(packet)
            except PayloadError as error:
                raise NoAnswer(f"RM sent something else than a message: {error}") from None
            message = self._add(header, packet[HEADER_SIZE:])
            if message is not None:
                return message

    def _add(self, header: Header, part: bytes) -> Message | None:
        """Take one packet; the whole message when it was the last one."""
        if header.type != MessageType.CONTINUATION:
            self._first, self._left, self._body = header, header.fragments, bytearray(part)
        elif self._first is None or header[1:] != self._first[1:]:
            raise NoAnswer(f"RM sent a continuation of message {header.msg_id:#x} that nothing began")
        else:
            self._left -= 1
            self._body += part
        if self._left or self._first is None:
            return None
        first, self._first = self._first, None
        return Message(first.type, first.seq, first.msg_id, bytes(self._body))
