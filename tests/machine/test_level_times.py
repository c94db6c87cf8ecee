"""The account of a vCPU's time by exception level: it is one core's, and nobody's when that is gone."""

from __future__ import annotations

import gc

from gunyah.machine.clock import VirtualClock
from gunyah.machine.engine import level_times
from gunyah.machine.engine.level_times import LevelTimes

from .rig import FINISHED, Rig

HVC_END = 0xD400_0002 | FINISHED << 5
COUNT_DOWN = (0xF100_0400, 0x54FF_FFE1, HVC_END)  # subs x0, x0, #1; b.ne -4; hvc


def test_time_at_el1_is_counted_while_a_guest_runs_there() -> None:
    rig = Rig()
    times = LevelTimes(rig.core)
    times.start()
    rig.run(COUNT_DOWN, 100_000)
    at_el0, at_el1 = times.take()
    assert at_el1 > at_el0 == 0


def test_the_account_of_a_core_that_is_gone_is_nobodys() -> None:
    for clock in (None, VirtualClock()):
        rig = Rig(clock)
        times = LevelTimes(rig.core)
        times.start()
        assert level_times.account[0] == rig.core.registers.address
        del rig, times
        gc.collect()
        assert list(level_times.account) == [0] * len(level_times.account)
