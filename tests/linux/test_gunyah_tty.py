import errno
from collections import deque

import pytest

from gunyah.abi.profile import PUBLIC_2023, V4
from gunyah.abi.rm import ConsoleWrite, Header, MessageId, MessageType, NotificationId
from gunyah.guest.tasks import Interrupted
from gunyah.linux.gunyah_tty import FIFO_SIZE, MAX_PORTS
from gunyah.linux.termios import VMIN, VTIME

from .scripted import TREE, Machine, reply_to

OWN = 45
CHARS = NotificationId.VM_CONSOLE_CHARS
OPEN, CLOSE, WRITE = MessageId.VM_CONSOLE_OPEN, MessageId.VM_CONSOLE_CLOSE, MessageId.VM_CONSOLE_WRITE


def chars(vmid, data):
    return Header(MessageType.NOTIFICATION, CHARS).pack() + ConsoleWrite(vmid, data).pack()


class LoopbackRm:
    """RM's console service for a VM that is its own console's owner (rm-behaviour.md 8.2)."""

    def __init__(self, write_error=0):
        self.open = set()
        self.write_error = write_error
        self.log = []

    def __call__(self, packet):
        header = Header.unpack(packet)
        if header.msg_id == MessageId.VM_GET_VMID:
            return [reply_to(packet, OWN.to_bytes(4, "little"))]
        vmid = int.from_bytes(packet[8:10], "little")
        self.log.append((MessageId(header.msg_id), vmid))
        if header.msg_id == OPEN:
            self.open.add(vmid)
        elif header.msg_id == CLOSE:
            self.open.discard(vmid)
        elif header.msg_id == WRITE:
            if self.write_error:
                return [reply_to(packet, error=self.write_error)]
            if self.open == {0, OWN}:
                payload = ConsoleWrite.unpack(packet[8:])
                return [chars(OWN if vmid == 0 else 0, payload.data), reply_to(packet)]
        return [reply_to(packet)]


@pytest.fixture(params=[V4, PUBLIC_2023], ids=lambda profile: profile.name)
def machine(request):
    return Machine(LoopbackRm(), profile=request.param)


def pair(machine):
    def opener():
        files = machine.kernel.open_tty("ttyGH0"), machine.kernel.open_tty("ttyGH1")
        for file in files:
            file.set_raw()
        return files

    return machine.do(opener)


def test_ports_are_self_and_the_own_vmid(machine):
    assert machine.kernel.tty_names() == ["ttyGH0", "ttyGH1"]
    read = machine.kernel.sysfs.read
    assert read("/sys/class/tty/ttyGH0/vmid") == b"self\n"
    assert read("/sys/class/tty/ttyGH1/vmid") == b"45\n"
    assert read("/sys/class/tty/ttyGH1/dev").endswith(b":1\n")


def test_bytes_written_to_one_end_come_out_of_the_other(machine):
    gh0, gh1 = pair(machine)
    data = bytes(range(256)) * 9
    machine.kernel.submit(gh0.write, data)
    assert machine.do(lambda: b"".join(iter(lambda: gh1.read(4096, 1_000_000), b""))) == data
    machine.kernel.submit(gh1.write, data[::-1])
    assert machine.do(lambda: b"".join(iter(lambda: gh0.read(4096, 1_000_000), b""))) == data[::-1]
    assert max(map(len, machine.sent)) == machine.gh.message_size


def test_console_is_opened_by_the_first_and_closed_by_the_last_user_but_self_stays_open(machine):
    machine.rm.log.clear()

    def main():
        first = machine.kernel.open_tty("ttyGH1")
        second = machine.kernel.open_tty("ttyGH1")
        first.close()
        second.write(b"still open")
        second.close()
        with machine.kernel.open_tty("ttyGH0"):
            pass
        with machine.kernel.open_tty("ttyGH0"):
            pass

    machine.do(main)
    assert machine.rm.log == [(OPEN, OWN), (WRITE, OWN), (CLOSE, OWN), (OPEN, 0)]


def test_a_failed_open_is_an_error_and_may_be_tried_again(machine):
    rm = machine.rm
    machine.rm = lambda packet: [reply_to(packet, error=3)]
    with pytest.raises(OSError, match="VM_CONSOLE_OPEN: RM answered DENIED"):
        machine.do(machine.kernel.open_tty, "ttyGH1")
    machine.rm = rm
    machine.do(machine.kernel.open_tty, "ttyGH1")


def test_a_slow_reader_stops_the_writer_and_loses_nothing(machine):
    gh0, gh1 = pair(machine)
    data = bytes(i * 31 & 0xFF for i in range(50_000))
    writer = machine.kernel.submit(gh0.write, data)
    machine.run(lambda: writer.done, 5)
    assert not writer.done
    assert gh0.poll() == (False, False)
    sent = sum(len(packet) for packet in machine.sent)
    machine.run(seconds=60)
    assert sum(len(packet) for packet in machine.sent) == sent
    # The other direction is not held up by this one.
    assert machine.do(gh1.write, b"meanwhile") == 9
    assert machine.do(gh0.read, 100) == b"meanwhile"
    got = machine.do(lambda: b"".join(gh1.read(1000) for _ in range(50)))
    while len(got) < len(data):
        got += machine.do(gh1.read, 4096)
    assert got == data
    assert machine.run(lambda: writer.done, 1)
    port = machine.kernel.tty._port("ttyGH1")
    assert port.overruns == 0


def test_a_reader_that_leaves_lets_the_writer_go_on(machine):
    gh0, gh1 = pair(machine)
    writer = machine.kernel.submit(gh0.write, bytes(30_000))
    machine.run(lambda: writer.done, 1)
    assert not writer.done
    machine.do(gh1.close)
    assert machine.run(lambda: writer.done, 5)
    machine.do(gh0.tcdrain)
    assert machine.do(lambda: machine.kernel.open_tty("ttyGH1").read(10, 1000)) == b""


def test_a_non_blocking_file_takes_what_fits_and_then_says_eagain(machine):
    def main():
        file = machine.kernel.open_tty("ttyGH0", nonblock=True)
        file.set_raw()
        machine.stalled = True
        assert file.write(bytes(5000)) == FIFO_SIZE
        with pytest.raises(BlockingIOError):
            file.write(b"x")
        with pytest.raises(BlockingIOError):
            file.read(1)

    machine.do(main)


def test_the_last_close_waits_for_what_was_written(machine):
    gh0, gh1 = pair(machine)
    before = len(machine.rm.log)
    machine.do(lambda: (gh0.write(b"x" * 600), gh0.close()))
    assert machine.rm.log[before:].count((WRITE, 0)) == -(-600 // (machine.gh.message_size - 12))
    assert machine.do(gh1.read, 4096) == b"x" * 600


def test_hang_up_ends_readers_and_writers_and_a_new_open_works(machine):
    gh0, gh1 = pair(machine)
    reader = machine.kernel.submit(gh0.read, 10)
    writer = machine.kernel.submit(gh0.write, bytes(100_000))
    machine.run(seconds=1)
    assert not reader.done and not writer.done
    machine.rm.log.clear()
    machine.do(gh0.hangup)
    machine.do(gh1.hangup)
    assert machine.run(lambda: reader.done and writer.done, 5)
    assert machine.rm.log[-1] == (CLOSE, OWN)
    assert 0 < writer.result() < 100_000
    with pytest.raises(OSError, match="ttyGH0 was hung up") as failure:
        machine.do(gh0.write, b"more")
    assert failure.value.errno == errno.EIO
    assert machine.do(gh1.read, 10) == b""
    machine.do(gh1.close)
    machine.do(gh0.close)
    new0, new1 = pair(machine)
    machine.do(new0.write, b"again")
    assert machine.do(new1.read, 10).endswith(b"again")


def test_unbinding_the_driver_hangs_up_and_rebinding_brings_the_terminals_back(machine):
    _gh0, gh1 = pair(machine)
    kernel = machine.kernel
    reader = kernel.submit(gh1.read, 10)
    machine.run(seconds=0.1)
    name = b"gunyah_rsc_mgr.console.0"
    machine.do(kernel.sysfs.write, "/sys/bus/auxiliary/drivers/gunyah_tty/unbind", name)
    assert machine.run(lambda: reader.done, 1) and reader.result() == b""
    assert kernel.tty_names() == []
    assert machine.rm.open == set()
    with pytest.raises(OSError, match="there is no terminal ttyGH0"):
        machine.do(kernel.open_tty, "ttyGH0")
    machine.inject(chars(OWN, b"nobody"))
    machine.do(kernel.sysfs.write, "/sys/bus/auxiliary/drivers/gunyah_tty/bind", name)
    assert kernel.tty_names() == ["ttyGH0", "ttyGH1"]
    new0, new1 = pair(machine)
    machine.do(new0.write, b"again")
    assert machine.do(new1.read, 10) == b"again"
    assert not kernel.oopses


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x2d", b"\x2d\0\x01", b"\x2d\0\x05\0abc", b"\x2d\0\x01\0abc", b"\xff\xff\x01\0a", b"\x2d\0\0\0"],
)
def test_a_malformed_notification_changes_nothing(machine, payload):
    _gh0, gh1 = pair(machine)
    machine.inject(Header(MessageType.NOTIFICATION, CHARS).pack() + payload)
    machine.inject(chars(OWN, b"good"))
    assert machine.do(gh1.read, 100) == b"good"
    assert not machine.kernel.oopses


def test_more_than_fits_is_counted_as_overrun_not_as_memory(machine):
    _gh0, _gh1 = pair(machine)
    for _ in range(400):
        machine.inject(chars(OWN, bytes(228)))
    machine.run(seconds=1)
    port = machine.kernel.tty._port("ttyGH1")
    assert port.overruns > 0
    assert len(port.flip) <= 65_536


def test_a_write_that_rm_refuses_is_told_once_and_later_ones_go_on():
    rm = LoopbackRm(write_error=5)
    machine = Machine(rm)
    gh0, gh1 = pair(machine)
    machine.do(gh0.write, bytes(500))
    machine.run(seconds=10)
    warnings = [record.text for record in machine.kernel.log.records if "failed to send characters" in record.text]
    assert len(warnings) == 1
    rm.write_error = 0
    machine.do(lambda: (gh0.tcdrain(), gh0.write(b"well")))
    assert machine.do(gh1.read, 10) == b"well"


def test_sixteen_ports_are_all_there_are(machine):
    driver = machine.kernel.auxiliary.devices[0].drvdata
    for vmid in range(100, 100 + MAX_PORTS - 2):
        driver.add_port(vmid)
    with pytest.raises(OSError, match="all 16 ttyGH ports") as failure:
        driver.add_port(200)
    assert failure.value.errno == errno.ENOSPC
    machine.inject(chars(105, b"from another VM"))
    assert machine.kernel.sysfs.read("/sys/class/tty/ttyGH7/vmid") == b"105\n"


@pytest.mark.parametrize("length", [2, 4])
def test_both_forms_of_the_vmid_reply_are_understood(length):
    machine = Machine(lambda packet: [reply_to(packet, (0x2D).to_bytes(length, "little"))])
    assert machine.kernel.sysfs.read("/sys/class/tty/ttyGH1/vmid") == b"45\n"


@pytest.mark.parametrize("answer", [b"", b"\x2d", bytes(3), bytes(8)])
def test_without_a_vmid_there_is_no_loop_back_port_and_one_warning(answer):
    machine = Machine(lambda packet: [reply_to(packet, answer)])
    assert machine.kernel.tty_names() == ["ttyGH0"]
    assert "Not creating loop-back console" in machine.kernel.log.text()


def test_the_request_for_the_vmid_has_the_form_of_the_profile():
    assert Machine(profile=V4).requests()[0] == (MessageId.VM_GET_VMID, bytes(4))
    assert Machine(profile=PUBLIC_2023).requests()[0] == (MessageId.VM_GET_VMID, b"")


def test_printk_goes_to_the_console_that_the_command_line_names():
    rm = LoopbackRm()
    machine = Machine(rm, cmdline="console=ttyGH0")
    assert rm.log[0] == (OPEN, 0)

    def main():
        gh1 = machine.kernel.open_tty("ttyGH1")
        gh1.set_raw()
        machine.kernel.log.notice("hello console")
        return gh1.read(100)

    assert machine.do(main).endswith(b"] hello console\n")
    machine.do(machine.kernel.sysfs.write, "/sys/bus/auxiliary/drivers/gunyah_tty/unbind", b"gunyah_rsc_mgr.console.0")
    assert machine.kernel.log.consoles == []
    assert rm.open == set()


def test_without_any_console_argument_the_first_console_is_taken_and_with_another_none():
    assert len(Machine(LoopbackRm(), cmdline="quiet").kernel.log.consoles) == 1
    assert Machine(LoopbackRm(), cmdline="console=ttyAMA0 quiet").kernel.log.consoles == []
    uart = TREE.replace("chosen {", 'chosen { stdout-path = "/pl011@9000000:115200n8";')
    assert Machine(LoopbackRm(), cmdline="quiet", tree=uart).kernel.log.consoles == []


def test_console_output_without_room_is_lost_and_blocks_nobody():
    machine = Machine(LoopbackRm(), cmdline="console=ttyGH0")
    machine.stalled = True
    machine.do(lambda: [machine.kernel.log.notice("x" * 100) for _ in range(100)])
    port = machine.kernel.tty._port("ttyGH0")
    assert len(port.fifo) <= FIFO_SIZE


def test_interleaved_writers_keep_their_writes_whole(machine):
    gh0, gh1 = pair(machine)
    words = deque()
    for letter in b"abc":
        machine.kernel.submit(gh0.write, bytes([letter]) * 3000)

    def reader():
        got = b""
        while len(got) < 9000:
            got += gh1.read(500)
        return got

    got = machine.do(reader)
    for letter in got:
        if not words or words[-1] != letter:
            words.append(letter)
    assert len(words) == 3


def test_closing_the_file_of_a_blocked_reader_or_writer_ends_it(machine):
    gh0, gh1 = pair(machine)
    writer = machine.kernel.submit(gh0.write, bytes(100_000))
    reader = machine.kernel.submit(gh0.read, 10)
    machine.run(seconds=1)
    assert not writer.done and not reader.done
    machine.do(gh0.close)
    assert machine.run(lambda: writer.done and reader.done, 1)
    assert reader.result() == b""
    assert writer.result() < 100_000
    machine.do(gh1.close)
    pair(machine)


def test_a_signal_ends_a_blocked_read(machine):
    gh0, _gh1 = pair(machine)
    reader = machine.kernel.submit(gh0.read, 10)
    machine.run(seconds=0.1)
    machine.kernel.post(reader.task.interrupt)
    assert machine.run(lambda: reader.done, 1)
    with pytest.raises(Interrupted):
        reader.result()


def test_the_interrupt_character_reaches_the_foreground(machine):
    signals = []

    def main():
        gh0, gh1 = machine.kernel.open_tty("ttyGH0"), machine.kernel.open_tty("ttyGH1")
        gh0.set_raw()
        gh1._tty.on_signal = signals.append
        gh0.write(b"\x03")
        with pytest.raises(Interrupted):
            gh1.read(10)

    machine.do(main)
    assert signals == ["SIGINT"]


def test_controls_by_number(machine):
    def main():
        gh0, gh1 = machine.kernel.open_tty("ttyGH0"), machine.kernel.open_tty("ttyGH1")
        gh0.set_raw()
        gh1.ioctl(0x5402, gh1.ioctl(0x5401).raw())
        gh0.write(b"12345")
        assert gh1.read(1) == b"1"
        assert gh1.ioctl(0x541B) == 4
        gh1.ioctl(0x540B, 0)
        assert gh1.ioctl(0x541B) == 0
        gh1.ioctl(0x5414, (24, 80))
        assert gh1.ioctl(0x5413) == (24, 80)
        assert gh0.ioctl(0x5411) == 0
        for request, number in ((0x9999, errno.ENOTTY), (0x5402, errno.EINVAL)):
            with pytest.raises(OSError) as failure:
                gh1.ioctl(request, "nonsense")
            assert failure.value.errno == number
        gh1.close()
        with pytest.raises(OSError, match="ttyGH1: this file is closed"):
            gh1.read(1)

    machine.do(main)


def test_vmin_and_vtime_rule_raw_reads(machine):
    gh0, gh1 = pair(machine)

    def main():
        termios = gh1.tcgetattr()
        termios.cc[VMIN], termios.cc[VTIME] = 3, 0
        gh1.tcsetattr(termios)
        machine.kernel.submit(lambda: (gh0.write(b"a"), machine.kernel.scheduler.sleep(50_000_000), gh0.write(b"bcd")))
        assert gh1.read(10) == b"abcd"
        termios.cc[VMIN], termios.cc[VTIME] = 3, 1
        gh1.tcsetattr(termios)
        gh0.write(b"x")
        before = machine.kernel.uptime_ns()
        assert gh1.read(10) == b"x"
        assert machine.kernel.uptime_ns() - before >= 100_000_000
        termios.cc[VMIN], termios.cc[VTIME] = 0, 2
        gh1.tcsetattr(termios)
        before = machine.kernel.uptime_ns()
        assert gh1.read(10) == b""
        assert 200_000_000 <= machine.kernel.uptime_ns() - before < 300_000_000

    machine.do(main)
