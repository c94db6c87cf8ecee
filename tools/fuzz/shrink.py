"""Fewer acts with the same outcome: what is left of a failing run when all that does not matter is taken away."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

__all__ = ["shrink"]


def shrink(acts: Sequence[bytes], fails: Callable[[Sequence[bytes]], bool], seconds: float) -> list[bytes]:
    """A shorter list for which ``fails`` still holds; gives up after ``seconds`` with the best so far."""
    best = list(acts)
    end = time.monotonic() + seconds
    size = max(1, len(best) // 2)
    while time.monotonic() < end:
        at = 0
        shorter = False
        while at < len(best) and time.monotonic() < end:
            candidate = best[:at] + best[at + size :]
            if candidate and fails(candidate):
                best = candidate
                shorter = True
            else:
                at += size
        if size > 1:
            size = max(1, size // 2)
        elif not shorter:
            break
    return best
