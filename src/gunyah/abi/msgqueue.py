"""Message queue and doorbell words and limits (errors-and-types.md 7, objects.md 8 and 9)."""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "CreateInfo",
    "DEPTH_MAX",
    "DOORBELL_ACK_MASK_INITIAL",
    "DOORBELL_ENABLE_MASK_INITIAL",
    "HOLDOFF_UNCHANGED",
    "MESSAGE_SIZE_MAX",
    "NOT_EMPTY_THRESHOLD_DEFAULT",
    "SEND_PUSH",
    "THRESHOLD_MAXIMUM",
    "THRESHOLD_UNCHANGED",
]

DEPTH_MAX = 255
"""Messages. The API names 256, but its check is "strictly less"."""
MESSAGE_SIZE_MAX = 1023
"""Bytes. The API names 1024, but its check is "strictly less"."""

SEND_PUSH = 1 << 0
"""``msgqueue_send`` flags: raise the receive interrupt now."""

THRESHOLD_UNCHANGED = 0xFFFF_FFFF
THRESHOLD_MAXIMUM = 0xFFFF_FFFE
"""The queue's depth; receive threshold only."""
HOLDOFF_UNCHANGED = 0xFFFF_FFFF
"""The only value the delay arguments may have."""

NOT_EMPTY_THRESHOLD_DEFAULT = 1
"""The not-full threshold starts at depth - 1."""

DOORBELL_ENABLE_MASK_INITIAL = 0xFFFF_FFFF_FFFF_FFFF
DOORBELL_ACK_MASK_INITIAL = 0


class CreateInfo(NamedTuple):
    """Create info word (64 bits) of ``msgqueue_configure``."""

    depth: int
    """Messages, 1..255."""
    message_size: int
    """Bytes, 1..1023."""

    def pack(self) -> int:
        """The word."""
        return self.depth | self.message_size << 16

    @classmethod
    def unpack(cls, word: int) -> CreateInfo:
        """Fields of ``word``; its upper half is ignored, as by the reference."""
        return cls(word & 0xFFFF, word >> 16 & 0xFFFF)
