"""PL011: the board's UART, as Arm's PrimeCell manual (DDI 0183) describes it and QEMU's `virt` wires it.

Sending takes no time: what is written to DR is in the sink at once, so the transmit FIFO is always empty. Received
bytes wait in a bounded queue of the host and move into the 16-byte FIFO as the guest makes room, so nothing is ever
overrun. The receive time-out, 32 bit times of silence on a line, is due as soon as something waits below the FIFO's
trigger level.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

DR: Final = 0x000
RSR: Final = 0x004
FR: Final = 0x018
ILPR: Final = 0x020
IBRD: Final = 0x024
FBRD: Final = 0x028
LCR_H: Final = 0x02C
CR: Final = 0x030
IFLS: Final = 0x034
IMSC: Final = 0x038
RIS: Final = 0x03C
MIS: Final = 0x040
ICR: Final = 0x044
DMACR: Final = 0x048

FR_BUSY: Final = 1 << 3
FR_RXFE: Final = 1 << 4
FR_TXFF: Final = 1 << 5
FR_RXFF: Final = 1 << 6
FR_TXFE: Final = 1 << 7

LCR_FEN: Final = 1 << 4
CR_LBE: Final = 1 << 7

INT_RX: Final = 1 << 4
INT_TX: Final = 1 << 5
INT_RT: Final = 1 << 6
INT_ALL: Final = 0x7FF

FIFO_DEPTH: Final = 16
_TRIGGERS: Final = (2, 4, 8, 12, 14)
"""Receive FIFO fill level at which RX is raised, by IFLS.RXIFLSEL: 1/8, 1/4, 1/2, 3/4, 7/8."""

_IDENTIFICATION: Final = (0x11, 0x10, 0x14, 0x00, 0x0D, 0xF0, 0x05, 0xB1)
"""UARTPeriphID0..3 and UARTPCellID0..3, at 0xFE0 in steps of 4."""

_STORED: Final = {ILPR: 0xFF, IBRD: 0xFFFF, FBRD: 0x3F, DMACR: 0x7}
"""Registers without effect here, with the bits that they keep."""


class PL011:
    """One UART. Offsets are bytes from its base; accesses of any width reach the register that they fall on."""

    def __init__(
        self, sink: Callable[[bytes], object], irq: Callable[[bool], object] | None = None, *, queue_size: int = 65536
    ) -> None:
        """Send to `sink`, drive the interrupt line through `irq`; hold at most `queue_size` bytes of input."""
        self.sink = sink
        self.irq = irq
        self.queue_size = queue_size
        self._waiting: deque[int] = deque()
        self._fifo: deque[int] = deque()
        self._stored = dict.fromkeys(_STORED, 0)
        self._lcr = 0
        self._cr = 0x300
        self._ifls = 0x12
        self._mask = 0
        self._raw = 0
        self._line = False
        self.polls = 0
        """How often the guest has asked for the flags since it last sent or received something."""
        self.enables = 0
        """How often the guest has written IMSC with a receive interrupt enabled."""

    # The host's side

    @property
    def room(self) -> int:
        """Bytes that `feed` would take now."""
        return self.queue_size - len(self._waiting)

    @property
    def pending_input(self) -> int:
        """Bytes that the guest has not read yet."""
        return len(self._waiting) + len(self._fifo)

    def feed(self, data: bytes) -> int:
        """Let the guest receive `data`; gives how many bytes were taken, the rest found no room."""
        taken = data[: self.room]
        if taken:
            self._waiting.extend(taken)
            self._receive()
            self._update()
        return len(taken)

    # The guest's side

    def read(self, offset: int, size: int) -> int:
        """Read a register; reserved ones read 0."""
        if offset == DR:
            return self._read_data()
        if offset == FR:
            self.polls += 1
            flags = FR_TXFE
            if not self._fifo:
                flags |= FR_RXFE
            if len(self._fifo) >= self._depth:
                flags |= FR_RXFF
            return flags
        if offset == RIS:
            return self._raw
        if offset == MIS:
            return self._raw & self._mask
        if offset == IMSC:
            return self._mask
        if offset == CR:
            return self._cr
        if offset == LCR_H:
            return self._lcr
        if offset == IFLS:
            return self._ifls
        if offset in self._stored:
            return self._stored[offset]
        if 0xFE0 <= offset < 0x1000 and not offset & 3:
            return _IDENTIFICATION[offset - 0xFE0 >> 2]
        return 0

    def write(self, offset: int, value: int, size: int) -> None:
        """Write a register; reserved and read-only ones ignore it."""
        if offset == DR:
            self.polls = 0
            if self._cr & CR_LBE:
                self._waiting.append(value & 0xFF)
                self._receive()
            else:
                self.sink(bytes((value & 0xFF,)))
            self._raw |= INT_TX
        elif offset == ICR:
            self._raw &= ~value
        elif offset == IMSC:
            self._mask = value & INT_ALL
            if value & (INT_RX | INT_RT):
                self.enables += 1
        elif offset == CR:
            self._cr = value & 0xFF87
        elif offset == LCR_H:
            if (value ^ self._lcr) & LCR_FEN:
                # Switching the FIFOs on or off flushes them; here the host's queue takes back what was received.
                self._waiting.extendleft(reversed(self._fifo))
                self._fifo.clear()
            self._lcr = value & 0xFF
            self._receive()
        elif offset == IFLS:
            self._ifls = value & 0x3F
            self._receive()
        elif offset in self._stored:
            self._stored[offset] = value & _STORED[offset]
        self._update()

    def reset(self) -> None:
        """Go back to the state after power-on; input that has not been read stays in the host's queue."""
        self._waiting.extendleft(reversed(self._fifo))
        self._fifo.clear()
        self._stored = dict.fromkeys(_STORED, 0)
        self._lcr, self._cr, self._ifls, self._mask, self._raw = 0, 0x300, 0x12, 0, 0
        self._receive()
        self._update()

    # Inside

    @property
    def _depth(self) -> int:
        return FIFO_DEPTH if self._lcr & LCR_FEN else 1

    @property
    def _trigger(self) -> int:
        if not self._lcr & LCR_FEN:
            return 1
        return _TRIGGERS[min(self._ifls >> 3 & 7, 4)]

    def _read_data(self) -> int:
        self.polls = 0
        if not self._fifo:
            return 0
        value = self._fifo.popleft()
        if self._waiting:
            self._fifo.append(self._waiting.popleft())
        elif len(self._fifo) < self._trigger:
            self._raw &= ~(INT_RX | INT_RT)
            if self._fifo:
                self._raw |= INT_RT
        self._update()
        return value

    def _receive(self) -> None:
        depth = self._depth
        arrived = False
        while self._waiting and len(self._fifo) < depth:
            self._fifo.append(self._waiting.popleft())
            arrived = True
        if len(self._fifo) >= self._trigger:
            if arrived:
                self._raw |= INT_RX
        elif self._fifo and arrived:
            self._raw |= INT_RT

    def _update(self) -> None:
        level = bool(self._raw & self._mask)
        if level != self._line:
            self._line = level
            if self.irq is not None:
                self.irq(level)
