"""The catalogue of Resource Manager messages: ids, who may call, layouts, errors (rm-rpc.md 5 to 13)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from types import MappingProxyType

from gunyah.abi.errors import RmError
from gunyah.abi.layout import Payload
from gunyah.abi.rm import memory, notifications, query, services, vm

__all__ = ["Caller", "MESSAGES", "Message", "MessageId", "NOTIFICATIONS", "Notification", "NotificationId"]


class MessageId(IntEnum):
    """Requests, client to RM."""

    MEM_DONATE = 0x5100_0010
    MEM_ACCEPT = 0x5100_0011
    MEM_LEND = 0x5100_0012
    MEM_SHARE = 0x5100_0013
    MEM_RELEASE = 0x5100_0014
    MEM_RECLAIM = 0x5100_0015
    MEM_NOTIFY = 0x5100_0017
    MEM_APPEND = 0x5100_0018
    MEM_QCOM_LOOKUP_SGL = 0x5100_001A
    FW_MILESTONE = 0x5100_0020
    FW_SET_VM_FIRMWARE = 0x5100_0021
    VM_ALLOCATE = 0x5600_0001
    VM_DEALLOCATE = 0x5600_0002
    VM_START = 0x5600_0004
    VM_STOP = 0x5600_0005
    VM_RESET = 0x5600_0006
    VM_SUSPEND = 0x5600_0007
    VM_RESUME = 0x5600_0008
    VM_CONFIG_IMAGE = 0x5600_0009
    VM_AUTH_IMAGE = 0x5600_000A
    VM_INIT = 0x5600_000B
    VM_GET_ID = 0x5600_0010
    VM_LOOKUP_URI = 0x5600_0011
    VM_LOOKUP_GUID = 0x5600_0012
    VM_LOOKUP_NAME = 0x5600_0013
    VM_GET_OWNER = 0x5600_0015
    VM_GET_STATE = 0x5600_0017
    VM_GET_CRASH_MSG = 0x5600_0019
    VM_GET_HYP_RESOURCES = 0x5600_0020
    VM_GET_HYP_CAPIDS = 0x5600_0021
    VM_GET_HYP_IRQS = 0x5600_0022
    VM_GET_VMID = 0x5600_0024
    VM_GET_PEERS = 0x5600_0025
    VM_SET_TIME_BASE = 0x5600_0030
    VM_SET_CONTEXT = 0x5600_0031
    VM_SET_FIRMWARE_MEM = 0x5600_0032
    VM_SET_DEMAND_PAGING = 0x5600_0033
    VM_SET_ADDRESS_LAYOUT = 0x5600_0034
    VM_IRQ_ACCEPT = 0x5600_0050
    VM_IRQ_LEND = 0x5600_0051
    VM_IRQ_RELEASE = 0x5600_0052
    VM_IRQ_RECLAIM = 0x5600_0053
    VM_IRQ_NOTIFY = 0x5600_0054
    VM_IRQ_UNMAP = 0x5600_0055
    VM_SET_STATUS = 0x5600_0080
    VM_CONSOLE_OPEN = 0x5600_0081
    VM_CONSOLE_CLOSE = 0x5600_0082
    VM_CONSOLE_WRITE = 0x5600_0083
    VM_CONSOLE_FLUSH = 0x5600_0084
    VM_EXIT = 0x5600_0085
    VM_SET_CRASH_MSG = 0x5600_0086
    VM_HOST_GET_TYPE = 0x5600_00A0
    IPA_RESERVE = 0x5600_00B0
    IPA_UNRESERVE = 0x5600_00B1


class NotificationId(IntEnum):
    """Notifications, RM to VM."""

    MEM_SHARED = 0x5110_0011
    MEM_RELEASED = 0x5110_0012
    MEM_ACCEPTED = 0x5110_0013
    MEM_RECALL = 0x5110_0014
    VM_EXITED = 0x5610_0001
    VM_SHUTDOWN = 0x5610_0002
    VM_STATUS = 0x5610_0008
    VM_IRQ_LENT = 0x5610_0011
    VM_IRQ_RELEASED = 0x5610_0012
    VM_IRQ_ACCEPTED = 0x5610_0013
    VM_CONSOLE_CHARS = 0x5610_0080


class Caller(Enum):
    """Who may send a request."""

    ANY = "any VM with a link"
    HLOS = "the primary VM"
    OWNER = "the owner of the target VM"
    HLOS_OWNER = "the primary VM, as owner of the target VM"
    SELF = "the VM itself"
    QUERY = "the VM itself, its owner or a peer"
    SELF_OR_OWNER = "the VM itself or its owner"
    SECONDARY = "secondary VMs with a reserved VMID"
    IRQ_OWNER = "the owner of the interrupt"
    BORROWER = "the borrower of the interrupt"
    IRQ_PARTY = "owner or borrower of the interrupt"
    NOBODY = "no handler"


@dataclass(frozen=True, slots=True)
class Message:
    """One request id."""

    id: MessageId
    caller: Caller
    request: type[Payload]
    reply: type[Payload] | None = None
    """Data after the error word of a successful reply; None: nothing (the standard reply)."""
    errors: tuple[RmError, ...] = ()
    section: str = ""
    handled: bool = True
    """The reference has a handler; without one the answer is UNIMPLEMENTED whatever the payload."""
    reply_when: str = ""
    """Condition under which there is reply data, in words; empty: always."""
    failure: type[Payload] | None = None
    """Data after a nonzero error word."""

    @property
    def name(self) -> str:
        """RM's name of the message."""
        return self.id.name


@dataclass(frozen=True, slots=True)
class Notification:
    """One notification id."""

    id: NotificationId
    payload: type[Payload]
    receiver: str
    section: str

    @property
    def name(self) -> str:
        """RM's name of the notification."""
        return self.id.name


_E = RmError
_CREATE_ERRORS = (
    _E.MSG_INVALID,
    _E.NORESOURCE,
    _E.ARGUMENT_INVALID,
    _E.DENIED,
    _E.VMID_INVALID,
    _E.MEM_INVALID,
    _E.MAP_FAILED,
    _E.NOMEM,
)
_LOOKUP_ERRORS = (_E.ARGUMENT_INVALID, _E.MSG_INVALID, _E.NOMEM)
_CONSOLE_ERRORS = (_E.MSG_INVALID, _E.ARGUMENT_INVALID, _E.DENIED, _E.NOMEM)
_M = MessageId

_TABLE = (
    # Memory
    Message(_M.MEM_DONATE, Caller.ANY, memory.MemCreate, memory.HandleReply, _CREATE_ERRORS, "rm-rpc.md 8.2"),
    Message(_M.MEM_LEND, Caller.ANY, memory.MemCreate, memory.HandleReply, _CREATE_ERRORS, "rm-rpc.md 8.2"),
    Message(_M.MEM_SHARE, Caller.ANY, memory.MemCreate, memory.HandleReply, _CREATE_ERRORS, "rm-rpc.md 8.2"),
    Message(
        _M.MEM_APPEND,
        Caller.ANY,
        memory.MemAppend,
        None,
        (_E.MSG_INVALID, _E.ARGUMENT_INVALID, _E.HANDLE_INVALID, _E.DENIED, _E.NORESOURCE, _E.MEM_INVALID, _E.NOMEM),
        "rm-rpc.md 8.3",
    ),
    Message(
        _M.MEM_ACCEPT,
        Caller.ANY,
        memory.MemAccept,
        memory.MemAcceptReply,
        (
            _E.MSG_INVALID,
            _E.HANDLE_INVALID,
            _E.ARGUMENT_INVALID,
            _E.VALIDATE_FAILED,
            _E.DENIED,
            _E.VMID_INVALID,
            _E.NORESOURCE,
            _E.MEM_INVALID,
            _E.MAP_FAILED,
            _E.NOMEM,
        ),
        "rm-rpc.md 8.4",
        reply_when="the request named no addresses",
    ),
    Message(
        _M.MEM_RELEASE,
        Caller.ANY,
        memory.MemRelease,
        None,
        (
            _E.MSG_INVALID,
            _E.HANDLE_INVALID,
            _E.DENIED,
            _E.MEM_RELEASED,
            _E.ARGUMENT_INVALID,
            _E.MAP_FAILED,
        ),
        "rm-rpc.md 8.5",
    ),
    Message(
        _M.MEM_RECLAIM,
        Caller.ANY,
        memory.MemRelease,
        None,
        (_E.MSG_INVALID, _E.HANDLE_INVALID, _E.DENIED, _E.MEM_INUSE, _E.ARGUMENT_INVALID),
        "rm-rpc.md 8.5",
    ),
    Message(
        _M.MEM_NOTIFY,
        Caller.ANY,
        memory.MemNotifyRequest,
        None,
        (
            _E.MSG_INVALID,
            _E.HANDLE_INVALID,
            _E.ARGUMENT_INVALID,
            _E.DENIED,
            _E.VMID_INVALID,
            _E.MEM_INUSE,
            _E.MEM_RELEASED,
        ),
        "rm-rpc.md 8.6",
    ),
    Message(
        _M.MEM_QCOM_LOOKUP_SGL,
        Caller.ANY,
        memory.MemLookupSgl,
        memory.HandleReply,
        (_E.MSG_INVALID, _E.NORESOURCE, _E.LOOKUP_FAILED),
        "rm-rpc.md 8.7",
    ),
    # Firmware
    Message(_M.FW_MILESTONE, Caller.HLOS, vm.Empty, None, (_E.DENIED, _E.MSG_INVALID), "rm-rpc.md 11"),
    Message(
        _M.FW_SET_VM_FIRMWARE,
        Caller.HLOS,
        services.FwSetVmFirmware,
        None,
        (_E.DENIED, _E.MSG_INVALID, _E.UNIMPLEMENTED, _E.ARGUMENT_INVALID, _E.BUSY, _E.HANDLE_INVALID),
        "rm-rpc.md 11",
    ),
    # VM management
    Message(
        _M.VM_ALLOCATE,
        Caller.HLOS,
        vm.VmidWord,
        vm.VmidReply,
        (_E.DENIED, _E.MSG_INVALID, _E.NORESOURCE, _E.NOMEM),
        "rm-rpc.md 6",
        reply_when="RM chose the VMID",
    ),
    Message(
        _M.VM_DEALLOCATE,
        Caller.OWNER,
        vm.VmidWord,
        None,
        (_E.MSG_INVALID, _E.DENIED, _E.VM_STATE, _E.VMID_INVALID),
        "rm-rpc.md 6",
    ),
    Message(
        _M.VM_CONFIG_IMAGE,
        Caller.HLOS_OWNER,
        vm.VmConfigImage,
        None,
        (
            _E.DENIED,
            _E.MSG_INVALID,
            _E.VMID_INVALID,
            _E.VM_STATE,
            _E.MEM_INVALID,
            _E.ARGUMENT_INVALID,
            _E.NOMEM,
        ),
        "rm-rpc.md 6",
    ),
    Message(
        _M.VM_AUTH_IMAGE,
        Caller.HLOS_OWNER,
        vm.VmAuthImage,
        None,
        (_E.DENIED, _E.MSG_INVALID, _E.VMID_INVALID, _E.VM_STATE, _E.ARGUMENT_INVALID),
        "rm-rpc.md 6",
    ),
    Message(
        _M.VM_INIT,
        Caller.HLOS_OWNER,
        vm.VmInit,
        None,
        (
            _E.DENIED,
            _E.MSG_INVALID,
            _E.VMID_INVALID,
            _E.VM_STATE,
            _E.MEM_INVALID,
            _E.ARGUMENT_INVALID,
            _E.NORESOURCE,
        ),
        "rm-rpc.md 6",
    ),
    Message(
        _M.VM_START,
        Caller.OWNER,
        vm.VmidWord,
        None,
        (_E.MSG_INVALID, _E.VMID_INVALID, _E.DENIED, _E.VM_STATE, _E.NORESOURCE),
        "rm-rpc.md 6",
    ),
    Message(
        _M.VM_STOP,
        Caller.OWNER,
        vm.VmStop,
        None,
        (_E.MSG_INVALID, _E.VMID_INVALID, _E.VM_STATE),
        "rm-rpc.md 6",
    ),
    Message(
        _M.VM_RESET,
        Caller.OWNER,
        vm.VmidWord,
        None,
        (_E.MSG_INVALID, _E.VMID_INVALID, _E.DENIED, _E.VM_STATE),
        "rm-rpc.md 6",
    ),
    Message(
        _M.VM_SUSPEND,
        Caller.NOBODY,
        vm.VmidWord,
        None,
        (_E.UNIMPLEMENTED,),
        "rm-rpc.md 5",
        handled=False,
    ),
    Message(
        _M.VM_RESUME,
        Caller.NOBODY,
        vm.VmidWord,
        None,
        (_E.UNIMPLEMENTED,),
        "rm-rpc.md 5",
        handled=False,
    ),
    Message(
        _M.VM_SET_STATUS,
        Caller.SECONDARY,
        vm.VmSetStatus,
        None,
        (_E.DENIED, _E.MSG_INVALID, _E.ARGUMENT_INVALID),
        "rm-rpc.md 6",
    ),
    Message(_M.VM_EXIT, Caller.SELF, vm.VmExit, None, (_E.MSG_INVALID, _E.ARGUMENT_INVALID), "rm-rpc.md 6"),
    Message(
        _M.VM_GET_STATE,
        Caller.QUERY,
        vm.VmidWord,
        vm.VmStateReply,
        (_E.MSG_INVALID, _E.NORESOURCE, _E.DENIED),
        "rm-rpc.md 6",
    ),
    Message(
        _M.VM_GET_CRASH_MSG,
        Caller.OWNER,
        vm.VmidWord,
        vm.CrashMessage,
        (_E.MSG_INVALID, _E.VMID_INVALID, _E.NOMEM),
        "rm-rpc.md 6",
    ),
    Message(_M.VM_SET_CRASH_MSG, Caller.SELF, vm.CrashMessage, None, (_E.MSG_INVALID, _E.NOMEM), "rm-rpc.md 6"),
    Message(_M.VM_HOST_GET_TYPE, Caller.ANY, vm.Empty, vm.HostTypeReply, (_E.MSG_INVALID,), "rm-rpc.md 6"),
    # Queries
    Message(
        _M.VM_GET_ID,
        Caller.QUERY,
        vm.VmidWord,
        query.GetIdReply,
        (_E.MSG_INVALID, _E.NORESOURCE, _E.VM_STATE, _E.VALIDATE_FAILED, _E.NOMEM),
        "rm-rpc.md 7",
    ),
    Message(_M.VM_LOOKUP_URI, Caller.ANY, query.LookupText, query.LookupReply, _LOOKUP_ERRORS, "rm-rpc.md 7"),
    Message(_M.VM_LOOKUP_GUID, Caller.ANY, query.LookupGuid, query.LookupReply, _LOOKUP_ERRORS, "rm-rpc.md 7"),
    Message(_M.VM_LOOKUP_NAME, Caller.ANY, query.LookupText, query.LookupReply, _LOOKUP_ERRORS, "rm-rpc.md 7"),
    Message(_M.VM_GET_VMID, Caller.ANY, vm.Empty, vm.VmidReply, (_E.MSG_INVALID,), "rm-rpc.md 7"),
    Message(_M.VM_GET_OWNER, Caller.ANY, vm.Empty, vm.VmidReply, (_E.MSG_INVALID,), "rm-rpc.md 7"),
    Message(_M.VM_GET_PEERS, Caller.ANY, vm.Empty, query.PeersReply, (_E.MSG_INVALID, _E.NOMEM), "rm-rpc.md 7"),
    Message(
        _M.VM_GET_HYP_RESOURCES,
        Caller.ANY,
        vm.VmidWord,
        query.HypResourcesReply,
        (_E.MSG_INVALID, _E.ARGUMENT_INVALID, _E.NORESOURCE, _E.NOMEM),
        "rm-rpc.md 7",
    ),
    Message(
        _M.VM_GET_HYP_CAPIDS,
        Caller.NOBODY,
        vm.VmidWord,
        None,
        (_E.UNIMPLEMENTED,),
        "rm-rpc.md 5",
        handled=False,
    ),
    Message(
        _M.VM_GET_HYP_IRQS,
        Caller.NOBODY,
        vm.VmidWord,
        None,
        (_E.UNIMPLEMENTED,),
        "rm-rpc.md 5",
        handled=False,
    ),
    # Clock, firmware memory, and what later Linux asks for
    Message(
        _M.VM_SET_TIME_BASE,
        Caller.QUERY,
        services.SetTimeBase,
        None,
        (_E.MSG_INVALID, _E.NORESOURCE, _E.DENIED, _E.VM_STATE, _E.ARGUMENT_INVALID),
        "rm-rpc.md 11",
        failure=services.HypErrorReply,
    ),
    Message(
        _M.VM_SET_FIRMWARE_MEM,
        Caller.QUERY,
        services.SetFirmwareMem,
        None,
        (_E.MSG_INVALID, _E.NORESOURCE, _E.DENIED, _E.VM_STATE, _E.ARGUMENT_INVALID, _E.MEM_INVALID),
        "rm-rpc.md 11",
        failure=services.HypErrorReply,
    ),
    Message(
        _M.VM_SET_CONTEXT,
        Caller.NOBODY,
        services.SetBootContext,
        None,
        (_E.UNIMPLEMENTED,),
        "rm-rpc.md 13",
        handled=False,
    ),
    Message(
        _M.VM_SET_DEMAND_PAGING,
        Caller.NOBODY,
        services.SetDemandPaging,
        None,
        (_E.UNIMPLEMENTED,),
        "rm-rpc.md 13",
        handled=False,
    ),
    Message(
        _M.VM_SET_ADDRESS_LAYOUT,
        Caller.NOBODY,
        services.SetAddressLayout,
        None,
        (_E.UNIMPLEMENTED,),
        "rm-rpc.md 13",
        handled=False,
    ),
    # Interrupt lending
    Message(
        _M.VM_IRQ_LEND,
        Caller.IRQ_OWNER,
        services.IrqLend,
        memory.HandleReply,
        (_E.MSG_INVALID, _E.IRQ_INVALID, _E.IRQ_INUSE, _E.NOMEM),
        "rm-rpc.md 9",
    ),
    Message(
        _M.VM_IRQ_ACCEPT,
        Caller.BORROWER,
        services.IrqAccept,
        services.IrqAcceptReply,
        (_E.MSG_INVALID, _E.HANDLE_INVALID, _E.IN_USE, _E.NOMEM, _E.DENIED, _E.ARGUMENT_INVALID),
        "rm-rpc.md 9",
    ),
    Message(
        _M.VM_IRQ_RELEASE,
        Caller.BORROWER,
        services.IrqHandle,
        None,
        (_E.MSG_INVALID, _E.HANDLE_INVALID, _E.IN_USE, _E.ARGUMENT_INVALID),
        "rm-rpc.md 9",
    ),
    Message(
        _M.VM_IRQ_RECLAIM,
        Caller.IRQ_OWNER,
        services.IrqHandle,
        None,
        (_E.MSG_INVALID, _E.HANDLE_INVALID, _E.IN_USE, _E.IRQ_INVALID),
        "rm-rpc.md 9",
    ),
    Message(
        _M.VM_IRQ_NOTIFY,
        Caller.IRQ_PARTY,
        services.IrqNotifyRequest,
        None,
        (_E.MSG_INVALID, _E.HANDLE_INVALID, _E.ARGUMENT_INVALID, _E.IRQ_INUSE, _E.IRQ_RELEASED),
        "rm-rpc.md 9",
    ),
    Message(
        _M.VM_IRQ_UNMAP,
        Caller.NOBODY,
        services.IrqHandle,
        None,
        (_E.UNIMPLEMENTED,),
        "rm-rpc.md 9",
        handled=False,
    ),
    # Console
    Message(_M.VM_CONSOLE_OPEN, Caller.SELF_OR_OWNER, vm.VmidWord, None, _CONSOLE_ERRORS, "rm-rpc.md 10"),
    Message(_M.VM_CONSOLE_CLOSE, Caller.SELF_OR_OWNER, vm.VmidWord, None, _CONSOLE_ERRORS, "rm-rpc.md 10"),
    Message(
        _M.VM_CONSOLE_WRITE,
        Caller.SELF_OR_OWNER,
        services.ConsoleWrite,
        None,
        _CONSOLE_ERRORS,
        "rm-rpc.md 10",
    ),
    Message(_M.VM_CONSOLE_FLUSH, Caller.SELF_OR_OWNER, vm.VmidWord, None, _CONSOLE_ERRORS, "rm-rpc.md 10"),
    # Address reservation
    Message(
        _M.IPA_RESERVE,
        Caller.SELF,
        services.IpaReserve,
        services.IpaAllocateReply,
        (_E.DENIED, _E.MSG_INVALID, _E.ARGUMENT_INVALID, _E.NORESOURCE, _E.NOMEM),
        "rm-rpc.md 11",
        reply_when="the request is of kind ALLOCATE",
    ),
    Message(
        _M.IPA_UNRESERVE,
        Caller.NOBODY,
        services.IpaReserve,
        None,
        (_E.UNIMPLEMENTED,),
        "rm-rpc.md 5",
        handled=False,
    ),
)

MESSAGES: Mapping[int, Message] = MappingProxyType({message.id.value: message for message in _TABLE})
"""Every request id RM's interface defines; those with handled=False are answered UNIMPLEMENTED by the reference."""

_N = NotificationId

_NOTIFICATIONS = (
    Notification(_N.MEM_SHARED, memory.MemShared, "VMs named in a MEM_NOTIFY", "rm-rpc.md 8.8"),
    Notification(_N.MEM_RELEASED, memory.MemOwner, "owner of the memparcel", "rm-rpc.md 8.8"),
    Notification(_N.MEM_ACCEPTED, memory.MemOwner, "owner of the memparcel", "rm-rpc.md 8.8"),
    Notification(_N.MEM_RECALL, memory.MemRecall, "VMs named in a MEM_NOTIFY", "rm-rpc.md 8.8"),
    Notification(_N.VM_EXITED, notifications.VmExited, "owner of the VM", "rm-rpc.md 12"),
    Notification(_N.VM_SHUTDOWN, notifications.VmShutdown, "the VM that should shut down", "rm-rpc.md 12"),
    Notification(_N.VM_STATUS, notifications.VmStatusNotification, "running peers of the VM", "rm-rpc.md 12"),
    Notification(_N.VM_IRQ_LENT, services.IrqLent, "borrower", "rm-rpc.md 9"),
    Notification(_N.VM_IRQ_RELEASED, services.IrqHandle, "owner of the interrupt", "rm-rpc.md 9"),
    Notification(_N.VM_IRQ_ACCEPTED, services.IrqHandle, "owner of the interrupt", "rm-rpc.md 9"),
    Notification(_N.VM_CONSOLE_CHARS, services.ConsoleWrite, "other end of the console", "rm-rpc.md 10"),
)

NOTIFICATIONS: Mapping[int, Notification] = MappingProxyType({entry.id.value: entry for entry in _NOTIFICATIONS})
"""Every notification id."""
