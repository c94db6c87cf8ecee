"""Running a machine until the user has enough of it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gunyah.host.loop import HostLoop
    from gunyah.system import System

__all__ = ["run_until_interrupted"]


def run_until_interrupted(
    system: System, loop: HostLoop, every: Callable[[], object] | None = None, seconds: float = 0.25
) -> None:
    """Run until Ctrl-C (or SIGTERM) or until the machine stops; ``every`` is called again and again meanwhile."""
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        loop.post(lambda: None)

    def again() -> None:
        if every is not None:
            every()
            loop.call_later(seconds, again)

    saved = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        again()
        system.run(until=lambda: bool(asked))
    finally:
        for number, handler in saved.items():
            signal.signal(number, handler)
