"""The listening socket, and the one connection that a gdb has.

    server = GdbServer(loop, hypervisor, 1234)      # port 0: one that is free, see ``server.port``
    server.wait_for_gdb()                           # optional: nothing of the primary VM runs before

It lives on the machine's thread: packets are served between two turns of guests. A client that sends what is no packet
gets nothing, one that does not read its answers is disconnected, and when it goes, breakpoints are removed and
everybody runs on.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from gunyah.host.errors import HostError, reason
from gunyah.host.gdb.conversation import Conversation
from gunyah.host.gdb.protocol import PacketReader, Signal
from gunyah.host.gdb.target import first_vcpu, virtual_machines
from gunyah.host.loop import HostLoop, Timer
from gunyah.host.outbox import Outbox
from gunyah.hypervisor.vcpu import Block, Vcpu

if TYPE_CHECKING:
    from gunyah.hypervisor.hypervisor import Hypervisor

__all__ = ["GdbServer", "serve_gdb"]

HOST: Final = "127.0.0.1"
UNSENT_LIMIT: Final = 1 << 20
"""Unsent bytes at which a client that does not read is disconnected."""
LOOK_SECONDS: Final = 0.2
"""How often is looked for VMs that have ended."""
LINGER_SECONDS: Final = 2.0
"""How long a gdb may still talk when the machine has stopped."""


class _Connection:
    def __init__(self, loop: HostLoop, hv: Hypervisor, sock: socket.socket, gone: Callable[[], object]) -> None:
        self._loop = loop
        self._socket = sock
        self._gone = gone
        self._reader = PacketReader()
        self._outbox = Outbox(loop, sock, UNSENT_LIMIT, self.close, self._emptied)
        self._last = b""
        self._timer: Timer | None = None
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop.add_reader(sock.fileno(), self._readable)
        self.conversation = Conversation(hv, self._send)
        self._look()

    @property
    def alive(self) -> bool:
        return self._socket.fileno() >= 0

    def _look(self) -> None:
        if self.alive:
            self.conversation.look()
            self._timer = self._loop.call_later(LOOK_SECONDS, self._look)

    def _readable(self) -> None:
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        for item in self._reader.feed(data):
            if not self.alive:
                return
            self._received(item)
            if self.conversation.over and not self._outbox:
                self.close()

    def _received(self, item: bytes | Signal) -> None:
        conversation = self.conversation
        if item is Signal.INTERRUPT:
            conversation.interrupt()
        elif item is Signal.AGAIN:
            if conversation.acknowledging and self._last:
                self._write(self._last)
        elif item is Signal.DAMAGED:
            if conversation.acknowledging:
                self._write(b"-")
        elif isinstance(item, bytes):
            if conversation.acknowledging:
                self._write(b"+")
            conversation.packet(item)

    def _send(self, packet: bytes) -> None:
        self._last = packet
        self._write(packet)

    def _write(self, data: bytes) -> None:
        if self.alive:
            self._outbox.send(data)

    def _emptied(self) -> None:
        if self.conversation.over:
            self.close()

    def close(self) -> None:
        if not self.alive:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self.conversation.target.close()
        self._gone()


class GdbServer:
    """Serves one gdb at a time at a TCP port of the local host; raises HostError where it cannot listen."""

    def __init__(self, loop: HostLoop, hypervisor: Hypervisor, port: int) -> None:
        self._loop = loop
        self._hv = hypervisor
        self._connection: _Connection | None = None
        self._kept: list[Vcpu] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((HOST, port))
            self._socket.listen(1)
        except OSError as error:
            self._socket.close()
            raise HostError(f"gdb cannot be served at port {port} of {HOST}: {reason(error)}") from error
        self.port: int = self._socket.getsockname()[1]
        """TCP port."""
        self._socket.setblocking(False)
        loop.add_reader(self._socket.fileno(), self._accept)

    @property
    def connected(self) -> bool:
        """Some gdb is there."""
        return self._connection is not None

    def wait_for_gdb(self) -> None:
        """Stop the VM that a gdb will see first, until one has come and resumes it."""
        first = first_vcpu(self._hv)
        if first is not None and self._connection is None:
            self._kept = virtual_machines(self._hv)[first.vmid]
            for vcpu in self._kept:
                vcpu.block(int(Block.PAUSED))

    def _accept(self) -> None:
        try:
            sock, _ = self._socket.accept()
        except OSError:
            return  # The client has given up meanwhile.
        if self._connection is not None or self._hv.stopped is not None:
            sock.close()
            return
        kept, self._kept = self._kept, []
        self._connection = _Connection(self._loop, self._hv, sock, self._gone)
        target = self._connection.conversation.target
        for vcpu in kept:
            if not target.held(vcpu):
                target.hold([vcpu])

    def _gone(self) -> None:
        self._connection = None

    def close(self, linger: float = LINGER_SECONDS) -> None:
        """Stop listening. A gdb is told that the machine has stopped, and gets ``linger`` seconds to take its leave."""
        if self._socket.fileno() < 0:
            return
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        connection = self._connection
        if connection is None:
            return
        connection.conversation.close()
        if self._hv.stopped is not None:
            until = time.monotonic() + linger
            while connection.alive and time.monotonic() < until:
                self._loop.poll(0.05)
        connection.close()


def serve_gdb(
    loop: HostLoop, hypervisor: Hypervisor, port: int, *, wait: bool, say: Callable[[str], object]
) -> GdbServer:
    """Listen, hold the VM that gdb will find if ``wait``, and tell the user what to type; raises HostError."""
    server = GdbServer(loop, hypervisor, port)
    if wait:
        server.wait_for_gdb()
    words = "the VM waits for gdb" if wait else "gdb may come at any time"
    say(f"{words}: target extended-remote {HOST}:{server.port}")
    return server
