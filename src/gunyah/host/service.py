"""What a running system answers on its control socket.

ps, top, ledger, consoles, explain, sysfs-cat, sysfs-tree and sysfs-entry answer at once; start, stop, reset, restart,
pause, resume and rm-call when a process in the primary VM has done it; trace sends events; wait never answers, so that
a client learns of the system's end. Commands look at the machine between slices; none of them goes around a guest's
own interfaces to change it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gunyah.abi.types import VMID_HLOS
from gunyah.host.control import Answer, Command, Request
from gunyah.host.errors import HostError
from gunyah.host.explain import run_sentences
from gunyah.host.loop import HostLoop
from gunyah.host.rm_call import find_message, payload_of, reply_of
from gunyah.host.sysfs_view import sysfs_cat, sysfs_entry, sysfs_tree
from gunyah.host.trace import Trace, open_trace
from gunyah.host.trace_json import JsonTrace
from gunyah.host.trace_text import TextTrace
from gunyah.host.trace_words import vm_name
from gunyah.host.view import Row, ledger, virtual_machines
from gunyah.host.view_owners import owner_words
from gunyah.host.view_top import Watch
from gunyah.linux.kobject import SysFs
from gunyah.linux.rm_client import RmRefused
from gunyah.system import System

if TYPE_CHECKING:
    from gunyah.host.vms import HostedVms
    from gunyah.linux.kernel import Kernel

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


_ACTIONS = ("start", "stop", "reset", "restart", "pause", "resume")


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
    """The commands over one machine. ``sysfs`` is that of the primary VM, None while it is no Python VM, and so is
    ``kernel``; ``vms`` are the secondary VMs that the system's description names.
    """

    def __init__(
        self,
        loop: HostLoop,
        system: System,
        sysfs: Callable[[], SysFs | None],
        consoles: Callable[[], Sequence[Console]],
        *,
        kernel: Kernel | None = None,
        vms: HostedVms | None = None,
    ) -> None:
        self._loop = loop
        self._system = system
        self._kernel = kernel
        self._vms = vms
        self._watch: Watch | None = None
        self._hypervisor = system.hypervisor
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
            "top": self._top,
            "explain": self._explain,
            "rm-call": self._rm_call,
            **{action: partial(self._act, action) for action in _ACTIONS},
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
            self._name(row)
            row["consoles"] = [console.port for console in consoles if console.vmid == row["vmid"]]
        known = {row["vmid"] for row in rows}
        for vm in self._vms.by_name.values() if self._vms is not None else ():
            if vm.machine.vmid not in known:
                rows.append(
                    {
                        "vmid": vm.machine.vmid or None,
                        "name": vm.name,
                        "state": vm.words(),
                        "vcpus": [],
                        "consoles": [vm.console.port],
                    }
                )
        return {"vms": rows}

    def _name(self, row: Row) -> None:
        """A VM of the description has a name and a life that its vCPUs do not tell."""
        for vm in self._vms.by_name.values() if self._vms is not None else ():
            if vm.machine.vmid == row["vmid"]:
                row["name"] = vm.name
                row["state"] = vm.words()

    def _name_of(self, vmid: int) -> str:
        name = self._vms.name_of(vmid) if self._vms is not None else None
        return name or vm_name(vmid)

    def _act(self, action: str, request: Request) -> Answer:
        if self._vms is None:
            raise HostError("this system has no secondary VMs of its own; gunyah run SYSTEM.toml describes some")
        return self._vms.act(request.text("vm"), action, graceful=request.has("graceful"))

    def _top(self, request: Request) -> dict[str, Any]:
        if self._watch is None:
            self._watch = Watch(self._hypervisor)
        snapshot = self._watch.snapshot()
        for row in snapshot["vms"]:
            self._name(row)
        words = owner_words(self._system, self._name_of)
        for row in snapshot["memory"]:
            row["whose"] = words.get(row["owner"], "")
        for row in snapshot["queues"]:
            row["whose"] = words.get(row["queue"], "")
        return snapshot

    def _explain(self, request: Request) -> dict[str, list[str]]:
        return run_sentences(self._system)

    def _rm_call(self, request: Request) -> Answer:
        message = find_message(request.text("name"))
        given = request.table("fields")
        payload = payload_of(message, given)
        if self._kernel is None:
            raise HostError("the primary VM is a native one: its own drivers talk to RM, nobody else can in its name")
        client = self._system.primary.manager.rm
        answer = Answer()
        submission = self._kernel.submit(client.call, message.id, payload)

        def done() -> None:
            try:
                data = submission.result()
            except RmRefused as refused:
                code = int(refused.error)
                self._loop.post(partial(answer.done, {"error": code, "sentence": str(refused)}))
            except Exception as failure:
                self._loop.post(partial(answer.fail, str(failure)))
            else:
                self._loop.post(partial(answer.done, {"error": 0, "reply": reply_of(message, data)}))

        submission.on_done = done
        for vcpu in self._hypervisor.vcpus.values():
            if vcpu.vmid == VMID_HLOS:
                vcpu.wake()
        return answer

    def _ledger(self, request: Request) -> dict[str, list[Row]]:
        tables = ledger(self._hypervisor)
        words = owner_words(self._system, self._name_of)
        for table, key in (("memory", "owner"), ("objects", "object")):
            for row in tables[table]:
                row["whose"] = words.get(row[key], "")
        return tables

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
