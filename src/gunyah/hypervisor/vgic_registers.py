"""What the distributor and redistributor frames of a virtual GICv3 share (objects.md 10.3, 10.4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gunyah.hypervisor.vgic_state import PRIORITY_SHIFT, Interrupt

__all__ = ["FrameStatus", "IIDR", "PIDR2", "active_bits", "enabled_bits", "group_bits", "pending_bits"]

IIDR = 0x4700_0070
"""Implementer 0x070, product 'G', variant 0, revision 0."""
PIDR2 = 0x30
"""GICv3."""

STATUS_RRD = 1 << 0
STATUS_WRD = 1 << 1
STATUS_RWOD = 1 << 2
STATUS_WROD = 1 << 3
_STATUS_BITS = STATUS_RRD | STATUS_WRD | STATUS_RWOD | STATUS_WROD

Bank = Sequence[Interrupt | None]


class FrameStatus:
    """GICD_STATUSR or GICR_STATUSR: what kinds of wrong access were made since software cleared them."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def clear(self, bits: int) -> None:
        """Write 1 to clear."""
        self.value &= ~(bits & _STATUS_BITS)

    def read_reserved(self) -> int:
        """A read of an offset without a register: RRD, reads 0."""
        self.value |= STATUS_RRD
        return 0

    def read_write_only(self) -> int:
        """A read of a write-only register: RWOD, reads 0."""
        self.value |= STATUS_RWOD
        return 0

    def write_read_only(self) -> None:
        """A write to a read-only register: WROD, ignored."""
        self.value |= STATUS_WROD

    def write_reserved(self) -> None:
        """A write to an offset without a register: WRD; the caller aborts it."""
        self.value |= STATUS_WRD


def group_bits(bank: Bank) -> int:
    """IGROUPR of up to 32 interrupts, the first in bit 0; an SPI that was never touched is in its reset state."""
    bits = 0
    for position, irq in enumerate(bank):
        if irq is not None and irq.group:
            bits |= 1 << position
    return bits


def enabled_bits(bank: Bank) -> int:
    """ISENABLER of up to 32 interrupts."""
    bits = 0
    for position, irq in enumerate(bank):
        if irq is not None and irq.enabled:
            bits |= 1 << position
    return bits


def pending_bits(bank: Bank) -> int:
    """ISPENDR of up to 32 interrupts."""
    bits = 0
    for position, irq in enumerate(bank):
        if irq is not None and irq.pending:
            bits |= 1 << position
    return bits


def active_bits(bank: Bank) -> int:
    """ISACTIVER of up to 32 interrupts."""
    bits = 0
    for position, irq in enumerate(bank):
        if irq is not None and irq.active:
            bits |= 1 << position
    return bits


READ_BITS: tuple[Callable[[Bank], int], ...] = (
    group_bits,
    enabled_bits,
    enabled_bits,
    pending_bits,
    pending_bits,
    active_bits,
    active_bits,
)
"""Readers of the seven one-bit banks from 0x80 on, one bank each 0x80 bytes."""


def priority_bytes(bank: Bank) -> int:
    """IPRIORITYR of up to 4 interrupts, a byte each."""
    word = 0
    for position, irq in enumerate(bank):
        if irq is not None:
            word |= irq.rank << PRIORITY_SHIFT + 8 * position
    return word


def trigger_bits(bank: Bank) -> int:
    """ICFGR of up to 16 interrupts: bit 1 of each field is edge, bit 0 reads 0."""
    word = 0
    for position, irq in enumerate(bank):
        if irq is not None and irq.edge:
            word |= 2 << 2 * position
    return word
