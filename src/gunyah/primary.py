"""What can be the primary VM of a system: the Linux stack in Python, a Python program, or images for the CPU engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from gunyah.abi import cbor, pyimage
from gunyah.guest.cpu import Cpu, Program
from gunyah.linux.kernel import Kernel
from gunyah.linux.tty_file import TtyFile
from gunyah.machine import board
from gunyah.vmm.board_tree import board_tree

if TYPE_CHECKING:
    from gunyah.secondary import PrimaryRm, PrimaryVm
    from gunyah.system import System
    from gunyah.vmm.manager import VmManager
    from gunyah.vmm.vm_config import VmSettings

__all__ = ["LinuxPrimary", "Primary", "PrimaryTty", "ProgramPrimary", "TtyError"]

T = TypeVar("T")

Chunk = tuple[int, bytes]
"""Physical address and bytes to put there before power-on."""


class Primary(Protocol):
    """Something that a system can start as VMID 3."""

    environment: Mapping[str, cbor.Value]
    """Keys added to the root VM's environment (``entry_hlos`` ...)."""

    def prepare(self, system: System, /) -> Iterable[Chunk]:
        """What lies in memory when the Resource Manager starts: code at the entry, device tree."""

    @property
    def up(self) -> bool:
        """The VM runs and may be used."""


class ProgramPrimary:
    """A Python function as the primary VM: ``function(cpu, x0)``, x0 is the IPA of the device tree."""

    def __init__(self, function: Program, *, name: str = "primary", bootargs: str = "") -> None:
        self._function = function
        self._name = name
        self._bootargs = bootargs
        self.environment: Mapping[str, cbor.Value] = {}
        self.entered = False
        self.finished = False

    def prepare(self, system: System) -> Iterable[Chunk]:
        """The program's image at the entry, the board's tree where RM expects it."""
        number = system.load_program(self._name, self._main)
        yield board.HLOS_ENTRY, pyimage.pack(number)
        tree = board_tree(
            memory=[(board.HLOS.base, system.memory_size)],
            cores=system.vcpus,
            bootargs=self._bootargs,
            seed=system.hypervisor.random.randbytes(64),
        )
        yield board.HLOS_DEVICE_TREE, tree.pack()

    def _main(self, cpu: Cpu, x0: int) -> None:
        self.entered = True
        try:
            self._function(cpu, x0)
        finally:
            self.finished = True

    @property
    def up(self) -> bool:
        """The program has been entered."""
        return self.entered


class LinuxPrimary(ProgramPrimary):
    """The Linux driver stack in Python as the primary VM; ``kernel`` is the VM from inside."""

    def __init__(self, *, cmdline: str = "", init: Callable[[Kernel], object] | None = None) -> None:
        super().__init__(self._run, name="linux", bootargs=cmdline)
        self._init = init
        self._kernel: Kernel | None = None
        self._system: System | None = None
        self._manager: VmManager | None = None
        self._rm: PrimaryRm | None = None

    def prepare(self, system: System) -> Iterable[Chunk]:
        """Make the kernel for the system's profile."""
        self._system = system
        self._kernel = Kernel(system.profile, init=self._init)
        return super().prepare(system)

    def _run(self, cpu: Cpu, x0: int) -> None:
        self.kernel.main(cpu, x0)

    @property
    def kernel(self) -> Kernel:
        """The kernel; raises RuntimeError before the system is started."""
        if self._kernel is None:
            raise RuntimeError("the primary VM has no kernel before its system is started")
        return self._kernel

    @property
    def up(self) -> bool:
        """All initcalls have run."""
        return self._kernel is not None and self._kernel.booted

    def call(self, function: Callable[..., T], *arguments: Any, timeout: float | None = None) -> T:
        """Run ``function(*arguments)`` as a process of the VM, where it may block, and the machine until it has ended.

        Raises what it raised, and TimeoutError after ``timeout`` seconds of the machine's clock.
        """
        system = self._system
        assert system is not None
        submission = self.kernel.submit(function, *arguments)
        if not system.run(until=lambda: submission.done, timeout=timeout):
            why = system.stopped or "the time is over"
            raise TimeoutError(f"the process in the primary VM has not ended: {why}")
        result: T = submission.result()
        return result

    @property
    def manager(self) -> VmManager:
        """The VM manager inside the VM; raises VmError while there is no connection to RM."""
        if self._manager is None:
            from gunyah.secondary import manager_of

            assert self._system is not None
            self._manager = manager_of(self, self._system)
        return self._manager

    @property
    def rm(self) -> PrimaryRm:
        """The Resource Manager: a method per request, which runs the machine until it is answered; notifications."""
        if self._rm is None:
            from gunyah.secondary import PrimaryRm

            assert self._system is not None
            self._rm = PrimaryRm(self, self._system, self.manager)
        return self._rm

    def vm(self, settings: VmSettings) -> PrimaryVm:
        """A secondary VM that this VM owns, not started yet. Raises LoadError, VmError with one sentence."""
        from gunyah.secondary import PrimaryVm

        assert self._system is not None
        return PrimaryVm(self, self._system, self.manager, settings)

    def tty(self, name: str) -> PrimaryTty:
        """Open a terminal of the VM (``ttyGH0``) in raw mode. Raises TtyError with one sentence."""
        return PrimaryTty(self, name)


class TtyError(OSError):
    """A terminal of the primary VM cannot be used: not there, closed, hung up."""


class PrimaryTty:
    """A terminal of the primary VM, opened from inside it by a process that does what it is told from here."""

    def __init__(self, primary: LinuxPrimary, name: str) -> None:
        self._primary = primary
        self.name = name
        names = primary.kernel.tty_names()
        if name not in names:
            there = ", ".join(names) or "none"
            raise TtyError(f"the primary VM has no terminal {name!r}; there are: {there}")
        self._file: TtyFile = self._do(lambda: primary.kernel.open_tty(name))
        self._file.set_raw()
        self._line = bytearray()

    def _do(self, function: Callable[[], T], timeout: float | None = None) -> T:
        try:
            return self._primary.call(function, timeout=timeout)
        except TimeoutError:
            raise
        except OSError as failure:
            raise TtyError(failure.errno, f"{self.name}: {failure.strerror or failure}") from failure

    def _live(self) -> TtyFile:
        file = self._file
        if file.closed:
            raise TtyError(f"{self.name} is closed")
        if file.hung_up:
            raise TtyError(f"{self.name} was hung up")
        return file

    def write(self, data: bytes) -> int:
        """Bytes taken, which may be fewer than given."""
        file = self._live()
        return self._do(lambda: file.write_nowait(data))

    def read(self, size: int, timeout: float = 1.0) -> bytes:
        """At most ``size`` bytes: runs the machine until some are there, at most ``timeout`` seconds of its clock."""
        if self._line:
            taken = bytes(self._line[:size])
            del self._line[: len(taken)]
            return taken
        file = self._live()
        return self._do(lambda: file.read(size, int(timeout * 1_000_000_000)))

    def readline(self, timeout: float = 1.0) -> bytes:
        """Bytes up to and with a newline; what there is when ``timeout`` seconds of the machine's clock are over."""
        system = self._primary._system
        assert system is not None
        clock = system.clock
        deadline = clock.ticks() + int(timeout * clock.frequency)
        line = self._line
        while b"\n" not in line:
            left = (deadline - clock.ticks()) / clock.frequency
            if left <= 0:
                break
            file = self._live()
            line += self._do(lambda file=file, left=left: file.read(4096, int(left * 1_000_000_000)))  # type: ignore[misc]
        end = line.find(b"\n") + 1 or len(line)
        taken = bytes(line[:end])
        del line[:end]
        return taken

    def close(self) -> None:
        """Give the terminal back; harmless when it is closed."""
        if not self._file.closed:
            self._do(self._file.close)

    def __enter__(self) -> PrimaryTty:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
