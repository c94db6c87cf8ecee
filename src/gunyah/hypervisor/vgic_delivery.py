"""Which interrupt waits for which vCPU: the state behind the register frames of one VIC (objects.md 10.6).

Everything that can make an interrupt deliverable or not goes through ``update``: it puts the interrupt in the queue
of its target's CPU interface, or takes it out. An enabled pending SPI without a target waits in no queue and is
offered again when a vCPU attaches at its route or the route changes. Changes are synchronous here; the reference lets
a running vCPU see some of them later.

SPIs come into being when something first touches them: most VMs use a handful of the 988.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from gunyah.hypervisor.vgic_affinity import DEFAULT_MAPPING, MpidrMapping
from gunyah.hypervisor.vgic_state import NO_ROUTE, PRIORITY_SHIFT, PRIVATE, SPECIAL, Interrupt

if TYPE_CHECKING:
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.instruments import Instrument
    from gunyah.hypervisor.vcpu import Vcpu
    from gunyah.hypervisor.vgic_cpu_interface import CpuInterface

__all__ = ["Delivery"]

_SGIR_IRM = 1 << 40


class Delivery:
    """Interrupts, routes and group enables of one VIC.

    ``cpus[i]`` is the CPU interface of the active vCPU at index i.
    """

    __slots__ = ("_hv", "cpus", "groups", "instruments", "mapping", "spis")

    def __init__(self, hv: Hypervisor | None) -> None:
        self._hv = hv
        self.instruments: Sequence[Instrument] = hv.instruments if hv is not None else ()
        self.cpus: list[CpuInterface | None] = [None]
        # GICD_CTLR.EnableGrp0 and EnableGrp1.
        self.groups = 0
        self.mapping: MpidrMapping = DEFAULT_MAPPING
        self.spis: list[Interrupt | None] = [None] * SPECIAL

    # -- finding interrupts --------------------------------------------------------------------------------------------

    def spi(self, intid: int) -> Interrupt:
        """The SPI ``intid`` (32..1019)."""
        irq = self.spis[intid]
        if irq is None:
            irq = self.spis[intid] = Interrupt(intid, 0, self.cpus[0])
        return irq

    def find(self, intid: int, gic: CpuInterface) -> Interrupt | None:
        """The interrupt that ``intid`` names on the vCPU of ``gic``; None if there is none or it was never touched."""
        if intid < PRIVATE:
            return gic.private[intid]
        return self.spis[intid] if intid < SPECIAL else None

    def known_spis(self) -> Iterable[Interrupt]:
        """The SPIs that were ever touched."""
        return [irq for irq in self.spis if irq is not None]

    # -- delivery ------------------------------------------------------------------------------------------------------

    def update(self, irq: Interrupt) -> None:
        """Bring the interrupt into the queue where its state says it belongs, or out of it."""
        queue = irq.queue
        if (
            irq.enabled
            and not irq.active
            and (irq.latch if irq.edge else irq.line or irq.soft or irq.message)
            and irq.target is not None
        ):
            if queue is not irq.target:
                if queue is not None:
                    queue.withdraw(irq)
                irq.target.enqueue(irq)
        elif queue is not None:
            queue.withdraw(irq)

    def _replace(self, irq: Interrupt, group: int, rank: int) -> None:
        queue = irq.queue
        if queue is None:
            irq.group = group
            irq.rank = rank
        else:
            queue.remove(irq)
            irq.group = group
            irq.rank = rank
            queue.enqueue(irq)

    def deactivate(self, irq: Interrupt) -> None:
        """End of an active interrupt:

        The source's level is asked again, unless it was asserted since the acknowledge.
        """
        irq.active = False
        irq.active_on = None
        if irq.line and not irq.edge and not irq.latch:
            irq.poll()
        self.update(irq)
        registers = irq.listed_in
        if registers is not None and not irq.edge:
            # The end of a level is noticed: its register is free, and who has none is looked for.
            if irq.queue is None:
                registers.leave(irq)
            if registers.crowded:
                registers.owner.list_waiting()

    # -- what registers change -----------------------------------------------------------------------------------------

    def set_enabled(self, irq: Interrupt, enabled: bool) -> None:
        """ISENABLER or ICENABLER."""
        irq.enabled = enabled
        if not enabled and not irq.edge:
            irq.poll()
        self.update(irq)

    def set_pending(self, irq: Interrupt, message: bool) -> None:
        """ISPENDR, or SETSPI if ``message``."""
        irq.latch = True
        if message:
            irq.message = True
        else:
            irq.soft = True
        self.update(irq)

    def clear_pending(self, irq: Interrupt, message: bool) -> None:
        """ICPENDR, or CLRSPI if ``message``; the level of a source that still stands comes back at once."""
        irq.latch = False
        if message:
            irq.message = False
        else:
            irq.soft = False
        if not irq.edge:
            irq.poll()
        self.update(irq)

    def set_active(self, irq: Interrupt) -> None:
        """ISACTIVER."""
        if not irq.listed:
            irq.active = True
            self.update(irq)

    def clear_active(self, irq: Interrupt) -> None:
        """ICACTIVER."""
        if irq.active and not irq.listed:
            self.deactivate(irq)

    def set_group(self, irq: Interrupt, group: int) -> None:
        """IGROUPR: 0 or 1."""
        if irq.group != group:
            self._replace(irq, group, irq.rank)

    def set_priority(self, irq: Interrupt, priority: int) -> None:
        """IPRIORITYR: uint8_t, the low three bits are not implemented."""
        rank = priority >> PRIORITY_SHIFT
        if irq.rank != rank:
            self._replace(irq, irq.group, rank)

    def set_edge(self, irq: Interrupt, edge: bool) -> None:
        """ICFGR; a source with a mode of its own wins. Turning to level forgets what software had latched."""
        if irq.source is not None and irq.source.always_edge:
            edge = True
        if irq.edge == edge:
            return
        irq.edge = edge
        if not edge:
            irq.soft = irq.message = False
            irq.poll()
        self.update(irq)

    def set_route(self, irq: Interrupt, affinity: int) -> None:
        """IROUTER of an SPI:

        Aff3 in bits 39:32, Aff2..Aff0 in 23:0. An affinity that matches no slot leaves it unrouted.
        """
        irq.affinity = affinity
        index = self.mapping.index(affinity & 0xFF, affinity >> 8 & 0xFF, affinity >> 16 & 0xFF, affinity >> 32 & 0xFF)
        if not 0 <= index < len(self.cpus):
            index = NO_ROUTE
        irq.route = index
        irq.target = None if index == NO_ROUTE else self.cpus[index]
        self.update(irq)

    def set_groups(self, groups: int) -> None:
        """GICD_CTLR bits 1:0."""
        if self.groups != groups:
            self.groups = groups
            for gic in self.cpus:
                if gic is not None:
                    gic.update_groups()

    # -- SGIs ----------------------------------------------------------------------------------------------------------

    def send_sgi(self, sender: CpuInterface, value: int, any_group: bool) -> None:
        """ICC_SGI1R_EL1 (``any_group``), ICC_SGI0R_EL1 or ICC_ASGI1R_EL1, which reach only where the SGI is group 0."""
        intid = value >> 24 & 0xF
        if value & _SGIR_IRM:
            for gic in self.cpus:
                if gic is not None and gic is not sender:
                    self._signal(gic.private[intid], any_group)
            return
        targets = value & 0xFFFF
        first = (value >> 44 & 0xF) * 16
        while targets:
            bit = targets & -targets
            targets ^= bit
            index = self.mapping.index(
                first + bit.bit_length() - 1, value >> 16 & 0xFF, value >> 32 & 0xFF, value >> 48 & 0xFF
            )
            if 0 <= index < len(self.cpus):
                target = self.cpus[index]
                if target is not None:
                    self._signal(target.private[intid], any_group)

    def _signal(self, sgi: Interrupt, any_group: bool) -> None:
        if any_group or sgi.group == 0:
            sgi.latch = True
            self.update(sgi)

    # -- vCPUs ---------------------------------------------------------------------------------------------------------

    def attach(self, gic: CpuInterface) -> None:
        """A vCPU became active: SPIs that waited for it are offered again."""
        self.cpus[gic.index] = gic
        gic.update_groups()
        for irq in self.known_spis():
            if irq.route == gic.index:
                irq.target = gic
                self.update(irq)

    def detach(self, gic: CpuInterface) -> None:
        """A vCPU is gone: what it held becomes inactive, what waited for it waits for the next one at this index."""
        self.cpus[gic.index] = None
        for irq in self.known_spis():
            if irq.route == gic.index:
                irq.target = None
                self.update(irq)
            if irq.active_on is gic:
                self.deactivate(irq)

    # -- instruments ---------------------------------------------------------------------------------------------------

    def report_acknowledge(self, vcpu: Vcpu, intid: int) -> None:
        """Tell the instruments that a vCPU took an interrupt."""
        if self._hv is not None:
            ticks = self._hv.clock.ticks()
            for instrument in self.instruments:
                instrument.interrupt_acknowledge(vcpu, intid, ticks)

    def report_end(self, vcpu: Vcpu, intid: int) -> None:
        """Tell the instruments that a vCPU ended an interrupt."""
        if self._hv is not None:
            ticks = self._hv.clock.ticks()
            for instrument in self.instruments:
                instrument.interrupt_end(vcpu, intid, ticks)

    def ticks(self) -> int:
        """System counter for instruments, 0 without a hypervisor."""
        return self._hv.clock.ticks() if self._hv is not None else 0
