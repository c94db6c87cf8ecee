"""Console service: OPEN, CLOSE, WRITE, FLUSH and the CONSOLE_CHARS notification (rm-behaviour.md 8, rm-rpc.md 10).

A console has a self end and an owner end; the target field of a request chooses: 0 is the caller's self end, a VMID the
owner end of that VM's console. A VM with loopback is the owner of its own console (rm-behaviour.md 8.2): what it writes
at one end it receives at the other, and a write with an end closed is dropped without an error, because a v4 guest
cannot bear one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from gunyah.abi.errors import RmError
from gunyah.abi.rm import ConsoleWrite, MessageId, NotificationId, VmidWord
from gunyah.rm.errors import RmFailure
from gunyah.rm.vm import Vm

if TYPE_CHECKING:
    from gunyah.rm.manager import Handler, ResourceManager

__all__ = ["Console", "Consoles", "HANDLERS"]


@dataclass(slots=True)
class Console:
    """One VM's console: who is at its ends, and which of them is open."""

    vmid: int
    owner: int
    self_open: bool = False
    owner_open: bool = False

    @property
    def loopback(self) -> bool:
        """Both ends belong to the same VM."""
        return self.owner == self.vmid


class Consoles:
    """All consoles by VMID. ``notify(vmid, id, payload)`` delivers a notification."""

    def __init__(self, notify: Callable[[int, int, bytes], None]) -> None:
        self._notify = notify
        self._consoles: dict[int, Console] = {}

    def create(self, vmid: int, owner: int) -> None:
        """Give a VM a console, both ends closed."""
        self._consoles[vmid] = Console(vmid, owner)

    def destroy(self, vmid: int) -> None:
        """Take a VM's console away."""
        self._consoles.pop(vmid, None)

    def get(self, vmid: int) -> Console | None:
        """The console of a VM."""
        return self._consoles.get(vmid)

    def end(self, client: Vm, target: int) -> tuple[Console, bool]:
        """(console, whether it is the owner end) that ``client`` means by ``target``; raises RmFailure."""
        vmid = target or client.vmid
        console = self._consoles.get(vmid)
        if console is None:
            raise RmFailure(RmError.ARGUMENT_INVALID, f"there is no VM {vmid} with a console")
        if target and console.owner != client.vmid:
            raise RmFailure(RmError.DENIED, f"VM {client.vmid} does not own VM {vmid} and its console")
        return console, target != 0

    def set_open(self, client: Vm, target: int, is_open: bool) -> None:
        """OPEN and CLOSE: flags only, no counting."""
        console, owner_end = self.end(client, target)
        if owner_end:
            console.owner_open = is_open
        else:
            console.self_open = is_open

    def check_writable(self, client: Vm, target: int) -> tuple[Console, bool, bool]:
        """(console, owner end, writer's end open); raises DENIED for a closed end unless the console loops back."""
        console, owner_end = self.end(client, target)
        is_open = console.owner_open if owner_end else console.self_open
        if not is_open and not console.loopback:
            raise RmFailure(
                RmError.DENIED, f"VM {client.vmid} has not opened its end of the console of VM {console.vmid}"
            )
        return console, owner_end, is_open

    def write(self, client: Vm, target: int, data: bytes) -> None:
        """Deliver bytes to the other end; dropped when that is closed."""
        console, owner_end, is_open = self.check_writable(client, target)
        other_open = console.self_open if owner_end else console.owner_open
        if not (is_open and other_open):
            return
        receiver, source = (console.vmid, 0) if owner_end else (console.owner, console.vmid)
        self._notify(receiver, NotificationId.VM_CONSOLE_CHARS, ConsoleWrite(source, data).pack())


def _open(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    rm.consoles.set_open(client, VmidWord.unpack(payload).vmid, True)
    return b""


def _close(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    rm.consoles.set_open(client, VmidWord.unpack(payload).vmid, False)
    return b""


def _write(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    request = ConsoleWrite.unpack(payload)
    rm.consoles.write(client, request.vmid, request.data)
    return b""


def _flush(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    rm.consoles.check_writable(client, VmidWord.unpack(payload).vmid)
    return b""


HANDLERS: Mapping[int, Handler] = MappingProxyType(
    {
        MessageId.VM_CONSOLE_OPEN: _open,
        MessageId.VM_CONSOLE_CLOSE: _close,
        MessageId.VM_CONSOLE_WRITE: _write,
        MessageId.VM_CONSOLE_FLUSH: _flush,
    }
)
