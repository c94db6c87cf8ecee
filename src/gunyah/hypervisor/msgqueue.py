"""Message queues: bounded FIFOs of messages copied in and out of VM memory (objects.md 8, hypercalls.md 3.10).

The error path is the recorded one (reference.md 5): a message of size 0 or too large, or a buffer that does not
translate, is answered OK and nothing is queued or taken; the sentence goes to the instruments so that a person sees
it. Only a buffer in device memory, which takes the reference down, is refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from gunyah.abi.errors import Error
from gunyah.abi.objects import ObjectType
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.objects import KernelObject
from gunyah.hypervisor.stage2 import Stage2Fault
from gunyah.hypervisor.virq import VirqSource

if TYPE_CHECKING:
    from gunyah.hypervisor.hypercall import Handler
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.partition import Partition
    from gunyah.hypervisor.vcpu import Vcpu
    from gunyah.hypervisor.vic import Vic

__all__ = ["HANDLERS", "MAX_DEPTH", "MAX_SIZE", "MsgQueue"]

MAX_DEPTH = 255
MAX_SIZE = 1023
UNCHANGED = 0xFFFF_FFFF
THRESHOLD_MAXIMUM = 0xFFFF_FFFE

_EMPTY = int(Error.MSGQUEUE_EMPTY)
_FULL = int(Error.MSGQUEUE_FULL)


class MsgQueue(KernelObject):
    """msgqueue_t: ``depth`` messages of at most ``max_size`` bytes each."""

    type = ObjectType.MSGQUEUE
    heap_size = 384

    def __init__(self, partition: Partition | None) -> None:
        super().__init__(partition)
        self.depth = 0
        self.max_size = 0
        self.not_full_threshold = 0
        self.not_empty_threshold = 1
        self.messages: deque[bytes] = deque()
        # Positions in the queue's stream: they name a message for the instruments.
        self.sent = 0
        self.taken_count = 0
        self.send_source = VirqSource(self, "msgqueue send", self._not_full)
        self.receive_source = VirqSource(self, "msgqueue receive", self._not_empty)

    def _not_full(self) -> bool:
        return len(self.messages) <= self.not_full_threshold

    def _not_empty(self) -> bool:
        return len(self.messages) >= self.not_empty_threshold

    # -- configuration -------------------------------------------------------------------------------------------------

    def configure(self, info: int) -> None:
        """Set depth (bits 15:0) and message size (bits 31:16); ARGUMENT_INVALID outside 1..255 and 1..1023."""
        depth = info & 0xFFFF
        size = info >> 16 & 0xFFFF
        if not 0 < depth <= MAX_DEPTH:
            raise HypervisorError(
                Error.ARGUMENT_INVALID, f"{self}: a depth of {depth} messages is not in 1..{MAX_DEPTH}"
            )
        if not 0 < size <= MAX_SIZE:
            raise HypervisorError(
                Error.ARGUMENT_INVALID, f"{self}: a message size of {size} bytes is not in 1..{MAX_SIZE}"
            )
        self.depth = depth
        self.max_size = size

    def _activate(self) -> None:
        if self.depth == 0:
            raise HypervisorError(Error.OBJECT_CONFIG, f"{self} has no depth and message size")
        if self.partition is not None:
            self.partition.charge(self, self.depth * self.max_size)
        self.not_full_threshold = self.depth - 1

    def _deactivate(self) -> None:
        self.send_source.unbind()
        self.receive_source.unbind()
        self.messages.clear()

    def configure_send(self, threshold: int) -> None:
        """Set the not-full threshold (count_t, -1 keeps it) and evaluate the send interrupt again."""
        if threshold == UNCHANGED:
            return
        if threshold >= self.depth:
            raise HypervisorError(
                Error.ARGUMENT_INVALID,
                f"{self}: a not-full threshold of {threshold} is not below the depth {self.depth}",
            )
        self.not_full_threshold = threshold
        if self._not_full():
            self.send_source.assert_()
        else:
            self.send_source.clear()

    def configure_receive(self, threshold: int) -> None:
        """Set the not-empty threshold (count_t, -1 keeps it, -2 = depth, which is only stored) and evaluate the
        interrupt again.
        """
        if threshold == UNCHANGED:
            return
        if threshold == THRESHOLD_MAXIMUM:
            self.not_empty_threshold = self.depth
            return
        if not 0 < threshold <= self.depth:
            raise HypervisorError(
                Error.ARGUMENT_INVALID, f"{self}: a not-empty threshold of {threshold} is not in 1..{self.depth}"
            )
        self.not_empty_threshold = threshold
        if self._not_empty():
            self.receive_source.assert_()
        else:
            self.receive_source.clear()

    # -- data ----------------------------------------------------------------------------------------------------------

    def push(self, message: bytes, now: bool) -> bool:
        """Queue a message; ``now`` is the push flag. True while the queue can take more. The caller has checked for
        room.
        """
        messages = self.messages
        messages.append(message)
        self.sent += 1
        count = len(messages)
        if now or count == self.not_empty_threshold:
            self.receive_source.assert_()
        return count < self.depth

    def taken(self) -> bool:
        """Drop the oldest message, which has been copied out; True while messages remain."""
        messages = self.messages
        messages.popleft()
        self.taken_count += 1
        count = len(messages)
        if count == self.not_full_threshold:
            self.send_source.assert_()
        return count > 0

    def flush(self) -> None:
        """Drop all messages; if there were any, the sender is told and the receiver's interrupt lowered."""
        if self.messages:
            self.taken_count += len(self.messages)
            self.messages.clear()
            self.send_source.assert_()
            self.receive_source.clear()


def msgqueue_bind_send_virq(hv: Hypervisor, vcpu: Vcpu, queue: MsgQueue, vic: Vic, virq: int) -> None:
    """hypercalls.md 3.10, 0x6017."""
    vic.bind_shared(queue.send_source, virq)


def msgqueue_bind_receive_virq(hv: Hypervisor, vcpu: Vcpu, queue: MsgQueue, vic: Vic, virq: int) -> None:
    """hypercalls.md 3.10, 0x6018."""
    vic.bind_shared(queue.receive_source, virq)


def msgqueue_unbind_send_virq(hv: Hypervisor, vcpu: Vcpu, queue: MsgQueue) -> None:
    """hypercalls.md 3.10, 0x6019."""
    queue.send_source.unbind()


def msgqueue_unbind_receive_virq(hv: Hypervisor, vcpu: Vcpu, queue: MsgQueue) -> None:
    """hypercalls.md 3.10, 0x601A."""
    queue.receive_source.unbind()


def _buffer_refused(hv: Hypervisor, vcpu: Vcpu, queue: MsgQueue, fault: Stage2Fault) -> None:
    if fault.kind == "device":
        raise HypervisorError(Error.ADDR_INVALID, f"{queue}: the buffer is in device memory: {fault}") from None
    hv.remark(vcpu, f"{queue}: message dropped: {fault}")


def msgqueue_send(hv: Hypervisor, vcpu: Vcpu, queue: MsgQueue, size: int, data: int, flags: int) -> tuple[int] | int:
    """hypercalls.md 3.10, 0x601B: ``data`` is a VA of the caller; result bool not_full."""
    if len(queue.messages) >= queue.depth:
        return _FULL
    if not 0 < size <= queue.max_size:
        hv.remark(vcpu, f"{queue}: message of {size} bytes dropped, sizes are 1..{queue.max_size}")
        return (1,)
    try:
        message = vcpu.copy_in(data, size)
    except Stage2Fault as fault:
        _buffer_refused(hv, vcpu, queue, fault)
        return (1,)
    more = queue.push(message, flags & 1 != 0)
    if hv.instruments:
        hv.message_sent(vcpu, queue, message)
    return (1,) if more else (0,)


def msgqueue_receive(hv: Hypervisor, vcpu: Vcpu, queue: MsgQueue, buffer: int, size: int) -> tuple[int, int] | int:
    """hypercalls.md 3.10, 0x601C: ``buffer`` is a VA of the caller; results size_t bytes, bool not_empty."""
    messages = queue.messages
    if not messages:
        return _EMPTY
    message = messages[0]
    if len(message) > size:
        hv.remark(vcpu, f"{queue}: message of {len(message)} bytes kept, the buffer has {size}")
        return (0, 1)
    try:
        vcpu.copy_out(buffer, message)
    except Stage2Fault as fault:
        _buffer_refused(hv, vcpu, queue, fault)
        return (0, 1)
    more = queue.taken()
    if hv.instruments:
        hv.message_received(vcpu, queue, message)
    return (len(message), 1 if more else 0)


def msgqueue_flush(hv: Hypervisor, vcpu: Vcpu, queue: MsgQueue) -> None:
    """hypercalls.md 3.10, 0x601D."""
    queue.flush()


def _no_delay(delay: int) -> None:
    if delay != UNCHANGED:
        raise HypervisorError(Error.UNIMPLEMENTED, f"a delay of {delay:#x} microseconds: delays are not implemented")


def msgqueue_configure_send(hv: Hypervisor, vcpu: Vcpu, queue: MsgQueue, threshold: int, delay: int) -> None:
    """hypercalls.md 3.10, 0x601F."""
    _no_delay(delay)
    queue.configure_send(threshold)


def msgqueue_configure_receive(hv: Hypervisor, vcpu: Vcpu, queue: MsgQueue, threshold: int, delay: int) -> None:
    """hypercalls.md 3.10, 0x6020."""
    _no_delay(delay)
    queue.configure_receive(threshold)


def msgqueue_configure(hv: Hypervisor, vcpu: Vcpu, queue: MsgQueue, info: int) -> None:
    """hypercalls.md 3.10, 0x6021."""
    queue.configure(info)


HANDLERS: Mapping[str, Handler] = {
    "msgqueue_bind_send_virq": msgqueue_bind_send_virq,
    "msgqueue_bind_receive_virq": msgqueue_bind_receive_virq,
    "msgqueue_unbind_send_virq": msgqueue_unbind_send_virq,
    "msgqueue_unbind_receive_virq": msgqueue_unbind_receive_virq,
    "msgqueue_send": msgqueue_send,
    "msgqueue_receive": msgqueue_receive,
    "msgqueue_flush": msgqueue_flush,
    "msgqueue_configure_send": msgqueue_configure_send,
    "msgqueue_configure_receive": msgqueue_configure_receive,
    "msgqueue_configure": msgqueue_configure,
}
