"""What a running system answers on its control socket.

ps, ledger, consoles, sysfs-cat, sysfs-tree and sysfs-entry answer at once; trace sends events; wait never answers, so
that a client learns of the system's end. Commands look at the machine between slices; none of them goes around a
guest's own interfaces to change it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from gunyah.host.control import Answer, Command, Request
from gunyah.host.errors import HostError
from gunyah.host.loop import HostLoop
from gunyah.host.sysfs_view import sysfs_cat, sysfs_entry, sysfs_tree
from gunyah.host.trace import Trace, open_trace
from gunyah.host.trace_json import JsonTrace
from gunyah.host.trace_text import TextTrace
from gunyah.host.view import Row, ledger, virtual_machines
from gunyah.hypervisor.hypervisor import Hypervisor
from gunyah.linux.kobject import SysFs

__all__ = ["Console", "SystemService"]


class Console(Protocol):
    """A terminal port that users can open."""

    @property
    def vmid(self) -> int:
        """VMID of the VM that has it."""

    @property
    def vm(self) -> str:
        """Name of that VM."""

    @property
    def port(self) -> str:
        """Name in the run directory."""

    @property
    def path(self) -> Path | None:
        """Its link in the run directory; None while the port is away."""


class _EventStream(io.TextIOBase):
    """A text stream whose writes become events of a request."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        self._request.event(text)
        return len(text)


class SystemService:
    """The commands over one machine. ``sysfs`` is that of the primary VM, None while it is no Python VM."""

    def __init__(
        self,
        loop: HostLoop,
        hypervisor: Hypervisor,
        sysfs: Callable[[], SysFs | None],
        consoles: Callable[[], Sequence[Console]],
    ) -> None:
        self._loop = loop
        self._hypervisor = hypervisor
        self._sysfs = sysfs
        self._consoles = consoles
        self.commands: dict[str, Command] = {
            "ps": self._ps,
            "ledger": self._ledger,
            "consoles": self._list_consoles,
            "sysfs-cat": lambda request: sysfs_cat(self._primary_sysfs(), request.text("path")),
            "sysfs-tree": lambda request: sysfs_tree(self._primary_sysfs(), request.text("path")),
            "sysfs-entry": lambda request: sysfs_entry(self._primary_sysfs(), request.text("path")),
            "trace": self._trace,
            "wait": lambda request: Answer(),
        }

    def _primary_sysfs(self) -> SysFs:
        sysfs = self._sysfs()
        if sysfs is None:
            raise HostError("the primary VM is a native one: its /sys is inside, read it on its console")
        return sysfs

    def _ps(self, request: Request) -> dict[str, list[Row]]:
        consoles = self._consoles()
        rows = virtual_machines(self._hypervisor)
        for row in rows:
            row["consoles"] = [console.port for console in consoles if console.vmid == row["vmid"]]
        return {"vms": rows}

    def _ledger(self, request: Request) -> dict[str, list[Row]]:
        return ledger(self._hypervisor)

    def _list_consoles(self, request: Request) -> list[Row]:
        return [
            {"vm": console.vm, "vmid": console.vmid, "port": console.port, "path": str(console.path)}
            for console in self._consoles()
            if console.path is not None
        ]

    def _trace(self, request: Request) -> Answer:
        """Watch until the client leaves, or for ``milliseconds``; into the file ``out`` or as events."""
        instrument: Trace
        if request.has("out"):
            instrument = open_trace(request.text("out"))
        else:
            stream: Any = _EventStream(request)
            if request.has("form") and request.text("form") == "json":
                instrument = JsonTrace(stream)
            else:
                instrument = TextTrace(stream, quiet=request.has("quiet"))
        instruments = self._hypervisor.instruments
        instruments.append(instrument)
        answer = Answer()

        def stop() -> None:
            if instrument in instruments:
                instruments.remove(instrument)
                instrument.close()
                answer.done()

        request.on_gone(stop)
        if request.has("milliseconds"):
            self._loop.call_later(request.number("milliseconds") / 1000, stop)
        return answer
