"""Requests of this group; see dispatch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gunyah.rm.manager import Handler

__all__ = ["HANDLERS"]

HANDLERS: Mapping[int, Handler] = MappingProxyType({})
