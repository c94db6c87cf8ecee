"""The engine's shortcuts: each does what the library does, faster, in machine code of its own.

They are made for one build of the library. On any other they are left out, and nothing but speed is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import fast_walk
from .block_start import shorten_block_starts
from .tlb_sets import TLBSets

if TYPE_CHECKING:
    from .core import Core


class Shortcuts:
    """The shortcuts of one core, which has its registers and its RAM already."""

    def __init__(self, core: Core, ram: Sequence[tuple[int, int, int]]) -> None:
        """`ram` is the core's memory: (PA, bytes, host address)."""
        self._starts = shorten_block_starts(core)
        self.tlb = TLBSets(core)
        self.walks = fast_walk.shorten_walks(core, ram)
        self._walks = fast_walk.active(self.walks)

    @property
    def present(self) -> dict[str, bool]:
        """The shortcuts by name, and whether this core has them."""
        return {
            "page-table walks": self._walks,
            "starts of blocks": self._starts,
            "a TLB for each ASID": self.tlb.active,
        }
