"""Hardware interrupts: physical PPIs and SPIs that can be forwarded to VMs (objects.md 10.2, hypercalls.md 3.11).

A device of the board drives a line with ``raise_line``; while the interrupt is bound, the line is the level of its
virtual interrupt, asked again when the guest ends it. The physical controller itself is not modelled: enable, trigger
mode and route follow the virtual interrupt, as the reference passes them through.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from gunyah.abi.errors import Error
from gunyah.abi.objects import ObjectType
from gunyah.abi.vic import PPI_PHYSICAL_TIMER, PPI_PMU, PPI_VIRTUAL_TIMER
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.objects import KernelObject
from gunyah.hypervisor.vgic_state import PPIS, PRIVATE, SPIS
from gunyah.hypervisor.virq import VirqSource
from gunyah.machine.board import MAX_CORES, PPI_GIC_MAINTENANCE, PPI_HYPERVISOR_TIMER

if TYPE_CHECKING:
    from gunyah.hypervisor.partition import Partition
    from gunyah.hypervisor.vcpu import Vcpu
    from gunyah.hypervisor.vic import Vic

__all__ = ["ForwardedPpi", "HwIrq", "usable_interrupts"]

_VCPU_PPIS = frozenset({PPI_PMU, PPI_VIRTUAL_TIMER, PPI_PHYSICAL_TIMER})
"""Virtual PPIs that each vCPU binds to its own timers and PMU when it is activated."""

_RESERVED = _VCPU_PPIS | {PPI_GIC_MAINTENANCE, PPI_HYPERVISOR_TIMER}
_LAST_PHYSICAL = 255

_FORWARDED_PPI_SIZE = 640
"""Bytes of the VIC's partition that a forwarded PPI takes: a source for each core."""


class ForwardedPpi:
    """A physical PPI forwarded to one virtual PPI number of each pinned vCPU of a VIC; holds a reference to the VIC."""

    def __init__(self, hwirq: HwIrq, vic: Vic, virq: int) -> None:
        self.hwirq = hwirq
        self.vic = vic
        self.virq = virq
        # One source per physical core: a core's line reaches the vCPU that is pinned there.
        self.sources = tuple(
            VirqSource(hwirq, f"{hwirq} on core {core}", partial(hwirq.lines.__getitem__, core))
            for core in range(MAX_CORES)
        )

    def bind(self, vcpu: Vcpu) -> None:
        """Bind the vCPU's core: DENIED unless it is pinned, BUSY or VIRQ_BOUND if its PPI or its core is taken."""
        if not vcpu.pinned:
            raise HypervisorError(Error.DENIED, f"{vcpu} is not pinned to a core, so {self.hwirq} cannot follow it")
        if self.virq in _VCPU_PPIS:
            raise HypervisorError(Error.BUSY, f"PPI {self.virq} is {vcpu}'s own timer or PMU interrupt")
        core = vcpu.affinity
        self.vic.bind_private(self.sources[core], vcpu, self.virq)
        if self.hwirq.lines[core]:
            self.sources[core].assert_()

    def release(self) -> None:
        """Unbind every core and let go of the VIC and of its memory."""
        for source in self.sources:
            source.unbind()
        self.vic.forwarded.remove(self)
        if self.vic.partition is not None:
            self.vic.partition.refund(self.vic, _FORWARDED_PPI_SIZE)
        self.vic.put()


class HwIrq(KernelObject):
    """hwirq_t: one physical interrupt. ``irq`` is its INTID; ``lines`` the state of its wire, per core for a PPI."""

    type = ObjectType.HWIRQ
    heap_size = 256

    def __init__(self, partition: Partition | None, irq: int) -> None:
        super().__init__(partition)
        self.irq = irq
        self.lines = [False] * (MAX_CORES if irq < PRIVATE else 1)
        self.source = VirqSource(self, str(self), self._line)
        # The physical interrupt is enabled towards its binding. It stays off when there was nowhere to route it to.
        self._connected = False
        self._forwarded: ForwardedPpi | None = None

    def __str__(self) -> str:
        return f"hwirq {self.irq}"

    def _line(self) -> bool:
        return self._connected and self.lines[0]

    # -- binding -------------------------------------------------------------------------------------------------------

    def bind(self, vic: Vic, virq: int) -> None:
        """Forward to ``virq`` of a VIC.

        ARGUMENT_INVALID: a physical SPI needs a virtual SPI, a physical PPI a virtual PPI; an SPI outside the VIC's
        shared sources. SPI: VIRQ_BOUND, BUSY as ``Vic.bind_shared``. PPI: DENIED if bound, or if an active vCPU of
        the VIC is not pinned; BUSY if the PPI is taken on one; NOMEM.

        Recorded: an SPI whose virtual route names no active vCPU answers ARGUMENT_INVALID, because the physical
        interrupt has no core to go to, and is bound nevertheless: a second attempt finds it bound. It delivers nothing
        until it is unbound and bound again.
        """
        if self.irq < PRIVATE:
            self._bind_private(vic, virq)
        else:
            self._bind_shared(vic, virq)

    def _bind_shared(self, vic: Vic, virq: int) -> None:
        if virq not in SPIS:
            raise HypervisorError(Error.ARGUMENT_INVALID, f"{self} is an SPI, {virq} is not")
        vic.bind_shared(self.source, virq)
        self._connected = vic.has_target(virq)
        if not self._connected:
            raise HypervisorError(Error.ARGUMENT_INVALID, f"{self}: SPI {virq} of {vic} is routed to no active vCPU")
        if self.lines[0]:
            self.source.assert_()

    def _bind_private(self, vic: Vic, virq: int) -> None:
        if virq not in PPIS:
            raise HypervisorError(Error.ARGUMENT_INVALID, f"{self} is a PPI, {virq} is not")
        if self._forwarded is not None:
            raise HypervisorError(Error.DENIED, f"{self} is forwarded to {self._forwarded.vic} already")
        if vic.partition is not None:
            vic.partition.charge(vic, _FORWARDED_PPI_SIZE)
        forwarded = ForwardedPpi(self, vic, virq)
        vic.get()
        vic.forwarded.append(forwarded)
        try:
            for vcpu in vic.active_vcpus():
                forwarded.bind(vcpu)
        except HypervisorError:
            forwarded.release()
            raise
        self._forwarded = forwarded

    def unbind(self) -> None:
        """Disable and disconnect. VIRQ_NOT_BOUND for an SPI that is not bound; a PPI may be unbound any time."""
        if self.irq < PRIVATE:
            forwarded, self._forwarded = self._forwarded, None
            if forwarded is not None:
                forwarded.release()
            return
        if self.source.vic is None:
            raise HypervisorError(Error.VIRQ_NOT_BOUND, f"{self} is not bound")
        self._connected = False
        self.source.unbind()

    def _deactivate(self) -> None:
        if self.irq < PRIVATE or self.source.vic is not None:
            self.unbind()

    # -- the wire ------------------------------------------------------------------------------------------------------

    def raise_line(self, level: bool, core: int = 0) -> None:
        """A device drives the wire high or low; ``core`` (0..7) counts for PPIs only. Only a change does something."""
        if self.irq >= PRIVATE:
            core = 0
        if self.lines[core] == level:
            return
        self.lines[core] = level
        if self.irq >= PRIVATE:
            source = self.source if self._connected else None
        else:
            source = self._forwarded.sources[core] if self._forwarded is not None else None
        if source is None:
            return
        if level:
            source.assert_()
        else:
            source.clear()

    def pulse(self, core: int = 0) -> None:
        """A device gives one edge; an interrupt configured level forgets it with the falling edge."""
        self.raise_line(True, core)
        self.raise_line(False, core)


def usable_interrupts() -> tuple[int, ...]:
    """Physical INTIDs that the root VM gets: PPIs 16..31 without those the hypervisor uses, SPIs 32..255 (recorded)."""
    return tuple(irq for irq in range(PPIS.start, _LAST_PHYSICAL + 1) if irq not in _RESERVED)
