"""Doorbells: 64 sticky flags, an enable mask and an ack mask (objects.md 9, hypercalls.md 3.9)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gunyah.abi.errors import Error
from gunyah.abi.objects import ObjectType
from gunyah.abi.types import U64
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.objects import KernelObject
from gunyah.hypervisor.virq import VirqSource

if TYPE_CHECKING:
    from gunyah.hypervisor.hypercall import Handler
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.partition import Partition
    from gunyah.hypervisor.vcpu import Vcpu
    from gunyah.hypervisor.vic import Vic

__all__ = ["HANDLERS", "Doorbell"]


class Doorbell(KernelObject):
    """doorbell_t. All masks and flags are uint64_t."""

    type = ObjectType.DOORBELL
    heap_size = 256

    def __init__(self, partition: Partition | None) -> None:
        super().__init__(partition)
        self.flags = 0
        self.enable_mask = U64
        self.ack_mask = 0
        self.source = VirqSource(self, "doorbell", self._level)

    def _level(self) -> bool:
        return self.flags & self.enable_mask != 0

    def send(self, new: int) -> int:
        """OR ``new`` in and raise the interrupt; the flags as they were before."""
        old = self.flags
        flags = old | new
        if flags & self.enable_mask:
            self.flags = flags
            self.source.assert_()
            self.flags = flags & ~self.ack_mask
        else:
            # Nothing enabled: only an edge-triggered interrupt notices.
            self.flags = flags
            self.source.assert_(edge_only=True)
        return old

    def receive(self, clear: int) -> int:
        """Clear the named flags; the flags as they were before, unmasked. The level drops when the guest ends the
        interrupt.
        """
        if clear == 0:
            raise HypervisorError(Error.ARGUMENT_INVALID, f"{self}: receive with no flags to clear")
        old = self.flags
        self.flags = old & ~clear
        return old

    def mask(self, enable: int, ack: int) -> None:
        """Replace both masks and evaluate the interrupt again."""
        was = self.flags & self.enable_mask
        self.enable_mask = enable
        self.ack_mask = ack
        now = self.flags & enable
        if now:
            if not was:
                self.source.assert_()
            self.flags &= ~ack
        elif was:
            self.source.clear()

    def reset(self) -> None:
        """Flags 0, masks as after creation, interrupt lowered."""
        self.flags = 0
        self.enable_mask = U64
        self.ack_mask = 0
        self.source.clear()

    def _deactivate(self) -> None:
        self.source.unbind()


def doorbell_bind_virq(hv: Hypervisor, vcpu: Vcpu, doorbell: Doorbell, vic: Vic, virq: int) -> None:
    """hypercalls.md 3.9, 0x6010."""
    vic.bind_shared(doorbell.source, virq)


def doorbell_unbind_virq(hv: Hypervisor, vcpu: Vcpu, doorbell: Doorbell) -> None:
    """hypercalls.md 3.9, 0x6011."""
    doorbell.source.unbind()


def doorbell_send(hv: Hypervisor, vcpu: Vcpu, doorbell: Doorbell, new: int) -> tuple[int]:
    """hypercalls.md 3.9, 0x6012: result uint64_t old flags."""
    return (doorbell.send(new),)


def doorbell_receive(hv: Hypervisor, vcpu: Vcpu, doorbell: Doorbell, clear: int) -> tuple[int]:
    """hypercalls.md 3.9, 0x6013: result uint64_t old flags."""
    return (doorbell.receive(clear),)


def doorbell_reset(hv: Hypervisor, vcpu: Vcpu, doorbell: Doorbell) -> None:
    """hypercalls.md 3.9, 0x6014."""
    doorbell.reset()


def doorbell_mask(hv: Hypervisor, vcpu: Vcpu, doorbell: Doorbell, enable: int, ack: int) -> None:
    """hypercalls.md 3.9, 0x6015."""
    doorbell.mask(enable, ack)


HANDLERS: Mapping[str, Handler] = {
    "doorbell_bind_virq": doorbell_bind_virq,
    "doorbell_unbind_virq": doorbell_unbind_virq,
    "doorbell_send": doorbell_send,
    "doorbell_receive": doorbell_receive,
    "doorbell_reset": doorbell_reset,
    "doorbell_mask": doorbell_mask,
}
