"""The whole machine behind one ``with`` block: board, hypervisor, Resource Manager and a primary VM.

    with gunyah.System() as system:
        gh0, gh1 = system.primary.tty("ttyGH0"), system.primary.tty("ttyGH1")
        gh0.write(b"hello\\n")
        assert gh1.readline() == b"hello\\n"

A system is a value: its description and a seed; with a virtual clock the same description gives the same run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from gunyah.abi import pyimage
from gunyah.abi.profile import PROFILES, Profile
from gunyah.abi.types import VMID_HLOS
from gunyah.guest.cpu import GuestAbort, GuestUndefined, Program
from gunyah.hypervisor.boot import RootVm, start_root_vm
from gunyah.hypervisor.hypervisor import Hypervisor
from gunyah.hypervisor.ledger import Ledger, ledger_of
from gunyah.hypervisor.python_executor import Program as LoadedProgram
from gunyah.machine import board
from gunyah.machine.clock import RealClock, VirtualClock
from gunyah.machine.memory import PhysicalMemory
from gunyah.primary import LinuxPrimary, Primary
from gunyah.rm.manager import ResourceManager

if TYPE_CHECKING:
    from gunyah.hypervisor.hypervisor import HostLoop
    from gunyah.hypervisor.instruments import Instrument

__all__ = ["System", "SystemFailure", "SystemStopped"]

DEFAULT_MEMORY = board.HLOS.size
# RM must have the primary VM running within this time of the machine's clock; it takes milliseconds.
BOOT_SECONDS = 60.0


class SystemFailure(Exception):
    """A system that cannot be built or did not come up: one sentence."""


class SystemStopped(SystemFailure):
    """The machine has stopped while somebody waited for it."""


class System:
    """An emulated machine under Gunyah. Use as a context manager, or call ``start`` and ``close``.

    ``clock`` is "real" or "virtual"; ``profile`` the ABI generation of the primary VM ("v4" or "2023"); ``memory``
    the primary VM's RAM in bytes (multiple of 2 MiB, at most 1 GiB); ``vcpus`` 1..8. ``check`` holds every hypercall
    against the specification and stops at the first divergence. ``reporter`` is told, in one sentence each, what a
    person should know without looking: a guest is lost, a VM was stopped. Raises SystemFailure for values it cannot
    build.
    """

    def __init__(
        self,
        primary: Primary | None = None,
        *,
        profile: str = "2023",
        clock: str = "real",
        seed: int | None = None,
        vcpus: int = 1,
        memory: int = DEFAULT_MEMORY,
        console_loopback: bool = True,
        host: HostLoop | None = None,
        instruments: Sequence[Instrument] = (),
        reporter: Callable[[str], object] | None = None,
        check: bool | Callable[[Hypervisor], Instrument] = False,
    ) -> None:
        if profile not in PROFILES:
            raise SystemFailure(f"profile {profile!r} is not one of {', '.join(sorted(PROFILES))}")
        if clock not in ("real", "virtual"):
            raise SystemFailure(f"clock {clock!r} is neither 'real' nor 'virtual'")
        if not 1 <= vcpus <= board.MAX_CORES:
            raise SystemFailure(f"{vcpus} vCPUs were asked for, the board has 1..{board.MAX_CORES} cores")
        if memory % 0x20_0000 or not 0x20_0000 <= memory <= board.HLOS.size:
            raise SystemFailure(
                f"{memory:#x} bytes of memory are not a multiple of 2 MiB up to {board.HLOS.size >> 20} MiB"
            )
        self.profile: Profile = PROFILES[profile]
        self.seed = random.SystemRandom().getrandbits(64) if seed is None else seed
        self.vcpus = vcpus
        self.memory_size = memory
        self.console_loopback = console_loopback
        self.clock = RealClock() if clock == "real" else VirtualClock()
        self.memory = PhysicalMemory([(board.RAM.base, board.RAM.size)])
        self.hypervisor = Hypervisor(self.memory, self.clock, seed=self.seed)
        self.hypervisor.host = host
        self.hypervisor.reporter = reporter
        self.hypervisor.instruments.extend(instruments)
        if check:
            from gunyah.hypervisor.specification.checker import Checker

            checker = Checker if check is True else check
            self.hypervisor.instruments.append(checker(self.hypervisor))
        self.rm = ResourceManager()
        self._primary: Primary = primary if primary is not None else LinuxPrimary()
        self.root: RootVm | None = None

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Power on and run until the primary VM is up."""
        if self.root is not None:
            return self
        hv = self.hypervisor
        hv.profiles[VMID_HLOS] = self.profile
        for address, data in self._primary.prepare(self):
            self.memory.write(address, data)
        number = self.load_program("rm", self.rm.program)
        self.root = start_root_vm(
            hv,
            pyimage.pack(number),
            usable_cores=(1 << self.vcpus) - 1,
            hlos_size=self.memory_size,
            extra={
                "profile": self.profile.name,
                "console_loopback": self.console_loopback,
                **self._primary.environment,
            },
        )
        if not self.run(until=lambda: self._primary.up, timeout=BOOT_SECONDS):
            raise SystemFailure(f"the primary VM did not come up: {self.last_words()}")
        return self

    def close(self) -> None:
        """Power off: guests are unwound, nothing runs any more."""
        self.hypervisor.stop("closed", "the machine was closed")
        for vcpu in list(self.hypervisor.vcpus.values()):
            if vcpu.executor is not None:
                vcpu.executor.kill()
                vcpu.executor = None

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- running -------------------------------------------------------------------------------------------------------

    def run(self, until: Callable[[], bool] | None = None, timeout: float | None = None) -> bool:
        """Run the machine until ``until()`` holds (True); False after ``timeout`` seconds of its clock or when it has
        stopped.
        """
        deadline = None if timeout is None else self.clock.ticks() + int(timeout * self.clock.frequency)
        return self.hypervisor.run(until, deadline)

    @property
    def stopped(self) -> str | None:
        """Why the machine does not run any more: "off", "reset", "fault", "closed"; None while it does."""
        return self.hypervisor.stopped

    def last_words(self) -> str:
        """The last remarks of the hypervisor in one line, for an error message."""
        words = [*self.hypervisor.reports, *list(self.hypervisor.remarks)[-3:]]
        return "; ".join(" ".join(word.split()) for word in words) or "it said nothing"

    # -- parts ---------------------------------------------------------------------------------------------------------

    @property
    def primary(self) -> LinuxPrimary:
        """The primary VM when it is the Linux stack in Python."""
        if not isinstance(self._primary, LinuxPrimary):
            raise SystemFailure("the primary VM of this system is not the Linux stack in Python")
        return self._primary

    @property
    def instruments(self) -> list[Instrument]:
        """Who looks on; append and remove at any time."""
        return self.hypervisor.instruments

    def ledger(self) -> Ledger:
        """Every object, its holders and its memory, now."""
        return ledger_of(self.hypervisor)

    def load_program(self, name: str, program: Program) -> int:
        """Make a Python function loadable as VM code; the number goes into its image (gunyah.abi.pyimage)."""
        return self.hypervisor.register_program(
            LoadedProgram(name, program, lambda esr, far, text: GuestAbort(esr, far, text), GuestUndefined)
        )
