"""Memory that RM accepts on behalf of a VM that cannot act for itself yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gunyah.rm.memparcel import Memparcel
from gunyah.rm.vm import Vm

if TYPE_CHECKING:
    from gunyah.rm.manager import ResourceManager

__all__ = ["process_memparcel"]


def process_memparcel(rm: ResourceManager, vm: Vm, parcel: Memparcel) -> None:
    """Accept what matches the VM's configuration."""
