"""Recorded behaviour as data: the format of the vector files, loaded and checked.

A file is one JSON object. ``hypercalls`` is a list of steps grouped by ``ctx``; a key that begins with ``rm_rpc`` or
``svm_lifecycle`` is a list of Resource Manager steps; a key that ends in ``_machine`` holds what a VM reads from its
registers, one that ends in ``_env`` the boot environment of the root VM. ``format`` and ``stack`` explain. Other keys
are taken for what they look like; further words in a step explain it to people and are not replayed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gunyah.abi.rm import message_name
from gunyah.host.conformance.askers import PRIMARY, SECONDARY, askers, named_asker

__all__ = [
    "CallStep",
    "Instruction",
    "Kind",
    "Reading",
    "RmStep",
    "Scenario",
    "Step",
    "VectorError",
    "VectorFile",
    "load",
]

Kind = str
"""``calls``, ``rm``, ``machine`` or ``environment``."""

RM_KEYS = ("rm_rpc", "svm_lifecycle")
INSTRUCTION = re.compile(r"(hvc|smc) #(0x[0-9a-fA-F]+|\d+)")
TOKEN = re.compile(r"\$\w+")


class VectorError(Exception):
    """A file that cannot be replayed; ``str()`` is the sentence for the user."""


@dataclass(frozen=True)
class Instruction:
    """``hvc #imm`` or ``smc #imm``."""

    name: str
    immediate: int

    def __str__(self) -> str:
        return f"{self.name} #{self.immediate:#x}"


@dataclass(frozen=True)
class CallStep:
    """One hypercall, or an observation when ``insn`` is None. ``inputs``/``out`` are numbers or ``$name`` words, x0
    first."""

    ctx: str
    number: int
    call: str
    insn: Instruction | None
    inputs: tuple[str, ...]
    out: tuple[str, ...]
    err: str
    save: str | None
    note: str

    @property
    def crashed_the_reference(self) -> bool:
        """The reference died here, so no registers were recorded."""
        return self.err == "HYPERVISOR_PANIC" or self.call == "HYP_FAILURE"


@dataclass(frozen=True)
class RmStep:
    """A request with its reply payload (None: the reference's RM never answered), or a notification."""

    ctx: str
    number: int
    kind: str
    message: int
    payload: bytes
    reply: bytes | None
    err: str
    note: str
    vm: str = ""
    """Whose request or notification it is: ``pvm`` or ``svm``."""

    @property
    def call(self) -> str:
        """RM's name of the message, or its number."""
        return message_name(self.message)


@dataclass(frozen=True)
class Reading:
    """One register or memory read of a VM, or one key of the boot environment: its name and the recorded value."""

    ctx: str
    number: int
    call: str
    expected: Any
    note: str = ""


Step = CallStep | RmStep | Reading


@dataclass(frozen=True)
class Scenario:
    """Steps that share one boot. ``role`` is the VM that the monitor is: ``root``, ``pvm`` or ``svm``."""

    file: str
    name: str
    kind: Kind
    role: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class VectorFile:
    path: Path
    scenarios: tuple[Scenario, ...]
    stack: Mapping[str, str] = field(default_factory=dict)


def load(path: Path) -> VectorFile:
    """Read and check one file; raises VectorError with one sentence."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise VectorError(f"{path}: cannot be read: {reason}") from None
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise VectorError(f"{path}: not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    if not isinstance(data, dict):
        raise VectorError(f"{path}: expected one JSON object at the top, found a {_shape(data)}")
    scenarios: list[Scenario] = []
    for key, value in data.items():
        if key in ("format", "stack"):
            continue
        if key == "hypercalls" or _looks_like_calls(value):
            scenarios += _call_scenarios(path, value, key)
        elif key.startswith(RM_KEYS) or _looks_like_rm(value):
            scenarios.append(_rm_scenario(path, key, value))
        elif isinstance(value, dict) and value:
            kind = "environment" if key.endswith("_env") else "machine"
            role = "root" if key.startswith("root") else "svm" if key.startswith("svm") else "pvm"
            readings = tuple(
                Reading(key, index, name, expected) for index, (name, expected) in enumerate(value.items())
            )
            scenarios.append(Scenario(path.name, key, kind, role, readings))
        else:
            raise VectorError(
                f"{path}: the key {key!r} holds no steps that can be replayed; known are hypercalls, rm_rpc*, "
                "svm_lifecycle*, *_machine and *_env"
            )
    if not scenarios:
        raise VectorError(f"{path}: holds no steps; expected a key such as hypercalls or rm_rpc_basic")
    stack = data.get("stack")
    return VectorFile(path, tuple(scenarios), stack if isinstance(stack, dict) else {})


def _rm_scenario(path: Path, key: str, value: object) -> Scenario:
    """Requests of one VM, or of the primary VM and the one it starts: then the primary VM is the one that replays."""
    read = [_rm_step(path, key, index, entry) for index, entry in enumerate(_list(path, key, value))]
    who = askers([(step.kind, step.message, step.payload, step.reply, step.vm) for step in read])
    steps = tuple(replace(step, vm=vm) for step, vm in zip(read, who, strict=True))
    role = SECONDARY if steps and all(step.vm == SECONDARY for step in steps) else PRIMARY
    return Scenario(path.name, key, "rm", role, steps)


def _looks_like_calls(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(e, dict) and {"ctx", "call"} <= e.keys() for e in value)
    )


def _looks_like_rm(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(e, dict) and {"id", "payload"} <= e.keys() for e in value)
    )


def _shape(value: object) -> str:
    return {list: "list", str: "string", int: "number", float: "number", bool: "boolean"}.get(type(value), "null")


def _list(path: Path, key: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise VectorError(f"{path}: {key} must be a list of steps, found a {_shape(value)}")
    return value


def _call_scenarios(path: Path, value: object, key: str) -> list[Scenario]:
    groups: dict[str, list[CallStep]] = {}
    for index, entry in enumerate(_list(path, key, value)):
        step = _call_step(path, f"{key}[{index}]", index, entry)
        groups.setdefault(step.ctx, []).append(step)
    found = []
    for ctx, steps in groups.items():
        role = ctx.partition("/")[0]
        if role not in ("root", "pvm", "svm"):
            raise VectorError(f"{path}: scenario {ctx!r} starts with {role!r}; expected root/, pvm/ or svm/")
        found.append(Scenario(path.name, ctx, "calls", role, tuple(steps)))
    return found


def _text(path: Path, where: str, entry: Mapping[str, Any], name: str, default: str | None) -> str:
    value = entry.get(name, default)
    if not isinstance(value, str):
        raise VectorError(f"{path}: {where}: {name} must be a string, found {value!r}")
    return value


def _words(path: Path, where: str, entry: Mapping[str, Any], name: str) -> tuple[str, ...]:
    values = entry.get(name, [])
    if not isinstance(values, list) or len(values) > 8:
        raise VectorError(f"{path}: {where}: {name} must be a list of at most 8 registers, found {values!r}")
    for value in values:
        if not isinstance(value, str) or not (TOKEN.fullmatch(value) or _is_number(value)):
            raise VectorError(f"{path}: {where}: {name} holds {value!r}, which is neither a 64-bit number nor a $name")
    return tuple(values)


def _is_number(text: str) -> bool:
    try:
        return 0 <= int(text, 0) < 1 << 64
    except ValueError:
        return False


def _entry(path: Path, where: str, entry: object) -> Mapping[str, Any]:
    if not isinstance(entry, dict):
        raise VectorError(f"{path}: {where} must be an object, found a {_shape(entry)}")
    return entry


def _call_step(path: Path, where: str, index: int, raw: object) -> CallStep:
    entry = _entry(path, where, raw)
    number = entry.get("step", index)
    if not isinstance(number, int):
        raise VectorError(f"{path}: {where}: step must be a number, found {number!r}")
    insn: Instruction | None = None
    if "insn" in entry:
        text = _text(path, where, entry, "insn", None)
        match = INSTRUCTION.fullmatch(text)
        if match is None or int(match[2], 0) > 0xFFFF:
            raise VectorError(f"{path}: {where}: insn {text!r} is not 'hvc #imm' or 'smc #imm'")
        insn = Instruction(match[1], int(match[2], 0))
    save = entry.get("save")
    if save is not None and (not isinstance(save, str) or not TOKEN.fullmatch(save)):
        raise VectorError(f"{path}: {where}: save must be a $name, found {save!r}")
    return CallStep(
        ctx=_text(path, where, entry, "ctx", None),
        number=number,
        call=_text(path, where, entry, "call", None),
        insn=insn,
        inputs=_words(path, where, entry, "in"),
        out=_words(path, where, entry, "out"),
        err=_text(path, where, entry, "err", ""),
        save=save,
        note=_text(path, where, entry, "note", ""),
    )


def _rm_step(path: Path, key: str, index: int, raw: object) -> RmStep:
    where = f"{key}[{index}]"
    entry = _entry(path, where, raw)
    kind = _text(path, where, entry, "kind", "request")
    if kind not in ("request", "notification"):
        raise VectorError(f"{path}: {where}: kind {kind!r} is neither request nor notification")
    message = _text(path, where, entry, "id", None)
    if not _is_number(message) or int(message, 0) >= 1 << 32:
        raise VectorError(f"{path}: {where}: id {message!r} is not a 32-bit number")
    reply = entry.get("reply")
    return RmStep(
        ctx=key,
        number=index,
        kind=kind,
        message=int(message, 0),
        payload=_hex(path, where, "payload", _text(path, where, entry, "payload", "")),
        reply=_hex(path, where, "reply", reply) if isinstance(reply, str) and reply else None,
        err=str(entry.get("err", "OK")),
        note=_text(path, where, entry, "note", ""),
        vm=named_asker(f"{entry.get('vm', '')}:", entry.get("note")),
    )


def _hex(path: Path, where: str, name: str, text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise VectorError(f"{path}: {where}: {name} {text[:40]!r} is not hexadecimal bytes") from None
