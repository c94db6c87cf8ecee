"""Which of the engine's shortcuts a core has: each does what the library does, faster, in machine code of its own.

They are made for one build of the library. On any other they are left out, and nothing but speed is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import fast_walk
from .block_start import shorten_block_starts

if TYPE_CHECKING:
    from .core import Core


def shortcuts(core: Core) -> dict[str, bool]:
    """The shortcuts by name, and whether this core has them."""
    return {
        "page-table walks": fast_walk.active(core),
        "starts of blocks": shorten_block_starts(core),
        "a TLB for each ASID": core.tlb.active,
    }
