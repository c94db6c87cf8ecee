"""Hardware interrupts: who owns each, and lending them to other VMs (rm-rpc.md 9, rm-behaviour.md 10).

A handle is a random number of this boot plus the interrupt's hardware number. An interrupt has a hardware number and,
in each VM, a number of that VM's controller; the two are kept apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from gunyah.abi.errors import Error, RmError
from gunyah.abi.types import CAP_INVALID, U32
from gunyah.guest.hypercall import HypercallFailed, Hypercalls
from gunyah.rm.errors import RmFailure, failure_of
from gunyah.rm.vm import Vm
from gunyah.rm.vm_objects import VmObjects

__all__ = ["IrqManager", "LendState", "Lending"]


_ACCEPT_ERRORS: Mapping[int, RmError] = {Error.NOMEM: RmError.NOMEM, Error.DENIED: RmError.DENIED}
"""What VM_IRQ_ACCEPT answers when the hypervisor cannot bind; everything else is ARGUMENT_INVALID (rm-rpc.md 9)."""


class LendState(Enum):
    """OFFERED: unbound from the owner, the borrower may accept; ACCEPTED: bound in the borrower."""

    OFFERED = "offered"
    ACCEPTED = "accepted"


@dataclass(slots=True)
class Lending:
    """One interrupt on loan. ``borrower`` None: the borrower is gone, only the owner can end this."""

    number: int
    owner: int
    borrower: int | None
    label: int
    state: LendState = LendState.OFFERED
    virq: int = 0


class IrqManager:
    """All hardware interrupts by number; ``hwirqs`` are RM's capabilities to them, CAP_INVALID where there is none."""

    def __init__(self, hyp: Hypercalls, hwirqs: Sequence[int], base: int) -> None:
        self._hyp = hyp
        self._hwirqs = hwirqs
        self._base = base & U32
        self._owners: dict[int, int] = {}
        self._lendings: dict[int, Lending] = {}

    def own(self, number: int, vmid: int) -> None:
        """Record that an interrupt is bound in its owner under its own number."""
        self._owners[number] = vmid

    def handle_of(self, lending: Lending) -> int:
        """The number clients know a lending by."""
        return (self._base + lending.number) & U32

    def lookup(self, handle: int) -> Lending:
        """The lending behind a handle; raises HANDLE_INVALID."""
        lending = self._lendings.get((handle - self._base) & U32)
        if lending is None:
            raise RmFailure(RmError.HANDLE_INVALID, f"no interrupt is lent under handle {handle:#x}")
        return lending

    @staticmethod
    def _objects(vm: Vm) -> VmObjects:
        if vm.objects is None or not vm.objects.vic:
            raise RmFailure(RmError.DENIED, f"VM {vm.vmid} has no interrupt controller")
        return vm.objects

    def lend(self, owner: Vm, borrower: int, irq: int, label: int) -> Lending:
        """VM_IRQ_LEND: unbind from the owner."""
        if self._owners.get(irq) != owner.vmid:
            raise RmFailure(RmError.IRQ_INVALID, f"interrupt {irq} is not a hardware interrupt of VM {owner.vmid}")
        if irq in self._lendings:
            raise RmFailure(RmError.IRQ_INUSE, f"interrupt {irq} is lent already")
        try:
            self._hyp.hwirq_unbind_virq(self._hwirqs[irq])
        except HypercallFailed as failure:
            raise RmFailure(RmError.IRQ_INVALID, f"interrupt {irq} cannot be unbound: {failure}") from failure
        lending = self._lendings[irq] = Lending(irq, owner.vmid, borrower, label)
        return lending

    def accept(self, borrower: Vm, handle: int, wanted: int) -> int:
        """VM_IRQ_ACCEPT: bind in the borrower as ``wanted`` (all ones: the hardware's number); the number bound."""
        lending = self.lookup(handle)
        if lending.borrower != borrower.vmid:
            raise RmFailure(RmError.HANDLE_INVALID, f"interrupt {lending.number} is not lent to VM {borrower.vmid}")
        if lending.state is not LendState.OFFERED:
            raise RmFailure(RmError.IN_USE, f"VM {borrower.vmid} has accepted interrupt {lending.number} already")
        virq = lending.number if wanted == U32 else wanted
        objects = self._objects(borrower)
        if virq in objects.virqs.taken:
            raise RmFailure(RmError.DENIED, f"interrupt {virq} of VM {borrower.vmid} is taken")
        try:
            self._hyp.hwirq_bind_virq(self._hwirqs[lending.number], objects.vic, virq)
        except HypercallFailed as failure:
            code = _ACCEPT_ERRORS.get(failure.error, RmError.ARGUMENT_INVALID)
            why = f"interrupt {lending.number} as {virq} in VM {borrower.vmid}: {failure}"
            raise RmFailure(code, why) from failure
        objects.virqs.taken.add(virq)
        lending.state, lending.virq = LendState.ACCEPTED, virq
        return virq

    def release(self, borrower: Vm, handle: int) -> Lending:
        """VM_IRQ_RELEASE: unbind from the borrower."""
        lending = self.lookup(handle)
        if lending.borrower != borrower.vmid:
            raise RmFailure(RmError.HANDLE_INVALID, f"interrupt {lending.number} is not lent to VM {borrower.vmid}")
        if lending.state is not LendState.ACCEPTED:
            raise RmFailure(RmError.IN_USE, f"VM {borrower.vmid} has not accepted interrupt {lending.number}")
        self._unbind(lending, borrower)
        return lending

    def _unbind(self, lending: Lending, borrower: Vm) -> None:
        self._hyp.hwirq_unbind_virq(self._hwirqs[lending.number])
        self._objects(borrower).virqs.free(lending.virq)
        lending.state = LendState.OFFERED

    def reclaim(self, owner: Vm, handle: int) -> None:
        """VM_IRQ_RECLAIM: bind back to the owner, end of the lending."""
        lending = self.lookup(handle)
        if lending.borrower == owner.vmid:
            raise RmFailure(RmError.HANDLE_INVALID, f"VM {owner.vmid} borrows interrupt {lending.number}")
        if lending.state is LendState.ACCEPTED:
            raise RmFailure(RmError.IN_USE, f"VM {lending.borrower} still uses interrupt {lending.number}")
        if lending.owner != owner.vmid:
            raise RmFailure(RmError.IRQ_INVALID, f"interrupt {lending.number} belongs to VM {lending.owner}")
        try:
            self._hyp.hwirq_bind_virq(self._hwirqs[lending.number], self._objects(owner).vic, lending.number)
        except HypercallFailed as failure:
            raise failure_of(failure.error, f"interrupt {lending.number} back to VM {owner.vmid}") from failure
        del self._lendings[lending.number]

    def lend_static(self, owner: Vm, borrower: Vm, number: int, virq: int) -> None:
        """Give a VM an interrupt its configuration names, without any message (gic-irq-ranges)."""
        lending = self.lend(owner, borrower.vmid, number, U32)
        try:
            self.accept(borrower, self.handle_of(lending), virq)
        except RmFailure:
            self.reclaim(owner, self.handle_of(lending))
            raise

    def forget(self, vm: Vm) -> None:
        """A VM is reset: what it accepted goes back to "offered", and nobody may accept it in its place."""
        for lending in self._lendings.values():
            if lending.borrower == vm.vmid:
                if lending.state is LendState.ACCEPTED:
                    self._unbind(lending, vm)
                lending.borrower = None

    def usable(self, number: int) -> bool:
        """There is such a hardware interrupt."""
        return 0 <= number < len(self._hwirqs) and self._hwirqs[number] != CAP_INVALID
