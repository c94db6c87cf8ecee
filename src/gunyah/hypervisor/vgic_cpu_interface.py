"""The GICv3 CPU interface of one vCPU: the ICC_* system registers as EL1 sees them (objects.md 10.5).

What a guest reaches is the virtual interface of a GICv3: 5 priority bits and 5 preemption bits (one active-priority
register per group), no security states, both end-of-interrupt modes. Rules that the fact sheets leave to hardware are
those of the Arm GIC architecture (IHI 0069) for ICV_* registers.

Priorities are kept as ranks (priority >> 3). Interrupts that wait sit in one bit mask per group and rank, and one
32-bit word per group tells which ranks are in use, so choosing the next interrupt is two bit tricks whatever the
number of interrupts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from gunyah.hypervisor.vgic_list_registers import ListRegisters
from gunyah.hypervisor.vgic_state import PRIORITY_SHIFT, PRIVATE, RANKS, SPECIAL, SPURIOUS, Interrupt

if TYPE_CHECKING:
    from gunyah.hypervisor.vcpu import Vcpu
    from gunyah.hypervisor.vgic_delivery import Delivery

__all__ = ["CpuInterface", "READABLE", "REGISTERS", "UndefinedRegister", "WRITABLE"]

REGISTERS: Mapping[str, tuple[int, int, int, int, int]] = MappingProxyType(
    {
        "ICC_PMR_EL1": (3, 0, 4, 6, 0),
        "ICC_IAR0_EL1": (3, 0, 12, 8, 0),
        "ICC_EOIR0_EL1": (3, 0, 12, 8, 1),
        "ICC_HPPIR0_EL1": (3, 0, 12, 8, 2),
        "ICC_BPR0_EL1": (3, 0, 12, 8, 3),
        "ICC_AP0R0_EL1": (3, 0, 12, 8, 4),
        "ICC_AP1R0_EL1": (3, 0, 12, 9, 0),
        "ICC_DIR_EL1": (3, 0, 12, 11, 1),
        "ICC_RPR_EL1": (3, 0, 12, 11, 3),
        "ICC_SGI1R_EL1": (3, 0, 12, 11, 5),
        "ICC_ASGI1R_EL1": (3, 0, 12, 11, 6),
        "ICC_SGI0R_EL1": (3, 0, 12, 11, 7),
        "ICC_IAR1_EL1": (3, 0, 12, 12, 0),
        "ICC_EOIR1_EL1": (3, 0, 12, 12, 1),
        "ICC_HPPIR1_EL1": (3, 0, 12, 12, 2),
        "ICC_BPR1_EL1": (3, 0, 12, 12, 3),
        "ICC_CTLR_EL1": (3, 0, 12, 12, 4),
        "ICC_SRE_EL1": (3, 0, 12, 12, 5),
        "ICC_IGRPEN0_EL1": (3, 0, 12, 12, 6),
        "ICC_IGRPEN1_EL1": (3, 0, 12, 12, 7),
    }
)
"""Every register there is, with its encoding (op0, op1, CRn, CRm, op2).

With 5 preemption bits AP0R1..3 and AP1R1..3 are UNDEFINED.
"""

WRITABLE = frozenset(REGISTERS) - {
    "ICC_IAR0_EL1",
    "ICC_IAR1_EL1",
    "ICC_HPPIR0_EL1",
    "ICC_HPPIR1_EL1",
    "ICC_RPR_EL1",
}
"""MSR of the others is UNDEFINED."""
READABLE = frozenset(REGISTERS) - {
    "ICC_EOIR0_EL1",
    "ICC_EOIR1_EL1",
    "ICC_DIR_EL1",
    "ICC_SGI0R_EL1",
    "ICC_SGI1R_EL1",
    "ICC_ASGI1R_EL1",
}
"""MRS of the others is UNDEFINED."""

CTLR_CBPR = 1 << 0
CTLR_EOIMODE = 1 << 1
# A3V, 24 INTID bits (the hardware's own answer), 5 priority bits.
CTLR_FIXED = 0x8C00
SRE_FIXED = 7

_INTID_MASK = 0xFF_FFFF
_BPR0_MIN = 2
_BPR1_MIN = 3
_ALL_RANKS = (1 << RANKS) - 1
_IDLE_PRIORITY = 0xFF


class UndefinedRegister(KeyError):
    """The register does not exist, cannot be read or cannot be written: UNDEFINED at EL1 (EC 0)."""


class CpuInterface:
    """ICC_* registers and the queue of interrupts waiting for one vCPU; ``vcpu.gic``.

    ``readers`` and ``writers`` map a register's name to a bound function, for engines that want one callable per
    register.
    """

    __slots__ = (
        "_ap",
        "_bpr",
        "_ctlr",
        "_delivery",
        "_limit",
        "_mask",
        "_open",
        "_output",
        "_pmr",
        "_ranks",
        "_ready",
        "_wanted",
        "index",
        "private",
        "readers",
        "registers",
        "vcpu",
        "writers",
    )

    def __init__(self, vcpu: Vcpu, index: int, delivery: Delivery) -> None:
        self.vcpu = vcpu
        self.index = index
        self._delivery = delivery
        self.private = [Interrupt(intid, index, self) for intid in range(PRIVATE)]
        # Indexed by group, then by rank: bit masks of INTIDs. The word of ranks has a bit for each mask that is not 0.
        self._ready = ([0] * RANKS, [0] * RANKS)
        self.registers = ListRegisters(self)
        self._ranks = [0, 0]
        self._output = False
        # ICC_IGRPENn_EL1, and the mask of ranks that pass group enables here and in the distributor: all or none.
        self._wanted = [0, 0]
        self._open = [0, 0]
        self._pmr = 0
        self._bpr = [_BPR0_MIN, _BPR1_MIN]
        self._ctlr = 0
        self._ap = [0, 0]
        # Mask of a rank's preemption level per group; 1 << (first rank that is not signalled) per group.
        self._mask = [0, 0]
        self._limit = [1, 1]
        self._set_masks()
        self.readers: dict[str, Callable[[], int]] = {
            "ICC_IAR1_EL1": self.acknowledge,
            "ICC_IAR0_EL1": self._read_iar0,
            "ICC_HPPIR0_EL1": self._read_hppir0,
            "ICC_HPPIR1_EL1": self._read_hppir1,
            "ICC_PMR_EL1": self._read_pmr,
            "ICC_RPR_EL1": self._read_rpr,
            "ICC_BPR0_EL1": self._read_bpr0,
            "ICC_BPR1_EL1": self._read_bpr1,
            "ICC_AP0R0_EL1": self._read_ap0r0,
            "ICC_AP1R0_EL1": self._read_ap1r0,
            "ICC_CTLR_EL1": self._read_ctlr,
            "ICC_SRE_EL1": self._read_sre,
            "ICC_IGRPEN0_EL1": self._read_igrpen0,
            "ICC_IGRPEN1_EL1": self._read_igrpen1,
        }
        self.writers: dict[str, Callable[[int], None]] = {
            "ICC_EOIR1_EL1": self.end,
            "ICC_EOIR0_EL1": self._write_eoir0,
            "ICC_DIR_EL1": self._write_dir,
            "ICC_SGI1R_EL1": self._write_sgi1r,
            "ICC_SGI0R_EL1": self._write_sgi0r,
            "ICC_ASGI1R_EL1": self._write_sgi0r,
            "ICC_PMR_EL1": self._write_pmr,
            "ICC_BPR0_EL1": self._write_bpr0,
            "ICC_BPR1_EL1": self._write_bpr1,
            "ICC_AP0R0_EL1": self._write_ap0r0,
            "ICC_AP1R0_EL1": self._write_ap1r0,
            "ICC_CTLR_EL1": self._write_ctlr,
            "ICC_SRE_EL1": self._write_sre,
            "ICC_IGRPEN0_EL1": self._write_igrpen0,
            "ICC_IGRPEN1_EL1": self._write_igrpen1,
        }

    # -- system registers ----------------------------------------------------------------------------------------------

    def read(self, register: str) -> int:
        """MRS of a register named as in ``REGISTERS`` (uint64_t); raises UndefinedRegister."""
        reader = self.readers.get(register)
        if reader is None:
            raise UndefinedRegister(f"{register} cannot be read")
        return reader()

    def write(self, register: str, value: int) -> None:
        """MSR of ``value`` (uint64_t); raises UndefinedRegister."""
        writer = self.writers.get(register)
        if writer is None:
            raise UndefinedRegister(f"{register} cannot be written")
        writer(value)

    def acknowledge(self) -> int:
        """ICC_IAR1_EL1: take the highest-priority pending group 1 interrupt; 1023 if none can be taken."""
        return self._acknowledge(1)

    def end(self, value: int) -> None:
        """ICC_EOIR1_EL1: drop the running priority and, with EOImode 0, deactivate the INTID in bits 23:0."""
        self._end(value & _INTID_MASK)

    def _read_iar0(self) -> int:
        return self._acknowledge(0)

    def _write_eoir0(self, value: int) -> None:
        self._end(value & _INTID_MASK)

    def _read_hppir0(self) -> int:
        return self._highest(0)

    def _read_hppir1(self) -> int:
        return self._highest(1)

    def _write_dir(self, value: int) -> None:
        irq = self._delivery.find(value & _INTID_MASK, self)
        # The reference leaves an interrupt alone that another vCPU holds (objects.md 10.5).
        if irq is not None and irq.active and (irq.active_on is None or irq.active_on is self):
            self._delivery.deactivate(irq)

    def _write_sgi1r(self, value: int) -> None:
        self._delivery.send_sgi(self, value, True)

    def _write_sgi0r(self, value: int) -> None:
        self._delivery.send_sgi(self, value, False)

    def _read_pmr(self) -> int:
        return self._pmr << PRIORITY_SHIFT

    def _write_pmr(self, value: int) -> None:
        self._pmr = (value & 0xFF) >> PRIORITY_SHIFT
        self._set_limits()
        self.refresh()

    def _read_rpr(self) -> int:
        active = self._ap[0] | self._ap[1]
        return ((active & -active).bit_length() - 1) << PRIORITY_SHIFT if active else _IDLE_PRIORITY

    def _read_bpr0(self) -> int:
        return self._bpr[0]

    def _read_bpr1(self) -> int:
        if self._ctlr & CTLR_CBPR:
            return min(self._bpr[0] + 1, 7)
        return self._bpr[1]

    def _write_bpr0(self, value: int) -> None:
        self._bpr[0] = max(value & 7, _BPR0_MIN)
        self._set_masks()
        self.refresh()

    def _write_bpr1(self, value: int) -> None:
        if not self._ctlr & CTLR_CBPR:
            self._bpr[1] = max(value & 7, _BPR1_MIN)
            self._set_masks()
            self.refresh()

    def _read_ap0r0(self) -> int:
        return self._ap[0]

    def _read_ap1r0(self) -> int:
        return self._ap[1]

    def _write_ap0r0(self, value: int) -> None:
        self._ap[0] = value & _ALL_RANKS
        self._set_limits()
        self.refresh()

    def _write_ap1r0(self, value: int) -> None:
        self._ap[1] = value & _ALL_RANKS
        self._set_limits()
        self.refresh()

    def _read_ctlr(self) -> int:
        return CTLR_FIXED | self._ctlr

    def _write_ctlr(self, value: int) -> None:
        self._ctlr = value & (CTLR_CBPR | CTLR_EOIMODE)
        self._set_masks()
        self.refresh()

    def _read_sre(self) -> int:
        return SRE_FIXED

    def _write_sre(self, value: int) -> None:
        """System registers cannot be switched off."""

    def _read_igrpen0(self) -> int:
        return self._wanted[0]

    def _read_igrpen1(self) -> int:
        return self._wanted[1]

    def _write_igrpen0(self, value: int) -> None:
        self._wanted[0] = value & 1
        self.update_groups()

    def _write_igrpen1(self, value: int) -> None:
        self._wanted[1] = value & 1
        self.update_groups()

    # -- the queue -----------------------------------------------------------------------------------------------------

    def enqueue(self, irq: Interrupt) -> None:
        """A pending, enabled, inactive interrupt starts to wait here."""
        irq.queue = self
        rank = irq.rank
        group = irq.group
        self._ready[group][rank] |= irq.bit
        self._ranks[group] |= 1 << rank
        if self._open[group]:
            self.registers.enter(irq)
        self.refresh()

    def withdraw(self, irq: Interrupt) -> None:
        """A waiting interrupt is not pending any more, or somebody else's."""
        self.remove(irq)
        self.registers.leave(irq)
        self.refresh()

    def list_waiting(self) -> None:
        """Give list registers to what waits without one, highest priority first, then by number."""
        registers = self.registers
        registers.crowded = False
        for rank in range(RANKS):
            for group in (0, 1):
                ready = self._ready[group][rank] if self._open[group] else 0
                while ready:
                    bit = ready & -ready
                    ready ^= bit
                    intid = bit.bit_length() - 1
                    registers.enter(self.private[intid] if intid < PRIVATE else self._delivery.spi(intid))
                    if registers.crowded:
                        return

    def remove(self, irq: Interrupt) -> None:
        """Take a waiting interrupt out; the caller refreshes the output."""
        irq.queue = None
        rank = irq.rank
        ready = self._ready[irq.group]
        left = ready[rank] ^ irq.bit
        ready[rank] = left
        if not left:
            self._ranks[irq.group] ^= 1 << rank

    def refresh(self) -> None:
        """Work out whether an interrupt is signalled, and tell the vCPU if that changed."""
        low0 = self._ranks[0] & self._open[0]
        low1 = self._ranks[1] & self._open[1]
        low0 &= -low0
        low1 &= -low1
        if low0 and (low0 <= low1 or not low1):
            output = low0 < self._limit[0]
        else:
            output = 0 < low1 < self._limit[1]
        if output is not self._output:
            self._output = output
            self.vcpu.set_virq(output)

    @property
    def output(self) -> bool:
        """An interrupt is being signalled to the vCPU (the last value given to ``vcpu.set_virq``)."""
        return self._output

    def group_open(self, group: int) -> bool:
        """The group (0 or 1) is enabled here and in the distributor."""
        return self._open[group] != 0

    def update_groups(self) -> None:
        """A group enable changed, here or in the distributor."""
        enabled = self._delivery.groups
        opened = [
            _ALL_RANKS if self._wanted[0] and enabled & 1 else 0,
            _ALL_RANKS if self._wanted[1] and enabled & 2 else 0,
        ]
        if opened != self._open:
            self._open[:] = opened
            # Pending interrupts lose their list registers and get them again as far as their groups are enabled.
            self.registers.drop_waiting()
            self.list_waiting()
        self.refresh()

    def stop(self) -> None:
        """The vCPU was powered off:

        Registers back to reset, what it holds stays active and is nobody's (objects.md 10.6).
        """
        for irq in (*self.private, *self._delivery.known_spis()):
            if irq.active_on is self:
                irq.active_on = None
        self.registers.clear()
        self._wanted[0] = self._wanted[1] = 0
        self._pmr = 0
        self._bpr[0] = _BPR0_MIN
        self._bpr[1] = _BPR1_MIN
        self._ctlr = 0
        self._ap[0] = self._ap[1] = 0
        self._set_masks()
        self.update_groups()

    # -- acknowledge and end -------------------------------------------------------------------------------------------

    def _highest(self, group: int) -> int:
        mine = self._ranks[group] & self._open[group]
        other = self._ranks[1 - group] & self._open[1 - group]
        mine &= -mine
        other &= -other
        # Equal priorities: group 0 goes first.
        if not mine or (other and (other < mine or (other == mine and group))):
            return SPURIOUS
        rank = mine.bit_length() - 1
        ready = self._ready[group][rank]
        if ready & ready - 1:
            # Of several, the one whose list register comes first.
            listed = self.registers.first(group, rank)
            if listed is not None:
                return listed
        return (ready & -ready).bit_length() - 1

    def _acknowledge(self, group: int) -> int:
        intid = self._highest(group)
        if intid == SPURIOUS:
            return SPURIOUS
        delivery = self._delivery
        irq = self.private[intid] if intid < PRIVATE else delivery.spi(intid)
        rank = irq.rank
        if 1 << rank >= self._limit[group]:
            return SPURIOUS
        self.remove(irq)
        irq.active = True
        irq.active_on = self
        irq.latch = False
        if self.registers.crowded and not self.registers.any_pending():
            self.list_waiting()
        self._ap[group] |= 1 << (rank & self._mask[group])
        self._set_limits()
        self.refresh()
        if delivery.instruments:
            delivery.report_acknowledge(self.vcpu, intid)
        return intid

    def _end(self, intid: int) -> None:
        if intid >= SPECIAL:
            return
        # The priority that drops is the highest active one, whichever group's register was written: the architecture
        # asks software to end interrupts in order, and leaves the rest to us.
        ap0, ap1 = self._ap
        low0 = ap0 & -ap0
        low1 = ap1 & -ap1
        if low1 and (low1 < low0 or not low0):
            self._ap[1] = ap1 ^ low1
        else:
            self._ap[0] = ap0 ^ low0
        self._set_limits()
        delivery = self._delivery
        if not self._ctlr & CTLR_EOIMODE:
            irq = self.private[intid] if intid < PRIVATE else delivery.spi(intid)
            if irq.active_on is self:
                delivery.deactivate(irq)
        self.refresh()
        if delivery.instruments:
            delivery.report_end(self.vcpu, intid)

    def _set_masks(self) -> None:
        bpr0 = self._bpr[0]
        bpr1 = bpr0 if self._ctlr & CTLR_CBPR else self._bpr[1] - 1
        self._mask[0] = -1 << (bpr0 - _BPR0_MIN) & RANKS - 1
        self._mask[1] = -1 << (bpr1 - _BPR0_MIN) & RANKS - 1
        self._set_limits()

    def _set_limits(self) -> None:
        pmr = self._pmr
        active = self._ap[0] | self._ap[1]
        if active:
            running = (active & -active).bit_length() - 1
            level = running & self._mask[0]
            self._limit[0] = 1 << (level if level < pmr else pmr)
            level = running & self._mask[1]
            self._limit[1] = 1 << (level if level < pmr else pmr)
        else:
            self._limit[0] = self._limit[1] = 1 << pmr
