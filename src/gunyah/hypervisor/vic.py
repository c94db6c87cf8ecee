"""Virtual interrupt controllers: a GICv3 for the vCPUs of a VM, and what may be bound to it (objects.md 10).

A VIC has slots for vCPUs and a number of shared sources; the sources bind to INTIDs from 32 up, everything above
stays usable by software. Private sources (timers, forwarded PPIs) bind to PPIs 16..31 of an active vCPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gunyah.abi.errors import Error
from gunyah.abi.memory import (
    ATTACH_DISTRIBUTOR_RESERVED,
    ATTACH_REDISTRIBUTOR_LAST,
    ATTACH_REDISTRIBUTOR_LAST_VALID,
    ATTACH_REDISTRIBUTOR_RESERVED,
)
from gunyah.abi.objects import ObjectType
from gunyah.abi.vic import (
    MAX_VCPUS,
    MAX_VIRQS,
    SPI_BASE,
    VIC_OPTION_DISABLE_DEFAULT_ADDR,
    VIC_OPTION_MAX_MSIS_VALID,
    VIC_OPTIONS_RESERVED,
)
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.objects import KernelObject
from gunyah.hypervisor.vgic_affinity import MpidrMapping
from gunyah.hypervisor.vgic_cpu_interface import CpuInterface
from gunyah.hypervisor.vgic_delivery import Delivery
from gunyah.hypervisor.vgic_distributor import DISTRIBUTOR_SIZE, Distributor
from gunyah.hypervisor.vgic_redistributor import REDISTRIBUTOR_SIZE, Redistributor, RedistributorFrame
from gunyah.hypervisor.vgic_state import PPIS, PRIVATE, SPIS, Interrupt
from gunyah.machine.board import GICD, GICR

if TYPE_CHECKING:
    from gunyah.hypervisor.hwirq import ForwardedPpi
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.partition import Partition
    from gunyah.hypervisor.vcpu import Vcpu
    from gunyah.hypervisor.vdevice import VirtualDevice
    from gunyah.hypervisor.virq import VirqSource

__all__ = ["Vic"]

Detach = Callable[[], None]

_POINTER = 8
"""Bytes of heap for each shared source and each vCPU slot, taken at activation (NOMEM)."""


class Vic(KernelObject):
    """vic_t. ``distributor`` is the GICD frame, ``redistributor(i)`` the GICR frame of the active vCPU at index i."""

    type = ObjectType.VIC
    heap_size = 4608

    def __init__(self, partition: Partition | None, hv: Hypervisor | None = None) -> None:
        super().__init__(partition)
        self.max_vcpus = 1
        self.max_shared = 0
        # A VIC that was never configured does not answer at the platform's addresses.
        self.default_addresses = False
        self.delivery = Delivery(hv)
        self.distributor = Distributor(self.delivery)
        self.forwarded: list[ForwardedPpi] = []
        # Frames in the platform's window; an attached one is a frame of its own.
        self._default_frames: list[RedistributorFrame | None] = [None]
        # Attached frames by interface index: 0 the distributor, n the redistributor of vCPU n - 1.
        self._frames: dict[int, Detach] = {}

    # -- configuration -------------------------------------------------------------------------------------------------

    def configure(self, max_vcpus: int, max_shared: int, flags: int, max_msis: int) -> None:
        """Set slots (1..8), shared sources (0..988), option flags (uint64_t) and MSIs (0: there are no LPIs).

        OBJECT_STATE unless INIT, ARGUMENT_INVALID for anything out of range (hypercalls.md 3.11).
        """
        if flags & VIC_OPTIONS_RESERVED:
            raise HypervisorError(Error.ARGUMENT_INVALID, f"{self}: option flags {flags:#x} have reserved bits")
        self.require_init()
        if not 1 <= max_vcpus <= MAX_VCPUS:
            raise HypervisorError(Error.ARGUMENT_INVALID, f"{self}: {max_vcpus} vCPUs, allowed are 1..{MAX_VCPUS}")
        if max_shared > MAX_VIRQS:
            raise HypervisorError(Error.ARGUMENT_INVALID, f"{self}: {max_shared} shared sources, most are {MAX_VIRQS}")
        if flags & VIC_OPTION_MAX_MSIS_VALID and max_msis:
            raise HypervisorError(Error.ARGUMENT_INVALID, f"{self}: {max_msis} MSIs, but there are no LPIs")
        self.max_vcpus = max_vcpus
        self.max_shared = max_shared
        self.default_addresses = not flags & VIC_OPTION_DISABLE_DEFAULT_ADDR
        self.delivery.cpus = [None] * max_vcpus
        self._default_frames = [None] * max_vcpus

    def set_mpidr_mapping(self, mapping: MpidrMapping) -> None:
        """Replace the board's mapping of vCPU indices to MPIDRs; OBJECT_STATE unless INIT."""
        self.require_init()
        self.delivery.mapping = mapping

    def mpidr(self, index: int) -> int:
        """MPIDR_EL1 of the vCPU at ``index`` (uint64_t)."""
        return self.delivery.mapping.mpidr(index)

    def _activate(self) -> None:
        if self.partition is not None:
            self.partition.charge(self, _POINTER * (self.max_shared + self.max_vcpus))

    def _deactivate(self) -> None:
        for irq in self.delivery.known_spis():
            if irq.source is not None:
                self.unbind(irq.source)
        for detach in self._frames.values():
            detach()
        self._frames.clear()

    # -- vCPUs ---------------------------------------------------------------------------------------------------------

    def attach_vcpu(self, vcpu: Vcpu, index: int) -> None:
        """Give an INIT vCPU its slot, replacing an earlier choice; the vCPU holds a reference from here on.

        ARGUMENT_INVALID for an index above the slots. Whether the slot is free shows at the vCPU's activation.
        """
        if index >= self.max_vcpus:
            raise HypervisorError(Error.ARGUMENT_INVALID, f"{self}: no vCPU slot {index} of {self.max_vcpus}")
        self.get()
        if vcpu.vic is not None:
            vcpu.vic.put()
        vcpu.vic = self
        vcpu.vic_index = index

    def check_free(self, index: int) -> None:
        """BUSY when another vCPU has the slot."""
        if self.delivery.cpus[index] is not None:
            raise HypervisorError(Error.BUSY, f"{self}: vCPU slot {index} is taken")

    def vcpu_activated(self, vcpu: Vcpu) -> None:
        """Connect the vCPU that is being activated and set its ``gic``.

        BUSY if the slot is taken; OBJECT_CONFIG if the VIC forwards a PPI that this vCPU cannot have (not pinned, or
        the PPI is taken).
        """
        index = vcpu.vic_index
        self.check_free(index)
        gic = CpuInterface(vcpu, index, self.delivery)
        self.delivery.attach(gic)
        self._default_frames[index] = RedistributorFrame(Redistributor(gic, self.delivery), False)
        self._mark_last()
        vcpu.gic = gic
        for forwarded in self.forwarded:
            try:
                forwarded.bind(vcpu)
            except HypervisorError as refusal:
                self.vcpu_gone(vcpu)
                raise HypervisorError(Error.OBJECT_CONFIG, f"{self}: a forwarded PPI: {refusal}") from refusal

    def vcpu_gone(self, vcpu: Vcpu) -> None:
        """Disconnect a vCPU: its private sources are unbound, its frame is taken away, its slot is free again."""
        gic = vcpu.gic
        index = vcpu.vic_index
        if gic is None or self.delivery.cpus[index] is not gic:
            return
        for irq in gic.private:
            if irq.source is not None:
                self.unbind(irq.source)
        detach = self._frames.pop(index + 1, None)
        if detach is not None:
            detach()
        self.delivery.detach(gic)
        self._default_frames[index] = None
        self._mark_last()
        vcpu.gic = None

    def _mark_last(self) -> None:
        following = None
        for frame in reversed(self._default_frames):
            if frame is not None:
                frame.last = following is None
            following = frame

    def active_vcpus(self) -> list[Vcpu]:
        """The connected vCPUs in order of index."""
        return [gic.vcpu for gic in self.delivery.cpus if gic is not None]

    # -- sources -------------------------------------------------------------------------------------------------------

    def bind_shared(self, source: VirqSource, virq: int) -> None:
        """Bind a source to an SPI.

        VIRQ_BOUND if the source is bound; ARGUMENT_INVALID unless ``virq`` is in 32..31 + max_shared; BUSY if the SPI
        has a source.
        """
        self._require_unbound(source)
        if virq not in SPIS or virq >= SPI_BASE + self.max_shared:
            raise HypervisorError(
                Error.ARGUMENT_INVALID, f"{self}: {virq} is not among its {self.max_shared} SPIs from 32 up"
            )
        irq = self.delivery.spi(virq)
        self._require_free(irq)
        self._connect(source, irq, -1)

    def bind_private(self, source: VirqSource, vcpu: Vcpu, virq: int) -> None:
        """Bind a source to a PPI of an active vCPU.

        ARGUMENT_INVALID unless ``virq`` is in 16..31; VIRQ_BOUND if the source is bound; OBJECT_CONFIG if the vCPU is
        not connected to this VIC; BUSY if the PPI has a source.
        """
        if virq not in PPIS:
            raise HypervisorError(Error.ARGUMENT_INVALID, f"{self}: {virq} is not a PPI")
        self._require_unbound(source)
        gic = vcpu.gic
        if gic is None or self.delivery.cpus[vcpu.vic_index] is not gic:
            raise HypervisorError(Error.OBJECT_CONFIG, f"{vcpu} is not connected to {self}")
        irq = gic.private[virq]
        self._require_free(irq)
        self._connect(source, irq, vcpu.vic_index)

    def unbind(self, source: VirqSource) -> None:
        """Disconnect a source; its level drops, an edge that was latched stays."""
        if source.vic is not self:
            return
        irq = self._interrupt_of(source)
        source.vic = None
        source.virq = 0
        source.vcpu_index = -1
        if irq.source is source:
            irq.source = None
            irq.line = False
            self.delivery.update(irq)

    def _require_unbound(self, source: VirqSource) -> None:
        if source.vic is not None:
            raise HypervisorError(
                Error.VIRQ_BOUND, f"the {source.name} source is bound to INTID {source.virq} of {source.vic}"
            )

    def _require_free(self, irq: Interrupt) -> None:
        if irq.source is not None:
            raise HypervisorError(Error.BUSY, f"{self}: INTID {irq.intid} has a {irq.source.name} source")

    def _connect(self, source: VirqSource, irq: Interrupt, vcpu_index: int) -> None:
        irq.source = source
        source.vic = self
        source.virq = irq.intid
        source.vcpu_index = vcpu_index

    def _interrupt_of(self, source: VirqSource) -> Interrupt:
        virq = source.virq
        if virq >= PRIVATE:
            return self.delivery.spi(virq)
        gic = self.delivery.cpus[source.vcpu_index]
        # A vCPU unbinds its private sources before it leaves.
        assert gic is not None
        return gic.private[virq]

    def source_assert(self, source: VirqSource, edge_only: bool) -> None:
        """A bound source raises its interrupt (objects.md 10.2)."""
        irq = self._interrupt_of(source)
        irq.latch = True
        if not edge_only:
            irq.line = True
        delivery = self.delivery
        delivery.update(irq)
        if delivery.instruments:
            self._report(source, True)

    def source_clear(self, source: VirqSource) -> None:
        """A bound source lowers its level."""
        irq = self._interrupt_of(source)
        if irq.line:
            irq.line = False
            self.delivery.update(irq)
            if self.delivery.instruments:
                self._report(source, False)

    def source_level(self, source: VirqSource) -> bool:
        """The level as the VIC last knew it."""
        return source.vic is self and self._interrupt_of(source).line

    def has_target(self, virq: int) -> bool:
        """An active vCPU stands at the route of SPI ``virq``."""
        return self.delivery.spi(virq).target is not None

    def _report(self, source: VirqSource, asserted: bool) -> None:
        ticks = self.delivery.ticks()
        for instrument in self.delivery.instruments:
            instrument.interrupt(self, source.virq, asserted, source.name, ticks)

    # -- register frames -----------------------------------------------------------------------------------------------

    def redistributor(self, index: int) -> RedistributorFrame:
        """Frame of the redistributor at ``index`` as the platform's window has it; IDLE without an active vCPU there.

        Its TYPER.Last is set for the highest slot, and for one that has no active vCPU behind it.
        """
        frame = self._default_frames[index]
        if frame is None:
            raise HypervisorError(Error.IDLE, f"{self}: no active vCPU at index {index}")
        return frame

    def attach_frame(self, interface: int, flags: int, place: Callable[[VirtualDevice], Detach]) -> None:
        """Attach register frame ``interface`` (0 the distributor, n the redistributor of vCPU n - 1) somewhere.

        ``place`` gets the device, puts it into an address space and returns what takes it out again; what it raises
        is passed on. ``flags`` (uint64_t): bit 0 says that bit 1 is TYPER.Last; must be 0 for the distributor
        (hypercalls.md 3.5). ARGUMENT_INVALID for an interface or flags there are not, IDLE without an active vCPU,
        BUSY if the frame is attached.
        """
        if interface > self.max_vcpus:
            raise HypervisorError(Error.ARGUMENT_INVALID, f"{self}: no interface {interface} of {self.max_vcpus + 1}")
        if flags & (ATTACH_REDISTRIBUTOR_RESERVED if interface else ATTACH_DISTRIBUTOR_RESERVED):
            raise HypervisorError(Error.ARGUMENT_INVALID, f"{self}: flags {flags:#x} for interface {interface}")
        device: VirtualDevice = self.distributor
        if interface:
            index = interface - 1
            last = index == self.max_vcpus - 1
            if flags & ATTACH_REDISTRIBUTOR_LAST_VALID:
                last = flags & ATTACH_REDISTRIBUTOR_LAST != 0
            device = RedistributorFrame(self.redistributor(index).redistributor, last)
        if interface in self._frames:
            raise HypervisorError(Error.BUSY, f"{self}: interface {interface} is attached already")
        self._frames[interface] = place(device)

    def default_device_at(self, ipa: int) -> tuple[VirtualDevice, int] | None:
        """Device and offset that answer at ``ipa`` in the platform's GIC window for a vCPU of this VIC, or None."""
        if not self.default_addresses:
            return None
        offset = ipa - GICD.base
        if 0 <= offset < DISTRIBUTOR_SIZE:
            return self.distributor, offset
        index, offset = divmod(ipa - GICR.base, REDISTRIBUTOR_SIZE)
        if not 0 <= index < self.max_vcpus:
            return None
        frame = self._default_frames[index]
        return None if frame is None else (frame, offset)
