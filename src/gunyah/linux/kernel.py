"""The kernel of a Linux VM written in Python: boot, initcalls, processes, and what the world outside may ask of it.

``Kernel.main`` is the VM's program: x0 holds the address of the device tree, as arm64 kernels are started. Processes
are tasks that open terminals and files. The world outside (the host's pseudo-terminals, tests) looks at ``sysfs`` and
``log`` directly, and changes things only through ``post`` and ``submit``, which run inside the VM.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from gunyah.abi.profile import V4, Profile
from gunyah.guest.cpu import Cpu
from gunyah.guest.fdt import DeviceTree
from gunyah.guest.gic import Gic
from gunyah.guest.tasks import Scheduler, Task
from gunyah.linux.auxiliary import AuxiliaryBus
from gunyah.linux.device import DriverCore
from gunyah.linux.errno import name_of
from gunyah.linux.gunyah_tty import GunyahTtyDriver
from gunyah.linux.hypercall import ERRNO_TABLES, GunyahHypercalls
from gunyah.linux.interrupt import Interrupts
from gunyah.linux.kobject import SysFs
from gunyah.linux.mailbox import Mailbox
from gunyah.linux.platform import PlatformBus
from gunyah.linux.printk import KernelLog
from gunyah.linux.rsc_mgr import RscMgr
from gunyah.linux.rsc_mgr_driver import GunyahHypervisorDriver, RscMgrDriver
from gunyah.linux.services import Services
from gunyah.linux.setup import boot_arguments, find_gic, free_memory, named_consoles, read_device_tree
from gunyah.linux.sysfs import GunyahSysfs
from gunyah.linux.tty import TtyCore
from gunyah.linux.tty_file import TtyFile
from gunyah.linux.vfs import Vfs
from gunyah.linux.workqueue import Work, Workqueues

__all__ = ["Kernel"]

_PSCI_SYSTEM_OFF = 0x8400_0008


class Kernel:
    """One Linux VM. ``profile`` is the ABI generation its drivers were built for; ``init`` its first process.

    ``cmdline`` replaces the device tree's /chosen/bootargs. The subsystems are attributes once ``main`` runs.
    """

    services: Services
    scheduler: Scheduler
    hypercalls: GunyahHypercalls
    mailbox: Mailbox
    platform: PlatformBus
    auxiliary: AuxiliaryBus
    tty: TtyCore

    def __init__(
        self,
        profile: Profile = V4,
        *,
        cmdline: str | None = None,
        init: Callable[[Kernel], object] | None = None,
    ) -> None:
        self.profile = profile
        self.cmdline = cmdline or ""
        self._given_cmdline = cmdline
        self._init = init
        self.on_booted: list[Callable[[], None]] = []
        """Called inside the VM when all initcalls have run; must not block."""
        self.on_log: list[Callable[[Any], None]] = []
        """Called with each log record, from boot on."""
        self._early: list[Callable[[], object]] = []
        self._reset()

    def _reset(self) -> None:
        self.booted = False
        self.running = False
        self.sysfs = SysFs()
        self.log = KernelLog(lambda: 0)
        self.resource_managers: list[RscMgr] = []
        self.gunyah = GunyahSysfs(self)
        self.vfs = Vfs(self)
        self.oopses: list[str] = []
        self._start_ns = 0

    # -- boot ----------------------------------------------------------------------------------------------------------

    def main(self, cpu: Cpu, x0: int) -> None:
        """The VM's program. Raises FdtError when the device tree at ``x0`` cannot be used."""
        self._reset()
        tree = read_device_tree(cpu, x0)
        self._setup(cpu, x0, tree)
        self.running = True
        try:
            self.scheduler.run()
        finally:
            self.running = False

    def _setup(self, cpu: Cpu, dtb: int, tree: DeviceTree) -> None:
        self.cmdline = self._given_cmdline if self._given_cmdline is not None else boot_arguments(tree)
        self.scheduler = scheduler = Scheduler(cpu)
        scheduler.on_error = self._oops
        self._start_ns = scheduler.timers.now_ns()
        self.log = KernelLog(self.uptime_ns, named_consoles(self.cmdline, tree))
        self.log.listeners.extend(self.on_log)
        gic = Gic(cpu, *find_gic(tree))
        self.services = Services(
            cpu=cpu,
            scheduler=scheduler,
            interrupts=Interrupts(gic, scheduler),
            heap=free_memory(cpu, tree, dtb),
            log=self.log,
            sysfs=self.sysfs,
            workqueues=Workqueues(scheduler, self.log),
            device_tree=tree,
        )
        gic.start()
        scheduler.timers.start(gic)
        self.hypercalls = GunyahHypercalls(cpu, ERRNO_TABLES[self.profile.name])
        core = DriverCore(self.services, Work)
        self.mailbox = Mailbox(self.services)
        self.tty = TtyCore(self.services)
        self.platform = PlatformBus(core)
        self.auxiliary = AuxiliaryBus(core)
        scheduler.spawn(self._initcalls, name="swapper")
        for function in self._early:
            scheduler.post(function)
        self._early.clear()

    def _initcalls(self) -> None:
        """In the order of the series' kernel: devices of the tree, console driver, identification, RM driver."""
        self.platform.populate(self.services.device_tree.root)
        calls: tuple[Callable[[], None], ...] = (
            lambda: self.auxiliary.register_driver(GunyahTtyDriver(self)),
            self.gunyah.init,
            lambda: self.platform.register_driver(GunyahHypervisorDriver(self)),
            lambda: self.platform.register_driver(RscMgrDriver(self)),
        )
        for call in calls:
            try:
                call()
            except OSError as failure:
                self.log.err(f"initcall failed: {name_of(failure)}")
        self.booted = True
        for listener in self.on_booted:
            listener()
        if self._init is not None:
            init = self._init
            self.spawn(lambda: init(self), name="init")

    def _oops(self, task: Task) -> None:
        failure = task.error
        assert failure is not None
        self.oopses.append("".join(traceback.format_exception(failure)))
        self.log.err(f"task {task.name} ended with {name_of(failure)}")

    def uptime_ns(self) -> int:
        """Nanoseconds since boot."""
        return self.scheduler.timers.now_ns() - self._start_ns

    # -- inside the VM -------------------------------------------------------------------------------------------------

    def spawn(self, function: Callable[..., Any], *arguments: Any, name: str | None = None) -> Task:
        """Start a process or kernel thread."""
        return self.scheduler.spawn(function, *arguments, name=name)

    def open(self, path: str, *, nonblock: bool = False) -> Any:
        """open(2) of a path, in a task (see Vfs). Raises OSError."""
        return self.vfs.open(path, nonblock=nonblock)

    def tty_names(self) -> list[str]:
        """Terminals there are now: ``ttyGH0``, ..."""
        return self.tty.names if self.running else []

    def open_tty(self, name: str, *, nonblock: bool = False) -> TtyFile:
        """Open a terminal, in a task. Raises OSError ENXIO, EIO, and what RM's console said."""
        return TtyFile(self.tty, self.tty.open(name), nonblock=nonblock)

    def power_off(self) -> None:
        """PSCI SYSTEM_OFF, after the drivers have left their devices."""
        for dev in reversed(list(self.platform.devices)):
            self.platform.unbind(dev)
        x = self.services.cpu.x
        x[0:4] = [_PSCI_SYSTEM_OFF, 0, 0, 0]
        self.services.cpu.hvc(0)

    # -- for the world outside -----------------------------------------------------------------------------------------

    def post(self, function: Callable[[], object]) -> None:
        """Run ``function`` inside the VM soon; it must not block. Before boot it waits for the VM."""
        if self.running:
            self.scheduler.post(function)
        else:
            self._early.append(function)

    def submit(self, function: Callable[..., Any], *arguments: Any, name: str | None = None) -> Submission:
        """Run ``function(*arguments)`` as a task inside the VM, where it may block; look at the Submission for its
        end.
        """
        submission = Submission(self)
        self.post(lambda: submission.start(function, arguments, name))
        return submission


class Submission:
    """A task asked for from outside: ``done``, then ``result()``."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.task: Task | None = None
        self.on_done: Callable[[], None] | None = None
        self.done = False
        self._result: Any = None
        self._error: BaseException | None = None

    def start(self, function: Callable[..., Any], arguments: tuple[Any, ...], name: str | None) -> None:
        """Inside the VM: spawn the task."""

        def run() -> None:
            try:
                self._result = function(*arguments)
            except Exception as failure:
                self._error = failure
            self.done = True
            if self.on_done is not None:
                self.on_done()

        self.task = self._kernel.spawn(run, name=name or getattr(function, "__name__", "submitted"))

    def result(self) -> Any:
        """What the function returned; raises what it raised."""
        if not self.done:
            raise RuntimeError("the task inside the VM has not ended yet")
        if self._error is not None:
            raise self._error
        return self._result
