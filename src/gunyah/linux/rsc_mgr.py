"""drivers/virt/gunyah/rsc_mgr.c: calls to the Resource Manager and notifications from it (linux-drivers.md 11,
rm-rpc.md 1).

A call takes a free sequence number, sends its request in as many packets as needed, one call at a time, and waits for
the reply with that number and the same message id. Several calls may wait at once. One message is reassembled at a
time; its size is bounded. A call ends by its reply, by its time-out (ETIMEDOUT), by a signal, or because the device
goes (ENODEV); a reply that comes later is dropped.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType

from gunyah.abi.errors import RmError
from gunyah.abi.rm import CONTINUATIONS_MAX, ERROR_SIZE, HEADER_SIZE, Header, MessageType, PayloadError, message_name
from gunyah.guest.wait import Completion, Mutex, Work
from gunyah.linux.device import Device
from gunyah.linux.errno import error, name_of
from gunyah.linux.gunyah_msgq import GunyahMsgq, MsgqTxData
from gunyah.linux.mailbox import MboxClient
from gunyah.linux.printk import WARNING
from gunyah.linux.services import Services

__all__ = ["CALL_TIMEOUT_NS", "NOTIFICATIONS_MAX", "RM_ERRNO", "RmCallError", "RscMgr"]

CALL_TIMEOUT_NS = 10_000_000_000
"""How long a call waits for RM in all, unless its caller says otherwise."""
NOTIFICATIONS_MAX = 1024
"""Notifications that wait for their handlers; more are dropped, as memory is finite."""
_SEQUENCES = 0xFFFF
_CONTINUATION, _REQUEST, _REPLY, _NOTIFICATION = (int(kind) for kind in MessageType)

RM_ERRNO: Mapping[int, int] = MappingProxyType(
    {
        RmError.OK: 0,
        RmError.UNIMPLEMENTED: errno.EOPNOTSUPP,
        RmError.NOMEM: errno.ENOMEM,
        RmError.NORESOURCE: errno.ENODEV,
        RmError.DENIED: errno.EPERM,
        RmError.BUSY: errno.EBUSY,
        **{code: errno.EINVAL for code in RmError if RmError.ARGUMENT_INVALID <= code <= RmError.IRQ_RELEASED},
        RmError.MSG_INVALID: errno.EINVAL,
    }
)
"""RM error -> errno of v9 and later; whatever is missing is EBADMSG (linux-drivers.md 17)."""


class RmCallError(OSError):
    """RM answered an error: ``rm_error`` (uint32), mapped to ``errno``."""

    def __init__(self, rm_error: int, message_id: int) -> None:
        try:
            name = RmError(rm_error).name
        except ValueError:
            name = "unknown error"
        super().__init__(
            RM_ERRNO.get(rm_error, errno.EBADMSG), f"{message_name(message_id)}: RM answered {name} ({rm_error:#x})"
        )
        self.rm_error = rm_error


class _Connection:
    """A call that waits for its reply."""

    __slots__ = ("done", "failure", "message_id", "reply")

    def __init__(self, message_id: int, done: Completion) -> None:
        self.message_id = message_id
        self.done = done
        self.reply: bytes | None = None
        self.failure: OSError | None = None


class _Partial:
    """The message being reassembled; ``connection`` is None unless it is a reply that a call waits for."""

    __slots__ = ("connection", "data", "discard", "header", "missing")

    def __init__(self, header: Header, connection: _Connection | None, data: bytes, discard: bool) -> None:
        self.header = header
        self.connection = connection
        self.data = bytearray() if discard else bytearray(data)
        self.missing = header.fragments
        self.discard = discard


class RscMgr:
    """One connection to the Resource Manager (struct gh_rm). ``dropped`` counts packets that broke the protocol."""

    def __init__(self, services: Services, dev: Device) -> None:
        self._services = services
        self._now = services.scheduler.timers.now_ns
        self.dev = dev
        self.dropped = 0
        self.notifiers: list[Callable[[int, bytes], None]] = []
        self._msgq: GunyahMsgq | None = None
        self._client = MboxClient(dev=dev, tx_block=True, rx_callback=self.receive)
        self._send_lock = Mutex(services.scheduler)
        self._connections: dict[int, _Connection] = {}
        self._next_sequence = 0
        self._partial: _Partial | None = None
        self._pending: deque[tuple[int, bytes]] = deque()
        self._notify_queue = services.workqueues.alloc_ordered("gh_rm_notify")
        self._notify_work = Work(self._notify)
        self._gone = False

    @property
    def client(self) -> MboxClient:
        """The mailbox client that the message queue is bound to."""
        return self._client

    @property
    def message_size(self) -> int:
        """Most bytes of one packet; 0 when there is no queue."""
        return self._msgq.max_message if self._msgq is not None else 0

    @property
    def calling(self) -> bool:
        """Somebody waits for a reply."""
        return bool(self._connections)

    def start(self, msgq: GunyahMsgq) -> None:
        """The queue is up: calls are possible."""
        self._msgq = msgq

    def stop(self) -> None:
        """The device goes: calls that wait end with ENODEV, notifications are dropped."""
        self._gone = True
        self._msgq = None
        self._partial = None
        for connection in self._connections.values():
            connection.failure = error(errno.ENODEV, f"{self.dev.name}: the Resource Manager connection is gone")
            connection.done.complete()
        self._pending.clear()
        self._services.workqueues.destroy(self._notify_queue)

    # -- calls ---------------------------------------------------------------------------------------------------------

    def call(
        self, message_id: int, payload: bytes = b"", *, timeout_ns: int = CALL_TIMEOUT_NS, interruptible: bool = False
    ) -> bytes:
        """gh_rm_call: send a request and wait for its reply; the reply's payload after the error word.

        Raises RmCallError for RM's own errors, OSError: EINVAL id 0, E2BIG, ETIMEDOUT, EIO (reply aborted), ENODEV, and
        Interrupted when ``interruptible``. After a time-out or a signal the outcome at RM is unknown.
        """
        if not message_id:
            raise error(errno.EINVAL, f"{self.dev.name}: 0 is no message id")
        deadline = self._now() + timeout_ns
        connection = _Connection(message_id, Completion(self._services.scheduler))
        sequence = self._take_sequence(connection)
        try:
            self._send(message_id, sequence, payload, deadline, timeout_ns, interruptible)
            if not connection.done.wait(self._left(deadline), interruptible=interruptible):
                raise error(errno.ETIMEDOUT, f"{message_name(message_id)}: no reply within {timeout_ns / 1e9:g} s")
        finally:
            del self._connections[sequence]
            # A reply that is half here has nobody waiting any more: its rest is read and thrown away.
            if self._partial is not None and self._partial.connection is connection:
                self._partial.connection = None
                self._partial.discard = True
                self._partial.data.clear()
        if connection.failure is not None:
            raise connection.failure
        reply = connection.reply
        assert reply is not None
        rm_error = int.from_bytes(reply[:ERROR_SIZE], "little")
        if rm_error:
            raise RmCallError(rm_error, message_id)
        return reply[ERROR_SIZE:]

    def _left(self, deadline: int) -> int:
        return max(0, deadline - self._now())

    def _take_sequence(self, connection: _Connection) -> int:
        connections = self._connections
        if self._gone:
            raise error(errno.ENODEV, f"{self.dev.name}: the Resource Manager connection is gone")
        if len(connections) >= _SEQUENCES:
            raise error(errno.ENOSPC, f"{self.dev.name}: all {_SEQUENCES} sequence numbers are in use")
        sequence = self._next_sequence
        while sequence in connections:
            sequence = (sequence + 1) % _SEQUENCES
        self._next_sequence = (sequence + 1) % _SEQUENCES
        connections[sequence] = connection
        return sequence

    def _send(
        self, message_id: int, sequence: int, payload: bytes, deadline: int, left: int, interruptible: bool
    ) -> None:
        msgq = self._msgq
        if msgq is None:
            raise error(errno.ENODEV, f"{self.dev.name}: the Resource Manager connection is gone")
        room = msgq.max_message - HEADER_SIZE
        fragments = (len(payload) - 1) // room if payload else 0
        if fragments > CONTINUATIONS_MAX:
            raise error(
                errno.E2BIG,
                f"{message_name(message_id)}: {len(payload)} bytes, at most {room * (CONTINUATIONS_MAX + 1)} fit",
            )
        late = f"{message_name(message_id)}: the request could not be sent in time"
        contended = self._send_lock.owner is not None
        if not self._send_lock.lock(left, interruptible=interruptible):
            raise error(errno.ETIMEDOUT, late)
        try:
            send, channel = msgq.mailbox.send_message, msgq.channel
            head = Header(_REQUEST, message_id, sequence, fragments).pack()
            for index in range(fragments + 1):
                packet = MsgqTxData(head + payload[index * room : (index + 1) * room], index == fragments)
                self._client.tx_tout_ns = self._left(deadline) if index or contended else left
                send(channel, packet)
                if not index and fragments:
                    head = Header(_CONTINUATION, message_id, sequence, fragments).pack()
        except OSError as failure:
            if failure.errno == errno.ETIME:
                raise error(errno.ETIMEDOUT, late) from None
            raise
        finally:
            self._send_lock.unlock()

    # -- packets -------------------------------------------------------------------------------------------------------

    def receive(self, packet: bytes) -> None:
        """One packet from the queue; whatever it holds, it ends here."""
        try:
            header = Header.unpack(packet)
        except PayloadError as refused:
            self._drop(str(refused))
            return
        kind = header.type
        if kind == _REPLY:
            self._begin(header, packet, self._reply_start(header, packet))
        elif kind == _NOTIFICATION:
            self._begin(header, packet, _Partial(header, None, packet[HEADER_SIZE:], False))
        elif kind == _CONTINUATION:
            self._continue(header, packet)
        else:
            self._drop(f"a request ({message_name(header.msg_id)}) came from RM")

    def _reply_start(self, header: Header, packet: bytes) -> _Partial:
        connection = self._connections.get(header.seq)
        if connection is None or connection.reply is not None or connection.failure is not None:
            self._drop(f"reply to unknown sequence number {header.seq} ({message_name(header.msg_id)})")
        elif connection.message_id != header.msg_id:
            expected = message_name(connection.message_id)
            self._drop(f"reply {header.seq} is for {message_name(header.msg_id)}, the call was {expected}")
        elif len(packet) < HEADER_SIZE + ERROR_SIZE:
            self._drop(f"reply {header.seq} of {len(packet)} bytes has no error word")
            connection.failure = error(errno.EIO, f"{message_name(header.msg_id)}: the reply has no error word")
            connection.done.complete()
        else:
            return _Partial(header, connection, packet[HEADER_SIZE:], False)
        return _Partial(header, None, b"", True)

    def _begin(self, header: Header, packet: bytes, message: _Partial) -> None:
        if self._partial is not None:
            self._abort(f"{message_name(header.msg_id)} started")
        if message.missing:
            self._partial = message
        else:
            self._complete(message)

    def _continue(self, header: Header, packet: bytes) -> None:
        partial = self._partial
        if partial is None:
            self._drop(f"continuation of {message_name(header.msg_id)} without a start")
            return
        if header[1:] != partial.header[1:]:
            self._abort(f"continuation {header} does not belong to it")
            return
        if not partial.discard:
            partial.data += packet[HEADER_SIZE:]
        partial.missing -= 1
        if not partial.missing:
            self._partial = None
            self._complete(partial)

    def _complete(self, message: _Partial) -> None:
        if message.discard:
            return
        connection = message.connection
        if connection is not None:
            connection.reply = bytes(message.data)
            connection.done.complete()
        elif len(self._pending) >= NOTIFICATIONS_MAX:
            self._drop(f"{NOTIFICATIONS_MAX} notifications wait already, {message_name(message.header.msg_id)} is lost")
        else:
            self._pending.append((message.header.msg_id, bytes(message.data)))
            self._notify_queue.schedule(self._notify_work)

    def _abort(self, reason: str) -> None:
        """An unfinished message will never be whole: its caller gets EIO."""
        partial, self._partial = self._partial, None
        assert partial is not None
        name = message_name(partial.header.msg_id)
        self._drop(f"{name} was aborted with {partial.missing} packets missing: {reason}")
        connection = partial.connection
        if connection is not None:
            connection.failure = error(errno.EIO, f"{name}: the reply was cut off")
            connection.done.complete()

    def _drop(self, sentence: str) -> None:
        self.dropped += 1
        self._services.log.ratelimited("gh_rsc_mgr", WARNING, lambda: f"gh_rsc_mgr: {sentence}")

    # -- notifications -------------------------------------------------------------------------------------------------

    def _notify(self) -> None:
        """Work item: call the notifier chain for each waiting notification, in order of arrival."""
        pending = self._pending
        while pending:
            message_id, payload = pending.popleft()
            for notifier in list(self.notifiers):
                try:
                    notifier(message_id, payload)
                except Exception as failure:
                    # One handler's failure is not the others', nor the next notification's.
                    self._services.log.err(f"gh_rsc_mgr: handler of {message_name(message_id)}: {name_of(failure)}")

    def notifier_register(self, notifier: Callable[[int, bytes], None]) -> None:
        """gh_rm_notifier_register: ``notifier(message id, payload)`` runs in a task and may block."""
        self.notifiers.append(notifier)

    def notifier_unregister(self, notifier: Callable[[int, bytes], None]) -> None:
        """gh_rm_notifier_unregister."""
        if notifier in self.notifiers:
            self.notifiers.remove(notifier)
