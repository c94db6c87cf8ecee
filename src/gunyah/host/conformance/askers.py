"""Whose requests and notifications RM steps are: the recorder sat in the primary VM, in a secondary VM, or in both.

The format has no field for it. What RM answers only to one of them decides: the VMID it tells, the owner, a console of
its own (rm-rpc.md 6, 7, 10). A step that says nothing belongs to whoever asked before it. A note that begins with the
VM's name, or a field ``vm``, says it outright.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from gunyah.abi.errors import RmError
from gunyah.abi.rm.messages import MessageId, NotificationId

__all__ = ["PRIMARY", "SECONDARY", "Evidence", "askers", "named_asker"]

PRIMARY, SECONDARY = "pvm", "svm"
_NAMES = re.compile(r"\W*(?:from |by )?(?:the )?(svm|secondary|guest|pvm|primary|hlos|owner)(?: vm)?\s*[:>\])]", re.I)
_HLOS = b"\3\0"
_SELF = bytes(2)

Evidence = tuple[str, int, bytes, bytes | None, str]
"""kind, message id, payload, reply, asker if it is named."""


def named_asker(*texts: object) -> str:
    """The VM that one of these texts names at its beginning, or nothing."""
    for text in texts:
        match = _NAMES.match(text) if isinstance(text, str) else None
        if match is not None:
            return SECONDARY if match[1].lower() in ("svm", "secondary", "guest") else PRIMARY
    return ""


def askers(steps: Sequence[Evidence]) -> list[str]:
    """The asker of each step. Nobody but the primary VM speaks before a VM was started, unless none ever is."""
    starts = [i for i, step in enumerate(steps) if step[1] == MessageId.VM_START and _error(step) == RmError.OK]
    found: list[str] = []
    signs = [_sign(step) or step[4] for step in steps]
    if not starts:
        whose = next((sign for sign in signs if sign), PRIMARY)
        return [whose] * len(steps)
    for index, sign in enumerate(signs):
        before = found[-1] if found else PRIMARY
        found.append(PRIMARY if index <= starts[0] else sign or before)
    return found


def _error(step: Evidence) -> int | None:
    reply = step[3]
    answered = step[0] == "request" and reply is not None and len(reply) >= 4
    return int.from_bytes(reply[:4], "little") if answered and reply is not None else None


def _sign(step: Evidence) -> str:
    kind, message, payload, reply, _ = step
    if kind == "notification":
        if message == NotificationId.VM_CONSOLE_CHARS:
            return SECONDARY if payload[:2] == _SELF else PRIMARY
        return _TOLD.get(message, "")
    error = _error(step)
    sign = _SIGNS.get(message)
    return sign(payload, error, reply[4:]) if sign is not None and error is not None and reply is not None else ""


_TOLD: Mapping[int, str] = MappingProxyType(
    {
        NotificationId.VM_STATUS: PRIMARY,
        NotificationId.VM_EXITED: PRIMARY,
        NotificationId.VM_SHUTDOWN: SECONDARY,
    }
)
"""Notifications that only one of them gets (rm-rpc.md 5)."""

Sign = Callable[[bytes, int, bytes], str]
"""(payload, error, data) of a request to whom it must have been."""


def _told(own: bytes) -> Sign:
    return lambda payload, error, data: "" if error else PRIMARY if data[:2] == own else SECONDARY


def _console(payload: bytes, error: int, data: bytes) -> str:
    """The primary VM has no console, so it gets ARGUMENT_INVALID for its own; a foreign one is the owner's to open."""
    if payload[:2] != _SELF:
        return PRIMARY if error == RmError.OK else ""
    if error in (RmError.OK, RmError.DENIED):
        return SECONDARY
    return PRIMARY if error == RmError.ARGUMENT_INVALID else ""


def _allocate(payload: bytes, error: int, data: bytes) -> str:
    return SECONDARY if error == RmError.DENIED else PRIMARY if error in (RmError.OK, RmError.NORESOURCE) else ""


def _only(asker: str) -> Sign:
    return lambda payload, error, data: "" if error else asker


def _resources(payload: bytes, error: int, data: bytes) -> str:
    if error or data[:4] in (b"", bytes(4)):
        return ""
    return SECONDARY if payload[:2] == _HLOS else PRIMARY


def _identity(payload: bytes, error: int, data: bytes) -> str:
    return "" if error or payload[:2] != _SELF else PRIMARY if b"\2\0\4\0HLOS" in data else SECONDARY


_M = MessageId
_SIGNS: Mapping[int, Sign] = MappingProxyType(
    {
        _M.VM_GET_VMID: _told(_HLOS),
        _M.VM_GET_OWNER: _told(b"\xff\0"),
        _M.VM_GET_ID: _identity,
        _M.VM_GET_HYP_RESOURCES: _resources,
        _M.VM_ALLOCATE: _allocate,
        **dict.fromkeys((_M.VM_CONSOLE_OPEN, _M.VM_CONSOLE_CLOSE, _M.VM_CONSOLE_WRITE, _M.VM_CONSOLE_FLUSH), _console),
        **dict.fromkeys((_M.MEM_ACCEPT, _M.MEM_RELEASE, _M.VM_IRQ_ACCEPT, _M.VM_IRQ_RELEASE), _only(SECONDARY)),
        **dict.fromkeys(
            (
                _M.MEM_LEND,
                _M.MEM_SHARE,
                _M.MEM_DONATE,
                _M.MEM_RECLAIM,
                _M.VM_CONFIG_IMAGE,
                _M.VM_AUTH_IMAGE,
                _M.VM_INIT,
                _M.VM_START,
                _M.VM_STOP,
                _M.VM_RESET,
                _M.VM_DEALLOCATE,
                _M.VM_GET_CRASH_MSG,
            ),
            _only(PRIMARY),
        ),
    }
)
