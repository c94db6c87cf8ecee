"""PL031: time of day, setting it, and its alarm."""

from __future__ import annotations

from gunyah.machine.clock import VirtualClock
from gunyah.machine.pl031 import CR, DR, ICR, IMSC, LR, MIS, MR, PL031, RIS

SECOND = 62_500_000


def test_it_counts_seconds_from_the_epoch_it_was_given() -> None:
    clock = VirtualClock(123)
    rtc = PL031(clock, 1_700_000_000)
    assert rtc.read(DR, 4) == 1_700_000_000
    clock.advance(10 * SECOND)
    assert rtc.read(DR, 4) == 1_700_000_010
    assert rtc.read(CR, 4) == 1
    assert [rtc.read(0xFE0 + 4 * n, 4) for n in range(8)] == [0x31, 0x10, 0x14, 0, 0x0D, 0xF0, 0x05, 0xB1]


def test_load_sets_the_time() -> None:
    clock = VirtualClock()
    rtc = PL031(clock, 5)
    rtc.write(LR, 1000, 4)
    clock.advance(SECOND)
    assert (rtc.read(DR, 4), rtc.read(LR, 4)) == (1001, 1000)


def test_alarm_comes_when_its_second_does() -> None:
    clock = VirtualClock()
    levels: list[bool] = []
    rtc = PL031(clock, 100, levels.append)
    rtc.write(IMSC, 1, 4)
    assert rtc.next_event is None
    rtc.write(MR, 103, 4)
    due = rtc.next_event
    assert due == 3 * SECOND
    rtc.poll()
    assert levels == []
    clock.advance_to(due)
    rtc.poll()
    assert levels == [True] and rtc.read(MIS, 4) == 1 and rtc.next_event is None
    rtc.write(ICR, 1, 4)
    assert levels == [True, False] and rtc.read(RIS, 4) == 0


def test_alarm_in_the_past_never_comes() -> None:
    clock = VirtualClock()
    rtc = PL031(clock, 100)
    rtc.write(MR, 99, 4)
    clock.advance(SECOND)
    assert rtc.next_event is None and rtc.read(RIS, 4) == 0
