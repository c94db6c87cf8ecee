"""What ``gunyah demo`` shows, step by step, each with its own verdict.

Identification and /sys as the primary VM sees them, one round trip to the Resource Manager, bytes through the two
pseudo-terminals opened by their links as any user would, and a native AArch64 guest.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from gunyah.host.errors import HostError, reason
from gunyah.host.hosted import HostedSystem
from gunyah.host.loop import HostLoop

__all__ = ["DemoResult", "LOOPBACK_BYTES", "loopback", "run_demo"]

LOOPBACK_BYTES: Final = 4096
"""Each way."""
STEP_SECONDS: Final = 20.0
SYSFS_FILES: Final = (
    "hypervisor/type",
    "hypervisor/gunyah/api",
    "hypervisor/gunyah/variant",
    "hypervisor/gunyah/features",
)


@dataclass(slots=True)
class DemoResult:
    """All verdicts; ``as_json`` is what ``--json`` prints."""

    identified: bool = False
    api: int | None = None
    variant: int | None = None
    sysfs: dict[str, str] = field(default_factory=dict)
    rm: dict[str, Any] = field(default_factory=lambda: {"ok": False})
    terminals: dict[str, str] = field(default_factory=dict)
    loopback: dict[str, Any] = field(default_factory=lambda: {"bytes": 0, "ok": False})
    native_guest: dict[str, Any] = field(default_factory=lambda: {"ok": False})
    log: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Everything held."""
        return bool(self.identified and self.rm["ok"] and self.loopback["ok"] and self.native_guest["ok"])

    def as_json(self) -> dict[str, Any]:
        """One object."""
        return {
            "ok": self.ok,
            "identified": self.identified,
            "api": self.api,
            "variant": self.variant,
            "sysfs": self.sysfs,
            "rm": self.rm,
            "terminals": self.terminals,
            "loopback": self.loopback,
            "native_guest": self.native_guest,
            "log": self.log,
            "seconds": round(self.seconds, 3),
        }


class _User:
    """Somebody who has a terminal open: writes ``outgoing``, keeps what comes."""

    def __init__(self, loop: HostLoop, path: Path, outgoing: bytes) -> None:
        self._loop = loop
        self.received = bytearray()
        self._outgoing = bytearray(outgoing)
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise HostError(f"the terminal {path} cannot be opened: {reason(error)}") from error
        loop.add_reader(self._descriptor, self._readable)

    def start(self) -> None:
        """Begin to write."""
        self._loop.add_writer(self._descriptor, self._writable)

    def _readable(self) -> None:
        try:
            self.received += os.read(self._descriptor, 65536)
        except BlockingIOError:
            return
        except OSError:  # Hung up: nothing more will come.
            self._loop.remove_reader(self._descriptor)

    def _writable(self) -> None:
        try:
            del self._outgoing[: os.write(self._descriptor, self._outgoing)]
        except BlockingIOError:
            return
        except OSError:
            self._outgoing.clear()
        if not self._outgoing:
            self._loop.remove_writer(self._descriptor)

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
        self._loop.remove_writer(self._descriptor)
        os.close(self._descriptor)


def loopback(hosted: HostedSystem, size: int = LOOPBACK_BYTES) -> dict[str, Any]:
    """``size`` random bytes each way at once between ttyGH0 and ttyGH1, through their pseudo-terminals."""
    hosted.wait_for_terminals(2)
    paths = {console.port: console.path for console in hosted.consoles}
    first, second = paths.get("ttyGH0"), paths.get("ttyGH1")
    if first is None or second is None:
        return {"bytes": 0, "ok": False, "reason": f"there is no ttyGH0 and ttyGH1, only {', '.join(paths)}"}
    there, back = random.randbytes(size), random.randbytes(size)
    users = [_User(hosted.loop, first, there)]
    try:
        users.append(_User(hosted.loop, second, back))
        started = time.perf_counter()
        for user in users:
            user.start()
        hosted.run(lambda: all(len(user.received) >= size for user in users), STEP_SECONDS)
        seconds = time.perf_counter() - started
    finally:
        for user in users:
            user.close()
    result: dict[str, Any] = {
        "bytes": sum(len(user.received) for user in users),
        "ok": users[0].received == back and users[1].received == there,
        "seconds": round(seconds, 4),
    }
    if not result["ok"]:
        result["reason"] = f"of {2 * size} bytes {result['bytes']} arrived" + (
            "" if result["bytes"] < 2 * size else ", but others than were sent"
        )
    return result


def _identification(hosted: HostedSystem, result: DemoResult) -> None:
    kernel = hosted.kernel
    identity = kernel.gunyah.identity
    result.identified = identity is not None
    if identity is not None:
        result.api, result.variant = identity.api.version, identity.api.variant
    for path in SYSFS_FILES:
        if kernel.sysfs.exists(path):
            result.sysfs[f"/sys/{path}"] = kernel.sysfs.read(path).decode().rstrip("\n")


def _resource_manager(hosted: HostedSystem) -> dict[str, Any]:
    kernel = hosted.kernel
    if not kernel.resource_managers:
        return {"ok": False, "reason": "no driver has found a Resource Manager in the primary VM's device tree"}
    rm = kernel.resource_managers[0]
    from gunyah.linux.rsc_mgr_rpc import RscMgrRpc

    rpc = RscMgrRpc(kernel.services, rm, kernel.profile)
    times: list[int] = []
    vmids: list[int] = []

    def ask() -> None:
        started = kernel.uptime_ns()
        vmids.append(rpc.get_vmid())
        times.append(kernel.uptime_ns() - started)

    asking = kernel.submit(ask)
    hosted.post(lambda: None)
    if not hosted.run(lambda: asking.done, STEP_SECONDS):
        return {"ok": False, "reason": f"VM_GET_VMID was not answered within {STEP_SECONDS} s"}
    try:
        asking.result()
    except OSError as error:
        return {"ok": False, "reason": f"VM_GET_VMID: {reason(error)}"}
    return {
        "ok": True,
        "device": rm.dev.name,
        "vmid": vmids[0],
        "message_size": rm.message_size,
        "round_trip_us": round(times[0] / 1000, 1),
    }


def native_guest() -> dict[str, Any]:
    """Run the native AArch64 guest; ``ok`` with what it said, or the reason why not."""
    try:
        guest = import_module("gunyah.host.demo_guest")
    except ModuleNotFoundError as error:
        return {"ok": False, "reason": f"this build has no native guest: there is no {error.name}"}
    result: dict[str, Any] = guest.run()
    return result


def run_demo(hosted: HostedSystem, tell: Callable[[str, DemoResult], None] = lambda step, result: None) -> DemoResult:
    """All steps; ``tell`` is called after each with its name and what is known so far."""
    started = time.perf_counter()
    result = DemoResult()
    hosted.wait_for_terminals(2)
    _identification(hosted, result)
    tell("identification", result)
    result.rm = _resource_manager(hosted)
    tell("rm", result)
    result.terminals = {console.port: str(console.path) for console in hosted.consoles}
    result.loopback = loopback(hosted)
    tell("loopback", result)
    result.native_guest = native_guest()
    tell("native_guest", result)
    result.log = [record.text for record in hosted.kernel.log.records]
    result.seconds = time.perf_counter() - started
    return result
