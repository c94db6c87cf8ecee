"""Clocks: real time passes by itself, virtual time when told."""

from __future__ import annotations

import itertools
import time

import pytest

from gunyah.machine import board
from gunyah.machine.clock import Clock, RealClock, VirtualClock


def test_real_clock_is_the_monotonic_clock_at_62_5_mhz() -> None:
    clock = RealClock()
    low = time.monotonic_ns() // 16
    now = clock.ticks()
    assert low <= now <= time.monotonic_ns() // 16
    clock.wait_until(now + 62_500)
    assert clock.ticks() >= now + 62_500
    assert clock.seconds_until(now) == 0.0
    assert isinstance(clock, Clock) and clock.real


def test_virtual_clock_jumps_and_never_goes_back() -> None:
    clock = VirtualClock(100)
    assert clock.ticks() == clock.ticks() == 100
    clock.wait_until(10**12)
    assert clock.ticks() == 10**12
    clock.advance_to(5)
    clock.advance(1)
    assert clock.ticks() == 10**12 + 1
    assert clock.sample() > 10**12 + 1
    assert clock.seconds_until(10**15) == 0.0
    with pytest.raises(ValueError):
        clock.advance(-1)
    assert isinstance(clock, Clock) and not clock.real


def test_board_windows_do_not_overlap() -> None:
    windows = sorted([board.GICD, board.GITS, board.GICR, board.UART, board.RTC, board.FW_CFG, board.GPIO,
                      board.VIRTIO_MMIO, board.PCIE_MMIO, board.PCIE_PIO, board.PCIE_ECAM, board.RAM])
    for low, high in itertools.pairwise(windows):
        assert low.end <= high.base
    assert board.virtio_mmio(31) == (board.Window(0x0A00_3E00, 0x200), 79)
    assert board.redistributor(7).base == 0x0818_0000
    assert 0x0900_0FFF in board.UART and 0x0900_1000 not in board.UART
    with pytest.raises(ValueError):
        board.virtio_mmio(32)
    with pytest.raises(ValueError):
        board.redistributor(8)
