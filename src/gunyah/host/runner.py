"""Runs a native primary VM on the user's terminal: what is behind ``gunyah run --kernel``.

Exit status: 0 on PSCI SYSTEM_OFF and on Ctrl-A x, 3 on SYSTEM_RESET, 4 when the time is over, 1 when the VM or its
images are at fault.
"""

from __future__ import annotations

import signal
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from gunyah.host.errors import HostError, reason
from gunyah.host.loop import HostLoop
from gunyah.host.native_console import NativeConsole
from gunyah.host.sizes import format_size
from gunyah.host.terminal import raw_terminal
from gunyah.host.trace import Trace, open_trace
from gunyah.host.trace_text import TextTrace
from gunyah.native import NativePrimary
from gunyah.system import System, SystemFailure
from gunyah.vmm.images import ImageError
from gunyah.vmm.loader import LoadError

if TYPE_CHECKING:
    from gunyah.host.check import Check

__all__ = ["EXIT_FAULT", "EXIT_OFF", "EXIT_RESET", "EXIT_TIMEOUT", "NativeRun", "run"]

EXIT_OFF: Final = 0
EXIT_FAULT: Final = 1
EXIT_RESET: Final = 3
EXIT_TIMEOUT: Final = 4
DRAIN_SECONDS: Final = 0.2
"""What a reader gets at least to take the last output, in a run with a time-out."""
_SIGNALLED: Final = 128
"""Added to the number of the signal that ended the run, as shells do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeRun:
    """One run: images, size of the VM, when it ends."""

    kernel: Path
    initrd: Path | None = None
    dtb: Path | None = None
    cmdline: str = ""
    memory: int = 256 << 20
    """Bytes."""
    vcpus: int = 1
    profile: str = "2023"
    timeout: float | None = None
    """Seconds."""
    dump_dtb: Path | None = None
    gdb: int | None = None
    """TCP port of the local host; 0 takes one that is free."""
    gdb_wait: bool = False
    """Nothing of the VM runs before a gdb has come and resumes it."""
    trace: bool = False
    trace_out: Path | None = None
    check: Check | None = None
    """Holds every hypercall against the specification."""


def run(options: Namespace) -> int:
    """What the command line asked for; the exit status. Raises HostError with one sentence for bad input."""
    if getattr(options, "system", None) is not None:
        raise HostError("a system with a native primary VM is started with --kernel")
    names = NativeRun.__dataclass_fields__
    return main(NativeRun(**{name: value for name, value in vars(options).items() if name in names}))


def main(wanted: NativeRun) -> int:
    """Boot, run and leave; the exit status. Raises HostError."""
    deadline = None if wanted.timeout is None else time.monotonic() + wanted.timeout
    try:
        primary = NativePrimary(kernel=wanted.kernel, ramdisk=wanted.initrd, tree=wanted.dtb, bootargs=wanted.cmdline)
        with ExitStack() as stack:
            traces = _traces(wanted, stack)
            system = System(
                primary,
                profile=wanted.profile,
                memory=wanted.memory,
                vcpus=wanted.vcpus,
                instruments=traces,
                check=wanted.check or False,
            )
            stack.callback(system.close)
            # The images are placed before anything is started, so that what does not fit is told at once.
            primary.device_tree(system.memory_size, system.vcpus, b"")
            if wanted.dump_dtb is not None:
                return _dump_tree(system, primary, wanted.dump_dtb)
            return _run(wanted, system, primary, deadline, stack)
    except (LoadError, ImageError, SystemFailure) as error:
        raise HostError(str(error)) from error


def _traces(wanted: NativeRun, stack: ExitStack) -> list[Trace]:
    traces: list[Trace] = []
    if wanted.trace:
        traces.append(TextTrace(sys.stderr))
    if wanted.trace_out is not None:
        traces.append(open_trace(wanted.trace_out))
    for trace in traces:
        stack.callback(trace.close)
    return traces


def _dump_tree(system: System, primary: NativePrimary, path: Path) -> int:
    """Write the tree as the VM gets it: RM has added its nodes when the VM is powered on."""
    from gunyah.guest import fdt

    system.start()
    assert primary.placement is not None
    address = primary.placement.tree
    tree = fdt.parse(system.memory.read(address, fdt.total_size(system.memory.read(address, 40))))
    try:
        path.write_bytes(tree.pack())
    except OSError as error:
        raise HostError(f"the device tree {path} cannot be written: {reason(error)}") from error
    return 0


def _run(wanted: NativeRun, system: System, primary: NativePrimary, deadline: float | None, stack: ExitStack) -> int:
    loop = HostLoop()
    stack.callback(loop.close)
    console = NativeConsole(loop, primary.uart, sys.stdin.fileno(), sys.stdout.fileno())
    stack.callback(console.close)
    system.hypervisor.host = console
    system.hypervisor.reporter = _say_meanwhile
    caught = stack.enter_context(_signals(system, loop))
    system.start()
    _say(_welcome(wanted, primary))
    if wanted.gdb is not None:
        # Only here: a run without a debugger does not load it.
        from gunyah.host.gdb.server import serve_gdb

        stack.callback(serve_gdb(loop, system.hypervisor, wanted.gdb, wait=wanted.gdb_wait, say=_say).close)
    restore = stack.enter_context(ExitStack())
    restore.enter_context(raw_terminal(sys.stdin.fileno()))
    started = time.monotonic()
    left = None if deadline is None else max(0.0, deadline - started)
    system.run(until=lambda: console.leave or bool(caught), timeout=left)
    seconds = time.monotonic() - started
    # A reader that stands still keeps nobody here for longer than the time-out, and a signal ends the wait.
    last = None if deadline is None else max(deadline, time.monotonic() + DRAIN_SECONDS)
    console.drain(lambda: console.leave or bool(caught) or (last is not None and time.monotonic() >= last))
    # The terminal is cooked again before anything is said on it.
    restore.close()
    return _verdict(system, console, caught, seconds, wanted)


def _welcome(wanted: NativeRun, primary: NativePrimary) -> str:
    placement = primary.placement
    assert placement is not None
    kernel = wanted.kernel.name
    words = f"{placement.image.kind} {kernel} at {placement.entry:#x}, device tree at {placement.tree:#x}"
    if placement.ramdisk is not None:
        words += f", RAM disk at {placement.ramdisk[0]:#x}"
    count = "1 vCPU" if wanted.vcpus == 1 else f"{wanted.vcpus} vCPUs"
    return f"{words}; {count}, {format_size(wanted.memory)}; leave with Ctrl-A x"


def _say(words: str) -> None:
    print(f"gunyah: {words}", file=sys.stderr, flush=True)


def _say_meanwhile(words: str) -> None:
    """As ``_say``, when the terminal may be raw."""
    end = "\r\n" if sys.stdin.isatty() and sys.stderr.isatty() else "\n"
    print(f"gunyah: {words}", file=sys.stderr, flush=True, end=end)


def _verdict(system: System, console: NativeConsole, caught: list[int], seconds: float, wanted: NativeRun) -> int:
    stopped = system.stopped
    if stopped == "off":
        _say(f"the VM switched itself off after {seconds:.1f} s")
        return EXIT_OFF
    if stopped == "reset":
        _say(f"the VM asked for a reset after {seconds:.1f} s")
        return EXIT_RESET
    if stopped is not None:
        raise HostError(f"the machine stopped: {system.last_words()}")
    if caught:
        _say(f"ended by {signal.Signals(caught[0]).name}")
        return _SIGNALLED + caught[0]
    if console.leave:
        _say("left with Ctrl-A x")
        return EXIT_OFF
    _say(f"ended after {wanted.timeout:g} s")
    return EXIT_TIMEOUT


@contextmanager
def _signals(system: System, loop: HostLoop) -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them in the middle of a guest."""
    caught: list[int] = []

    def catch(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        system.hypervisor.request_stop()
        # A wait for input goes on after a signal, unless there is input.
        loop.post(lambda: None)

    saved = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in saved.items():
            signal.signal(number, handler)
