"""The distributor frame of a virtual GICv3 (objects.md 10.3).

A frame is 64 KiB in the default window; attached elsewhere it answers as far as the attached range goes, so the root
VM, whose frame is attached with 0xFFD0 bytes, has no identification registers (reference.md 2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gunyah.hypervisor.vdevice import DeviceAbort
from gunyah.hypervisor.vgic_affinity import MPIDR_AFFINITY
from gunyah.hypervisor.vgic_registers import IIDR, PIDR2, READ_BITS, FrameStatus, priority_bytes, trigger_bits
from gunyah.hypervisor.vgic_state import PRIORITY_SHIFT, PRIVATE, SPECIAL, Interrupt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gunyah.hypervisor.vcpu import Vcpu
    from gunyah.hypervisor.vgic_delivery import Delivery

__all__ = ["DISTRIBUTOR_SIZE", "Distributor", "ROOT_DISTRIBUTOR_SIZE"]

DISTRIBUTOR_SIZE = 0x1_0000
ROOT_DISTRIBUTOR_SIZE = 0xFFD0
"""Bytes of the frame that the root VM gets: all but the identification registers."""

CTLR = 0x0000
TYPER = 0x0004
IIDR_OFFSET = 0x0008
TYPER2 = 0x000C
STATUSR = 0x0010
SETSPI_NSR = 0x0040
CLRSPI_NSR = 0x0048
SETSPI_SR = 0x0050
CLRSPI_SR = 0x0058
SGIR = 0x0F00
PIDR2_OFFSET = 0xFFE8

CTLR_FIXED = 0x50
"""ARE and DS; RWP always reads 0."""
CTLR_GROUPS = 3
TYPER_VALUE = 0x0349_001F
"""ITLinesNumber 31, MBIS, IDbits 9, A3V, No1N."""

_BITS = range(0x0080, 0x0400)
_PRIORITY = range(0x0400, 0x0800)
_TARGETS = range(0x0800, 0x0C00)
_TRIGGER = range(0x0C00, 0x0D00)
_MODIFIER = range(0x0D00, 0x0D80)
_ACCESS_CONTROL = range(0x0E00, 0x0F00)
_SGI_PENDING = range(0x0F10, 0x0F30)
_ROUTER = range(0x6100, 0x8000)
_ROUTER_BASE = 0x6000

_READ_ONLY = {TYPER: TYPER_VALUE, IIDR_OFFSET: IIDR, TYPER2: 0, PIDR2_OFFSET: PIDR2}
_WRITE_ONLY = frozenset({SETSPI_NSR, CLRSPI_NSR, SETSPI_SR, CLRSPI_SR, SGIR})
_IGNORED = (_TARGETS, _MODIFIER, _ACCESS_CONTROL)
_INTID_FIELD = 0x1FFF
_NOTHING: tuple[Interrupt | None, ...] = ()


class Distributor:
    """GICD registers of one VIC as a VirtualDevice. Word 0 of each bank is the calling vCPU's own (read only here)."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._status = FrameStatus()

    def read(self, vcpu: Vcpu, offset: int, size: int, /) -> int:
        """Read 1, 2, 4 or 8 bytes; DeviceAbort for a size or alignment the register does not have."""
        if size != 4 or offset & 3:
            return self._read_odd(vcpu, offset, size)
        if offset == CTLR:
            return CTLR_FIXED | self._delivery.groups
        constant = _READ_ONLY.get(offset)
        if constant is not None:
            return constant
        if offset in _BITS:
            bank, word = divmod(offset - _BITS.start, 0x80)
            return READ_BITS[bank](self._bank(vcpu, word * 8, 32))
        if offset in _PRIORITY:
            return priority_bytes(self._bank(vcpu, offset - _PRIORITY.start, 4))
        if offset in _TRIGGER:
            return trigger_bits(self._bank(vcpu, (offset - _TRIGGER.start) * 4, 16))
        if offset in _ROUTER:
            return self._affinity(offset) >> (offset & 4) * 8 & 0xFFFF_FFFF
        if offset == STATUSR:
            return self._status.value
        if offset in _WRITE_ONLY:
            return self._status.read_write_only()
        if any(offset in ignored for ignored in _IGNORED):
            return 0
        return self._status.read_reserved()

    def _read_odd(self, vcpu: Vcpu, offset: int, size: int) -> int:
        self._check(offset, size, write=False)
        if size == 8:
            return self._affinity(offset)
        if size == 1 and offset in _PRIORITY:
            return priority_bytes(self._bank(vcpu, offset - _PRIORITY.start, 1))
        if size == 2:
            return self._status.read_write_only()
        return 0 if offset in _TARGETS else self._status.read_reserved()

    def write(self, vcpu: Vcpu, offset: int, size: int, value: int, /) -> None:
        """Write ``size`` bytes of ``value``;

        DeviceAbort for a wrong size or alignment and for an offset without a register.
        """
        if size != 4 or offset & 3:
            self._check(offset, size, write=True)
        if offset in _BITS:
            bank, word = divmod(offset - _BITS.start, 0x80)
            if word >= 4:
                self._write_bits(bank, word * 8, value & 0xFFFF_FFFF)
        elif offset == CTLR:
            self._delivery.set_groups(value & CTLR_GROUPS)
        elif offset in _PRIORITY:
            self._write_priority(offset - _PRIORITY.start, size, value)
        elif offset in _TRIGGER:
            self._write_trigger((offset - _TRIGGER.start) * 4, value)
        elif offset in _ROUTER:
            self._write_router(offset, size, value)
        elif offset in (SETSPI_NSR, CLRSPI_NSR):
            self._message(value & _INTID_FIELD, offset == SETSPI_NSR)
        elif offset == STATUSR:
            self._status.clear(value)
        elif offset in _READ_ONLY:
            self._status.write_read_only()
        elif not (
            offset in _WRITE_ONLY or offset in _SGI_PENDING or any(offset in ignored for ignored in _IGNORED)
        ):
            self._status.write_reserved()
            raise DeviceAbort(f"write of {value:#x} to GICD + {offset:#x}, where no register is")

    # -- sizes and alignment -------------------------------------------------------------------------------------------

    @staticmethod
    def _check(offset: int, size: int, write: bool) -> None:
        aligned = offset & size - 1 == 0
        if size == 8:
            allowed = offset in _ROUTER
        elif size == 1:
            allowed = offset in _PRIORITY or offset in _TARGETS or offset in _SGI_PENDING
        else:
            allowed = size == 2 and offset in (SETSPI_NSR, CLRSPI_NSR)
        if not aligned or not allowed:
            way = "write" if write else "read"
            raise DeviceAbort(f"{size}-byte {way} of GICD + {offset:#x}")

    # -- banks ---------------------------------------------------------------------------------------------------------

    def _bank(self, vcpu: Vcpu, first: int, count: int) -> Sequence[Interrupt | None]:
        if first >= PRIVATE:
            return self._delivery.spis[first : first + count]
        gic = vcpu.gic
        return gic.private[first : first + count] if gic is not None else _NOTHING

    def _write_bits(self, bank: int, first: int, value: int) -> None:
        delivery = self._delivery
        if first + 32 > SPECIAL:
            value &= (1 << SPECIAL - first) - 1
        if bank == 0:
            for intid in range(first, min(first + 32, SPECIAL)):
                group = value >> intid - first & 1
                if group or delivery.spis[intid] is not None:
                    delivery.set_group(delivery.spi(intid), group)
            return
        # Only bits that are 1 do something, and clearing what was never set does nothing.
        clears = bank % 2 == 0
        while value:
            bit = value & -value
            value ^= bit
            intid = first + bit.bit_length() - 1
            if clears and delivery.spis[intid] is None:
                continue
            irq = delivery.spi(intid)
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

    def _write_priority(self, first: int, size: int, value: int) -> None:
        delivery = self._delivery
        for intid in range(max(first, PRIVATE), min(first + size, SPECIAL)):
            priority = value >> 8 * (intid - first) & 0xFF
            if priority >> PRIORITY_SHIFT or delivery.spis[intid] is not None:
                delivery.set_priority(delivery.spi(intid), priority)

    def _write_trigger(self, first: int, value: int) -> None:
        delivery = self._delivery
        for intid in range(max(first, PRIVATE), min(first + 16, SPECIAL)):
            edge = value >> 2 * (intid - first) & 2 != 0
            if edge or delivery.spis[intid] is not None:
                delivery.set_edge(delivery.spi(intid), edge)

    def _message(self, intid: int, pending: bool) -> None:
        if PRIVATE <= intid < SPECIAL:
            if pending:
                self._delivery.set_pending(self._delivery.spi(intid), message=True)
            else:
                self._delivery.clear_pending(self._delivery.spi(intid), message=True)

    def _affinity(self, offset: int) -> int:
        intid = offset - _ROUTER_BASE >> 3
        irq = self._delivery.spis[intid] if intid < SPECIAL else None
        return irq.affinity if irq is not None else 0

    def _write_router(self, offset: int, size: int, value: int) -> None:
        intid = offset - _ROUTER_BASE >> 3
        if intid >= SPECIAL:
            return
        if size == 4:
            # Half a register keeps the other half.
            old = self._affinity(offset)
            value &= 0xFFFF_FFFF
            value = old & 0xFFFF_FFFF | value << 32 if offset & 4 else old >> 32 << 32 | value
        self._delivery.set_route(self._delivery.spi(intid), value & MPIDR_AFFINITY)
