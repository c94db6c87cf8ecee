"""GICv3 as a guest drives it: distributor and redistributor frames by loads and stores, the CPU interface by ICC_*
registers.

All interrupts used are group 1 (single security state, objects.md 10). At reset every interrupt is disabled, group 0,
priority 0, level and routed to vCPU 0 (objects.md 10.6), so ``enable`` sets all of it.
"""

from __future__ import annotations

from collections.abc import Callable

from gunyah.guest.cpu import Cpu

__all__ = ["DEFAULT_DISTRIBUTOR", "DEFAULT_REDISTRIBUTOR", "Gic", "REDISTRIBUTOR_STRIDE"]

DEFAULT_DISTRIBUTOR = 0x0800_0000
DEFAULT_REDISTRIBUTOR = 0x080A_0000
REDISTRIBUTOR_STRIDE = 0x2_0000

_GICD_CTLR = 0x0000
_GICD_IROUTER = 0x6000
_GICR_TYPER = 0x0008
_GICR_WAKER = 0x0014
_SGI_FRAME = 0x1_0000
_IGROUPR, _ISENABLER, _ICENABLER, _ICPENDR, _IPRIORITYR, _ICFGR = 0x80, 0x100, 0x180, 0x280, 0x400, 0xC00
_CTLR_ENABLE_GROUP1 = 1 << 1
_WAKER_PROCESSOR_SLEEP = 1 << 1
_TYPER_LAST = 1 << 4
_MAX_REDISTRIBUTORS = 64
_PRIORITY = 0xA0
_SPECIAL = 1020
"""INTIDs from here to 1023 mean that there is no interrupt to serve."""


class Gic:
    """The interrupt controller of one vCPU. ``unexpected`` counts interrupts that no handler was installed for."""

    def __init__(
        self, cpu: Cpu, distributor: int = DEFAULT_DISTRIBUTOR, redistributors: int = DEFAULT_REDISTRIBUTOR
    ) -> None:
        self.cpu = cpu
        self.distributor = distributor
        self.redistributors = redistributors
        self.redistributor = redistributors
        self.affinity = 0
        self.handlers: dict[int, Callable[[], None]] = {}
        self.unexpected = 0
        self.after: Callable[[], None] | None = None
        """Called once per vector run after all handlers, still masked: where an operating system runs its soft
        interrupts."""

    def start(self) -> None:
        """Enable group 1 in all three parts, install the IRQ vector and unmask."""
        cpu = self.cpu
        mpidr = cpu.mrs("MPIDR_EL1")
        self.affinity = mpidr & 0xFF_00FF_FFFF
        self.redistributor = self._find_redistributor()
        control = cpu.load(self.distributor + _GICD_CTLR, 4)
        cpu.store(self.distributor + _GICD_CTLR, control | _CTLR_ENABLE_GROUP1, 4)
        waker = cpu.load(self.redistributor + _GICR_WAKER, 4)
        if waker & _WAKER_PROCESSOR_SLEEP:
            cpu.store(self.redistributor + _GICR_WAKER, waker & ~_WAKER_PROCESSOR_SLEEP, 4)
        cpu.msr("ICC_PMR_EL1", 0xF0)
        cpu.msr("ICC_BPR1_EL1", 0)
        cpu.msr("ICC_CTLR_EL1", 0)
        cpu.msr("ICC_IGRPEN1_EL1", 1)
        cpu.set_vector(self.vector)
        cpu.irq_masked = False

    def _find_redistributor(self) -> int:
        wanted = self.affinity & 0xFF_FFFF | (self.affinity >> 8) & 0xFF00_0000
        frame = self.redistributors
        for _ in range(_MAX_REDISTRIBUTORS):
            typer = self.cpu.load(frame + _GICR_TYPER, 8)
            if typer >> 32 == wanted:
                return frame
            if typer & _TYPER_LAST:
                break
            frame += REDISTRIBUTOR_STRIDE
        raise RuntimeError(f"no GIC redistributor from {self.redistributors:#x} on has affinity {wanted:#x}")

    def _bank(self, intid: int) -> int:
        if not 0 <= intid < _SPECIAL:
            raise ValueError(f"interrupt {intid} is not an SGI, PPI or SPI")
        return self.redistributor + _SGI_FRAME if intid < 32 else self.distributor

    def enable(self, intid: int, handler: Callable[[], None], *, edge: bool = True, priority: int = _PRIORITY) -> None:
        """Install ``handler`` (called masked, must not block) and enable the interrupt, edge-triggered or level."""
        cpu, bank = self.cpu, self._bank(intid)
        self.handlers[intid] = handler
        word, bit = 4 * (intid >> 5), 1 << (intid & 31)
        group = cpu.load(bank + _IGROUPR + word, 4)
        if not group & bit:
            cpu.store(bank + _IGROUPR + word, group | bit, 4)
        cpu.store(bank + _IPRIORITYR + intid, priority, 1)
        if intid >= 16:
            register = bank + _ICFGR + 4 * (intid >> 4)
            mode = 2 << 2 * (intid & 15)
            configuration = cpu.load(register, 4)
            cpu.store(register, configuration | mode if edge else configuration & ~mode, 4)
        if intid >= 32:
            cpu.store(bank + _GICD_IROUTER + 8 * intid, self.affinity, 8)
        cpu.store(bank + _ISENABLER + word, bit, 4)

    def disable(self, intid: int) -> None:
        """Disable the interrupt, drop what is pending, and remove its handler."""
        self.mask(intid)
        bank = self._bank(intid)
        self.cpu.store(bank + _ICPENDR + 4 * (intid >> 5), 1 << (intid & 31), 4)
        self.handlers.pop(intid, None)

    def mask(self, intid: int) -> None:
        """Stop delivery of the interrupt; it stays pending meanwhile."""
        self.cpu.store(self._bank(intid) + _ICENABLER + 4 * (intid >> 5), 1 << (intid & 31), 4)

    def unmask(self, intid: int) -> None:
        """Allow delivery again."""
        self.cpu.store(self._bank(intid) + _ISENABLER + 4 * (intid >> 5), 1 << (intid & 31), 4)

    def vector(self) -> None:
        """The IRQ vector: serve one interrupt; when more are pending the CPU takes the exception again.

        X0..X7 of the interrupted code are saved, as handlers may make hypercalls.
        """
        cpu = self.cpu
        x = cpu.x
        saved = x[0:8]
        acknowledge, end, handlers = cpu.mrs, cpu.msr, self.handlers
        intid = acknowledge("ICC_IAR1_EL1")
        if intid < _SPECIAL:
            handler = handlers.get(intid)
            if handler is None:
                # Nobody would lower a level interrupt that has no handler: without the mask it would come for ever.
                self.unexpected += 1
                self.mask(intid)
            else:
                handler()
            end("ICC_EOIR1_EL1", intid)
        if self.after is not None:
            self.after()
        x[0:8] = saved
