"""SYSTEM.toml: the description of a whole system, checked, one sentence per mistake.

    [primary]
    memory = "128M"

    [vm.worker]
    image = "Image"                # paths are relative to this file
    memory = "192M"

docs/systems.md has every key.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from zlib import crc32

from gunyah.abi.msgqueue import DEPTH_MAX, MESSAGE_SIZE_MAX
from gunyah.abi.profile import PROFILES
from gunyah.host.errors import HostError, reason
from gunyah.host.lint import Finding
from gunyah.host.sizes import parse_size
from gunyah.machine import board
from gunyah.vmm.board_tree import UART_SPI
from gunyah.vmm.virtio_devices import SECTOR

__all__ = ["Link", "SystemFile", "VmDescription", "check_system_file", "read_system_file"]

MAX_VCPUS: Final = 8
MIN_MEMORY: Final = 1 << 20
VM_MEMORY_MAX: Final = board.HLOS.size
"""Bytes of the primary VM, which lends its secondary VMs what they have."""
PAGE: Final = 4096
_LABEL_MAX: Final = (1 << 31) - 1
DISKS_MAX: Final = 8
NAME_LIMIT: Final = 79
"""Bytes of a VM name (rm-behaviour.md 1.2)."""


@dataclass(frozen=True, slots=True)
class VmDescription:
    """One VM of the file."""

    name: str
    kind: str = "native"
    image: Path | None = None
    initrd: Path | None = None
    dtb: Path | None = None
    cmdline: str = ""
    memory: int = 256 << 20
    vcpus: int = 1
    profile: str = "2023"
    peers: tuple[str, ...] = ()
    start: bool = True
    console: str = "uart"
    affinity: str = ""
    share: bool = False
    restart: str = "reset"
    shared: Mapping[str, int] = field(default_factory=dict)
    """Shared memory: label to bytes."""
    doorbells: tuple[int, ...] = ()
    doorbell_sources: tuple[int, ...] = ()
    queues: tuple[int, ...] = ()
    """Labels of message-queue pairs to the owner."""
    disks: tuple[Path, ...] = ()
    """Files behind virtio disks, in the order of /dev/vda, vdb, ..."""
    cores: tuple[int, ...] = ()

    @property
    def scheduled(self) -> bool:
        """The hypervisor schedules its vCPUs; else the primary VM runs them."""
        return (self.affinity or ("proxy" if self.console == "uart" else "static")) != "proxy"


@dataclass(frozen=True, slots=True)
class Link:
    """What secondary VMs have between them: ``kind`` is "queue", "doorbell" (the first VM rings) or "memory"."""

    name: str
    kind: str
    vms: tuple[str, ...]
    label: int
    size: int = 0
    message_size: int = 240
    depth: int = 8


@dataclass(frozen=True, slots=True)
class SystemFile:
    """The whole file."""

    path: Path
    seed: int = 0
    clock: str = "real"
    memory: int = 1 << 30
    cores: int = 1
    until: str = "interrupted"
    primary: VmDescription = field(default_factory=lambda: VmDescription("primary", kind="python"))
    vms: tuple[VmDescription, ...] = ()
    links: tuple[Link, ...] = ()


class _Wrong(Exception):
    """The value of one key is not possible; the sentence says why."""


def _typed(kind: type, words: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise _Wrong(f"{value!r} is not {words}")
        return value

    return check


def _one_of(*choices: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in choices:
            raise _Wrong(f"{value!r} is not one of {', '.join(repr(choice) for choice in choices)}")
        return str(value)

    return check


def _between(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        number: int = _typed(int, "an integer")(value)
        if not low <= number <= high:
            raise _Wrong(f"{number} is not in {low}..{high}")
        return number

    return check


def _memory(value: Any) -> int:
    try:
        size = parse_size(str(value)) if isinstance(value, str) else _typed(int, "a size such as '256M'")(value)
    except HostError as error:
        raise _Wrong(str(error)) from error
    if size < MIN_MEMORY or size % PAGE:
        raise _Wrong(f"{value!r} is not at least 1M and a multiple of 4K")
    return int(size)


def _strings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _Wrong(f"{value!r} is not a list of names")
    return tuple(value)


def _files(value: Any) -> tuple[str, ...]:
    names = _strings(value)
    if len(names) > DISKS_MAX:
        raise _Wrong(f"{len(names)} disks; {DISKS_MAX} are possible")
    return names


def _core_list(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        raise _Wrong(f"{value!r} is not a list of cores")
    return tuple(_between(0, MAX_VCPUS - 1)(core) for core in value)


def _bytes(value: Any) -> int:
    try:
        size = parse_size(value) if isinstance(value, str) else _between(1, 1 << 30)(value)
    except HostError as error:
        raise _Wrong(str(error)) from error
    if not size or size % PAGE:
        raise _Wrong(f"{value!r} is not a multiple of 4K")
    return int(size)


def _labels(value: Any) -> tuple[int, ...]:
    numbers = value if isinstance(value, list) else None
    if numbers is None or not all(type(item) is int and 0 < item <= _LABEL_MAX for item in numbers):
        raise _Wrong(f"{value!r} is not a list of labels, integers in 1..{_LABEL_MAX:#x}")
    if len(set(numbers)) < len(numbers):
        raise _Wrong(f"{value!r} names a label twice")
    return tuple(numbers)


def _shared(value: Any) -> dict[str, int]:
    if not isinstance(value, dict):
        raise _Wrong(f"{value!r} is not a table of label = size")
    found: dict[str, int] = {}
    for label, size in value.items():
        if not label.isascii() or not label.isdigit() or not 0 < int(label) <= _LABEL_MAX:
            raise _Wrong(f"{label!r} is not a label, an integer in 1..{_LABEL_MAX:#x}")
        try:
            found[label] = _bytes(size)
        except _Wrong as error:
            raise _Wrong(f"{label} = {error}") from error
    return found


_TEXT: Final = _typed(str, "a string")
_SYSTEM_KEYS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "seed": _between(0, (1 << 64) - 1),
    "clock": _one_of("real", "virtual"),
    "memory": _memory,
    "cores": _between(1, MAX_VCPUS),
    "until": _one_of("interrupted", "vms"),
}
_VM_KEYS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "image": _TEXT,
    "initrd": _TEXT,
    "dtb": _TEXT,
    "cmdline": _TEXT,
    "memory": _memory,
    "vcpus": _between(1, MAX_VCPUS),
    "profile": _one_of(*PROFILES),
    "peers": _strings,
    "start": _typed(bool, "true or false"),
    "console": _one_of("uart", "rm", "none"),
    "affinity": _one_of("static", "sticky", "pinned", "proxy"),
    "share": _typed(bool, "true or false"),
    "restart": _one_of("never", "reset", "always"),
    "shared": _shared,
    "doorbells": _labels,
    "doorbell_sources": _labels,
    "queues": _labels,
    "disks": _files,
    "cores": _core_list,
}
_LINK_KEYS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "kind": _one_of("queue", "doorbell", "memory"),
    "vms": _strings,
    "label": _between(1, _LABEL_MAX),
    "size": _bytes,
    "message_size": _between(1, MESSAGE_SIZE_MAX),
    "depth": _between(1, DEPTH_MAX),
}
_ONLY_FOR: Final = {"size": "memory", "message_size": "queue", "depth": "queue"}
_SECONDARY_ONLY: Final = frozenset(_VM_KEYS) - {"image", "initrd", "dtb", "cmdline", "memory", "vcpus", "profile"}
_PRIMARY_KEYS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "kind": _one_of("python", "native"),
    **{key: check for key, check in _VM_KEYS.items() if key not in _SECONDARY_ONLY},
}
_FILES: Final = ("image", "initrd", "dtb")


class _Reader:
    """Collects the findings of one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.findings: list[Finding] = []

    def wrong(self, table: str, key: str, sentence: str) -> None:
        self.findings.append(Finding(table or str(self.path.name), key, sentence))

    def table(
        self, name: str, content: Any, keys: Mapping[str, Callable[[Any], Any]], tables: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """The values of a table that are right; the others become findings."""
        if not isinstance(content, dict):
            self.wrong(name, "", f"{content!r} is not a table")
            return {}
        values: dict[str, Any] = {}
        for key, value in content.items():
            if key in tables:
                continue
            if key not in keys:
                self.wrong(name, key, f"is not a known key; known are {', '.join((*keys, *tables))}")
                continue
            try:
                values[key] = keys[key](value)
            except _Wrong as error:
                self.wrong(name, key, str(error))
                continue
            if key in _FILES:
                values[key] = self.file(name, key, values[key])
            elif key == "disks":
                values[key] = tuple(self.disk(name, disk) for disk in values[key])
        return values

    def file(self, table: str, key: str, value: str) -> Path:
        path = self.path.parent / value
        if not path.is_file():
            self.wrong(table, key, f"{path} is not a file" if path.exists() else f"{path} does not exist")
        return path

    def disk(self, table: str, value: str) -> Path:
        path = self.file(table, "disks", value)
        if path.is_file() and (not path.stat().st_size or path.stat().st_size % SECTOR):
            self.wrong(
                table, "disks", f"{path} has {path.stat().st_size} bytes, no whole number of {SECTOR}-byte sectors"
            )
        return path

    def read(self) -> SystemFile:
        try:
            with self.path.open("rb") as file:
                content = tomllib.load(file)
        except OSError as error:
            raise HostError(f"{self.path} cannot be read: {reason(error)}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise HostError(f"{self.path} is not TOML: {error}") from error
        values = self.table("", content, _SYSTEM_KEYS, ("primary", "vm", "link"))
        primary_values = self.table("primary", content.get("primary", {}), _PRIMARY_KEYS)
        primary = VmDescription("primary", **{"kind": "python", **primary_values})
        self.primary(primary, primary_values)
        vms = self.secondary_vms(content.get("vm", {}))
        links = self.links(content.get("link", {}), vms)
        # A core for the primary VM and what it runs itself, and one for what the hypervisor schedules.
        values.setdefault("cores", 2 if any(vm.scheduled for vm in vms) else 1)
        self.cores(vms, values["cores"])
        system = SystemFile(self.path, primary=primary, vms=vms, links=links, **values)
        total = primary.memory + sum(vm.memory + sum(vm.shared.values()) for vm in vms)
        total += sum(link.size for link in links)
        if total > system.memory:
            self.wrong("", "memory", f"the VMs want {total >> 20}M together, the machine has {system.memory >> 20}M")
        elif total > VM_MEMORY_MAX:
            self.wrong("", "memory", f"the VMs want {total >> 20}M together, the board has {VM_MEMORY_MAX >> 20}M")
        if primary.kind == "native" and vms:
            self.wrong("vm", vms[0].name, 'is for a Python primary VM; a native one (kind = "native") starts its own')
        if system.until == "vms" and not any(vm.start for vm in vms):
            self.wrong("", "until", "'vms' waits for VMs that end, and none is started")
        return system

    def primary(self, primary: VmDescription, values: dict[str, Any]) -> None:
        if primary.kind == "native" and "image" not in values:
            self.wrong("primary", "image", "is missing; a native VM needs one")
        if primary.kind == "python":
            for key in (*_FILES, "cmdline", "vcpus"):
                if key in values:
                    self.wrong("primary", key, 'is for a native VM; this one is kind = "python"')

    def secondary_vms(self, content: Any) -> tuple[VmDescription, ...]:
        if not isinstance(content, dict):
            self.wrong("vm", "", f"{content!r} is not a table of VMs, [vm.NAME]")
            return ()
        vms: list[VmDescription] = []
        for name, table in content.items():
            where = f"vm.{name}"
            if not 0 < len(name.encode()) <= NAME_LIMIT:
                self.wrong(where, "", f"a VM's name has 1 to {NAME_LIMIT} bytes, this one {len(name.encode())}")
            values = self.table(where, table, _VM_KEYS)
            if isinstance(table, dict) and "image" not in table:
                self.wrong(where, "image", "is missing")
            if values.get("console", "uart") == "uart" and values.get("affinity", "proxy") != "proxy":
                sentence = 'a UART is emulated by the primary VM, which must run the vCPUs: "proxy"'
                self.wrong(where, "affinity", sentence)
            self.labels(where, values)
            if values.get("disks") and not values.get("share"):
                sentence = "share = true is needed: drivers keep their rings anywhere in the VM's memory"
                self.wrong(where, "disks", sentence)
            for peer in values.get("peers", ()):
                if peer == name or peer not in content:
                    self.wrong(where, "peers", f"{peer!r} is not another VM of this file")
            vms.append(VmDescription(name, **values))
        return tuple(vms)

    def labels(self, where: str, values: dict[str, Any]) -> None:
        bells = values.get("doorbells", ())
        if values.get("console", "uart") == "uart" and UART_SPI in bells:
            self.wrong(where, "doorbells", f"label {UART_SPI} is the interrupt of the VM's UART")

    def cores(self, vms: tuple[VmDescription, ...], cores: int) -> None:
        for vm in vms:
            where = f"vm.{vm.name}"
            if vm.cores and not vm.scheduled:
                self.wrong(where, "cores", "is for VMs that the hypervisor schedules; the primary VM runs this one")
            for core in vm.cores:
                if core >= cores:
                    self.wrong(where, "cores", f"core {core} is not one of the machine's {cores} (cores = ...)")

    def links(self, content: Any, vms: tuple[VmDescription, ...]) -> tuple[Link, ...]:
        if not isinstance(content, dict):
            self.wrong("link", "", f"{content!r} is not a table of links, [link.NAME]")
            return ()
        known = {vm.name for vm in vms}
        links: list[Link] = []
        for name, table in content.items():
            where = f"link.{name}"
            values = self.table(where, table, _LINK_KEYS)
            if not isinstance(table, dict):
                continue
            kind, ends = values.get("kind"), values.get("vms", ())
            for key in ("kind", "vms", *(("size",) if kind == "memory" else ())):
                if key not in table:
                    self.wrong(where, key, "is missing")
            for key in values:
                if kind is not None and _ONLY_FOR.get(key, kind) != kind:
                    self.wrong(where, key, f'is for kind = "{_ONLY_FOR[key]}"')
            for end in ends:
                if end not in known:
                    self.wrong(where, "vms", f"{end!r} is not a VM of this file")
            fits = len(ends) == 2 or (kind == "memory" and len(ends) > 2)
            if ends and (not fits or len(set(ends)) < len(ends)):
                self.wrong(where, "vms", f"{list(ends)} are not {'' if kind != 'memory' else 'at least '}two VMs")
            label = values.get("label", crc32(name.encode()) & _LABEL_MAX or 1)
            link = Link(name, **{"kind": "queue", "vms": (), **values, "label": label})
            for other in links:
                if other.kind == link.kind and other.label == label and set(other.vms) & set(link.vms):
                    self.wrong(where, "label", f"{label} is the label of link.{other.name} too")
            links.append(link)
        return tuple(links)


def check_system_file(path: Path) -> list[Finding]:
    """Every mistake in the file; raises HostError when it cannot be read as TOML at all."""
    reader = _Reader(path)
    system = reader.read()
    if not reader.findings:
        from gunyah.host.vms import check_vms

        reader.findings += check_vms(system)
    return reader.findings


def read_system_file(path: Path) -> SystemFile:
    """The file's content; raises HostError with the first mistake (and how many more there are)."""
    reader = _Reader(path)
    system = reader.read()
    if reader.findings:
        more = f" (and {len(reader.findings) - 1} more, see gunyah lint)" if len(reader.findings) > 1 else ""
        raise HostError(f"{path}: {reader.findings[0]}{more}")
    return system
