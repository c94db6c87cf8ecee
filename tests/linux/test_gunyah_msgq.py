import errno

import pytest

from gunyah.abi.profile import PUBLIC_2023, V4
from gunyah.linux.device import Device
from gunyah.linux.gunyah_msgq import GunyahMsgq, GunyahResource, MsgqTxData, ResourceKind
from gunyah.linux.mailbox import MboxClient

from .scripted import Machine, silent_rm

MSG = 0x5600_0042


def packets(count):
    return [b"\x21\x01" + bytes([i]) + bytes(9) for i in range(count)]


def send_all(machine, messages):
    """The messages of several clients at once, not waiting for each other."""
    kernel, gh = machine.kernel, machine.gh
    channel = gh._msgq.channel
    gh.client.tx_block = False
    for message in messages:
        kernel.mailbox.send_message(channel, MsgqTxData(message, True))


@pytest.mark.parametrize("depth", [1, 2, 3, 8])
def test_every_message_is_sent_exactly_once_and_in_order_whatever_the_depth(depth):
    machine = Machine(silent_rm, depth=depth)
    before = len(machine.sent)
    machine.do(send_all, machine, packets(18))
    machine.run(lambda: len(machine.sent) == before + 18, 1)
    machine.run(seconds=1)
    assert machine.sent[before:] == packets(18)


def test_sent_but_now_full_is_done_only_by_the_tx_interrupt():
    machine = Machine(silent_rm, depth=1)
    machine.stalled = True
    done = []
    machine.gh.client.tx_done = lambda message, status: done.append(status)
    machine.do(send_all, machine, packets(2))
    machine.run(seconds=1)
    assert done == []
    assert len(machine.to_rm) == 1
    machine.stalled = False
    machine.run(lambda: len(done) == 2, 1)
    assert done == [0, 0]


def test_a_stray_tx_interrupt_finishes_nothing():
    machine = Machine(silent_rm, depth=4)
    machine.stalled = True
    done = []
    machine.gh.client.tx_done = lambda message, status: done.append(status)
    machine.cpu.raise_irq(35)
    machine.run(seconds=0.1)
    assert done == []


@pytest.mark.parametrize(
    ("profile", "error", "number"),
    [
        (V4, 53, errno.EACCES),
        (V4, -1, errno.EINVAL),
        (PUBLIC_2023, -1, errno.EOPNOTSUPP),
        (PUBLIC_2023, 22, errno.EINVAL),
        (PUBLIC_2023, 10, errno.ENOMEM),
        (PUBLIC_2023, 999, errno.EINVAL),
    ],
)
def test_an_error_of_the_hypercall_reaches_the_caller_as_its_errno(profile, error, number):
    machine = Machine(profile=profile)
    machine.send_error = error
    with pytest.raises(OSError) as failure:
        machine.do(machine.gh.call, MSG)
    assert failure.value.errno == number
    machine.send_error = 0
    assert machine.do(machine.gh.call, MSG) == b""


def test_a_message_that_is_too_long_is_refused_by_the_driver():
    machine = Machine()
    with pytest.raises(OSError, match="241 bytes, at most 240") as failure:
        machine.do(lambda: machine.kernel.mailbox.send_message(machine.gh._msgq.channel, MsgqTxData(bytes(241))))
    assert failure.value.errno == errno.EMSGSIZE


def test_resources_of_the_wrong_kind_or_none_at_all_are_refused():
    machine = Machine()
    kernel = machine.kernel
    dev = Device("test")
    msgq = GunyahMsgq(kernel.services, kernel.mailbox, kernel.hypercalls, dev, 240)
    client = MboxClient(dev=dev)
    bell = GunyahResource(ResourceKind.BELL_TX, 1, 1)
    for tx, rx, words in ((None, None, "needs a TX or an RX"), (bell, None, "BELL_TX, not a MSGQ_TX")):
        with pytest.raises(OSError, match=words) as failure:
            machine.do(lambda tx=tx, rx=rx: msgq.init(client, tx, rx))
        assert failure.value.errno == errno.EINVAL


def test_a_queue_may_have_only_one_direction():
    machine = Machine()
    kernel = machine.kernel
    got = []
    dev = Device("test")
    msgq = GunyahMsgq(kernel.services, kernel.mailbox, kernel.hypercalls, dev, 240)
    irq = kernel.services.interrupts.map([0, 50, 1])
    rx = GunyahResource(ResourceKind.MSGQ_RX, 0x1111_0000_2222_0002, irq)
    machine.do(lambda: msgq.init(MboxClient(dev=dev, rx_callback=got.append), None, rx))
    machine.from_rm.append(b"hello")
    machine.cpu.raise_irq(82)
    machine.run(lambda: bool(got), 1)
    assert got == [b"hello"]
    msgq.channel.cl.tx_block = True
    with pytest.raises(OSError, match="1 bytes, at most 0 can be sent"):
        machine.do(lambda: kernel.mailbox.send_message(msgq.channel, MsgqTxData(b"x")))


def test_remove_gives_everything_back():
    machine = Machine()
    kernel = machine.kernel
    free = kernel.services.heap.free_bytes
    irqs = kernel.services.interrupts.text()
    dev = kernel.resource_managers[0].dev

    def cycle():
        kernel.sysfs.write("/sys/bus/platform/drivers/gh_rsc_mgr/unbind", dev.name.encode())
        assert not kernel.resource_managers and kernel.tty_names() == []
        assert kernel.services.heap.free_bytes > free
        assert "gh_msgq" not in kernel.services.interrupts.text()
        assert not {35, 36} & machine.cpu.enabled
        kernel.sysfs.write("/sys/bus/platform/drivers/gh_rsc_mgr/bind", dev.name.encode())

    tasks = None
    for _ in range(3):
        machine.do(cycle)
        machine.run(seconds=1)
        assert tasks in (None, len(kernel.scheduler.tasks))
        tasks = len(kernel.scheduler.tasks)
    assert kernel.services.heap.free_bytes == free
    assert [line.split()[-1] for line in irqs.splitlines()] == [
        line.split()[-1] for line in kernel.services.interrupts.text().splitlines()
    ]
    assert kernel.tty_names() == ["ttyGH0", "ttyGH1"]
    assert not kernel.oopses
