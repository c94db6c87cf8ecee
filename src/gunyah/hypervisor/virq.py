"""An interrupt source: the thing that is bound to a virtual interrupt of a VIC (objects.md 10.2).

Doorbells, message queues, vCPUs, virtio devices, timers and hardware interrupts own sources. A source asserts either
level + edge or edge only; a VIC that finds its interrupt configured level asks ``still_pending`` again after the end
of the interrupt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from gunyah.hypervisor.vic import Vic

__all__ = ["VirqSource"]


def _never() -> bool:
    return False


class VirqSource:
    """One source (virq_source_t).

    ``vic``/``virq`` are None/0 while unbound; the VIC sets both in ``bind_shared``/``bind_private``.
    """

    __slots__ = ("vic", "virq", "vcpu_index", "owner", "name", "still_pending", "always_edge")

    def __init__(
        self, owner: object, name: str, still_pending: Callable[[], bool] = _never, *, always_edge: bool = False
    ) -> None:
        self.vic: Vic | None = None
        self.virq = 0
        self.vcpu_index = -1
        self.owner = owner
        self.name = name
        self.still_pending = still_pending
        # A write of ICFGR leaves the interrupt edge-triggered whatever it asks for (objects.md 5.4).
        self.always_edge = always_edge

    def assert_(self, *, edge_only: bool = False) -> None:
        """Raise the interrupt.

        One delivery if configured edge; if configured level, pending while ``still_pending`` (not edge_only).
        """
        vic = self.vic
        if vic is not None:
            vic.source_assert(self, edge_only)

    def clear(self) -> None:
        """Lower the level; an edge already latched stays pending."""
        vic = self.vic
        if vic is not None:
            vic.source_clear(self)

    def unbind(self) -> None:
        """Disconnect from the VIC; success if not bound."""
        vic = self.vic
        if vic is not None:
            vic.unbind(self)
