"""PL031: the board's real-time clock, as Arm's PrimeCell manual (DDI 0224) describes it.

It counts seconds since the epoch. They come from the machine's counter, so a machine on a virtual clock has a
repeatable time of day too. The alarm needs no timer of its own: whoever serves the device asks `next_event` when to
call `poll`, and is told when to ask again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .clock import Clock

DR: Final = 0x000
MR: Final = 0x004
LR: Final = 0x008
CR: Final = 0x00C
IMSC: Final = 0x010
RIS: Final = 0x014
MIS: Final = 0x018
ICR: Final = 0x01C

_IDENTIFICATION: Final = (0x31, 0x10, 0x14, 0x00, 0x0D, 0xF0, 0x05, 0xB1)
"""RTCPeriphID0..3 and RTCPCellID0..3, at 0xFE0 in steps of 4."""

_U32: Final = 0xFFFF_FFFF


class PL031:
    """One real-time clock. Offsets are bytes from its base."""

    def __init__(
        self,
        clock: Clock,
        epoch: int,
        irq: Callable[[bool], object] | None = None,
        alarm: Callable[[], object] | None = None,
    ) -> None:
        """Read `epoch` seconds since 1970 now, and count on with `clock`; drive the interrupt line through `irq`.

        `alarm` is called when `next_event` may have become another one.
        """
        self.clock = clock
        self.irq = irq
        self.alarm = alarm
        self._base = epoch - clock.ticks() // clock.frequency
        self._match = 0
        self._load = 0
        self._mask = 0
        self._raw = 0
        self._line = False
        self._armed = False

    @property
    def seconds(self) -> int:
        """What DR reads, seconds modulo 2**32."""
        return self._base + self.clock.ticks() // self.clock.frequency & _U32

    @property
    def next_event(self) -> int | None:
        """Counter value at which the alarm is due, None if it is not set; `poll` then."""
        if not self._armed:
            return None
        ahead = self._match - self.seconds & _U32
        return (self.clock.ticks() // self.clock.frequency + ahead) * self.clock.frequency

    def poll(self) -> None:
        """Raise the alarm if its second has come."""
        if self._armed and (self.seconds - self._match & _U32) < 1 << 31:
            self._armed = False
            self._raw = 1
            self._update()

    def read(self, offset: int, size: int) -> int:
        """Read a register; reserved ones read 0."""
        if offset == DR:
            return self.seconds
        if offset == MR:
            return self._match
        if offset == LR:
            return self._load
        if offset == CR:
            return 1
        if offset == IMSC:
            return self._mask
        if offset in (RIS, MIS):
            self.poll()
            return self._raw & (self._mask if offset == MIS else 1)
        if 0xFE0 <= offset < 0x1000 and not offset & 3:
            return _IDENTIFICATION[offset - 0xFE0 >> 2]
        return 0

    def write(self, offset: int, value: int, size: int) -> None:
        """Write a register; reserved and read-only ones ignore it. The clock cannot be stopped (CR)."""
        value &= _U32
        if offset == MR:
            self._match = value
            self._armed = (value - self.seconds & _U32) < 1 << 31
        elif offset == LR:
            self._load = value
            self._base += value - self.seconds
            self._armed = self._armed and (self._match - value & _U32) < 1 << 31
        elif offset == IMSC:
            self._mask = value & 1
        elif offset == ICR:
            self._raw &= ~value
        self._update()
        if offset in (MR, LR) and self.alarm is not None:
            self.alarm()

    def _update(self) -> None:
        level = bool(self._raw & self._mask)
        if level != self._line:
            self._line = level
            if self.irq is not None:
                self.irq(level)
