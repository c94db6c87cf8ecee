"""Secondary VMs and the Resource Manager as one sees them from a prompt: calls that run the machine until they end.

    with gunyah.System() as system:
        vm = system.primary.vm(VmSettings(name="worker", image=image))
        vm.start()
        vm.read_until(b"hello")
        vm.stop(); vm.deallocate()

Underneath is ``gunyah.vmm.manager``, inside the primary VM; nothing here goes around it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from gunyah.abi.layout import Payload
from gunyah.abi.profile import PROFILES
from gunyah.abi.rm import NotificationId, VmExited, VmStatus, message_name
from gunyah.abi.types import VMID_HLOS
from gunyah.linux.rm_client import RmClient
from gunyah.machine.pl011 import PL011
from gunyah.output import ConsoleOutput
from gunyah.vmm.manager import VirtualMachine, VmManager
from gunyah.vmm.vm_config import VmSettings

if TYPE_CHECKING:
    from gunyah.primary import LinuxPrimary
    from gunyah.system import System

__all__ = ["Notice", "PrimaryRm", "PrimaryVm", "manager_of"]

T = TypeVar("T")
NOTICES_MAX = 4096
"""Notifications that wait for a reader; the oldest go."""


class Notice(NamedTuple):
    """One notification of RM to the primary VM."""

    id: NotificationId | int
    payload: Any
    """Its payload (a dataclass of gunyah.abi.rm), or bytes that are not one."""

    @property
    def name(self) -> str:
        """RM's name of it."""
        return message_name(self.id)


def manager_of(primary: LinuxPrimary, system: System) -> VmManager:
    """The VM manager for a primary VM, with the board's UART model for its guests and RM's sentences for refusals."""

    def explain() -> str:
        sentences = system.rm.explain(VMID_HLOS)
        return sentences[-1] if sentences else ""

    def on_vmid(vmid: int, settings: VmSettings | None) -> None:
        # Which generation the hypervisor is for a VM is the machine's description, not a guest's wish.
        if settings is None:
            system.hypervisor.profiles.pop(vmid, None)
        else:
            system.hypervisor.profiles[vmid] = PROFILES[settings.profile]

    return VmManager(primary.kernel, uart=PL011, explain=explain, on_vmid=on_vmid)


class PrimaryRm(RmClient):
    """RM's requests, made by the primary VM: each method runs the machine until RM has answered (rm-rpc.md 5).

    A refusal raises ``RmRefused`` with the error and RM's own sentence.
    """

    def __init__(self, primary: LinuxPrimary, system: System, manager: VmManager) -> None:
        def invoke(message_id: int, payload: bytes) -> bytes:
            return primary.call(inside, message_id, payload)

        inside = manager.rm._invoke
        super().__init__(invoke, manager.rm._explain)
        self._system = system
        self._notices: deque[Notice] = deque(maxlen=NOTICES_MAX)
        manager.listeners.append(self._notified)

    def _notified(self, message_id: int, payload: Payload | bytes) -> None:
        known = message_id in NotificationId._value2member_map_
        self._notices.append(Notice(NotificationId(message_id) if known else message_id, payload))

    def notifications(self) -> Iterator[Notice]:
        """Those that have come and were not looked at yet, oldest first; never waits."""
        while self._notices:
            yield self._notices.popleft()

    def wait_notification(self, wanted: NotificationId | int | None = None, timeout: float = 10.0) -> Notice:
        """The next notification (with that id): runs the machine until it is there. Others stay, in order.

        Raises TimeoutError after ``timeout`` seconds of the machine's clock.
        """
        found: list[Notice] = []

        def there() -> bool:
            for notice in self._notices:
                if wanted is None or notice.id == wanted:
                    found.append(notice)
                    return True
            return False

        if not self._system.run(there, timeout):
            what = "notification" if wanted is None else message_name(wanted)
            raise TimeoutError(f"no {what} within {timeout:g} s: {self._system.stopped or 'the time is over'}")
        self._notices.remove(found[0])
        return found[0]


class PrimaryVm:
    """A secondary VM of the primary VM's. ``inside`` is the VM manager's own object."""

    def __init__(self, primary: LinuxPrimary, system: System, manager: VmManager, settings: VmSettings) -> None:
        self._primary = primary
        self._system = system
        self._output = ConsoleOutput()
        self.inside: VirtualMachine = manager.create(settings)
        self.inside.console.listen(self._output.take)

    def __repr__(self) -> str:
        return repr(self.inside)

    @property
    def name(self) -> str:
        """Its name."""
        return self.inside.name

    @property
    def vmid(self) -> int:
        """Its VMID, 0 while RM does not know it."""
        return self.inside.vmid

    @property
    def status(self) -> VmStatus:
        """Its state, as RM last told."""
        return self.inside.status

    @property
    def exit(self) -> VmExited | None:
        """How it ended, None while it has not."""
        return self.inside.exit

    def _do(self, function: Callable[[], T], timeout: float | None = None) -> T:
        return self._primary.call(function, timeout=timeout)

    def start(self) -> None:
        """Allocate, load, configure, start. Raises RmRefused with RM's sentence, VmError, LoadError."""
        self._do(self.inside.start)

    def stop(self, *, force: bool = True, reason: int = 3) -> None:
        """End it, or ask the guest to end."""
        self._do(lambda: self.inside.stop(force=force, reason=reason))

    def reset(self) -> None:
        """Take its objects and memory back; it keeps its VMID."""
        self._do(self.inside.reset)

    def restart(self) -> None:
        """Reset and start again."""
        self._do(self.inside.restart)

    def pause(self) -> None:
        """Take its vCPUs off their cores."""
        self._do(self.inside.pause)

    def resume(self) -> None:
        """Let it go on."""
        self._do(self.inside.resume)

    def deallocate(self) -> None:
        """Take it down whatever its state; nothing is left of it."""
        self._do(self.inside.deallocate)

    def wait_exit(self, timeout: float | None = None) -> VmExited:
        """Run the machine until the VM has ended; how. Raises TimeoutError after ``timeout`` seconds of its clock."""
        if not self._system.run(lambda: self.inside.exit is not None, timeout):
            raise TimeoutError(f"VM {self.name} has not ended: {self._system.stopped or 'the time is over'}")
        assert self.inside.exit is not None
        return self.inside.exit

    # -- console -------------------------------------------------------------------------------------------------------

    @property
    def output(self) -> bytearray:
        """What the VM has written on its console and nobody has taken, the newest of it."""
        return self._output

    def read_until(self, wanted: bytes, timeout: float = 60.0) -> bytes:
        """Run the machine until ``wanted`` has come; everything up to and with it. Raises TimeoutError."""
        output = self.output
        if not self._system.run(lambda: wanted in output, timeout):
            why = self._system.stopped or "the time is over"
            raise TimeoutError(f"VM {self.name} has not written {wanted!r}: {why}; it wrote {bytes(output[-200:])!r}")
        end = output.find(wanted) + len(wanted)
        taken = bytes(output[:end])
        del output[:end]
        return taken

    def write(self, data: bytes) -> int:
        """Type on its console; bytes taken."""
        return self._do(lambda: self.inside.console.write(data))
