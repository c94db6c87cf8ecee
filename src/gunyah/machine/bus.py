"""The board's device bus: which device answers at a physical address outside RAM."""

from __future__ import annotations

from bisect import bisect_right
from typing import Protocol

__all__ = ["Bus", "Device", "Refused"]


class Refused(Exception):
    """A device does not know this access: its size, its alignment, its place."""


class Device(Protocol):
    """A register block. ``offset`` in bytes from its base, ``size`` 1, 2, 4 or 8 bytes; values are zero-extended."""

    def read(self, offset: int, size: int, /) -> int:
        """Value of the register."""

    def write(self, offset: int, value: int, size: int, /) -> None:
        """Write the register."""


class Bus:
    """Devices at physical addresses; an address where nobody answers raises LookupError with a sentence."""

    def __init__(self) -> None:
        self._bases: list[int] = []
        self._entries: list[tuple[int, int, Device]] = []

    def attach(self, base: int, size: int, device: Device) -> None:
        """Put ``device`` at ``base`` .. ``base + size``; raises ValueError where another one is."""
        position = bisect_right(self._bases, base)
        before = self._entries[position - 1] if position else None
        after = self._entries[position] if position < len(self._entries) else None
        if (before and before[0] + before[1] > base) or (after and base + size > after[0]):
            raise ValueError(f"device at {base:#x}+{size:#x} overlaps another one")
        self._bases.insert(position, base)
        self._entries.insert(position, (base, size, device))

    def find(self, address: int) -> tuple[Device, int]:
        """The device at physical ``address`` and the offset in it."""
        position = bisect_right(self._bases, address) - 1
        if position >= 0:
            base, size, device = self._entries[position]
            if address < base + size:
                return device, address - base
        raise LookupError(f"no device of the board is at {address:#x}")

    def read(self, address: int, size: int) -> int:
        """Read ``size`` bytes of a device register."""
        device, offset = self.find(address)
        return device.read(offset, size)

    def write(self, address: int, value: int, size: int) -> None:
        """Write ``size`` bytes of a device register."""
        device, offset = self.find(address)
        device.write(offset, value, size)
