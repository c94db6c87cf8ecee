"""A pseudo-terminal carries bytes between a port and whoever opens its link, in other processes as users do."""

from __future__ import annotations

import hashlib
import os
import random
import select
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
import serial

from gunyah.host.loop import HostLoop
from gunyah.host.pty import READ_SIZE, SEND_LIMIT, Pty, PtyListener
from gunyah.host.rundir import RunDirectory

from .terminals import answer_of, client, run_until


class Port(PtyListener):
    """A port that keeps what it hears; ``room`` is its flow control."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.data = bytearray()
        self.room = READ_SIZE
        self.rooms = 0

    def on_open(self) -> None:
        self.events.append("open")

    def on_close(self) -> None:
        self.events.append("close")

    def input_room(self) -> int:
        return self.room

    def on_input(self, data: bytes) -> None:
        assert len(data) <= self.room
        self.data += data

    def on_room(self) -> None:
        self.rooms += 1


@pytest.fixture
def loop() -> Iterator[HostLoop]:
    loop = HostLoop()
    yield loop
    loop.close()


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[RunDirectory]:
    with RunDirectory(base=tmp_path) as directory:
        yield directory


@pytest.fixture
def port() -> Port:
    return Port()


@pytest.fixture
def pty(loop: HostLoop, directory: RunDirectory, port: Port) -> Iterator[Pty]:
    pty = Pty(loop, directory, "ttyGH0", port)
    yield pty
    pty.close()


def test_link_has_the_ports_name_and_leads_to_a_terminal(directory: RunDirectory, pty: Pty) -> None:
    assert pty.link == directory.path / "ttyGH0"
    slave = os.open(pty.link, os.O_RDWR | os.O_NOCTTY)
    try:
        assert os.isatty(slave)
        attributes = termios.tcgetattr(slave)
        assert not attributes[3] & (termios.ECHO | termios.ICANON | termios.ISIG)
        assert not attributes[1] & termios.OPOST
        assert not attributes[0] & (termios.ICRNL | termios.IXON | termios.IXOFF)
    finally:
        os.close(slave)


def test_nobody_there_costs_no_rounds(loop: HostLoop, pty: Pty, port: Port) -> None:
    rounds = sum(loop.poll(0) for _ in range(1000))
    assert rounds < 1000
    assert port.events == []


def test_what_a_process_writes_before_it_closes_all_arrives(loop: HostLoop, pty: Pty, port: Port) -> None:
    process = client("open(sys.argv[1], 'wb').write(bytes(range(256)) * 12)", pty.link)
    run_until(loop, lambda: "close" in port.events)
    answer_of(loop, process)
    assert port.data == bytes(range(256)) * 12
    assert port.events == ["open", "close"]


def test_an_opener_that_only_reads_is_noticed_and_gets_the_bytes(loop: HostLoop, pty: Pty, port: Port) -> None:
    process = client("print(open(sys.argv[1], 'rb', 0).read(5).hex())", pty.link)
    run_until(loop, lambda: port.events == ["open"])
    assert pty.send(b"\x00\x03\x04\x11\xff") == 5
    assert answer_of(loop, process).strip() == b"00030411ff"
    run_until(loop, lambda: port.events == ["open", "close"])


def test_bytes_for_nobody_are_gone(loop: HostLoop, pty: Pty, port: Port) -> None:
    assert pty.send(b"to nobody") == 9
    with serial.Serial(str(pty.link), timeout=5) as line:
        run_until(loop, lambda: pty.is_open)
        pty.send(b"to you")
        assert line.read(6) == b"to you"


def test_what_an_opener_left_unread_is_not_read_by_the_next(loop: HostLoop, pty: Pty, port: Port) -> None:
    slave = os.open(pty.link, os.O_RDWR | os.O_NOCTTY)
    run_until(loop, lambda: pty.is_open)
    pty.send(b"stale")
    attributes = termios.tcgetattr(slave)
    attributes[3] |= termios.ECHO | termios.ICANON
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    os.close(slave)
    run_until(loop, lambda: not pty.is_open)
    slave = os.open(pty.link, os.O_RDWR | os.O_NOCTTY)
    try:
        assert not termios.tcgetattr(slave)[3] & (termios.ECHO | termios.ICANON)
        run_until(loop, lambda: pty.is_open)
        pty.send(b"fresh")
        assert os.read(slave, 100) == b"fresh"
    finally:
        os.close(slave)
    run_until(loop, lambda: not pty.is_open)
    assert port.events == ["open", "close"] * 2


def test_two_openers_are_one_visit(loop: HostLoop, pty: Pty, port: Port) -> None:
    first = os.open(pty.link, os.O_RDWR | os.O_NOCTTY)
    run_until(loop, lambda: pty.is_open)
    second = os.open(pty.link, os.O_RDWR | os.O_NOCTTY)
    os.close(first)
    os.write(second, b"still here")
    run_until(loop, lambda: port.data)
    assert port.data == b"still here"
    assert port.events == ["open"]
    os.close(second)
    run_until(loop, lambda: port.events == ["open", "close"])


def test_a_port_without_room_stops_the_writer_and_loses_nothing(loop: HostLoop, pty: Pty, port: Port) -> None:
    port.room = 0
    content = random.Random(1).randbytes(300_000)
    process = client("data = sys.stdin.buffer.read()\nopen(sys.argv[1], 'wb', 0).write(data)", pty.link)
    assert process.stdin is not None
    process.stdin.write(content)
    process.stdin.close()
    run_until(loop, lambda: pty.is_open)
    for _ in range(20):
        loop.poll(0.01)
    assert process.poll() is None
    assert not port.data
    port.room = 1000
    pty.resume()
    run_until(loop, lambda: "close" in port.events)
    process.wait(timeout=60)
    assert process.stdout is not None
    process.stdout.close()
    assert port.data == content


def test_a_slow_reader_bounds_the_buffer_and_loses_nothing(loop: HostLoop, pty: Pty, port: Port) -> None:
    content = random.Random(2).randbytes(400_000)
    slave = os.open(pty.link, os.O_RDWR | os.O_NOCTTY)
    run_until(loop, lambda: pty.is_open)
    sent = 0
    while taken := pty.send(content[sent : sent + 10_000]):
        sent += taken
    assert sent < len(content)
    assert pty.unsent <= SEND_LIMIT
    received = bytearray()
    while len(received) < len(content):
        if select.select([slave], [], [], 0)[0]:
            received += os.read(slave, 65536)
        loop.poll(0)
        if port.rooms:
            port.rooms = 0
            while sent < len(content) and (taken := pty.send(content[sent : sent + 10_000])):
                sent += taken
    os.close(slave)
    assert received == content


def test_a_reader_that_leaves_with_a_full_buffer_frees_it(loop: HostLoop, pty: Pty, port: Port) -> None:
    slave = os.open(pty.link, os.O_RDWR | os.O_NOCTTY)
    run_until(loop, lambda: pty.is_open)
    while pty.send(bytes(10_000)):
        pass
    port.room = 0
    loop.poll(0)
    os.close(slave)
    run_until(loop, lambda: pty.unsent == 0)
    assert port.rooms == 1
    port.room = READ_SIZE
    pty.resume()
    run_until(loop, lambda: port.events == ["open", "close"])


def test_hang_up_ends_the_users_reading_and_removes_the_link(loop: HostLoop, pty: Pty, port: Port) -> None:
    # A read that waits when the master goes gets EIO, one that comes later end of file.
    process = client(
        "line = open(sys.argv[1], 'rb', 0)\n"
        "first = line.read(1)\n"
        "try: rest = line.read(1)\n"
        "except OSError: rest = b''\n"
        "print(first, rest)",
        pty.link,
    )
    run_until(loop, lambda: pty.is_open)
    pty.send(b"x")
    loop.poll(0.05)
    while pty.unsent:
        loop.poll(0.01)
    run_until(loop, lambda: _unread(pty) == 0)
    pty.close()
    assert answer_of(loop, process).strip() == b"b'x' b''"
    assert not pty.link.is_symlink()


def _unread(pty: Pty) -> int:
    """Bytes in the slave's input queue (TIOCINQ)."""
    import array
    import fcntl

    slave = os.open(pty.slave_path, os.O_RDWR | os.O_NOCTTY)
    try:
        count = array.array("i", [0])
        fcntl.ioctl(slave, termios.FIONREAD, count)
        return count[0]
    finally:
        os.close(slave)


def test_random_bytes_both_ways_at_the_same_time_arrive_complete_and_in_order(
    loop: HostLoop, directory: RunDirectory
) -> None:
    class Echo(PtyListener):
        pty: Pty
        held = b""

        def input_room(self) -> int:
            return 0 if self.held else READ_SIZE

        def on_input(self, data: bytes) -> None:
            self.held = data[self.pty.send(data) :]

        def on_room(self) -> None:
            self.on_input(self.held)
            self.pty.resume()

    echo = Echo()
    echo.pty = Pty(loop, directory, "ttyGH3", echo)
    size = 1_000_000
    process = client(
        "import hashlib, random, threading\n"
        "content = random.Random(3).randbytes(int(sys.argv[2]))\n"
        "line = open(sys.argv[1], 'r+b', 0)\n"
        "def write():\n"
        "    view = memoryview(content)\n"
        "    while view: view = view[line.write(view):]\n"
        "threading.Thread(target=write).start()\n"
        "received = bytearray()\n"
        "while len(received) < len(content): received += line.read(65536)\n"
        "print(hashlib.sha256(received).hexdigest())\n",
        echo.pty.link,
        str(size),
    )
    digest = answer_of(loop, process).decode().strip()
    echo.pty.close()
    assert digest == hashlib.sha256(random.Random(3).randbytes(size)).hexdigest()
