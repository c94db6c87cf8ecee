"""Runs the system that a SYSTEM.toml describes: what is behind ``gunyah run SYSTEM.toml``.

Exit status as for a kernel: 0 when the machine switches itself off, all VMs have ended (``until = "vms"``) or the user
leaves, 3 on a reset, 4 when the time is over, 1 for bad input or a fault.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gunyah.host.errors import HostError
from gunyah.host.hosted import HostedSystem
from gunyah.host.native_hosted import NativeHosted
from gunyah.host.system_file import SystemFile, read_system_file
from gunyah.host.trace import Trace
from gunyah.host.vms import HostedVms
from gunyah.machine import board
from gunyah.vmm.images import ImageError
from gunyah.vmm.loader import LoadError

if TYPE_CHECKING:
    from gunyah.host.check import Check

__all__ = ["EXIT_TIMEOUT", "run_system"]

EXIT_TIMEOUT: Final = 4
_STATUS: Final = {"off": 0, "reset": 3, None: 0}
_ALIGNMENT: Final = 0x20_0000


def run_system(
    path: Path,
    *,
    timeout: float | None = None,
    traces: Sequence[Trace] = (),
    gdb: int | None = None,
    gdb_wait: bool = False,
    check: Check | None = None,
) -> int:
    """Boot and run until the end; the exit status. Raises HostError with one sentence for what is wrong.

    ``gdb`` is a TCP port for gdb; with ``gdb_wait`` the VM that gdb will find stands still until it has come. ``check``
    holds every hypercall against the specification.
    """
    description = read_system_file(path)
    try:
        with _hosted(description, traces, check) as hosted, ExitStack() as stack:
            return _run(hosted, description, timeout, lambda: _serve_gdb(hosted, gdb, gdb_wait, stack))
    except (LoadError, ImageError) as error:
        raise HostError(f"{path}: {error}") from error


def _memory_of(description: SystemFile) -> int:
    """The primary VM's memory: its own and what it lends."""
    wanted = description.primary.memory + sum(vm.memory + sum(vm.shared.values()) for vm in description.vms)
    wanted += sum(link.size for link in description.links)
    # Each VM begins at a multiple of 2 MiB.
    wanted += len(description.vms) * _ALIGNMENT
    return int(min(-(-wanted // _ALIGNMENT) * _ALIGNMENT, board.HLOS.size))


def _hosted(
    description: SystemFile, traces: Sequence[Trace], check: Check | None = None
) -> HostedSystem | NativeHosted:
    primary = description.primary
    checked: Any = {} if check is None else {"check": check}
    if primary.kind == "native":
        return NativeHosted(description, traces=traces, say=_say, reporter=_report, **checked)
    return HostedSystem(
        traces=traces,
        description=description,
        say=_say,
        reporter=_report,
        profile=primary.profile,
        clock=description.clock,
        seed=description.seed,
        vcpus=description.cores,
        memory=_memory_of(description),
        **checked,
    )


def _say(line: str) -> None:
    print(line, flush=True)


def _report(sentence: str, vms: HostedVms | None = None) -> None:
    """On standard error; of a VM that has a name in the file with that name before it."""
    begin = re.match(r"vm(\d+)\.", sentence)
    name = vms.name_of(int(begin[1])) if vms is not None and begin is not None else None
    print(f"gunyah: {name + ': ' if name else ''}{sentence}", file=sys.stderr, flush=True)


def _serve_gdb(hosted: HostedSystem | NativeHosted, port: int | None, wait: bool, stack: ExitStack) -> None:
    if port is not None:
        # Only here: a run without a debugger does not load it.
        from gunyah.host.gdb.server import serve_gdb

        server = serve_gdb(hosted.loop, hosted.system.hypervisor, port, wait=wait, say=_say)
        stack.callback(server.close)


def _run(
    hosted: HostedSystem | NativeHosted,
    description: SystemFile,
    timeout: float | None,
    serve: Callable[[], object],
) -> int:
    vms = None
    if isinstance(hosted, HostedSystem):
        hosted.wait_for_terminals(1)
        vms = hosted.vms
        if vms is not None:
            hosted.system.hypervisor.reporter = partial(_report, vms=vms)
            vms.start_all()
    _say(f"run directory  {hosted.directory.path}")
    for console in hosted.all_consoles:
        _say(f"{console.vm}  {console.port}  {console.path}")
    serve()
    _say("leave with Ctrl-C")
    over: list[bool] = []

    def end() -> None:
        over.append(True)
        hosted.system.hypervisor.request_stop()

    def look() -> None:
        if description.until == "vms" and vms is not None and vms.over:
            hosted.system.hypervisor.request_stop()

    if timeout is not None:
        hosted.loop.call_later(timeout, end)
    hosted.run_until_interrupted(look, 0.05)
    if over:
        return EXIT_TIMEOUT
    status = _STATUS.get(hosted.system.stopped)
    if status is None:
        raise HostError(f"the machine stopped: {hosted.system.last_words()}")
    return status
