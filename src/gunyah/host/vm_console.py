"""A secondary VM's console as a pseudo-terminal in the run directory, under the VM's name.

What the VM has written before somebody opened the terminal is kept, bounded, and shown to whoever opens it first.
Input goes to the VM by a task of the primary VM, as fast as the VM's console takes it; while the VM does not run, input
is thrown away as a serial line without a machine behind it would.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gunyah.host.loop import HostLoop
from gunyah.host.pty import Pty, PtyListener
from gunyah.host.rundir import RunDirectory

if TYPE_CHECKING:
    from gunyah.linux.kernel import Kernel
    from gunyah.vmm.manager import VirtualMachine

__all__ = ["VmConsole"]

BACKLOG: Final = 256 * 1024
INPUT_LIMIT: Final = 16 * 1024
RETRY_NS: Final = 5_000_000


class VmConsole(PtyListener):
    """The terminal of one VM. ``post`` runs a function inside the primary VM and wakes it."""

    def __init__(
        self,
        loop: HostLoop,
        directory: RunDirectory,
        kernel: Kernel,
        post: Callable[[Callable[[], object]], object],
        vm: VirtualMachine,
    ) -> None:
        self._kernel = kernel
        self._post = post
        self._loop = loop
        self._vm = vm
        self._backlog = bytearray()
        self._input = bytearray()
        self._busy = False
        self._full = False
        self.lost = 0
        self.pty: Pty | None = Pty(loop, directory, vm.name, self)
        vm.console.listen(self._output)

    @property
    def vmid(self) -> int:
        """VMID of the VM, 0 while it has none."""
        return self._vm.vmid

    @property
    def vm(self) -> str:
        """Name of the VM."""
        return self._vm.name

    @property
    def port(self) -> str:
        """Name in the run directory."""
        return self._vm.name

    @property
    def path(self) -> Path | None:
        """The link that users open."""
        return self.pty.link if self.pty is not None else None

    # -- from the VM ---------------------------------------------------------------------------------------------------

    def _output(self, data: bytes) -> None:
        backlog = self._backlog
        backlog += data
        if len(backlog) > BACKLOG:
            self.lost += len(backlog) - BACKLOG
            del backlog[:-BACKLOG]
        self._flush()

    def _flush(self) -> None:
        pty = self.pty
        if pty is not None and pty.is_open and self._backlog:
            del self._backlog[: pty.send(bytes(self._backlog))]

    def on_open(self) -> None:
        """Show what has come so far."""
        self._flush()

    def on_room(self) -> None:
        """Go on."""
        self._flush()

    # -- to the VM -----------------------------------------------------------------------------------------------------

    def input_room(self) -> int:
        """What the buffer takes."""
        room = INPUT_LIMIT - len(self._input)
        self._full = room <= 0
        return room

    def on_input(self, data: bytes) -> None:
        """Hand it to the VM."""
        self._input += data
        if not self._busy:
            self._busy = True
            self._post(lambda: self._kernel.spawn(self._pump, name=f"console {self._vm.name}"))

    def _pump(self) -> None:
        """A task of the primary VM: until nothing is left."""
        pending, vm = self._input, self._vm
        try:
            while pending:
                if not vm.running:
                    pending.clear()
                    break
                taken = vm.console.write(bytes(pending))
                del pending[:taken]
                if not taken:
                    self._kernel.scheduler.sleep(RETRY_NS)
                if self._full and self.pty is not None:
                    self._full = False
                    self._loop.post(self.pty.resume)
        finally:
            self._busy = False

    def close(self) -> None:
        """Hang up."""
        self._vm.console.listen(None)
        if self.pty is not None:
            self.pty.close()
            self.pty = None
