"""The EL1 generic timers of a vCPU (objects.md 12).

Both counters are the system counter (offset 0), unless a debugger has made the virtual one wait. A timer that is
enabled, unmasked and expired holds its PPI high: 27 virtual, 30 physical. Time is in ticks of 62.5 MHz.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gunyah.hypervisor.virq import VirqSource

if TYPE_CHECKING:
    from gunyah.hypervisor.vcpu import Vcpu

__all__ = ["PHYSICAL_TIMER_PPI", "VIRTUAL_TIMER_PPI", "GenericTimer"]

VIRTUAL_TIMER_PPI = 27
PHYSICAL_TIMER_PPI = 30

ENABLE = 1
IMASK = 2
ISTATUS = 4

_U64 = (1 << 64) - 1
_NEVER = 1 << 63


class GenericTimer:
    """CNTx_CTL_EL0, CNTx_CVAL_EL0, CNTx_TVAL_EL0 and the interrupt they drive."""

    __slots__ = ("_armed", "_control", "_vcpu", "_stopped", "cval", "offset", "source")

    def __init__(self, vcpu: Vcpu, ppi: int, name: str) -> None:
        self._vcpu = vcpu
        self._control = 0
        self._armed: object | None = None
        self.cval: int = 0
        self._stopped: int | None = None
        self.offset: int = 0
        """Ticks that this timer's counter is behind the system counter (CNTVOFF_EL2)."""
        self.source = VirqSource(self, name, self._level)

    def _expired(self) -> bool:
        return self._now() >= self.cval

    def _now(self) -> int:
        return self._vcpu.hv.clock.ticks() - self.offset if self._stopped is None else self._stopped

    def _level(self) -> bool:
        return self._control & (ENABLE | IMASK) == ENABLE and self._expired()

    @property
    def control(self) -> int:
        """CTL: ENABLE bit 0, IMASK bit 1, ISTATUS bit 2 (read only)."""
        if self._control & ENABLE and self._expired():
            return self._control | ISTATUS
        return self._control

    @control.setter
    def control(self, value: int) -> None:
        self._control = value & (ENABLE | IMASK)
        self._update()

    @property
    def tval(self) -> int:
        """TVAL: 32-bit signed distance from the counter to CVAL."""
        return (self.cval - self._now()) & 0xFFFF_FFFF

    @tval.setter
    def tval(self, value: int) -> None:
        offset = (value & 0xFFFF_FFFF ^ 0x8000_0000) - 0x8000_0000
        self.cval = self._now() + offset & _U64
        self._update()

    def set_cval(self, value: int) -> None:
        """Write CVAL."""
        self.cval = value & _U64
        self._update()

    def stop(self) -> None:
        """Let the counter stand still."""
        if self._stopped is None:
            self._stopped = self._now()
            self._update()

    def start(self) -> None:
        """Let it go on from where it stands."""
        if self._stopped is not None:
            self.offset = self._vcpu.hv.clock.ticks() - self._stopped
            self._stopped = None
            self._update()

    def program(self, control: int, cval: int) -> None:
        """Both registers at once, as a native guest's write left them."""
        self._control = control & (ENABLE | IMASK)
        self.cval = cval
        self._update()

    def disable(self) -> None:
        """Power-off: control 0, interrupt low."""
        self._control = 0
        self._update()

    def unbind(self) -> None:
        """Leave the VIC and the timer queue for good."""
        self._control = 0
        self._update()
        self.source.unbind()

    def _update(self) -> None:
        timers = self._vcpu.hv.timers
        if self._armed is not None:
            timers.cancel(self._armed)
            self._armed = None
        if self._control & (ENABLE | IMASK) != ENABLE:
            self.source.clear()
        elif self._expired():
            self.source.assert_()
        else:
            self.source.clear()
            if self.cval < _NEVER and self._stopped is None:
                self._armed = timers.at(self.cval + self.offset, self._fire)

    def _fire(self) -> None:
        self._armed = None
        if self._level():
            self.source.assert_()
