"""What a VM manager refuses by itself, without asking RM."""

from __future__ import annotations

__all__ = ["VmError"]


class VmError(Exception):
    """A VM cannot do what was asked; one sentence."""
