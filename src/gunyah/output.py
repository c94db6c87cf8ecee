"""What a VM's console has sent, kept for somebody who looks at it later, and never more than a bound.

A guest that writes for ever must not fill the host's memory, so the oldest goes when there is too much.
"""

from __future__ import annotations

from typing import Final

__all__ = ["KEPT_BYTES", "ConsoleOutput"]

KEPT_BYTES: Final = 4 << 20
"""At least so much of the newest is kept, and never more than twice that."""


class ConsoleOutput(bytearray):
    """The newest bytes. Positions in it hold until more than ``KEPT_BYTES`` have come."""

    def take(self, data: bytes) -> None:
        """More has come."""
        self += data
        if len(self) > 2 * KEPT_BYTES:
            del self[:-KEPT_BYTES]
