"""Interrupt lending on the wire (rm-rpc.md 9)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from gunyah.abi.errors import RmError
from gunyah.abi.rm import (
    HandleReply,
    IrqAccept,
    IrqAcceptReply,
    IrqHandle,
    IrqLend,
    IrqLent,
    IrqNotify,
    IrqNotifyRequest,
    MessageId,
    NotificationId,
)
from gunyah.rm.errors import RmFailure
from gunyah.rm.irq import Lending, LendState
from gunyah.rm.vm import Vm

if TYPE_CHECKING:
    from gunyah.rm.manager import Handler, ResourceManager

__all__ = ["HANDLERS"]


def _lend(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    request = IrqLend.unpack(payload)
    lending = rm.irqs.lend(client, request.borrower_vmid, request.irq, request.label)
    return HandleReply(rm.irqs.handle_of(lending)).pack()


def _accept(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    request = IrqAccept.unpack(payload)
    return IrqAcceptReply(rm.irqs.accept(client, request.handle, request.irq)).pack()


def _release(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    rm.irqs.release(client, IrqHandle.unpack(payload).handle)
    return b""


def _reclaim(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    rm.irqs.reclaim(client, IrqHandle.unpack(payload).handle)
    return b""


def _notify(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    # The list of VMs is looked at when the handle is known to be good.
    head = IrqNotifyRequest.unpack(payload[:8])
    if head.flag != IrqNotify.LENT and len(payload) != 8:
        raise RmFailure(RmError.MSG_INVALID, f"{len(payload)} bytes: only a notification of lending names VMs")
    lending = rm.irqs.lookup(head.handle)
    request = IrqNotifyRequest.unpack(payload)
    handle = IrqHandle(request.handle).pack()
    if request.flag == IrqNotify.LENT:
        _notify_lent(rm, client, lending, request)
    elif request.flag == IrqNotify.RELEASED:
        _require(client.vmid == lending.borrower, lending, f"VM {client.vmid} does not borrow it")
        _require(lending.state is LendState.OFFERED, lending, "it is in use", RmError.IRQ_INUSE)
        rm.notify(lending.owner, NotificationId.VM_IRQ_RELEASED, handle)
    elif request.flag == IrqNotify.ACCEPTED:
        _require(client.vmid == lending.borrower, lending, f"VM {client.vmid} does not borrow it")
        _require(lending.state is LendState.ACCEPTED, lending, "it is not in use", RmError.IRQ_RELEASED)
        rm.notify(lending.owner, NotificationId.VM_IRQ_ACCEPTED, handle)
    else:
        raise RmFailure(RmError.ARGUMENT_INVALID, f"notify flag {request.flag:#x} is not one of 1, 2, 4")
    return b""


def _notify_lent(rm: ResourceManager, client: Vm, lending: Lending, request: IrqNotifyRequest) -> None:
    _require(client.vmid == lending.owner, lending, f"VM {client.vmid} does not own it")
    _require(lending.state is LendState.OFFERED, lending, "it is in use", RmError.IRQ_INUSE)
    if len(request.vmids) > 1 or any(vmid != lending.borrower for vmid in request.vmids):
        raise RmFailure(
            RmError.ARGUMENT_INVALID,
            f"interrupt {lending.number} is lent to VM {lending.borrower}, not to {request.vmids}",
        )
    if lending.borrower is not None:
        lent = IrqLent(lending.owner, request.handle, lending.label)
        rm.notify(lending.borrower, NotificationId.VM_IRQ_LENT, lent.pack())


def _require(condition: bool, lending: Lending, why: str, code: RmError = RmError.HANDLE_INVALID) -> None:
    if not condition:
        raise RmFailure(code, f"interrupt {lending.number}: {why}")


HANDLERS: Mapping[int, Handler] = MappingProxyType(
    {
        MessageId.VM_IRQ_LEND: _lend,
        MessageId.VM_IRQ_ACCEPT: _accept,
        MessageId.VM_IRQ_RELEASE: _release,
        MessageId.VM_IRQ_RECLAIM: _reclaim,
        MessageId.VM_IRQ_NOTIFY: _notify,
    }
)
