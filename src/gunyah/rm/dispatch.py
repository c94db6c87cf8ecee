"""Which function serves which request: the handler groups in the order in which RM asks them (rm-behaviour.md 2.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gunyah.rm import (
    addresses,
    console,
    creation,
    firmware,
    identity,
    irq_requests,
    later,
    lifecycle,
    memory_requests,
    resources,
)

if TYPE_CHECKING:
    from gunyah.rm.manager import Handler

__all__ = ["table"]

_GROUPS: tuple[Mapping[int, Handler], ...] = (
    console.HANDLERS,
    identity.HANDLERS,
    lifecycle.HANDLERS,
    memory_requests.HANDLERS,
    resources.HANDLERS,
    irq_requests.HANDLERS,
    creation.HANDLERS,
    addresses.HANDLERS,
    firmware.HANDLERS,
    later.HANDLERS,
)


def table() -> dict[int, Handler]:
    """Message id to handler; ids that no group claims are answered UNIMPLEMENTED."""
    handlers: dict[int, Handler] = {}
    for group in _GROUPS:
        for message_id, handler in group.items():
            handlers.setdefault(message_id, handler)
    return handlers
