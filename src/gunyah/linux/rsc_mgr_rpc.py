"""drivers/virt/gunyah/rsc_mgr_rpc.c: the calls that the console driver needs (linux-drivers.md 12, rm-rpc.md 7 and
10).
"""

from __future__ import annotations

import errno

from gunyah.abi.profile import Profile
from gunyah.abi.rm import ConsoleWrite, MessageId, VmidWord
from gunyah.linux.errno import error
from gunyah.linux.printk import WARNING
from gunyah.linux.rsc_mgr import RscMgr
from gunyah.linux.services import Services

__all__ = ["VMID_INVALID", "VMID_SELF", "RscMgrRpc"]

VMID_SELF = 0
VMID_INVALID = 0xFFFF
_COUNT_MAX = 0xFFFF
_V4_REQUEST = bytes(4)


class RscMgrRpc:
    """The calls of one connection."""

    def __init__(self, services: Services, rm: RscMgr, profile: Profile) -> None:
        self._services = services
        self.rm = rm
        self._profile = profile

    def get_vmid(self) -> int:
        """VM_GET_VMID: the own VMID. The request's form is the profile's, the reply may have 2 or 4 bytes. Raises
        OSError.
        """
        request = b"" if self._profile.get_vmid_reply == "u32" else _V4_REQUEST
        reply = self.rm.call(MessageId.VM_GET_VMID, request)
        if len(reply) not in (2, 4):
            raise error(errno.EIO, f"VM_GET_VMID: the reply has {len(reply)} bytes, 2 or 4 are possible")
        return int.from_bytes(reply[:2], "little")

    def console_open(self, vmid: int) -> None:
        """VM_CONSOLE_OPEN of VM ``vmid``'s console (0: the own one). Raises OSError."""
        self._console(MessageId.VM_CONSOLE_OPEN, VmidWord(vmid).pack())

    def console_close(self, vmid: int) -> None:
        """VM_CONSOLE_CLOSE. Raises OSError."""
        self._console(MessageId.VM_CONSOLE_CLOSE, VmidWord(vmid).pack())

    def console_write(self, vmid: int, data: bytes) -> None:
        """VM_CONSOLE_WRITE of 1 to 65535 bytes. Raises OSError."""
        if not 0 < len(data) <= _COUNT_MAX:
            raise error(errno.EINVAL, f"VM_CONSOLE_WRITE: {len(data)} bytes, 1 to {_COUNT_MAX} are possible")
        self._console(MessageId.VM_CONSOLE_WRITE, ConsoleWrite(vmid, data).pack())

    def console_flush(self, vmid: int) -> None:
        """VM_CONSOLE_FLUSH. Raises OSError."""
        self._console(MessageId.VM_CONSOLE_FLUSH, VmidWord(vmid).pack())

    def _console(self, message: MessageId, payload: bytes) -> None:
        reply = self.rm.call(message, payload)
        if reply:
            text = f"{message.name}: {len(reply)} unexpected bytes in the reply"
            self._services.log.ratelimited("gh_rsc_mgr_rpc", WARNING, lambda: text)
