"""One client's link to RM: the queue pair as RM holds it, its buffers and interrupts, and both halves of the framing.

RM takes no further request of a client while that client's answer still waits for room in its queue, so a client that
does not read blocks itself only, and RM holds a bounded amount for it (rm-rpc.md 1.5, 1.6).
"""

from __future__ import annotations

from collections.abc import Callable

from gunyah.abi.errors import Error
from gunyah.guest.cpu import Cpu, GuestAbort
from gunyah.guest.heap import Buffer
from gunyah.guest.hypercall import Hypercalls
from gunyah.rm.rpc import Assembler, Message, Outbox
from gunyah.rm.vm import Vm

__all__ = ["Link"]

_BACKLOG = 16
"""Waiting notifications with which RM stops taking requests of the same client."""


class Link:
    """RM's ends of a VM's queue pair. ``receive_queue`` and ``send_queue`` are capabilities in RM's space."""

    def __init__(
        self,
        cpu: Cpu,
        hyp: Hypercalls,
        vm: Vm,
        *,
        receive_queue: int,
        send_queue: int,
        message_size: int,
        packet_size: int,
        buffers: tuple[Buffer, Buffer],
        sequence: Callable[[], int],
    ) -> None:
        self.vm = vm
        self.receive_queue = receive_queue
        self.send_queue = send_queue
        self.assembler = Assembler()
        self.outbox = Outbox(self._send, min(packet_size, message_size), sequence)
        self.pending = False
        """There may be something to receive."""
        self.room = False
        """The queue to the client may have room again."""
        self.dead = ""
        """Why nothing can be sent any more."""
        self._cpu = cpu
        self._hyp = hyp
        self._message_size = message_size
        self._inbound, self._outbound = buffers

    def receive_interrupt(self) -> None:
        """The client sent something."""
        self.pending = True

    def transmit_interrupt(self) -> None:
        """The client took something."""
        self.room = True

    @property
    def accepts(self) -> bool:
        """RM may take the next request."""
        waiting = self.outbox.waiting
        return waiting == 0 or (waiting < _BACKLOG and not self.outbox.reply_waits)

    @property
    def runnable(self) -> bool:
        """There is something to do for this client now."""
        return self.room or (self.pending and self.accepts)

    def receive(self) -> Message | None:
        """Take packets until one completes a message or the queue is empty."""
        while True:
            # Before the call: the client may send again, and its interrupt be taken, before "empty" is read here.
            self.pending = False
            error, size, more = self._hyp.try_msgqueue_receive(
                self.receive_queue, self._inbound.address, self._message_size
            )
            if error:
                if error != Error.MSGQUEUE_EMPTY:
                    self.dead = f"receiving from VM {self.vm.vmid} failed with error {error}"
                return None
            if more:
                self.pending = True
            message = self.assembler.feed(self._cpu.read(self._inbound.address, size))
            if message is not None or not more:
                return message

    def _send(self, packet: bytes) -> bool:
        if self.dead:
            return True
        try:
            self._cpu.write(self._outbound.address, packet)
        except GuestAbort as abort:
            self.dead = f"RM's send buffer is not writable: {abort}"
            return True
        error, _ = self._hyp.try_msgqueue_send(self.send_queue, len(packet), self._outbound.address)
        if error == Error.MSGQUEUE_FULL:
            return False
        if error:
            # What cannot be sent is lost; the client is on its own until its next reset (rm-behaviour.md 12).
            self.dead = f"sending to VM {self.vm.vmid} failed with error {error}"
        return True

    def pump(self) -> None:
        """Continue sending after the transmit interrupt."""
        self.room = False
        self.outbox.pump()

    def forget(self) -> None:
        """Lose what is half received and half sent, as an RM that restarts in the middle of a message does."""
        self.outbox.reset()
        self.assembler.reset()

    def close(self) -> None:
        """Give the buffers back."""
        self.dead = self.dead or f"the link of VM {self.vm.vmid} is closed"
        self.outbox.reset()
        self.assembler.reset()
        self._inbound.free()
        self._outbound.free()
