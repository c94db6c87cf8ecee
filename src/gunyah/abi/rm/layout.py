"""The payload machinery as RM's messages use it; its home is ``gunyah.abi.layout``."""

from __future__ import annotations

from gunyah.abi.layout import LIST_MAX, Field, Payload, PayloadError

__all__ = ["Field", "LIST_MAX", "Payload", "PayloadError"]
