"""A native primary VM with the host's surfaces: its UART as a pseudo-terminal, control socket, traces.

Its secondary VMs are its own kernel's business (/dev/gunyah); here it is one VM with one console.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from gunyah.abi.types import VMID_HLOS
from gunyah.host.control import ControlServer
from gunyah.host.errors import HostError
from gunyah.host.interrupted import run_until_interrupted
from gunyah.host.loop import HostLoop
from gunyah.host.pty import Pty, PtyListener
from gunyah.host.rundir import RunDirectory
from gunyah.host.service import Console, SystemService
from gunyah.host.system_file import SystemFile
from gunyah.host.trace import Trace
from gunyah.host.trace_words import vm_name
from gunyah.machine.pl011 import PL011
from gunyah.native import NativePrimary
from gunyah.system import System, SystemFailure

if TYPE_CHECKING:
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.instruments import Instrument

__all__ = ["NativeHosted", "UartTerminal"]

BACKLOG: Final = 256 * 1024


class UartTerminal(PtyListener):
    """The board's UART as a pseudo-terminal ``console``; what came before it was opened is shown then."""

    vmid = VMID_HLOS
    port = "console"

    def __init__(self, loop: HostLoop, directory: RunDirectory, uart: PL011) -> None:
        self._uart = uart
        self._backlog = bytearray()
        self.vm = vm_name(VMID_HLOS)
        self.pty = Pty(loop, directory, self.port, self)
        uart.sink = self._sent

    @property
    def path(self) -> Path | None:
        """The link that users open."""
        return self.pty.link

    def _sent(self, data: bytes) -> None:
        self._backlog += data
        del self._backlog[:-BACKLOG]

    def flush(self) -> None:
        """Show what has come."""
        if self.pty.is_open and self._backlog:
            del self._backlog[: self.pty.send(bytes(self._backlog))]

    def on_open(self) -> None:
        """Show what has come so far."""
        self.flush()

    def on_room(self) -> None:
        """Go on."""
        self.flush()

    def input_room(self) -> int:
        """What the UART's queue takes."""
        return self._uart.room

    def on_input(self, data: bytes) -> None:
        """Into the UART."""
        self._uart.feed(data)

    def poll(self) -> None:
        """Between two slices: output goes on, and input when the guest has read."""
        self.flush()
        self.pty.resume()


class _Polling:
    """The machine's host loop, with the terminal served at each look."""

    def __init__(self, loop: HostLoop) -> None:
        self._loop = loop
        self.terminal: UartTerminal | None = None

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Serve terminal and host."""
        if self.terminal is not None:
            self.terminal.poll()
        return self._loop.poll(timeout)


class NativeHosted:
    """A context manager like HostedSystem. Raises HostError, LoadError, ImageError for what cannot be booted."""

    def __init__(
        self,
        description: SystemFile,
        *,
        name: str | None = None,
        base: Path | None = None,
        traces: Sequence[Trace] = (),
        say: Callable[[str], object] = lambda line: None,
        reporter: Callable[[str], object] | None = None,
        check: Callable[[Hypervisor], Instrument] | None = None,
    ) -> None:
        vm = description.primary
        assert vm.image is not None
        self.say = say
        self._stack = ExitStack()
        try:
            for trace in traces:
                self._stack.callback(trace.close)
            self.loop = HostLoop()
            self._stack.callback(self.loop.close)
            self.directory = self._stack.enter_context(RunDirectory(name, base=base))
            primary = NativePrimary(kernel=vm.image, ramdisk=vm.initrd, tree=vm.dtb, bootargs=vm.cmdline)
            polling = _Polling(self.loop)
            host: Any = polling
            self.system = System(
                primary,
                profile=vm.profile,
                clock=description.clock,
                seed=description.seed,
                vcpus=vm.vcpus,
                memory=vm.memory,
                host=host,
                instruments=traces,
                reporter=reporter,
                check=check or False,
            )
            self._stack.callback(self.system.close)
            self.terminal = polling.terminal = UartTerminal(self.loop, self.directory, primary.uart)
            self._stack.callback(self.terminal.pty.close)
            self.system.start()
            service = SystemService(self.loop, self.system, lambda: None, lambda: self.all_consoles)
            self._stack.callback(ControlServer(self.loop, self.directory.control_socket, service.commands).close)
        except SystemFailure as error:
            self._stack.close()
            raise HostError(str(error)) from error
        except BaseException:
            self._stack.close()
            raise

    @property
    def all_consoles(self) -> list[Console]:
        """The one terminal."""
        return [self.terminal]

    def run_until_interrupted(self, every: Callable[[], object] | None = None, seconds: float = 0.25) -> None:
        """Run until Ctrl-C (or SIGTERM) or until the machine stops."""
        run_until_interrupted(self.system, self.loop, every, seconds)

    def close(self) -> None:
        """Hang up, power off, remove the run directory."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
