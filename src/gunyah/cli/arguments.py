"""Values of flags that several commands take; a wrong one is refused by argparse, in one sentence with the value."""

from __future__ import annotations

import argparse

__all__ = ["seconds", "whole_number"]


def seconds(words: str) -> float:
    """A duration in seconds, above 0; raises ArgumentTypeError."""
    try:
        value = float(words)
    except ValueError:
        value = 0.0
    # Not a number and infinity are numbers to float(), and no time to wait.
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{words!r} is not a number of seconds above 0")
    return value


def whole_number(words: str) -> int:
    """Any whole number; raises ArgumentTypeError."""
    try:
        return int(words)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{words!r} is not a whole number") from error
