"""The root VM's program: what the hypervisor runs at EL1 of VMID 255 (rm-behaviour.md 2)."""

from __future__ import annotations

from gunyah.guest.cpu import Cpu
from gunyah.rm.manager import ResourceManager

__all__ = ["program"]


def program(cpu: Cpu, x0: int) -> None:
    """A Resource Manager of its own, for who does not want to look inside; environment at IPA ``x0``."""
    ResourceManager().program(cpu, x0)
