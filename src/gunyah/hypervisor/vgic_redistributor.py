"""The redistributor frames of one vCPU in a virtual GICv3: RD frame and SGI frame, 128 KiB together (objects.md 10.4).

There are no LPIs. Any vCPU of the VIC may use any redistributor of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gunyah.hypervisor.vdevice import DeviceAbort
from gunyah.hypervisor.vgic_registers import IIDR, PIDR2, READ_BITS, FrameStatus, priority_bytes, trigger_bits
from gunyah.hypervisor.vgic_state import PPIS

if TYPE_CHECKING:
    from gunyah.hypervisor.vcpu import Vcpu
    from gunyah.hypervisor.vgic_cpu_interface import CpuInterface
    from gunyah.hypervisor.vgic_delivery import Delivery

__all__ = ["REDISTRIBUTOR_SIZE", "Redistributor", "RedistributorFrame"]

REDISTRIBUTOR_SIZE = 0x2_0000

CTLR = 0x0000
IIDR_OFFSET = 0x0004
TYPER = 0x0008
TYPER_HIGH = 0x000C
STATUSR = 0x0010
WAKER = 0x0014
SETLPIR = 0x0040
CLRLPIR = 0x0048
PROPBASER = 0x0070
PENDBASER = 0x0078
INVLPIR = 0x00A0
INVALLR = 0x00B0
SYNCR = 0x00C0
PIDR2_OFFSET = 0xFFE8

_SGI = 0x1_0000
IGRPMODR0 = _SGI + 0x0D00
NSACR = _SGI + 0x0E00
_BITS = {_SGI + 0x80 * (bank + 1): bank for bank in range(7)}
_PRIORITY = range(_SGI + 0x0400, _SGI + 0x0420)
ICFGR0 = _SGI + 0x0C00
ICFGR1 = _SGI + 0x0C04

TYPER_LAST = 1 << 4
WAKER_PROCESSOR_SLEEP = 1 << 1
WAKER_CHILDREN_ASLEEP = 1 << 2

_DOUBLEWORDS = frozenset({TYPER, SETLPIR, CLRLPIR, PROPBASER, PENDBASER, INVLPIR, INVALLR})
_READ_ZERO = frozenset({CTLR, PROPBASER, PENDBASER, SYNCR, IGRPMODR0, NSACR})
_WRITE_ONLY = frozenset({SETLPIR, CLRLPIR, INVLPIR, INVALLR})
_READ_ONLY = frozenset({IIDR_OFFSET, TYPER, SYNCR, PIDR2_OFFSET})
_IGNORED = frozenset({CTLR, SETLPIR, CLRLPIR, ICFGR0, IGRPMODR0, NSACR})


class Redistributor:
    """GICR registers of the vCPU of ``gic``."""

    def __init__(self, gic: CpuInterface, delivery: Delivery) -> None:
        self.gic = gic
        self._delivery = delivery
        self._status = FrameStatus()
        # Awake at reset: guests that think themselves non-secure do not wake it.
        self._asleep = False

    def read(self, offset: int, size: int, last: bool) -> int:
        """Read 1, 4 or 8 bytes; ``last`` is what TYPER.Last shows in this frame."""
        if size != 4 or offset & 3:
            self._check(offset, size, write=False)
        bank = _BITS.get(offset)
        if bank is not None:
            return READ_BITS[bank](self.gic.private)
        if offset in (TYPER, TYPER_HIGH):
            value = self._typer(last)
            if size == 4:
                value = value >> 32 if offset == TYPER_HIGH else value & 0xFFFF_FFFF
            return value
        if offset == WAKER:
            return self._waker()
        if offset in _PRIORITY:
            first = offset - _PRIORITY.start
            return priority_bytes(self.gic.private[first : first + size])
        if offset in (ICFGR0, ICFGR1):
            first = (offset - ICFGR0) * 4
            return trigger_bits(self.gic.private[first : first + 16])
        if offset == IIDR_OFFSET:
            return IIDR
        if offset == PIDR2_OFFSET:
            return PIDR2
        if offset == STATUSR:
            return self._status.value
        if offset in _READ_ZERO:
            return 0
        if offset in _WRITE_ONLY:
            return self._status.read_write_only()
        return self._status.read_reserved()

    def write(self, offset: int, size: int, value: int) -> None:
        """Write 1, 4 or 8 bytes; DeviceAbort for a wrong size or alignment and for an offset without a register."""
        if size != 4 or offset & 3:
            self._check(offset, size, write=True)
        bank = _BITS.get(offset)
        if bank is not None:
            self._write_bits(bank, value & 0xFFFF_FFFF)
        elif offset in _PRIORITY:
            first = offset - _PRIORITY.start
            for position in range(size):
                irq = self.gic.private[first + position]
                self._delivery.set_priority(irq, value >> 8 * position & 0xFF)
        elif offset == ICFGR1:
            for position, intid in enumerate(PPIS):
                self._delivery.set_edge(self.gic.private[intid], value >> 2 * position & 2 != 0)
        elif offset == WAKER:
            self._asleep = value & WAKER_PROCESSOR_SLEEP != 0
        elif offset == STATUSR:
            self._status.clear(value)
        elif offset in _READ_ONLY:
            self._status.write_read_only()
        elif offset not in _IGNORED:
            self._status.write_reserved()
            raise DeviceAbort(f"write of {value:#x} to GICR{self.gic.index} + {offset:#x}, where no register is")

    def _check(self, offset: int, size: int, write: bool) -> None:
        aligned = offset & size - 1 == 0
        allowed = offset in _DOUBLEWORDS if size == 8 else size == 1 and offset in _PRIORITY
        if not aligned or not allowed:
            way = "write" if write else "read"
            raise DeviceAbort(f"{size}-byte {way} of GICR{self.gic.index} + {offset:#x}")

    def _typer(self, last: bool) -> int:
        index = self.gic.index
        value = self._delivery.mapping.affinity(index) << 32 | index << 8
        return value | TYPER_LAST if last else value

    def _waker(self) -> int:
        if not self._asleep:
            return 0
        if self.gic.group_open(0) or self.gic.group_open(1):
            return WAKER_PROCESSOR_SLEEP
        return WAKER_PROCESSOR_SLEEP | WAKER_CHILDREN_ASLEEP

    def _write_bits(self, bank: int, value: int) -> None:
        delivery = self._delivery
        private = self.gic.private
        if bank == 0:
            for intid, irq in enumerate(private):
                delivery.set_group(irq, value >> intid & 1)
            return
        while value:
            bit = value & -value
            value ^= bit
            irq = private[bit.bit_length() - 1]
            if bank == 1:
                delivery.set_enabled(irq, True)
            elif bank == 2:
                delivery.set_enabled(irq, False)
            elif bank == 3:
                delivery.set_pending(irq, message=False)
            elif bank == 4:
                delivery.clear_pending(irq, message=False)
            elif bank == 5:
                delivery.set_active(irq)
            else:
                delivery.clear_active(irq)


class RedistributorFrame:
    """One place where a redistributor answers: a VirtualDevice with its own TYPER.Last."""

    def __init__(self, redistributor: Redistributor, last: bool) -> None:
        self.redistributor = redistributor
        self.last = last

    def read(self, vcpu: Vcpu, offset: int, size: int, /) -> int:
        """Read 1, 4 or 8 bytes; raises DeviceAbort."""
        return self.redistributor.read(offset, size, self.last)

    def write(self, vcpu: Vcpu, offset: int, size: int, value: int, /) -> None:
        """Write 1, 4 or 8 bytes; raises DeviceAbort."""
        self.redistributor.write(offset, size, value)
