"""Bytes on their way into a socket that may be slow: kept up to a limit, sent when there is room, nobody waits.

A reader that does not read costs at most the limit, then its connection.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from gunyah.host.loop import HostLoop

__all__ = ["Outbox"]


class Outbox:
    """The sending half of one connection; `close` is called when the other side is gone, or too far behind."""

    def __init__(
        self,
        loop: HostLoop,
        connection: socket.socket,
        limit: int,
        close: Callable[[], None],
        emptied: Callable[[], None] = lambda: None,
    ) -> None:
        """`limit` is in bytes; `emptied` is called when nothing is left to send."""
        self._loop = loop
        self._socket = connection
        self._limit = limit
        self._close = close
        self._emptied = emptied
        self._unsent = bytearray()

    def __len__(self) -> int:
        """Bytes that wait."""
        return len(self._unsent)

    def send(self, data: bytes) -> None:
        """Send now what goes, the rest later."""
        self._unsent += data
        self._writable()
        if len(self._unsent) > self._limit:
            self._close()

    def _writable(self) -> None:
        try:
            sent = self._socket.send(self._unsent) if self._unsent else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close()
            return
        del self._unsent[:sent]
        if self._unsent:
            self._loop.add_writer(self._socket.fileno(), self._writable)
        else:
            self._loop.remove_writer(self._socket.fileno())
            self._emptied()
