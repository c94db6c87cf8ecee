import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gunyah.linux import termios as t
from gunyah.linux.n_tty import BUFFER_SIZE, LineDiscipline
from gunyah.linux.termios import Termios


class Sink:
    """The output side of a tty with as much room as the test gives it."""

    def __init__(self, room=1 << 20):
        self.stopped = False
        self.out = bytearray()
        self.room = room
        self.signals = []

    def output(self, data):
        taken = data[: self.room]
        self.room -= len(taken)
        self.out += taken
        return len(taken)

    def output_room(self):
        return self.room

    def start(self):
        self.stopped = False

    def signal(self, name):
        self.signals.append(name)


def cooked(**changes):
    sink = Sink()
    termios = Termios()
    for name, value in changes.items():
        setattr(termios, name, value)
    return LineDiscipline(sink, termios), sink


def raw():
    sink = Sink()
    return LineDiscipline(sink, Termios().raw()), sink


@given(st.lists(st.binary(max_size=300), max_size=20))
@settings(max_examples=60, deadline=None)
def test_raw_mode_is_binary_safe(pieces):
    ldisc, sink = raw()
    got = b""
    for piece in pieces:
        assert ldisc.receive(piece) == len(piece)
        got += ldisc.take(BUFFER_SIZE)
    assert got == b"".join(pieces)
    assert not sink.out


def test_raw_input_beyond_the_buffer_stays_with_the_sender():
    ldisc, _ = raw()
    data = bytes(range(256)) * 20
    taken = ldisc.receive(data)
    assert taken == BUFFER_SIZE
    assert ldisc.nearly_full
    assert ldisc.receive(data[taken:]) == 0
    assert ldisc.take(100) == data[:100]
    assert ldisc.receive(data[taken:]) == 100


@pytest.mark.parametrize(
    ("typed", "line", "echo"),
    [
        (b"hello\r", b"hello\n", b"hello\r\n"),
        (b"helo\x7flo\n", b"hello\n", b"helo\b \blo\r\n"),
        (b"two words\x17x\n", b"two x\n", b"two words" + b"\b \b" * 5 + b"x\r\n"),
        (b"gone\x15new\n", b"new\n", b"gone" + b"\b \b" * 4 + b"new\r\n"),
        (b"\x7f\x7fa\n", b"a\n", b"a\r\n"),
        (b"a\x16\x03b\n", b"a\x03b\n", b"a^\b^Cb\r\n"),
        (b"\x01\x7fb\n", b"b\n", b"^A" + b"\b \b" * 2 + b"b\r\n"),
    ],
)
def test_cooked_mode_edits_lines_and_echoes(typed, line, echo):
    ldisc, sink = cooked()
    ldisc.receive(typed)
    assert ldisc.take(100) == line
    assert bytes(sink.out) == echo


def test_a_canonical_read_returns_one_line_and_end_of_file_what_there_is():
    ldisc, _ = cooked()
    ldisc.receive(b"one\ntwo\npart")
    assert ldisc.take(2) == b"on"
    assert ldisc.take(100) == b"e\n"
    assert ldisc.take(100) == b"two\n"
    assert not ldisc.readable
    ldisc.receive(b"\x04")
    assert ldisc.take(100) == b"part"
    ldisc.receive(b"\x04")
    assert ldisc.readable
    assert ldisc.take(100) == b""
    assert not ldisc.readable


def test_signal_characters_signal_flush_and_do_not_arrive():
    ldisc, sink = cooked()
    ldisc.receive(b"abc\x03\x1c\x1adef\n")
    assert sink.signals == ["SIGINT", "SIGQUIT", "SIGTSTP"]
    assert ldisc.take(100) == b"def\n"


def test_stop_and_start_hold_output():
    ldisc, _sink = cooked()
    ldisc.receive(b"\x13")
    assert ldisc.write(b"text") == 0
    ldisc.receive(b"\x11")
    assert ldisc.write(b"text") == 4


def test_output_maps_newlines_and_takes_only_what_fits_mapped():
    ldisc, sink = cooked()
    sink.room = 7
    assert ldisc.write(b"ab\ncd\nef") == 5
    assert bytes(sink.out) == b"ab\r\ncd"
    sink.room = 1
    assert ldisc.write(b"\nef") == 0
    sink.room = 10
    assert ldisc.write(b"\nef") == 3
    assert bytes(sink.out) == b"ab\r\ncd\r\nef"


def test_a_line_longer_than_the_buffer_can_still_be_finished():
    ldisc, _ = cooked(lflag=t.ICANON)
    assert ldisc.receive(b"x" * 10_000) == 10_000
    assert not ldisc.nearly_full
    assert ldisc.receive(b"\n") == 1
    assert ldisc.take(1 << 16) == b"x" * (BUFFER_SIZE - 1) + b"\n"


def test_changing_the_mode_loses_nothing():
    ldisc, _ = cooked()
    ldisc.receive(b"done\nhalf")
    ldisc.set_termios(Termios().raw())
    assert ldisc.take(100) == b"done\nhalf"
    ldisc.receive(b"raw\nbytes")
    ldisc.set_termios(Termios())
    assert ldisc.take(100) == b"raw\nbytes"


@given(st.binary(max_size=6000), st.integers(0, 0xFFFF), st.integers(0, 0x3F), st.integers(0, 0xFFFF))
@settings(max_examples=60, deadline=None)
def test_any_input_in_any_mode_is_taken_or_waits_within_bounds(data, iflag, oflag, lflag):
    sink = Sink(room=3000)
    ldisc = LineDiscipline(sink, Termios(iflag, oflag, 0, lflag))
    taken = ldisc.receive(data)
    assert 0 <= taken <= len(data)
    assert len(ldisc._data) + len(ldisc._line) <= BUFFER_SIZE
    assert len(ldisc._echo) <= 4096 + 8
    while ldisc.readable:
        before = ldisc.available
        ldisc.take(100)
        assert ldisc.available <= before
        if not before:
            break
