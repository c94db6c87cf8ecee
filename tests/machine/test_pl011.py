"""PL011: what a driver sees in the registers, and what the host sees of the driver."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gunyah.machine.pl011 import (
    CR,
    CR_LBE,
    DR,
    FR,
    FR_RXFE,
    FR_RXFF,
    FR_TXFE,
    FR_TXFF,
    IBRD,
    ICR,
    IFLS,
    IMSC,
    INT_RT,
    INT_RX,
    INT_TX,
    LCR_FEN,
    LCR_H,
    MIS,
    PL011,
    RIS,
)  # fmt: skip


class Wire:
    """A UART with what came out of it."""

    def __init__(self, **options: int) -> None:
        self.sent = bytearray()
        self.levels: list[bool] = []
        self.uart = PL011(self.sent.extend, self.levels.append, **options)

    def drain(self) -> bytes:
        data = bytearray()
        while not self.uart.read(FR, 4) & FR_RXFE:
            data.append(self.uart.read(DR, 4))
        return bytes(data)


def test_written_bytes_are_sent_at_once_and_in_order() -> None:
    wire = Wire()
    for byte in b"hello\n":
        assert not wire.uart.read(FR, 4) & FR_TXFF
        wire.uart.write(DR, byte, 4)
    assert wire.sent == b"hello\n"
    assert wire.uart.read(FR, 4) == FR_TXFE | FR_RXFE


def test_transmit_interrupt_follows_a_write_and_its_mask() -> None:
    wire = Wire()
    wire.uart.write(DR, 0x41, 1)
    assert wire.uart.read(RIS, 4) == INT_TX and wire.levels == []
    wire.uart.write(IMSC, INT_TX, 4)
    assert wire.uart.read(MIS, 4) == INT_TX and wire.levels == [True]
    wire.uart.write(ICR, INT_TX, 4)
    assert wire.levels == [True, False]


def test_input_below_the_trigger_is_a_receive_timeout() -> None:
    wire = Wire()
    wire.uart.write(LCR_H, LCR_FEN, 4)
    wire.uart.write(IMSC, INT_RX | INT_RT, 4)
    assert wire.uart.feed(b"abc") == 3
    assert wire.uart.read(MIS, 4) == INT_RT and wire.levels == [True]
    assert wire.drain() == b"abc"
    assert wire.uart.read(RIS, 4) == 0 and wire.levels == [True, False]


def test_trigger_level_raises_receive_and_reading_lowers_it() -> None:
    wire = Wire()
    wire.uart.write(LCR_H, LCR_FEN, 4)
    wire.uart.write(IFLS, 1 << 3, 4)
    wire.uart.feed(b"1234")
    assert wire.uart.read(RIS, 4) & INT_RX
    wire.uart.read(DR, 4)
    assert not wire.uart.read(RIS, 4) & INT_RX


def test_fifo_holds_sixteen_or_one_and_the_rest_waits() -> None:
    wire = Wire()
    wire.uart.feed(bytes(range(40)))
    assert wire.uart.read(FR, 4) & FR_RXFF
    wire.uart.write(LCR_H, LCR_FEN, 4)
    assert wire.uart.read(FR, 4) & FR_RXFF and wire.uart.pending_input == 40
    assert wire.drain() == bytes(range(40))


def test_host_queue_is_bounded_and_says_what_it_took() -> None:
    wire = Wire(queue_size=32)
    wire.uart.write(LCR_H, LCR_FEN, 4)
    taken = wire.uart.feed(bytes(100))
    assert taken == 32
    assert wire.uart.room == 16, "sixteen bytes moved on into the FIFO"
    assert wire.uart.feed(bytes(100)) == 16
    assert wire.uart.feed(b"x") == 0
    assert len(wire.drain()) == 48


@given(st.lists(st.binary(max_size=40), max_size=8), st.sampled_from([0, LCR_FEN]), st.integers(0, 63))
def test_interrupt_driven_reading_gets_every_byte_once(chunks: list[bytes], fifo: int, levels: int) -> None:
    wire = Wire()
    wire.uart.write(LCR_H, fifo, 4)
    wire.uart.write(IFLS, levels, 4)
    wire.uart.write(IMSC, INT_RX | INT_RT, 4)
    got = b""
    for chunk in chunks:
        wire.uart.feed(chunk)
        assert bool(wire.uart.read(MIS, 4)) == bool(chunk)
        while wire.uart.read(MIS, 4):
            got += bytes([wire.uart.read(DR, 4)])
    assert got == b"".join(chunks)


def test_loopback_returns_what_is_sent() -> None:
    wire = Wire()
    wire.uart.write(CR, 0x301 | CR_LBE, 4)
    wire.uart.write(DR, 0x55, 4)
    assert wire.sent == b"" and wire.drain() == b"\x55"


def test_identification_and_plain_registers() -> None:
    wire = Wire()
    ids = [wire.uart.read(0xFE0 + 4 * n, 4) for n in range(8)]
    assert ids == [0x11, 0x10, 0x14, 0x00, 0x0D, 0xF0, 0x05, 0xB1]
    assert wire.uart.read(CR, 4) == 0x300
    wire.uart.write(IBRD, 0x1_0027, 4)
    assert wire.uart.read(IBRD, 4) == 0x27
    assert wire.uart.read(0x100, 4) == 0
    wire.uart.write(0x100, 5, 4)
    wire.uart.feed(b"kept")
    wire.uart.reset()
    assert wire.uart.read(IBRD, 4) == 0 and wire.drain() == b"kept"
