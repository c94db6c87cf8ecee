"""A system on the user's machine: booted, with its terminals, its control socket and its traces, until it is closed.

    with HostedSystem() as hosted:
        print(hosted.directory.path)
        hosted.run_until_interrupted()
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gunyah.abi.types import VMID_HLOS
from gunyah.host.control import ControlServer
from gunyah.host.errors import HostError
from gunyah.host.interrupted import run_until_interrupted
from gunyah.host.loop import HostLoop
from gunyah.host.rundir import RunDirectory
from gunyah.host.service import Console, SystemService
from gunyah.host.system_file import SystemFile
from gunyah.host.trace import Trace
from gunyah.host.trace_words import vm_name
from gunyah.host.tty_bridge import TtyBridge, TtyBridges
from gunyah.host.vms import HostedVms
from gunyah.linux.kernel import Kernel
from gunyah.linux.kobject import SysFs
from gunyah.system import System, SystemFailure

__all__ = ["HostedSystem"]

PORTS_SECONDS = 10.0
"""Machine time within which the primary VM's terminals appear; it takes milliseconds."""


class HostedSystem:
    """A Python primary VM with all the host's surfaces; a context manager.

    ``name`` and ``base`` are those of the run directory. ``description`` names secondary VMs, which are made and not
    started, and ``say`` gets a line for each of their ends. ``traces`` watch from the first instruction and are closed
    at the end. Further keywords go to ``System``. Raises HostError with one sentence for what the machine lacks.
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        base: Path | None = None,
        traces: Sequence[Trace] = (),
        description: SystemFile | None = None,
        say: Callable[[str], object] = lambda line: None,
        **system: Any,
    ) -> None:
        self._stack = ExitStack()
        self._traces = traces
        try:
            for trace in traces:
                self._stack.callback(trace.close)
            self.loop = HostLoop()
            self._stack.callback(self.loop.close)
            self.directory = self._stack.enter_context(RunDirectory(name, base=base))
            self.system = self._stack.enter_context(System(host=self.loop, instruments=traces, **system))
            self.bridges = TtyBridges(
                self.loop, self.directory, self.kernel, self.post, vmid=VMID_HLOS, vm=vm_name(VMID_HLOS)
            )
            self._stack.callback(self.bridges.close)
            self.vms: HostedVms | None = None
            if description is not None and description.vms:
                self.vms = HostedVms(self, description, say)
                self._stack.callback(self.vms.close)
            service = SystemService(
                self.loop, self.system, self._sysfs, lambda: self.all_consoles, kernel=self.kernel, vms=self.vms
            )
            self.control = ControlServer(self.loop, self.directory.control_socket, service.commands)
            self._stack.callback(self.control.close)
        except SystemFailure as error:
            self._stack.close()
            raise HostError(str(error)) from error
        except BaseException:
            self._stack.close()
            raise

    @property
    def kernel(self) -> Kernel:
        """The primary VM's kernel."""
        return self.system.primary.kernel

    def _sysfs(self) -> SysFs:
        return self.kernel.sysfs

    @property
    def consoles(self) -> list[TtyBridge]:
        """The terminals of the primary VM."""
        return self.bridges.bridges

    @property
    def all_consoles(self) -> list[Console]:
        """The terminals of all VMs."""
        return [*self.bridges.bridges, *(self.vms.consoles if self.vms is not None else ())]

    def post(self, function: Callable[[], object]) -> None:
        """Run ``function`` inside the primary VM, which is woken for it."""
        self.kernel.post(function)
        for vcpu in self.system.hypervisor.vcpus.values():
            if vcpu.vmid == VMID_HLOS:
                vcpu.wake()

    def run(self, until: Callable[[], bool], timeout: float | None = None) -> bool:
        """Run the machine until ``until()`` holds; False after ``timeout`` seconds of its clock, or when it stopped."""
        return self.system.run(until=until, timeout=timeout)

    def wait_for_terminals(self, count: int) -> None:
        """Run until the primary VM has at least ``count`` terminals; raises HostError when they do not come."""
        if not self.run(lambda: len(self.consoles) >= count, PORTS_SECONDS):
            found = ", ".join(console.port for console in self.consoles) or "none"
            raise HostError(f"the primary VM has not made {count} terminals within {PORTS_SECONDS} s; it has {found}")

    def run_until_interrupted(self, every: Callable[[], object] | None = None, seconds: float = 0.25) -> None:
        """Run until Ctrl-C (or SIGTERM) or until the machine stops; ``every`` is called again and again meanwhile."""
        run_until_interrupted(self.system, self.loop, every, seconds)

    def close(self) -> None:
        """Hang up the terminals, power off, finish the traces, remove the run directory."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
