"""What a number means: RM errors, hypervisor errors, errno values, exit types, run states, PSCI results.

A code is a name (``ARGUMENT_INVALID``, ``-ENODEV``, ``PLATFORM_OFF``) or a number, which may mean several things. A
name may stand as Linux, the hypervisor's source or RM's source spell it (``GH_RM_ERROR_NOMEM``, ``ERROR_CSPACE_FULL``,
``argument-invalid``). The words say what it stands for and what usually brings it (errors-and-types.md 1, rm-rpc.md 3
and 4, vm-loader.md 4.6).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

from gunyah.abi.errors import Error, PsciError, RmError
from gunyah.abi.hypercalls import HYPERCALLS
from gunyah.abi.loader import ExitReason, VmExitStatus
from gunyah.abi.rm import MESSAGES, ExitType, OsStatus, VmStatus
from gunyah.abi.types import VMID_HLOS
from gunyah.abi.vcpu import VcpuRunState
from gunyah.host.errors import HostError
from gunyah.linux.hypercall import ERRNO_LATER
from gunyah.linux.rsc_mgr import RM_ERRNO

if TYPE_CHECKING:
    from gunyah.system import System

__all__ = ["Meaning", "meanings", "run_sentences"]


@dataclass(frozen=True, slots=True)
class Meaning:
    """One reading of a code: whose it is, its name and number, a sentence, and who answers it.

    For an errno, ``where`` holds the errors of RM and hypervisor that the drivers turn into it.
    """

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
    Error.ARGUMENT_SIZE: "a size is not possible here",
    Error.ARGUMENT_ALIGNMENT: "an address or a size is not aligned as the call needs it",
    Error.ADDR_OVERFLOW: "the range wraps around, or leaves the address space",
    Error.ADDR_UNDERFLOW: "an address is below where it may be",
    Error.ADDR_INVALID: "the address is out of range, or nothing is mapped there",
    Error.DENIED: "the rights or the state of the caller forbid it",
    Error.BUSY: "somebody else is using it at this moment",
    Error.NOMEM: "the partition's heap is used up",
    Error.NORESOURCES: "there is none left",
    Error.IDLE: "the other side that the call needs is not active",
    Error.OBJECT_CONFIG: "the object was activated without being configured, or with a configuration that cannot be",
    Error.OBJECT_CONFIGURED: "the object is configured already",
    Error.FAILURE: "it failed for a reason that has no word of its own",
    Error.VIRQ_BOUND: "the source is bound to an interrupt already",
    Error.VIRQ_NOT_BOUND: "the source is bound to no interrupt",
    Error.OBJECT_STATE: "the object is not in the state that the call needs: configuring needs INIT, use needs ACTIVE",
    Error.CSPACE_CAP_NULL: "there is nothing at that capability id, any more or yet",
    Error.CSPACE_CAP_REVOKED: "the capability was revoked by its owner",
    Error.CSPACE_WRONG_OBJECT_TYPE: "the capability is for another kind of object",
    Error.CSPACE_INSUFFICIENT_RIGHTS: "the capability lacks a right that the call needs",
    Error.CSPACE_FULL: "the capability space has no free slot",
    Error.MSGQUEUE_EMPTY: "no message waits",
    Error.MSGQUEUE_FULL: "the queue has no room; its transmit interrupt tells when it has again",
    Error.ALLOCATOR_RANGE_OVERLAPPING: "the heap has this range already",
    Error.ALLOCATOR_MEM_INUSE: "something of this range of the heap is in use",
    Error.MEMDB_EMPTY: "nobody owns the memory",
    Error.MEMDB_NOT_OWNER: "somebody else owns the memory, or part of it",
    Error.MEMEXTENT_MAPPINGS_FULL: "the memory extent is mapped as often as it can be",
    Error.MEMEXTENT_TYPE: "this type of memory extent (basic or sparse) cannot do that",
    Error.EXISTING_MAPPING: "something is mapped there already",
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

_OS: Final[dict[OsStatus, str]] = {
    OsStatus.NONE: "it has said nothing yet",
    OsStatus.CRASHED: "it says that it crashed",
}

_REASON: Final[dict[ExitReason, str]] = {
    ExitReason.UNKNOWN: "VCPU_RUN has not returned yet, or for a reason without a name",
    ExitReason.MMIO: "the guest touched a device address that nobody in the kernel serves",
    ExitReason.STATUS: "the VM does not run any more, or never did: the status word says which",
    ExitReason.PAGE_FAULT: "the guest touched a page that could not be given to it",
}

_EXIT_STATUS: Final[dict[VmExitStatus, str]] = {
    VmExitStatus.LOAD_FAILED: "the VM could not be started (RM state INIT_FAILED)",
    VmExitStatus.EXITED: "the VM has ended (RM state EXITED); the exit type says how",
    VmExitStatus.CRASHED: "the VM is in a state in which it cannot run",
}

_PSCI: Final[dict[PsciError, str]] = {
    PsciError.SUCCESS: "success",
    PsciError.NOT_SUPPORTED: "the call is not there; SMCCC says the same for any unknown function",
    PsciError.INVALID_PARAMETERS: "there is no such CPU, or a value is not possible",
    PsciError.DENIED: "it may not be done now",
    PsciError.ALREADY_ON: "the CPU is on",
    PsciError.ON_PENDING: "the CPU is being switched on",
    PsciError.INTERNAL_FAILURE: "the hypervisor could not do it",
    PsciError.NOT_PRESENT: "the CPU is not there",
    PsciError.DISABLED: "the CPU is disabled",
    PsciError.INVALID_ADDRESS: "the entry address is not one",
}

_KINDS: Final[tuple[tuple[str, type[IntEnum], Mapping[Any, str]], ...]] = (
    ("RM error", RmError, _RM),
    ("hypervisor error", Error, _HYP),
    ("exit type", ExitType, _EXIT),
    ("vcpu_run state", VcpuRunState, _RUN),
    ("VM state", VmStatus, _STATE),
    ("OS state", OsStatus, _OS),
    ("PSCI result", PsciError, _PSCI),
    ("VCPU_RUN exit reason", ExitReason, _REASON),
    ("VCPU_RUN status", VmExitStatus, _EXIT_STATUS),
)

_PREFIXES: Final[tuple[tuple[str, str], ...]] = (
    ("RM_ERROR_", "RM error"),
    ("RM_VM_STATUS_", "VM state"),
    ("VM_STATUS_", "VM state"),
    ("VM_STATE_", "VM state"),
    ("OS_STATUS_", "OS state"),
    ("EXIT_TYPE_", "exit type"),
    ("VM_EXIT_TYPE_", "exit type"),
    ("RM_EXIT_TYPE_", "exit type"),
    ("VCPU_RUN_STATE_", "vcpu_run state"),
    ("VCPU_STATE_", "vcpu_run state"),
    ("VCPU_EXIT_", "VCPU_RUN exit reason"),
    ("VM_EXIT_STATUS_", "VCPU_RUN status"),
    ("PSCI_RET_", "PSCI result"),
    ("PSCI_", "PSCI result"),
    ("ERROR_", "hypervisor error"),
    ("RM_", "RM error"),
)
"""What stands before a name says whose it is."""
_VENDORS: Final = ("GUNYAH_", "GH_", "HYP_")
_LINUX: Final[dict[str, tuple[str, ...]]] = {
    "ARG_INVAL": ("ARGUMENT_INVALID",),
    "ARG_INVALID": ("ARGUMENT_INVALID",),
    "ARG_SIZE": ("ARGUMENT_SIZE",),
    "ARG_ALIGN": ("ARGUMENT_ALIGNMENT",),
    "ADDR_OVFL": ("ADDR_OVERFLOW",),
    "ADDR_UNFL": ("ADDR_UNDERFLOW",),
    "CSPACE_REVOKED": ("CSPACE_CAP_REVOKED",),
    "CSPACE_WRONG_OBJ_TYPE": ("CSPACE_WRONG_OBJECT_TYPE",),
    "CSPACE_INSUF_RIGHTS": ("CSPACE_INSUFFICIENT_RIGHTS",),
    "MSGQUEUE_EMPTY": ("MSGQUEUE_EMPTY",),
    "INVALID": ("MSG_INVALID", "INVALID_PARAMETERS"),
    "MEM_IN_USE": ("MEM_INUSE",),
    "IRQ_IN_USE": ("IRQ_INUSE",),
    "VMMIO_READ": ("ADDRSPACE_VMMIO_READ",),
    "VMMIO_WRITE": ("ADDRSPACE_VMMIO_WRITE",),
    "SYSTEM_OFF": ("PLATFORM_OFF",),
    "SYSTEM_RESET": ("PLATFORM_RESET", "PSCI_SYSTEM_RESET"),
    "SYSTEM_RESET2": ("PSCI_SYSTEM_RESET2",),
    "WDT_BITE": ("WATCHDOG_BITE",),
    "STOP_FORCED": ("VM_STOP_FORCED",),
}
"""Shorter spellings, as the Linux drivers and their users have them, to names of the tables."""


def _who(kind: str, member: IntEnum) -> tuple[str, ...]:
    if kind == "RM error" and member:
        return tuple(message.name for message in MESSAGES.values() if member in message.errors)
    if kind == "hypervisor error" and member:
        return tuple(call.name for call in HYPERCALLS.values() if member in call.errors)
    return ()


def _words(member: IntEnum) -> str:
    return member.name.lower().replace("_", " ")


def _readings(word: str) -> tuple[set[str], str | None]:
    """The names a spelling may mean, and whose they are if it says so: ``GH_RM_ERROR_NOMEM`` is NOMEM of RM."""
    names, kind = {word}, None
    for vendor in _VENDORS:
        word = word.removeprefix(vendor)
    for prefix, owner in _PREFIXES:
        if word.startswith(prefix):
            names.add(word)
            word, kind = word.removeprefix(prefix), owner
            break
    return names | {word, *_LINUX.get(word, ())}, kind


def _of_kinds(names: set[str], only: str | None, number: int | None) -> Iterator[Meaning]:
    for kind, enumeration, sentences in _KINDS:
        for member in enumeration:
            value = int(member)
            if number is None:
                same = member.name in names and only in (None, kind)
            else:
                # Negative codes appear as 32-bit or 64-bit register values too.
                same = value in (number, number - (1 << 32)) or (number >= 1 << 32 and value == number - (1 << 64))
            if same:
                sentence = sentences.get(member) or _words(member)
                yield Meaning(kind, member.name, value, sentence, _who(kind, member))


def _of_errno(names: set[str], number: int | None) -> Iterator[Meaning]:
    if number is None:
        wanted = next((value for value, name in errno.errorcode.items() if name in names), 0)
    else:
        wanted = next((abs(n) for n in (number, number - (1 << 32), number - (1 << 64)) if 0 < abs(n) < 4096), 0)
    if wanted in errno.errorcode:
        # What the drivers turn into it: the end of the thread for somebody who has only dmesg.
        calls = [f"hypervisor error {Error(code).name}" for code, value in ERRNO_LATER.items() if value == wanted]
        refusals = [f"RM error {RmError(code).name}" for code, value in RM_ERRNO.items() if value == wanted]
        yield Meaning("errno", f"-{errno.errorcode[wanted]}", -wanted, os.strerror(wanted), (*refusals, *calls))


def meanings(code: str) -> list[Meaning]:
    """Every reading of a code; raises HostError when there is none."""
    word = code.strip().upper()
    names: set[str] = set()
    kind: str | None = None
    number: int | None = None
    try:
        number = int(word, 0)
    except ValueError:
        # A dash before a name is the sign of an errno as Linux prints it; inside a name it is an underscore.
        names, kind = _readings(word.removeprefix("-").replace("-", "_").replace(" ", "_"))
    found = [*_of_kinds(names, kind, number), *_of_errno(names, number)]
    if not found and kind is not None:
        found = [*_of_kinds(names, None, None)]
    if not found:
        raise HostError(f"{code!r} is no error, exit type or state that is known here{_near(names)}")
    return found


def _near(names: set[str]) -> str:
    known = {member.name for _, enumeration, _ in _KINDS for member in enumeration} | set(errno.errorcode.values())
    close = [near for name in sorted(names) for near in get_close_matches(name, sorted(known), 2)]
    return f"; do you mean {' or '.join(dict.fromkeys(close))}?" if close else ""


def run_sentences(system: System) -> dict[str, list[str]]:
    """What a run has kept: RM's sentences for each client's refusals, the hypervisor's remarks and reports."""
    kept = {f"RM, to VM {vm.vmid}": list(vm.sentences) for vm in system.rm.vms if vm.sentences}
    if not kept and (own := system.rm.explain(VMID_HLOS)):
        kept[f"RM, to VM {VMID_HLOS}"] = own
    kept["hypervisor"] = [" ".join(words.split()) for words in (*system.hypervisor.remarks, *system.hypervisor.reports)]
    return kept
