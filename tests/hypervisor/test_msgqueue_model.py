"""Message queues never lose, duplicate or reorder, and interrupt exactly when the sheet says (objects.md 8)."""

from __future__ import annotations

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.hypervisor.root_rig import SCRATCH, RootRig

from gunyah.abi.errors import Error
from gunyah.hypervisor.virq import VirqSource

BUFFER = SCRATCH + 0x1000
SIZE = 24


class Recorder(VirqSource):
    """A source that counts what a queue does to it."""

    __slots__ = ("asserted", "cleared")

    def __init__(self, source: VirqSource) -> None:
        super().__init__(source.owner, source.name, source.still_pending)
        self.asserted = self.cleared = 0

    def assert_(self, *, edge_only: bool = False) -> None:
        self.asserted += 1

    def clear(self) -> None:
        self.cleared += 1


class QueueMachine(RuleBasedStateMachine):
    """One queue against a deque and the two threshold rules."""

    @initialize(depth=st.integers(1, 6))
    def start(self, depth: int) -> None:
        self.rig = RootRig()
        self.depth = depth
        self.queue = self.rig.active("msgqueue", SIZE << 16 | depth)
        self.object = self.rig.root.cspace.capability(self.queue).object
        self.sender = self.object.send_source = Recorder(self.object.send_source)  # type: ignore[attr-defined]
        self.receiver = self.object.receive_source = Recorder(self.object.receive_source)  # type: ignore[attr-defined]
        self.model: deque[bytes] = deque()
        self.not_full = depth - 1
        self.not_empty = 1
        self.counter = 0
        self.expected = [0, 0]

    @rule(size=st.integers(1, SIZE), push=st.booleans())
    def send(self, size: int, push: bool) -> None:
        self.counter += 1
        message = (self.counter.to_bytes(4, "little") * 6)[:size]
        self.rig.root.addrspace.write(SCRATCH, message)
        answer = self.rig.call("msgqueue_send", self.queue, size, SCRATCH, int(push))
        if len(self.model) == self.depth:
            assert (answer.error, answer.results) == (Error.MSGQUEUE_FULL, (0,))
            return
        self.model.append(message)
        assert (answer.error, answer.results) == (0, (int(len(self.model) < self.depth),))
        if push or len(self.model) == self.not_empty:
            self.expected[1] += 1

    @rule(room=st.integers(0, SIZE))
    def receive(self, room: int) -> None:
        answer = self.rig.call("msgqueue_receive", self.queue, BUFFER, room)
        if not self.model:
            assert (answer.error, answer.results) == (Error.MSGQUEUE_EMPTY, (0, 0))
        elif len(self.model[0]) > room:
            assert (answer.error, answer.results) == (0, (0, 1))
        else:
            message = self.model.popleft()
            assert (answer.error, answer.results) == (0, (len(message), int(bool(self.model))))
            assert self.rig.root.addrspace.read(BUFFER, len(message)) == message
            if len(self.model) == self.not_full:
                self.expected[0] += 1

    @rule()
    def flush(self) -> None:
        assert self.rig.call("msgqueue_flush", self.queue).ok
        if self.model:
            self.expected[0] += 1
            self.model.clear()

    @rule(threshold=st.integers(0, 7))
    def set_not_full(self, threshold: int) -> None:
        answer = self.rig.call("msgqueue_configure_send", self.queue, threshold, 0xFFFF_FFFF)
        if threshold >= self.depth:
            assert answer.error == Error.ARGUMENT_INVALID
            return
        self.not_full = threshold
        if len(self.model) <= threshold:
            self.expected[0] += 1

    @rule(threshold=st.sampled_from([0, 1, 2, 3, 6, 7, 0xFFFF_FFFE, 0xFFFF_FFFF]))
    def set_not_empty(self, threshold: int) -> None:
        answer = self.rig.call("msgqueue_configure_receive", self.queue, threshold, 0xFFFF_FFFF)
        if threshold == 0xFFFF_FFFF:
            assert answer.ok
        elif threshold == 0xFFFF_FFFE:
            self.not_empty = self.depth
        elif not 0 < threshold <= self.depth:
            assert answer.error == Error.ARGUMENT_INVALID
        else:
            self.not_empty = threshold
            if len(self.model) >= threshold:
                self.expected[1] += 1

    @invariant()
    def interrupts_are_exactly_those_of_the_sheet(self) -> None:
        if hasattr(self, "rig"):
            assert [self.sender.asserted, self.receiver.asserted] == self.expected
            assert self.sender.still_pending() == (len(self.model) <= self.not_full)
            assert self.receiver.still_pending() == (len(self.model) >= self.not_empty)


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=30, stateful_step_count=50, deadline=None)


def test_a_message_from_device_memory_is_refused_and_the_queue_goes_on() -> None:
    rig = RootRig()
    queue = rig.active("msgqueue", 240 << 16 | 8)
    device = rig.root.capabilities["uart_me_capid"]
    window = 0x2_0000_0000
    attributes = 0x6 | 0x6 << 4 | 0x1 << 16
    assert rig.call("addrspace_map", rig.addrspace, device, window, attributes, 0, 0, 0).ok
    assert rig.call("msgqueue_send", queue, 8, window, 0).error == Error.ADDR_INVALID
    assert rig.call("msgqueue_send", queue, 8, SCRATCH, 0).ok
    assert rig.call("msgqueue_receive", queue, window, 240).error == Error.ADDR_INVALID
    assert rig.call("msgqueue_receive", queue, SCRATCH, 240).results == (8, 0)


def test_a_buffer_may_cross_pages() -> None:
    rig = RootRig()
    queue = rig.active("msgqueue", 240 << 16 | 8)
    edge = SCRATCH + 0x1000 - 100
    message = bytes(range(240))
    rig.root.addrspace.write(edge, message)
    assert rig.call("msgqueue_send", queue, 240, edge, 0).ok
    assert rig.call("msgqueue_receive", queue, edge + 0x2000, 240).results == (240, 0)
    assert rig.root.addrspace.read(edge + 0x2000, 240) == message
