"""drivers/mailbox/gunyah-msgq.c: a pair of Gunyah message queues as a mailbox controller with one channel
(linux-drivers.md 9).

Send: "sent, room left" is tx-done at once, through a tasklet, as the mailbox core wants it after ``send_data``; "sent,
now full" is accepted and tx-done comes with the TX interrupt; "full" leaves the message queued for that interrupt. So
no message is sent twice. Receive: a threaded handler takes messages until the queue is empty. Remove undoes all of
init.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import IntEnum

from gunyah.abi.errors import Error
from gunyah.abi.msgqueue import SEND_PUSH
from gunyah.guest.heap import OutOfMemory
from gunyah.linux.device import Device
from gunyah.linux.errno import error
from gunyah.linux.hypercall import GunyahHypercalls
from gunyah.linux.interrupt import Tasklet
from gunyah.linux.mailbox import Mailbox, MboxChan, MboxClient, MboxController
from gunyah.linux.services import Services

__all__ = ["GunyahMsgq", "GunyahResource", "MsgqTxData", "ResourceKind"]

_OK = int(Error.OK)
_FULL = int(Error.MSGQUEUE_FULL)
_EMPTY = int(Error.MSGQUEUE_EMPTY)


class ResourceKind(IntEnum):
    """enum gunyah_resource_type: the numbers of RM's resource lists (rm-rpc.md 4.9)."""

    BELL_TX = 0
    BELL_RX = 1
    MSGQ_TX = 2
    MSGQ_RX = 3
    VCPU = 4


@dataclass(frozen=True, slots=True)
class GunyahResource:
    """struct gunyah_resource: a capability with its Linux interrupt."""

    type: ResourceKind
    capid: int
    irq: int


@dataclass(slots=True, eq=False)
class MsgqTxData:
    """struct gunyah_msgq_tx_data: what a client sends. Data that is received is plain bytes, valid for ever."""

    data: bytes
    push: bool = False


class GunyahMsgq(MboxController):
    """struct gunyah_msgq. ``max_message`` is the most bytes one message has, in either direction."""

    txdone_irq = True

    def __init__(
        self, services: Services, mailbox: Mailbox, hypercalls: GunyahHypercalls, dev: Device, max_message: int
    ) -> None:
        super().__init__(dev, 1)
        self._services = services
        self.mailbox = mailbox
        self._hypercalls = hypercalls
        self.max_message = max_message
        self._tx: GunyahResource | None = None
        self._rx: GunyahResource | None = None
        self._wait_for_irq = False
        self._status = 0
        self._txdone = Tasklet(services.interrupts, self._txdone_tasklet)
        self._tx_address = 0
        self._rx_address = 0

    @property
    def channel(self) -> MboxChan:
        """The controller's only channel."""
        return self.chans[0]

    def init(self, client: MboxClient, tx: GunyahResource | None, rx: GunyahResource | None) -> None:
        """gunyah_msgq_init: take interrupts and buffers and bind the channel to ``client``; either direction may be
        missing.

        Raises OSError: EINVAL for no or wrong resources, ENOMEM, EBUSY. What was taken is given back then, in reverse
        order.
        """
        if tx is None and rx is None:
            raise error(errno.EINVAL, f"{self.dev.name}: a message queue needs a TX or an RX resource")
        for resource, kind in ((tx, ResourceKind.MSGQ_TX), (rx, ResourceKind.MSGQ_RX)):
            if resource is not None and resource.type is not kind:
                raise error(errno.EINVAL, f"{self.dev.name}: resource is a {resource.type.name}, not a {kind.name}")
        dev, interrupts = self.dev, self._services.interrupts
        self._tx, self._rx = tx, rx
        try:
            if tx is not None:
                self._tx_address = self._buffer(dev)
                interrupts.request_irq(tx.irq, self._tx_irq, "gh_msgq_tx")
                dev.on_release(lambda: interrupts.free_irq(tx.irq))
            if rx is not None:
                self._rx_address = self._buffer(dev)
                interrupts.request_threaded_irq(rx.irq, self._receive, "gh_msgq_rx")
                dev.on_release(lambda: interrupts.free_irq(rx.irq))
            dev.on_release(self._txdone.kill)
            self.mailbox.controller_register(self)
            dev.on_release(lambda: self.mailbox.controller_unregister(self))
            self.mailbox.bind_client(self.channel, client)
        except OutOfMemory as failure:
            raise error(errno.ENOMEM, str(failure)) from None

    def _buffer(self, dev: Device) -> int:
        buffer = self._services.heap.allocate(self.max_message)
        dev.on_release(buffer.free)
        return buffer.address

    # -- send ----------------------------------------------------------------------------------------------------------

    def send_data(self, chan: MboxChan, data: MsgqTxData) -> None:
        """msgq_send of one message; runs with interrupts masked."""
        tx = self._tx
        payload = data.data
        if tx is None or len(payload) > self.max_message:
            limit = self.max_message if tx is not None else 0
            raise error(errno.EMSGSIZE, f"{self.dev.name}: {len(payload)} bytes, at most {limit} can be sent")
        self._services.cpu.write(self._tx_address, payload)
        flags = SEND_PUSH if data.push else 0
        result, ready = self._hypercalls.msgq_send(tx.capid, len(payload), self._tx_address, flags)
        if result == _FULL:
            self._wait_for_irq = True
            raise error(errno.EAGAIN, f"{self.dev.name}: the queue is full")
        self._wait_for_irq = result == _OK and not ready
        if not self._wait_for_irq:
            self._status = -self._hypercalls.remap_error(result)
            self._txdone.schedule()

    def _txdone_tasklet(self) -> None:
        self.mailbox.chan_txdone(self.channel, self._status)

    def _tx_irq(self) -> None:
        """There is room again. Only a message that waits for this is done by it."""
        if self._wait_for_irq:
            self._wait_for_irq = False
            self.mailbox.chan_txdone(self.channel, 0)

    # -- receive -------------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        rx = self._rx
        assert rx is not None
        msgq_recv, read = self._hypercalls.msgq_recv, self._services.cpu.read
        received = self.mailbox.chan_received_data
        capid, address, size, chan = rx.capid, self._rx_address, self.max_message, self.channel
        more = True
        while more and chan.cl is not None:
            result, length, more = msgq_recv(capid, address, size)
            if result:
                if result != _EMPTY:
                    self._complain(self._hypercalls.remap_error(result))
                return
            received(chan, read(address, min(length, size)))

    def _complain(self, number: int) -> None:
        text = f"{self.dev.name}: failed to receive data from msgq: -{number}"
        self._services.log.ratelimited("gh_msgq_rx", 4, lambda: text)
