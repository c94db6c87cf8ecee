import errno

import pytest

from gunyah.guest.dts import parse_dts
from gunyah.linux.device import Device
from gunyah.linux.errno import ProbeDefer
from gunyah.linux.mailbox import MBOX_TX_QUEUE_LEN, MboxClient, MboxController

from .scripted import Machine

MS = 1_000_000


class Postbox(MboxController):
    """A controller that records what it is given; the test says when a message is out."""

    def __init__(self, dev, channels=1):
        super().__init__(dev, channels)
        self.sent = []
        self.refuse = None
        self.log = []
        self.out = False

    def send_data(self, chan, data):
        if self.refuse is not None:
            raise self.refuse
        self.sent.append(data)

    def startup(self, chan):
        self.log.append("startup")
        if self.refuse is not None:
            raise self.refuse

    def shutdown(self, chan):
        self.log.append("shutdown")

    def last_tx_done(self, chan):
        return self.out


class ByIrq(Postbox):
    txdone_irq = True


class ByPolling(Postbox):
    txdone_poll = True


@pytest.fixture
def machine():
    return Machine()


@pytest.fixture
def dev():
    return Device("postbox")


def bound(machine, dev, kind=ByIrq, **options):
    box = kind(dev)
    client = MboxClient(dev=Device("client"), **options)
    machine.kernel.mailbox.controller_register(box)
    machine.kernel.mailbox.bind_client(box.chans[0], client)
    return box, box.chans[0], client


def test_one_message_is_active_and_the_next_goes_at_tx_done(machine, dev):
    done = []
    box, chan, _ = bound(machine, dev, tx_done=lambda message, status: done.append((message, status)))
    mailbox = machine.kernel.mailbox
    for word in ("a", "b", "c"):
        mailbox.send_message(chan, word)
    assert box.sent == ["a"]
    mailbox.chan_txdone(chan, 0)
    mailbox.chan_txdone(chan, -5)
    assert box.sent == ["a", "b", "c"]
    assert done == [("a", 0), ("b", -5)]
    assert "shutdown" not in box.log


def test_the_twenty_first_message_gets_enobufs(machine, dev):
    _, chan, _ = bound(machine, dev)
    for number in range(MBOX_TX_QUEUE_LEN):
        machine.kernel.mailbox.send_message(chan, number)
    with pytest.raises(OSError, match="20 messages wait") as failure:
        machine.kernel.mailbox.send_message(chan, "one more")
    assert failure.value.errno == errno.ENOBUFS


def test_a_message_that_is_refused_for_now_stays_queued_until_the_next_tick(machine, dev):
    box, chan, _ = bound(machine, dev)
    box.refuse = BlockingIOError(errno.EAGAIN, "later")
    machine.kernel.mailbox.send_message(chan, "a")
    assert box.sent == [] and chan.active is None
    box.refuse = None
    machine.kernel.mailbox.chan_txdone(chan, 0)
    assert box.sent == ["a"]


def test_a_blocking_sender_waits_for_tx_done_gets_its_status_or_etime(machine, dev):
    box, chan, client = bound(machine, dev, tx_block=True)
    mailbox, timers = machine.kernel.mailbox, machine.kernel.scheduler.timers

    def main():
        timers.after(5 * MS, lambda: mailbox.chan_txdone(chan, 0))
        mailbox.send_message(chan, "good")
        timers.after(5 * MS, lambda: mailbox.chan_txdone(chan, -errno.EIO))
        with pytest.raises(OSError, match="could not be sent") as failure:
            mailbox.send_message(chan, "bad")
        assert failure.value.errno == errno.EIO
        client.tx_tout_ns = 10 * MS
        with pytest.raises(OSError, match=r"not out after 0.01 s") as failure:
            mailbox.send_message(chan, "stuck")
        assert failure.value.errno == errno.ETIME
        timers.after(5 * MS, lambda: mailbox.chan_txdone(chan, 0))
        mailbox.send_message(chan, "next")

    machine.do(main)
    assert box.sent == ["good", "bad", "stuck", "next"]


def test_freeing_a_channel_ends_a_blocked_sender(machine, dev):
    box, chan, _ = bound(machine, dev, tx_block=True)

    def main():
        machine.kernel.scheduler.timers.after(5 * MS, lambda: machine.kernel.mailbox.free_channel(chan))
        with pytest.raises(OSError) as failure:
            machine.kernel.mailbox.send_message(chan, "a")
        assert failure.value.errno == errno.ESHUTDOWN

    machine.do(main)
    assert box.log == ["startup", "shutdown"]


def test_polling_finds_tx_done_and_a_client_that_knows_switches_it_to_ack(machine, dev):
    box, chan, _ = bound(machine, dev, ByPolling, tx_block=True)

    def main():
        machine.kernel.scheduler.timers.after(5 * MS, lambda: setattr(box, "out", True))
        machine.kernel.mailbox.send_message(chan, "polled")

    machine.do(main)
    with pytest.raises(OSError, match="can't run the TX ticker"):
        machine.kernel.mailbox.client_txdone(chan, 0)
    machine.kernel.mailbox.free_channel(chan)
    machine.kernel.mailbox.bind_client(chan, MboxClient(dev=dev, knows_txdone=True))
    machine.kernel.mailbox.send_message(chan, "a")
    machine.kernel.mailbox.send_message(chan, "b")
    machine.kernel.mailbox.client_txdone(chan, 0)
    assert box.sent == ["polled", "a", "b"]
    with pytest.raises(OSError, match="can't run the TX ticker"):
        machine.kernel.mailbox.chan_txdone(chan, 0)


def test_a_channel_has_one_client_and_a_failed_start_up_leaves_it_free(machine, dev):
    box, chan, client = bound(machine, dev)
    mailbox = machine.kernel.mailbox
    with pytest.raises(OSError, match="busy") as failure:
        mailbox.bind_client(chan, client)
    assert failure.value.errno == errno.EBUSY
    mailbox.free_channel(chan)
    box.refuse = OSError(errno.EIO, "no")
    with pytest.raises(OSError, match="no"):
        mailbox.bind_client(chan, client)
    assert chan.cl is None
    box.refuse = None
    mailbox.bind_client(chan, client)


def test_a_client_finds_its_channel_through_the_device_tree_or_waits_for_the_controller(machine):
    tree = parse_dts(
        "/ { box: a { #mbox-cells = <1>; }; one: c { #mbox-cells = <0>; };"
        " b { mboxes = <&one>, <&box 1>, <&box 7>; }; };"
    )
    machine.kernel.services.device_tree = tree
    client = MboxClient(dev=Device("client", of_node=tree.node("/b")))
    mailbox = machine.kernel.mailbox
    with pytest.raises(ProbeDefer):
        mailbox.request_channel(client, 1)
    box = ByIrq(Device("box", of_node=tree.node("/a")), channels=2)
    mailbox.controller_register(box)
    assert mailbox.request_channel(client, 1) is box.chans[1]
    with pytest.raises(OSError, match="no channel"):
        mailbox.request_channel(client, 2)
    with pytest.raises(OSError, match="3 entries, entry 3"):
        mailbox.request_channel(client, 3)
