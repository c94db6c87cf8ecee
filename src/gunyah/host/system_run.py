"""Runs the system that a SYSTEM.toml describes: what is behind ``gunyah run SYSTEM.toml``.

Exit status as for a kernel: 0 when the machine switches itself off or the user leaves, 3 on a reset, 4 when the time is
over, 1 for bad input or a fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from gunyah.host.errors import HostError
from gunyah.host.hosted import HostedSystem
from gunyah.host.system_file import SystemFile, read_system_file
from gunyah.host.trace import Trace

__all__ = ["run_system"]

_STATUS: Final = {"off": 0, "reset": 3, None: 0}


def run_system(path: Path, *, timeout: float | None = None, traces: Sequence[Trace] = ()) -> int:
    """Boot and run until the end; the exit status. Raises HostError with one sentence for what is wrong."""
    description = read_system_file(path)
    if description.vms:
        names = ", ".join(vm.name for vm in description.vms)
        raise HostError(f"{path}: this build starts no secondary VMs from a file, and it names {names}")
    if description.primary.kind == "native":
        raise HostError(f"{path}: a native primary VM is started with gunyah run --kernel {description.primary.image}")
    return _run_python(description, timeout, traces)


def _run_python(description: SystemFile, timeout: float | None, traces: Sequence[Trace]) -> int:
    primary = description.primary
    with HostedSystem(
        traces=traces,
        profile=primary.profile,
        clock=description.clock,
        seed=description.seed,
        vcpus=primary.vcpus,
        memory=primary.memory,
    ) as hosted:
        hosted.wait_for_terminals(1)
        print(f"run directory  {hosted.directory.path}")
        for console in hosted.consoles:
            print(f"{console.vm}  {console.port}  {console.path}")
        print("leave with Ctrl-C", flush=True)
        over: list[bool] = []

        def end() -> None:
            over.append(True)
            hosted.system.hypervisor.request_stop()

        if timeout is not None:
            hosted.loop.call_later(timeout, end)
        hosted.run_until_interrupted()
        if over:
            return 4
        status = _STATUS.get(hosted.system.stopped)
        if status is None:
            raise HostError(f"the machine stopped: {hosted.system.last_words()}")
        return status
