"""One interrupt of a virtual GICv3 and the word that says why it is pending (objects.md 10.2, 10.6).

The trigger model: a source asserts level and edge, or edge only. Configured edge, an interrupt is pending while an
assertion has not been acknowledged. Configured level, it is pending while any of the source's level, the ISPENDR
latch and the SETSPI message is set; the level is the source's last word until it is asked again at the end of the
interrupt.

An interrupt moves from its vCPU's queue to active and back. What a guest could notice of list registers is kept by
name: ``listed`` is what ISACTIVER and ICACTIVER leave alone, ``active_on`` is whose ICC_DIR_EL1 counts, ``listed_in``
decides who comes first among equals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gunyah.hypervisor.vgic_cpu_interface import CpuInterface
    from gunyah.hypervisor.vgic_list_registers import ListRegisters
    from gunyah.hypervisor.virq import VirqSource

__all__ = [
    "Interrupt",
    "NO_ROUTE",
    "PPIS",
    "PRIORITY_SHIFT",
    "PRIVATE",
    "RANKS",
    "SGIS",
    "SPECIAL",
    "SPIS",
    "SPURIOUS",
]

SGIS = 16
"""INTIDs 0..15 are SGIs."""
PPIS = range(16, 32)
PRIVATE = 32
"""INTIDs below this are banked per vCPU."""
SPIS = range(32, 1020)
SPECIAL = 1020
"""First special INTID; 1020..1023 name no interrupt."""
SPURIOUS = 1023

RANKS = 32
"""Priorities that can be told apart: 5 implemented bits, so priority = rank << 3."""
PRIORITY_SHIFT = 3

NO_ROUTE = -1
"""Route of an SPI whose affinity matches no vCPU slot."""


class Interrupt:
    """State of one INTID: an SPI of a VIC, or an SGI or PPI of one vCPU."""

    __slots__ = (
        "active",
        "active_on",
        "affinity",
        "bit",
        "edge",
        "enabled",
        "group",
        "intid",
        "latch",
        "line",
        "listed_in",
        "message",
        "queue",
        "rank",
        "route",
        "soft",
        "source",
        "target",
    )

    def __init__(self, intid: int, route: int, target: CpuInterface | None) -> None:
        self.intid = intid
        self.bit = 1 << intid
        self.enabled = False
        self.group = 0
        self.rank = 0
        # ICFGR: edge-triggered. SGIs always are.
        self.edge = intid < SGIS
        self.active = False
        # The CPU interface that acknowledged it and has not yet deactivated it.
        self.active_on: CpuInterface | None = None
        # Asserted for any reason since the last acknowledge.
        self.latch = False
        self.line = False
        self.soft = False
        self.message = False
        self.source: VirqSource | None = None
        self.affinity = 0
        self.route = route
        self.target = target
        # The CPU interface in whose queue it waits for an acknowledge.
        self.queue: CpuInterface | None = None
        # The list registers one of which it has, waiting, active or over.
        self.listed_in: ListRegisters | None = None

    @property
    def pending(self) -> bool:
        """What ISPENDR reads."""
        return self.latch if self.edge else self.line or self.soft or self.message

    @property
    def listed(self) -> bool:
        """Where the hardware would hold it in a list register:

        Taken by a vCPU, or offered to one whose group is enabled.
        """
        if self.active_on is not None:
            return True
        return self.queue is not None and self.queue.group_open(self.group)

    def poll(self) -> None:
        """Ask the source whether its level still stands."""
        if self.line and (self.source is None or not self.source.still_pending()):
            self.line = False
