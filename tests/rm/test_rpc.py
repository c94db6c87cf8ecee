"""RM-RPC framing: fragments both ways, hostile packets, bounded queues."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gunyah.abi.rm import CONTINUATIONS_MAX, Header, MessageType
from gunyah.rm.rpc import NOTIFICATIONS_MAX, Assembler, Message, Outbox, packets, sequence_numbers

WHOLE = st.builds(
    Message,
    st.sampled_from([MessageType.REQUEST, MessageType.REPLY, MessageType.NOTIFICATION]),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**16 - 1),
    st.one_of(st.binary(max_size=700), st.integers(0, 14616).map(bytes)),
)


@given(WHOLE, st.sampled_from([240, 240, 1023]))
def test_what_is_fragmented_is_assembled_again(message: Message, size: int) -> None:
    parts = packets(message, size)
    assert all(len(part) == size for part in parts[:-1]) and len(parts[-1]) <= size
    assembler = Assembler()
    results = [assembler.feed(part) for part in parts]
    assert results[:-1] == [None] * (len(parts) - 1)
    assert results[-1] == message
    assert assembler.partial_bytes == 0


def test_sizes_at_the_edges_take_as_many_packets_as_the_sheet_says() -> None:
    for size, count in ((0, 1), (1, 1), (232, 1), (233, 2), (464, 2), (465, 3), (14616, 63)):
        assert len(packets(Message(MessageType.REPLY, 1, 2, bytes(size)), 240)) == count


def test_an_extra_empty_continuation_of_the_v4_series_is_accepted() -> None:
    assembler = Assembler()
    first = Header(MessageType.REQUEST, 7, 1, 1).pack() + bytes(232)
    assert assembler.feed(first) is None
    done = assembler.feed(Header(MessageType.CONTINUATION, 7, 1, 1).pack())
    assert done is not None and len(done.payload) == 232


@given(st.lists(st.binary(max_size=300), max_size=40), WHOLE)
def test_no_garbage_before_a_message_changes_it_or_grows_memory(garbage: list[bytes], message: Message) -> None:
    assembler = Assembler()
    for packet in garbage:
        assembler.feed(packet)
        assert assembler.partial_bytes <= (CONTINUATIONS_MAX + 1) * 300
    results = [assembler.feed(part) for part in packets(message, 240)]
    assert results[-1] == message


HEADERS = st.builds(
    lambda kind, fragments, sequence, number: struct.pack("<BBHI", 0x21, kind | fragments << 2, sequence, number),
    st.integers(0, 3),
    st.integers(0, 63),
    st.integers(0, 2),
    st.integers(0, 2),
)


@given(st.lists(st.tuples(HEADERS, st.binary(max_size=20)), max_size=60))
def test_the_assembler_follows_the_drop_rules(stream: list[tuple[bytes, bytes]]) -> None:
    """Against the rules written out plainly (rm-rpc.md 1.6)."""
    assembler = Assembler()
    open_: tuple[int, int, int, int, list[bytes]] | None = None
    for head, data in stream:
        _, word, sequence, number = struct.unpack("<BBHI", head)
        kind, fragments = word & 3, word >> 2
        expected = None
        if fragments <= 62:
            if kind:
                open_ = (kind, fragments, sequence, number, [data])
            elif open_ and open_[1:4] == (fragments, sequence, number):
                open_[4].append(data)
            else:
                assert assembler.feed(head + data) is None
                continue
            if len(open_[4]) == open_[1] + 1:
                expected = Message(MessageType(open_[0]), open_[3], open_[2], b"".join(open_[4]))
                open_ = None
        assert assembler.feed(head + data) == expected


class OutboxMachine(RuleBasedStateMachine):
    """A client that takes packets when it likes: order, drop rules and bounds of the sending half."""

    def __init__(self) -> None:
        super().__init__()
        self.room = 0
        self.sent: list[bytes] = []
        self.outbox = Outbox(self.send, 240, sequence_numbers())
        self.number = 0
        self.replies: list[int] = []
        self.notifications: list[int] = []

    def send(self, packet: bytes) -> bool:
        if not self.room:
            return False
        self.room -= 1
        self.sent.append(packet)
        return True

    @rule(size=st.sampled_from([0, 10, 232, 233, 1000]))
    def reply(self, size: int) -> None:
        self.number += 1
        request = Message(MessageType.REQUEST, 0x5600_0001, self.number & 0xFFFF, b"")
        self.outbox.reply(request, bytes(size))
        self.replies.append(self.number)

    @rule(size=st.sampled_from([0, 10, 500]), count=st.sampled_from([1, 1, 1, 300]))
    def notify(self, size: int, count: int) -> None:
        for _ in range(count):
            self.number += 1
            self.outbox.notify(self.number, bytes(size))
            self.notifications.append(self.number)

    @rule(packets=st.sampled_from([1, 2, 7, 1000]))
    def take(self, packets: int) -> None:
        self.room = packets
        self.outbox.pump()
        self.room = 0

    @invariant()
    def whole_messages_arrive_in_order(self) -> None:
        assembler = Assembler()
        seen: list[Message] = []
        for packet in self.sent:
            message = assembler.feed(packet)
            if message is not None:
                seen.append(message)
        assert not assembler.dropped
        notified = [message.id for message in seen if message.type is MessageType.NOTIFICATION]
        assert notified == sorted(notified)
        replied = [message.sequence for message in seen if message.type is MessageType.REPLY]
        assert replied == sorted(replied)
        assert self.outbox.waiting <= NOTIFICATIONS_MAX + 1

    def teardown(self) -> None:
        self.room = 10_000
        self.outbox.pump()
        assert self.outbox.idle
        whole = sum(packet[1] & 3 != 0 for packet in self.sent)
        assert whole + self.outbox.dropped == len(self.replies) + len(self.notifications)


OutboxMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestOutbox = OutboxMachine.TestCase


def test_a_reply_goes_before_the_notifications_that_wait() -> None:
    sent: list[bytes] = []
    room = [1]

    def send(packet: bytes) -> bool:
        if not room[0]:
            return False
        room[0] -= 1
        sent.append(packet)
        return True

    outbox = Outbox(send, 240, sequence_numbers())
    outbox.notify(1, bytes(500))
    outbox.notify(2, b"")
    request = Message(MessageType.REQUEST, 9, 4, b"")
    outbox.reply(request, b"old!")
    outbox.reply(request, b"new!")
    room[0] = 100
    outbox.pump()
    kinds = [(packet[1] & 3, packet[8:]) for packet in sent]
    assert [kind for kind, _ in kinds] == [3, 0, 0, 2, 3]
    assert kinds[3][1] == b"new!"
    assert outbox.dropped == 1
