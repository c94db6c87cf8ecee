"""The board's empty slots say that nothing is there, in the words of their kind."""

from __future__ import annotations

from gunyah.machine import board
from gunyah.machine.bus import Bus
from gunyah.machine.empty import attach_empty_slots


def bus() -> Bus:
    found = Bus()
    attach_empty_slots(found)
    return found


def test_a_virtio_slot_has_the_magic_word_and_no_device() -> None:
    slots = bus()
    for slot in (0, board.VIRTIO_MMIO_SLOTS - 1):
        base = board.VIRTIO_MMIO.base + slot * board.VIRTIO_MMIO_STRIDE
        assert slots.read(base, 4) == 0x7472_6976
        assert slots.read(base + 8, 4) == 0


def test_pci_has_a_host_bridge_and_nothing_else() -> None:
    slots = bus()
    assert slots.read(board.PCIE_ECAM.base, 4) == 0x0008_1B36
    assert slots.read(board.PCIE_ECAM.base + 2, 2) == 0x0008
    assert slots.read(board.PCIE_ECAM.base + (1 << 15), 4) == 0xFFFF_FFFF
    assert slots.read(board.PCIE_MMIO.base, 8) == 0xFFFF_FFFF_FFFF_FFFF


def test_flash_is_blank_and_fw_cfg_has_its_signature_once() -> None:
    slots = bus()
    assert slots.read(0, 8) == 0
    assert slots.read(board.FW_CFG.base, 4) == int.from_bytes(b"QEMU", "little")
    assert slots.read(board.FW_CFG.base, 4) == 0
    slots.write(board.FW_CFG.base + 8, 0, 2)
    assert slots.read(board.FW_CFG.base, 1) == ord("Q")
    slots.write(board.FW_CFG.base + 8, 0x1900, 2)
    assert slots.read(board.FW_CFG.base, 4) == 0


def test_writes_are_lost() -> None:
    slots = bus()
    slots.write(board.GPIO.base + 0xFE0, 0, 4)
    assert slots.read(board.GPIO.base + 0xFE0, 4) == 0x61
