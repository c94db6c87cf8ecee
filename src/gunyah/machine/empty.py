"""What the board has with nothing behind it: erased flash, empty virtio slots, a PCIe host bridge without devices.

QEMU's ``virt`` machine always has these, and the primary VM reaches them directly (reference.md 2), so a probing driver
must find what it finds there: a magic word and "no device", a vendor id of all ones. None of them does anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from . import board
from .bus import Bus

__all__ = ["Constant", "Registers", "Signature", "attach_empty_slots"]

FLASH: Final = board.Window(0, 0x0800_0000)
GPIO_IDENTIFICATION: Final = (0x61, 0x10, 0x04, 0x00, 0x0D, 0xF0, 0x05, 0xB1)
"""PL061 PeriphID0..3 and PCellID0..3, at 0xFE0 in steps of 4."""
VIRTIO_MAGIC: Final = int.from_bytes(b"virt", "little")
VIRTIO_VENDOR: Final = int.from_bytes(b"QEMU", "little")
HOST_BRIDGE: Final = {0x0: 0x0008_1B36, 0x8: 0x0600_0000}
"""Configuration space of 0000:00:00.0: vendor 0x1b36, device 8, class host bridge."""
GITS_QUIESCENT: Final = 1 << 31


class Constant:
    """Every byte reads the same; writes are lost."""

    def __init__(self, byte: int) -> None:
        self._byte = byte

    def read(self, offset: int, size: int) -> int:
        """``size`` such bytes."""
        return int.from_bytes(bytes([self._byte]) * size, "little")

    def write(self, offset: int, value: int, size: int) -> None:
        """Nothing happens."""


class Registers:
    """A few 32-bit registers with fixed values, ``default`` elsewhere; writes are lost."""

    def __init__(self, values: Mapping[int, int], default: int = 0, stride: int = 0) -> None:
        self._values = values
        self._default = default
        self._stride = stride

    def read(self, offset: int, size: int) -> int:
        """The part of the register that ``size`` bytes at ``offset`` are."""
        if self._stride:
            offset %= self._stride
        word = self._values.get(offset & ~3, self._default)
        return word >> 8 * (offset & 3) & (1 << 8 * size) - 1 if size < 8 else word

    def write(self, offset: int, value: int, size: int) -> None:
        """Nothing happens."""


class Signature:
    """fw_cfg with its signature and no files: the selected item is read byte by byte from the data register at 0."""

    ITEMS: Final = {0: b"QEMU"}
    SELECTOR: Final = 8

    def __init__(self) -> None:
        self._item = b"QEMU"
        self._position = 0

    def read(self, offset: int, size: int) -> int:
        """The next ``size`` bytes of the item, then zeros."""
        if offset >= self.SELECTOR:
            return 0
        part = self._item[self._position : self._position + size].ljust(size, b"\0")
        self._position += size
        return int.from_bytes(part, "little")

    def write(self, offset: int, value: int, size: int) -> None:
        """Select an item; the register is big-endian."""
        if offset == self.SELECTOR and size == 2:
            self._item = self.ITEMS.get((value & 0xFF) << 8 | value >> 8, b"")
            self._position = 0


def attach_empty_slots(bus: Bus) -> None:
    """Put everything on ``bus`` that has no model of its own; the UART, the clock and the GIC are others' work."""
    bus.attach(FLASH.base, FLASH.size, Constant(0))
    bus.attach(board.GITS.base, board.GITS.size, Registers({0: GITS_QUIESCENT}))
    bus.attach(board.FW_CFG.base, board.FW_CFG.size, Signature())
    identification = {0xFE0 + 4 * number: value for number, value in enumerate(GPIO_IDENTIFICATION)}
    bus.attach(board.GPIO.base, board.GPIO.size, Registers(identification))
    slot = {0x0: VIRTIO_MAGIC, 0x4: 1, 0xC: VIRTIO_VENDOR}
    bus.attach(board.VIRTIO_MMIO.base, board.VIRTIO_MMIO.size, Registers(slot, stride=board.VIRTIO_MMIO_STRIDE))
    bus.attach(board.PCIE_MMIO.base, board.PCIE_MMIO.size, Constant(0xFF))
    bus.attach(board.PCIE_PIO.base, board.PCIE_PIO.size, Constant(0xFF))
    bus.attach(board.PCIE_ECAM.base, 0x1000, Registers(HOST_BRIDGE))
    bus.attach(board.PCIE_ECAM.base + 0x1000, board.PCIE_ECAM.size - 0x1000, Constant(0xFF))
