"""drivers/mailbox/mailbox.c: controllers, channels and clients, with direct binding of a channel (linux-drivers.md 7).

A channel has one client at a time and a queue of 20 messages, of which at most one is active: handed to the
controller's ``send_data`` and waiting for tx-done. Tx-done comes from the controller's interrupt, from the client
(ack), or by polling ``last_tx_done``. ``send_data`` runs with interrupts masked, as under the channel's lock, and
either takes the message or raises.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Flag, auto
from typing import Any

from gunyah.guest.fdt import FdtError, Node
from gunyah.guest.wait import Completion
from gunyah.linux.device import Device
from gunyah.linux.errno import ProbeDefer, error
from gunyah.linux.services import Services

__all__ = ["MBOX_TX_QUEUE_LEN", "Mailbox", "MboxChan", "MboxClient", "MboxController", "TxDone"]

MBOX_TX_QUEUE_LEN = 20
_DEFAULT_TIMEOUT_NS = 3_600_000_000_000
"""A blocking client without a time-out of its own waits an hour (linux-drivers.md 7)."""


class TxDone(Flag):
    """How a channel learns that a message is out (TXDONE_BY_IRQ, _POLL, _ACK)."""

    IRQ = auto()
    POLL = auto()
    ACK = auto()


class MboxController(ABC):
    """struct mbox_controller: subclasses are drivers and override the four hooks.

    ``dev`` is the device that owns it; ``txpoll_period_ns`` the interval of polling, when tx-done is found by polling.
    """

    txdone_irq = False
    txdone_poll = False
    txpoll_period_ns = 1_000_000

    def __init__(self, dev: Device, channels: int) -> None:
        self.dev = dev
        self.chans = [MboxChan(self, index) for index in range(channels)]

    @abstractmethod
    def send_data(self, chan: MboxChan, data: Any) -> None:
        """Send now, without blocking; raising BlockingIOError (EAGAIN) leaves the message queued for the next tx-
        done.
        """

    def startup(self, chan: MboxChan) -> None:
        """A client takes the channel; raises OSError to refuse."""

    def shutdown(self, chan: MboxChan) -> None:
        """The client has left the channel."""

    def last_tx_done(self, chan: MboxChan) -> bool:
        """Whether the active message is out (polling)."""
        return True

    def of_xlate(self, cells: list[int]) -> MboxChan:
        """The channel that the cells of a ``mboxes`` property name; raises OSError EINVAL."""
        if len(cells) != 1 or cells[0] >= len(self.chans):
            raise error(errno.EINVAL, f"mailbox {self.dev.name} has no channel {cells}")
        return self.chans[cells[0]]


@dataclass(slots=True, kw_only=True)
class MboxClient:
    """struct mbox_client. Callbacks may be called from tasklets: only ``rx_callback`` may block, if its controller
    says so.
    """

    dev: Device
    tx_block: bool = False
    tx_tout_ns: int | None = None
    knows_txdone: bool = False
    rx_callback: Callable[[Any], None] | None = None
    tx_prepare: Callable[[Any], None] | None = None
    tx_done: Callable[[Any, int], None] | None = None
    """tx_done(message, status): status 0 or a negative errno."""


@dataclass(slots=True, eq=False)
class MboxChan:
    """struct mbox_chan."""

    mbox: MboxController
    index: int
    cl: MboxClient | None = None
    queue: deque[Any] = field(default_factory=deque)
    active: Any = None
    txdone_method: TxDone = TxDone.ACK
    tx_complete: Completion | None = None
    status: int = 0
    refusal: OSError | None = None
    """Why the controller refused the last message, in its own words."""


class Mailbox:
    """The mailbox core of one kernel: the list of controllers and the operations on channels."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._controllers: list[MboxController] = []

    # -- controllers ---------------------------------------------------------------------------------------------------

    def controller_register(self, mbox: MboxController) -> None:
        """mbox_controller_register. Raises OSError EINVAL without channels."""
        if not mbox.chans:
            raise error(errno.EINVAL, f"mailbox {mbox.dev.name} has no channels")
        for chan in mbox.chans:
            chan.cl = None
            chan.txdone_method = self._method(mbox)
        self._controllers.append(mbox)

    def controller_unregister(self, mbox: MboxController) -> None:
        """mbox_controller_unregister: channels still in use are taken from their clients."""
        if mbox in self._controllers:
            self._controllers.remove(mbox)
            for chan in mbox.chans:
                self.free_channel(chan)

    @staticmethod
    def _method(mbox: MboxController) -> TxDone:
        if mbox.txdone_irq:
            return TxDone.IRQ
        return TxDone.POLL if mbox.txdone_poll else TxDone.ACK

    # -- clients -------------------------------------------------------------------------------------------------------

    def bind_client(self, chan: MboxChan, client: MboxClient) -> None:
        """mbox_bind_client: give a channel to a client without the device tree. Raises OSError EBUSY, or the start-up
        hook's.
        """
        if chan.cl is not None or chan.mbox not in self._controllers:
            self._services.log.debug(f"{client.dev.name}: mailbox {chan.mbox.dev.name} channel {chan.index} is busy")
            raise error(errno.EBUSY, f"mailbox {chan.mbox.dev.name} channel {chan.index} is busy or gone")
        chan.queue.clear()
        chan.active = None
        chan.cl = client
        chan.tx_complete = Completion(self._services.scheduler)
        if chan.txdone_method is TxDone.POLL and client.knows_txdone:
            chan.txdone_method = TxDone.ACK
        try:
            chan.mbox.startup(chan)
        except OSError as failure:
            self._services.log.err(f"{client.dev.name}: Unable to startup the chan ({failure.strerror})")
            self._release(chan)
            raise

    def request_channel(self, client: MboxClient, index: int) -> MboxChan:
        """mbox_request_channel: the ``index``-th channel of the client's ``mboxes`` property. Raises ProbeDefer,
        OSError.
        """
        node = client.dev.of_node
        if node is None or "mboxes" not in node:
            raise error(errno.ENODEV, f"{client.dev.name}: there is no mboxes property")
        phandle, cells = self._specifier(node, index)
        for mbox in self._controllers:
            owner = mbox.dev.of_node
            if owner is not None and "phandle" in owner and owner.u32("phandle") == phandle:
                chan = mbox.of_xlate(cells)
                self.bind_client(chan, client)
                return chan
        raise ProbeDefer(f"{client.dev.name}: no mailbox controller with phandle {phandle:#x} yet")

    def _specifier(self, node: Node, index: int) -> tuple[int, list[int]]:
        cells = node.cells("mboxes")
        tree = self._services.device_tree
        position = found = 0
        while position < len(cells):
            provider = tree.by_phandle(cells[position])
            if provider is None:
                raise FdtError(f"{node.path}: mboxes refers to phandle {cells[position]:#x}, which does not exist")
            count = provider.u32("#mbox-cells")
            if found == index:
                return cells[position], cells[position + 1 : position + 1 + count]
            position, found = position + 1 + count, found + 1
        raise error(errno.EINVAL, f"{node.path}: mboxes has {found} entries, entry {index} was asked for")

    def free_channel(self, chan: MboxChan) -> None:
        """mbox_free_channel: unsent messages are dropped, a blocked sender gets ESHUTDOWN. Nothing without a client."""
        if chan.cl is None:
            return
        chan.mbox.shutdown(chan)
        self._release(chan)

    def _release(self, chan: MboxChan) -> None:
        chan.cl = None
        chan.active = None
        chan.queue.clear()
        chan.txdone_method = self._method(chan.mbox)
        chan.status = -errno.ESHUTDOWN
        if chan.tx_complete is not None:
            chan.tx_complete.complete()

    # -- messages ------------------------------------------------------------------------------------------------------

    def send_message(self, chan: MboxChan, message: Any) -> None:
        """mbox_send_message: queue a message, and for a blocking client wait until it is out.

        Raises OSError: ENOBUFS when 20 messages wait, ETIME after the client's time-out, the status of tx-done,
        ESHUTDOWN.
        """
        client = chan.cl
        if client is None or message is None:
            raise error(errno.EINVAL, f"mailbox {chan.mbox.dev.name}: no client, or no message")
        if len(chan.queue) + (chan.active is not None) >= MBOX_TX_QUEUE_LEN:
            self._services.log.ratelimited(
                "mailbox", 4, lambda: f"{client.dev.name}: Try increasing MBOX_TX_QUEUE_LEN, {MBOX_TX_QUEUE_LEN} wait"
            )
            raise error(errno.ENOBUFS, f"mailbox {chan.mbox.dev.name}: {MBOX_TX_QUEUE_LEN} messages wait already")
        complete = chan.tx_complete
        chan.refusal = None
        if client.tx_block and complete is not None:
            complete.count = 0
        chan.queue.append(message)
        self._submit(chan)
        if not client.tx_block or complete is None:
            return
        timeout = client.tx_tout_ns if client.tx_tout_ns is not None else _DEFAULT_TIMEOUT_NS
        if not complete.count and not complete.wait(timeout):
            self._give_up(chan, message)
            raise error(errno.ETIME, f"mailbox {chan.mbox.dev.name}: not out after {timeout / 1e9:g} s")
        if chan.status:
            raise chan.refusal or error(-chan.status, f"mailbox {chan.mbox.dev.name}: the message could not be sent")

    def _give_up(self, chan: MboxChan, message: Any) -> None:
        """A time-out: the message must not be sent later, when nobody waits for its outcome."""
        if chan.active is message:
            self._tick(chan, -errno.ETIME)
        elif message in chan.queue:
            chan.queue.remove(message)

    def _submit(self, chan: MboxChan) -> None:
        """Hand the next message to the controller unless one is active."""
        client = chan.cl
        if chan.active is not None or not chan.queue or client is None:
            return
        cpu = self._services.cpu
        message = chan.queue[0]
        masked = cpu.irq_masked
        failure: OSError | None = None
        cpu.irq_masked = True
        try:
            if client.tx_prepare is not None:
                client.tx_prepare(message)
            chan.active = chan.queue.popleft()
            chan.mbox.send_data(chan, message)
        except BlockingIOError:
            # Not accepted: it goes out with the next tx-done tick.
            chan.active = None
            chan.queue.appendleft(message)
        except OSError as refused:
            failure = refused
        finally:
            cpu.irq_masked = masked
        if failure is not None:
            chan.refusal = failure
            self._tick(chan, -(failure.errno or errno.EIO))
            return
        if not masked:
            self._services.interrupts.run_tasklets()
        if chan.active is not None and chan.txdone_method is TxDone.POLL:
            self._services.scheduler.timers.after(chan.mbox.txpoll_period_ns, lambda: self._poll(chan))

    def _poll(self, chan: MboxChan) -> None:
        if chan.active is None or chan.cl is None:
            return
        if chan.mbox.last_tx_done(chan):
            self._tick(chan, 0)
        else:
            self._services.scheduler.timers.after(chan.mbox.txpoll_period_ns, lambda: self._poll(chan))

    def _tick(self, chan: MboxChan, status: int) -> None:
        """The active message is out (or failed with ``status``): start the next one, tell the client, wake its
        sender.
        """
        message, chan.active = chan.active, None
        client = chan.cl
        if message is not None and client is not None:
            chan.status = status
            if client.tx_done is not None:
                client.tx_done(message, status)
            if client.tx_block and chan.tx_complete is not None and status != -errno.ETIME:
                chan.tx_complete.complete()
        if chan.queue:
            self._submit(chan)

    def chan_txdone(self, chan: MboxChan, status: int) -> None:
        """mbox_chan_txdone: the controller says that the active message is out. Raises OSError EINVAL if it may not
        say so.
        """
        if chan.txdone_method is not TxDone.IRQ:
            raise error(errno.EINVAL, f"mailbox {chan.mbox.dev.name}: the controller can't run the TX ticker")
        self._tick(chan, status)

    def client_txdone(self, chan: MboxChan, status: int) -> None:
        """mbox_client_txdone: the client knows by its protocol. Raises OSError EINVAL if the channel isn't
        acknowledged so.
        """
        if chan.txdone_method is not TxDone.ACK:
            raise error(errno.EINVAL, f"mailbox {chan.mbox.dev.name}: the client can't run the TX ticker")
        self._tick(chan, status)

    def chan_received_data(self, chan: MboxChan, data: Any) -> None:
        """mbox_chan_received_data: hand what the controller received to the client."""
        client = chan.cl
        if client is not None and client.rx_callback is not None:
            client.rx_callback(data)
