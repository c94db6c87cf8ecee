"""Watchdog words: the document-only hypercalls and the SMCCC calls of the Linux guest watchdog driver.

The public stack builds no watchdog; later Linux guests probe for one with the STATUS call (linux-drivers.md 17,
errors-and-types.md 10).
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["CONTROL", "CONTROL_ALWAYS", "CONTROL_ENABLE", "PING", "SET_TIME", "STATUS", "WatchdogManageOp"]

CONTROL = 0x8600_0005
STATUS = 0x8600_0006
"""X2 = milliseconds since the last ping; X0 = -1 when there is no watchdog."""
PING = 0x8600_0007
SET_TIME = 0x8600_0008
"""Bark and bite time in milliseconds, 16 bits each."""

CONTROL_ENABLE = 1 << 0
CONTROL_ALWAYS = 1 << 1
"""Always 1."""


class WatchdogManageOp(IntEnum):
    """Operation of ``watchdog_manage``; named by the API document only."""

    FREEZE = 0
    FREEZE_AND_RESET = 1
    UNFREEZE = 2
