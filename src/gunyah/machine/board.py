"""The memory map and the wiring of the board: QEMU's `virt` machine as the reference platform lays it out.

Everything here is a physical address, a size in bytes, an interrupt number or a frequency in hertz
(boot.md 1, reference.md 2).
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Window(NamedTuple):
    """A range of physical addresses, both in bytes."""

    base: int
    size: int

    @property
    def end(self) -> int:
        """First address behind the window."""
        return self.base + self.size

    def __contains__(self, address: object) -> bool:
        """True if the physical address lies inside the window."""
        return isinstance(address, int) and self.base <= address < self.base + self.size


MAX_CORES: Final = 8
"""Physical cores of the platform; MPIDR Aff0 is the core's number."""

PA_BITS: Final = 36
IPA_BITS: Final = 36
PAGE_SIZE: Final = 4096
COUNTER_FREQUENCY: Final = 62_500_000
"""CNTFRQ_EL0 in hertz: one tick is 16 ns."""

DEVICES: Final = Window(0, 0x4000_0000)
"""All that lies below RAM."""

GICD: Final = Window(0x0800_0000, 0x1_0000)
GITS: Final = Window(0x0808_0000, 0x2_0000)
"""Where an ITS would be; none is built."""
GICR: Final = Window(0x080A_0000, MAX_CORES * 0x2_0000)
GICR_STRIDE: Final = 0x2_0000
"""RD_base and SGI_base frames of one core."""

UART: Final = Window(0x0900_0000, 0x1000)
"""PL011."""
RTC: Final = Window(0x0901_0000, 0x1000)
"""PL031."""
FW_CFG: Final = Window(0x0902_0000, 0x18)
GPIO: Final = Window(0x0903_0000, 0x1000)
"""PL061."""

VIRTIO_MMIO: Final = Window(0x0A00_0000, 32 * 0x200)
VIRTIO_MMIO_STRIDE: Final = 0x200
VIRTIO_MMIO_SLOTS: Final = 32

PCIE_MMIO: Final = Window(0x1000_0000, 0x2EFF_0000)
PCIE_PIO: Final = Window(0x3EFF_0000, 0x1_0000)
PCIE_ECAM: Final = Window(0x3F00_0000, 0x100_0000)

RAM: Final = Window(0x4000_0000, 0x8000_0000)
HLOS: Final = Window(0x4000_0000, 0x4000_0000)
"""What the reference gives the primary VM, IPA = PA."""
HLOS_RAMDISK: Final = 0x4080_0000
HLOS_DEVICE_TREE: Final = 0x40F0_0000
HLOS_ENTRY: Final = 0x4100_0000

HYPERVISOR_IMAGE: Final = 0x8000_0000
ROOT_VM: Final = Window(0x8048_0000, 0xA_0000)
HYPERVISOR_EXTRA_HEAP: Final = Window(0xBDC0_0000, 0x10_0000)
ROOT_PARTITION_HEAP: Final = Window(0xBDD0_0000, 0x230_0000)

SPI_BASE: Final = 32
"""INTID of SPI 0."""
PPI_BASE: Final = 16
"""INTID of PPI 0."""

SPI_UART: Final = 1
SPI_RTC: Final = 2
SPI_GPIO: Final = 7
SPI_VIRTIO_MMIO: Final = 16
"""SPI of virtio-mmio slot 0; slot n has the SPI n higher."""

INTID_UART: Final = SPI_BASE + SPI_UART
INTID_RTC: Final = SPI_BASE + SPI_RTC

PPI_PMU: Final = 23
PPI_GIC_MAINTENANCE: Final = 25
PPI_HYPERVISOR_TIMER: Final = 26
PPI_VIRTUAL_TIMER: Final = 27
PPI_PHYSICAL_TIMER: Final = 30
"""These five are INTIDs, as boot.md 1 counts them."""


def virtio_mmio(slot: int) -> tuple[Window, int]:
    """Give the register window and the INTID of virtio-mmio slot `slot` (0..31)."""
    if not 0 <= slot < VIRTIO_MMIO_SLOTS:
        raise ValueError(f"virtio-mmio slot {slot}: the board has slots 0..{VIRTIO_MMIO_SLOTS - 1}")
    window = Window(VIRTIO_MMIO.base + slot * VIRTIO_MMIO_STRIDE, VIRTIO_MMIO_STRIDE)
    return window, SPI_BASE + SPI_VIRTIO_MMIO + slot


def redistributor(core: int) -> Window:
    """Give the window of core `core`'s redistributor frames."""
    if not 0 <= core < MAX_CORES:
        raise ValueError(f"core {core}: the board has cores 0..{MAX_CORES - 1}")
    return Window(GICR.base + core * GICR_STRIDE, GICR_STRIDE)
