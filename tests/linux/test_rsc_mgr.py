import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gunyah.abi.errors import RmError
from gunyah.abi.profile import PUBLIC_2023, V4
from gunyah.abi.rm import Header, MessageId, MessageType
from gunyah.guest.tasks import Interrupted
from gunyah.linux.rsc_mgr import NOTIFICATIONS_MAX, RmCallError

from .scripted import Machine, good_rm, reply_to, silent_rm

SECOND = 1_000_000_000
MSG = 0x5600_0042


def fragments(kind: int, msg_id: int, seq: int, payload: bytes, cuts: list[int]) -> list[bytes]:
    """A message cut at arbitrary places."""
    edges = [0, *sorted(cut for cut in cuts if cut < len(payload)), len(payload)]
    count = len(edges) - 2
    return [
        Header(kind if not i else 0, msg_id, seq, count).pack() + payload[edges[i] : edges[i + 1]]
        for i in range(count + 1)
    ]


class Echo:
    """An RM that answers with what it was sent, in fragments cut as the test says."""

    def __init__(self) -> None:
        self.request = bytearray()
        self.cuts: list[int] = []
        self.room = 232
        self.whole: list[bytes] = []

    def __call__(self, packet: bytes) -> list[bytes]:
        header = Header.unpack(packet)
        if header.msg_id != MSG:
            return good_rm(packet)
        if header.type == MessageType.REQUEST:
            self.request, self.left = bytearray(), header.fragments + 1
        self.request += packet[8:]
        self.left -= 1
        if self.left:
            return []
        self.whole.append(bytes(self.request))
        payload = bytes(4) + self.request[: 62 * self.room]
        cuts = {4 + cut for cut in self.cuts} | set(range(self.room, len(payload), self.room))
        return fragments(MessageType.REPLY, MSG, header.seq, payload, list(cuts))


@pytest.fixture(scope="module", params=[V4, PUBLIC_2023], ids=lambda profile: profile.name)
def echo(request):
    rm = Echo()
    return rm, Machine(rm, profile=request.param)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_requests_and_replies_of_any_size_and_cut_arrive_whole(echo, data):
    rm, machine = echo
    room = machine.gh.message_size - 8
    size = data.draw(st.one_of(st.integers(0, 3 * room), st.sampled_from([room - 1, room, room + 1, 2 * room])))
    rm.cuts = data.draw(st.lists(st.integers(1, 3 * room), max_size=30))
    payload = bytes(i * 7 & 0xFF for i in range(size))
    before = len(machine.sent)
    assert machine.do(machine.gh.call, MSG, payload) == payload
    assert rm.whole.pop() == payload
    packets = machine.sent[before:]
    assert len(packets) == max(1, -(-size // room))
    assert len({packet[1] >> 2 for packet in packets}) == 1
    assert [packet[1] & 3 for packet in packets] == [1] + [0] * (len(packets) - 1)
    assert all(len(packet) == room + 8 for packet in packets[:-1])


def test_the_longest_request_has_63_packets_and_one_byte_more_is_refused():
    rm = Echo()
    machine = Machine(rm)
    payload = bytes(63 * 232)
    assert machine.do(machine.gh.call, MSG, payload) == payload[: 62 * 232]
    assert rm.whole == [payload]
    with pytest.raises(OSError, match="at most 14616") as failure:
        machine.do(machine.gh.call, MSG, payload + b"x")
    assert failure.value.errno == errno.E2BIG


def test_concurrent_calls_get_their_own_replies_whatever_the_order():
    held: list[bytes] = []

    def rm(packet):
        if Header.unpack(packet).msg_id != MSG:
            return good_rm(packet)
        held.append(packet)
        if len(held) < 5:
            return []
        return [reply_to(request, request[8:]) for request in reversed(held)]

    machine = Machine(rm)
    answers = {}

    def caller(number: int) -> None:
        answers[number] = machine.gh.call(MSG, bytes([number]))

    for number in range(5):
        machine.kernel.submit(caller, number)
    machine.run(lambda: len(answers) == 5, 1)
    assert answers == {number: bytes([number]) for number in range(5)}
    assert len({Header.unpack(packet).seq for packet in held}) == 5


def test_an_answer_that_never_comes_is_a_time_out_and_a_late_one_is_dropped():
    machine = Machine(silent_rm)
    assert machine.kernel.tty_names() == ["ttyGH0"]
    before = machine.kernel.uptime_ns()
    with pytest.raises(TimeoutError, match="no reply within 2 s"):
        machine.do(lambda: machine.gh.call(MSG, timeout_ns=2 * SECOND))
    assert 2 * SECOND <= machine.kernel.uptime_ns() - before < 3 * SECOND
    dropped = machine.gh.dropped
    machine.inject(reply_to(machine.sent[-1]))
    machine.run(seconds=1)
    assert machine.gh.dropped == dropped + 1
    machine.rm = good_rm
    assert machine.do(machine.gh.call, MSG) == b""


def test_a_queue_that_stays_full_is_a_time_out_and_the_message_is_not_sent_later():
    machine = Machine(depth=2)
    machine.stalled = True
    for _ in range(2):
        with pytest.raises(TimeoutError):
            machine.do(lambda: machine.gh.call(MSG, timeout_ns=SECOND))
    with pytest.raises(TimeoutError, match="could not be sent"):
        machine.do(lambda: machine.gh.call(MSG, b"lost", timeout_ns=SECOND))
    machine.stalled = False
    machine.run(seconds=1)
    assert machine.do(machine.gh.call, MSG, b"next") == b""
    assert [payload for _, payload in machine.requests()].count(b"lost") == 0


def test_a_signal_ends_a_wait_and_half_a_reply_is_thrown_away():
    machine = Machine(silent_rm)
    submission = machine.kernel.submit(lambda: machine.gh.call(MSG, b"q", interruptible=True))
    machine.run(seconds=0.1)
    header = Header.unpack(machine.sent[-1])
    half, rest = fragments(MessageType.REPLY, MSG, header.seq, bytes(4) + b"late", [5])
    machine.inject(half)
    machine.run(seconds=0.1)
    machine.kernel.post(submission.task.interrupt)
    machine.run(lambda: submission.done, 0.1)
    with pytest.raises(Interrupted):
        submission.result()
    dropped = machine.gh.dropped
    machine.inject(rest)
    machine.rm = good_rm
    assert machine.do(machine.gh.call, MSG) == b""
    assert machine.gh.dropped == dropped


@pytest.mark.parametrize(
    ("code", "number"),
    [
        (RmError.UNIMPLEMENTED, errno.EOPNOTSUPP),
        (RmError.NOMEM, errno.ENOMEM),
        (RmError.NORESOURCE, errno.ENODEV),
        (RmError.DENIED, errno.EPERM),
        (RmError.BUSY, errno.EBUSY),
        (RmError.MSG_INVALID, errno.EINVAL),
        (RmError.IRQ_RELEASED, errno.EINVAL),
        (RmError.VM_STATE, errno.EBADMSG),
        (0x1234, errno.EBADMSG),
    ],
)
def test_rm_errors_become_errno(code, number):
    machine = Machine(lambda packet: [reply_to(packet, error=code)])
    with pytest.raises(RmCallError) as failure:
        machine.do(machine.gh.call, MSG)
    assert (failure.value.errno, failure.value.rm_error) == (number, code)


def test_a_new_message_cuts_an_unfinished_one_off_and_its_caller_gets_eio():
    def rm(packet):
        header = Header.unpack(packet)
        half, _ = fragments(MessageType.REPLY, header.msg_id, header.seq, bytes(8), [4])
        return [half, Header(MessageType.NOTIFICATION, 0x5610_0001).pack()]

    machine = Machine(rm)
    with pytest.raises(OSError, match="cut off") as failure:
        machine.do(machine.gh.call, MSG)
    assert failure.value.errno == errno.EIO


def test_notifications_reach_every_handler_in_order():
    machine = Machine()
    seen = []
    machine.do(lambda: machine.gh.notifier_register(lambda number, data: seen.append((number, data))))
    for number in range(20):
        machine.inject(*fragments(MessageType.NOTIFICATION, 0x5610_0100 + number, number, bytes(number), [3, 9]))
    machine.run(seconds=1)
    assert seen == [(0x5610_0100 + number, bytes(number)) for number in range(20)]


def test_notifications_that_nobody_can_serve_are_bounded():
    machine = Machine()
    block = []

    def slow(number, data):
        while not block:
            machine.kernel.scheduler.sleep(SECOND)

    machine.do(lambda: machine.gh.notifier_register(slow))
    machine.inject(*[Header(MessageType.NOTIFICATION, MSG, i & 0xFFFF).pack() for i in range(NOTIFICATIONS_MAX + 50)])
    machine.run(seconds=0.5)
    assert NOTIFICATIONS_MAX - 1 <= len(machine.gh._pending) <= NOTIFICATIONS_MAX
    assert 49 <= machine.gh.dropped <= 50
    block.append(True)
    machine.run(seconds=10)
    assert not machine.gh._pending


packet = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda first, kind, count, seq, number, tail: (
            bytes([first, kind | count << 2]) + seq.to_bytes(2, "little") + number.to_bytes(4, "little") + tail
        ),
        st.sampled_from([0x21, 0x21, 0x21, 0x22, 0x11]),
        st.integers(0, 3),
        st.sampled_from([0, 1, 2, 62, 63]),
        st.integers(0, 4),
        st.sampled_from([MSG, MessageId.VM_CONSOLE_OPEN, 0x5610_0080, 0, 0xFFFF_FFFF]),
        st.binary(max_size=232),
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(packet, max_size=25))
def test_nothing_that_comes_over_the_queue_stops_the_driver_or_fills_its_memory(hostile_machine, packets):
    machine = hostile_machine
    machine.rm = silent_rm
    submission = machine.kernel.submit(lambda: machine.gh.call(MSG, b"x", timeout_ns=5 * SECOND))
    machine.run(seconds=0.01)
    machine.inject(*packets)
    machine.run(lambda: submission.done, 10)
    assert submission.done
    machine.rm = good_rm
    machine.do(machine.gh.call, MSG)
    gh = machine.gh
    assert not gh._connections
    assert gh._partial is None or len(gh._partial.data) <= 63 * 232
    assert not machine.kernel.oopses


@pytest.fixture(scope="module")
def hostile_machine():
    return Machine()


def test_sequence_numbers_go_round_and_skip_those_in_use():
    machine = Machine()
    machine.gh._next_sequence = 0xFFFD
    waiting = machine.kernel.submit(lambda: machine.gh.call(MSG, b"held", timeout_ns=100 * SECOND))
    machine.rm = silent_rm
    machine.run(seconds=0.01)
    machine.rm = good_rm
    for _ in range(2):
        machine.do(machine.gh.call, MSG)
    machine.gh._next_sequence = 0xFFFD
    machine.do(machine.gh.call, MSG)
    assert [Header.unpack(packet).seq for packet in machine.sent[-4:]] == [0xFFFD, 0xFFFE, 0, 0xFFFE]
    assert not waiting.done


def test_message_id_zero_is_refused():
    machine = Machine()
    with pytest.raises(OSError, match="no message id"):
        machine.do(machine.gh.call, 0)
