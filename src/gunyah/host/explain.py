"""What a number means: RM errors, hypervisor errors, errno values, exit types, run states, PSCI results.

A code is a name (``ARGUMENT_INVALID``, ``-ENODEV``, ``PLATFORM_OFF``) or a number, which may mean several things. The
words say what it stands for and what usually brings it (errors-and-types.md 1, rm-rpc.md 3 and 4).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from gunyah.abi.errors import Error, PsciError, RmError
from gunyah.abi.hypercalls import HYPERCALLS
from gunyah.abi.rm import MESSAGES, ExitType, VmStatus
from gunyah.abi.types import VMID_HLOS
from gunyah.abi.vcpu import VcpuRunState
from gunyah.host.errors import HostError

if TYPE_CHECKING:
    from gunyah.system import System

__all__ = ["Meaning", "meanings", "run_sentences"]


@dataclass(frozen=True, slots=True)
class Meaning:
    """One reading of a code: whose it is, its name and number, a sentence, and who answers it."""

    kind: str
    name: str
    value: int
    sentence: str
    where: tuple[str, ...] = ()


_RM: Final[dict[RmError, str]] = {
    RmError.OK: "success",
    RmError.UNIMPLEMENTED: "RM has no handler for this message, or not for this option of it",
    RmError.NOMEM: "RM or the hypervisor could not allocate memory",
    RmError.NORESOURCE: "no free id, a full table, or something that is not there; VM_START also says it for whatever "
    "kept memory from being accepted or the device tree from being written",
    RmError.DENIED: "the caller is not entitled, or the hypervisor refused in a way that has no word of its own",
    RmError.MSG_INVALID: "the payload has the wrong length, or reserved bytes that are not 0",
    RmError.BUSY: "it is in use",
    RmError.ARGUMENT_INVALID: "a value is not possible; its length was right",
    RmError.HANDLE_INVALID: "there is no such memparcel or interrupt handle, or not for this caller",
    RmError.VALIDATE_FAILED: "what is accepted is not what the acceptor said it expects",
    RmError.MAP_FAILED: "the hypervisor would not map or unmap",
    RmError.MEM_INVALID: "the address range is not the caller's, not mapped, or not usable for this",
    RmError.MEM_INUSE: "somebody has accepted the memparcel and not released it",
    RmError.MEM_RELEASED: "nothing of it is accepted any more",
    RmError.VMID_INVALID: "there is no such VM, or it is not the caller's",
    RmError.LOOKUP_FAILED: "no memparcel matches the lists",
    RmError.IRQ_INVALID: "it is no hardware interrupt of the caller's",
    RmError.IRQ_INUSE: "the interrupt is lent already",
    RmError.IRQ_RELEASED: "the interrupt is not accepted",
    RmError.IN_USE: "the interrupt is not in the state that the call needs",
    RmError.IRQ_NOT_MAPPED: "the interrupt is not bound to anything",
    RmError.VM_STATE: "the VM is in a state in which this call is not possible",
}

_HYP: Final[dict[Error, str]] = {
    Error.OK: "success",
    Error.UNIMPLEMENTED: "the call or option is not built",
    Error.RETRY: "try again: something has to finish first",
    Error.ARGUMENT_INVALID: "a value is not possible, or a reserved argument is not 0",
    Error.DENIED: "the rights or the state of the caller forbid it",
    Error.BUSY: "somebody else is using it at this moment",
    Error.NOMEM: "the partition's heap is used up",
    Error.NORESOURCES: "there is none left",
    Error.OBJECT_STATE: "the object is not in the state that the call needs: configuring needs INIT, use needs ACTIVE",
    Error.CSPACE_CAP_NULL: "there is nothing at that capability id, any more or yet",
    Error.CSPACE_CAP_REVOKED: "the capability was revoked by its owner",
    Error.CSPACE_WRONG_OBJECT_TYPE: "the capability is for another kind of object",
    Error.CSPACE_INSUFFICIENT_RIGHTS: "the capability lacks a right that the call needs",
    Error.CSPACE_FULL: "the capability space has no free slot",
    Error.MSGQUEUE_EMPTY: "no message waits",
    Error.MSGQUEUE_FULL: "the queue has no room; its transmit interrupt tells when it has again",
}

_EXIT: Final[dict[ExitType, str]] = {
    ExitType.VM_EXIT: "the guest sent VM_EXIT",
    ExitType.PLATFORM_OFF: "the guest switched itself off (PSCI SYSTEM_OFF)",
    ExitType.PLATFORM_RESET: "the guest asked for a reset (PSCI SYSTEM_RESET)",
    ExitType.PSCI_SYSTEM_RESET2: "the guest asked for a kind of reset (PSCI SYSTEM_RESET2); three words say which",
    ExitType.WATCHDOG_BITE: "the guest did not pet its watchdog",
    ExitType.SOFTWARE_ERROR: "a vCPU faulted, or stopped in a way that nobody expected",
    ExitType.ASYNC_HW_ERROR: "hardware reported an error",
    ExitType.VM_STOP_FORCED: "its owner stopped it (VM_STOP with the force flag)",
}

_RUN: Final[dict[VcpuRunState, str]] = {
    VcpuRunState.READY: "its time slice is over, or the caller had an interrupt: run it again",
    VcpuRunState.EXPECTS_WAKEUP: "it waits for an interrupt (WFI or CPU_SUSPEND): sleep until its wake-up interrupt",
    VcpuRunState.POWERED_OFF: "it is off; data 1 says whether for good",
    VcpuRunState.BLOCKED: "the hypervisor holds it: try again later",
    VcpuRunState.ADDRSPACE_VMMIO_READ: "it loads from a device address: put the value into resume data 0",
    VcpuRunState.ADDRSPACE_VMMIO_WRITE: "it stores to a device address",
    VcpuRunState.FAULT: "it faulted and does not go on",
    VcpuRunState.ADDRSPACE_PAGE_FAULT: "it touched a page that is not there (later Linux only)",
    VcpuRunState.PSCI_SYSTEM_RESET: "its VM asked for a reset",
}

_STATE: Final[dict[VmStatus, str]] = {
    VmStatus.NONE: "RM does not know it",
    VmStatus.LOAD: "allocated, no image yet: VM_CONFIG_IMAGE is next",
    VmStatus.AUTH: "its image waits for VM_AUTH_IMAGE",
    VmStatus.INIT: "its image is known: VM_INIT is next",
    VmStatus.READY: "its objects exist: VM_START is next",
    VmStatus.RUNNING: "it runs",
    VmStatus.PAUSED: "its vCPUs are off their cores: VM_RESUME",
    VmStatus.INIT_FAILED: "a step of its start failed: VM_RESET is the only way out",
    VmStatus.EXITED: "it has ended: VM_RESET is next",
    VmStatus.RESETTING: "RM is taking it down",
    VmStatus.RESET: "nothing of it is left but its VMID: VM_CONFIG_IMAGE or VM_DEALLOCATE",
}

_KINDS: Final[tuple[tuple[str, type[IntEnum], dict], ...]] = (  # type: ignore[type-arg]
    ("RM error", RmError, _RM),
    ("hypervisor error", Error, _HYP),
    ("exit type", ExitType, _EXIT),
    ("vcpu_run state", VcpuRunState, _RUN),
    ("VM state", VmStatus, _STATE),
    ("PSCI result", PsciError, {}),
)


def _who(kind: str, member: IntEnum) -> tuple[str, ...]:
    if kind == "RM error" and member:
        return tuple(message.name for message in MESSAGES.values() if member in message.errors)
    if kind == "hypervisor error" and member:
        return tuple(call.name for call in HYPERCALLS.values() if member in call.errors)
    return ()


def _words(member: IntEnum) -> str:
    return member.name.lower().replace("_", " ")


def _of_kinds(name: str | None, number: int | None) -> Iterator[Meaning]:
    for kind, enumeration, sentences in _KINDS:
        for member in enumeration:
            same = name is not None and member.name == name
            if number is not None:
                same = int(member) in (number, number - (1 << 32) if number >> 31 == 1 else number)
            if same:
                sentence = sentences.get(member) or _words(member)
                yield Meaning(kind, member.name, int(member), sentence, _who(kind, member))


def _of_errno(name: str | None, number: int | None) -> Iterator[Meaning]:
    wanted = getattr(errno, name.removeprefix("-"), None) if name is not None and "E" in name[:2] else None
    if number is not None and 0 < abs(number) < 4096:
        wanted = abs(number)
    if isinstance(wanted, int) and wanted in errno.errorcode:
        yield Meaning("errno", f"-{errno.errorcode[wanted]}", -wanted, os.strerror(wanted))


def meanings(code: str) -> list[Meaning]:
    """Every reading of a code; raises HostError when there is none."""
    word = code.strip().upper().replace("ERROR_", "").replace("GH_RM_", "")
    number: int | None
    try:
        number, name = int(word, 0), None
    except ValueError:
        number, name = None, word
    found = [*_of_kinds(name, number), *_of_errno(name, number)]
    if not found:
        raise HostError(f"{code!r} is no error, exit type or state that is known here")
    return found


def run_sentences(system: System) -> dict[str, list[str]]:
    """What a run has kept: RM's sentences for each client's refusals, the hypervisor's remarks and reports."""
    kept = {f"RM, to VM {vm.vmid}": list(vm.sentences) for vm in system.rm.vms if vm.sentences}
    if not kept and (own := system.rm.explain(VMID_HLOS)):
        kept[f"RM, to VM {VMID_HLOS}"] = own
    kept["hypervisor"] = [" ".join(words.split()) for words in (*system.hypervisor.remarks, *system.hypervisor.reports)]
    return kept
