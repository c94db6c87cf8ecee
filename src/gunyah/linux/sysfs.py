"""drivers/virt/gunyah/sysfs.c: the banner and /sys/hypervisor/gunyah (linux-drivers.md 6 and 10).

Both spellings of the hypervisor's UID are accepted: the series' reversed words and the SMCCC byte order of the public
stack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gunyah.abi.identify import API_VERSION, UID_PUBLIC, UID_QUALCOMM_V4, UID_V4, ApiFlags0
from gunyah.linux.hypercall import HypIdentity
from gunyah.linux.kobject import Attribute, KObject

if TYPE_CHECKING:
    from gunyah.linux.kernel import Kernel

__all__ = ["GunyahSysfs", "KNOWN_UIDS", "UID_QUALCOMM_PUBLIC"]

UID_QUALCOMM_PUBLIC = (0xBD54_BD19, 0x1B57_370B, 0x9B60_6F94, 0xE69D_5354)
"""The Qualcomm UUID 19bd54bd-0b37-571b-946f-609b54539de6 in SMCCC byte order."""

KNOWN_UIDS = frozenset({UID_V4, UID_PUBLIC, UID_QUALCOMM_V4, UID_QUALCOMM_PUBLIC})

_FEATURES = ((ApiFlags0.PARTITION_CSPACE, "cspace"), (ApiFlags0.MSGQUEUE, "message-queue"))
"""The features that both Linux and the hypervisor have, in the order of the file."""


class GunyahSysfs:
    """The ``gunyah`` module: ``identity`` is None unless a known hypervisor of API version 1 answered."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._directory: KObject | None = None
        self.identity: HypIdentity | None = None

    def init(self) -> None:
        """Module init: identify, say so once, create the group. Silent when it is another hypervisor, or none."""
        kernel = self._kernel
        if kernel.hypercalls.get_uid() not in KNOWN_UIDS:
            return
        identity = kernel.hypercalls.hyp_identify()
        if identity.api.version != API_VERSION:
            kernel.log.warning(f"gunyah: Unrecognized gunyah version: {identity.api.version}. Currently supported: 1")
            return
        self.identity = identity
        kernel.log.notice(f"gunyah: Running under Gunyah hypervisor {identity.api.variant:x}/v{identity.api.version}")
        hypervisor = kernel.sysfs.root.ensure("hypervisor")
        if "type" not in hypervisor.entries:
            hypervisor.add_file(Attribute("type", lambda: "gunyah\n"))
        group = KObject("gunyah", hypervisor)
        group.add_file(Attribute("api", lambda: f"{identity.api.version}\n"))
        group.add_file(Attribute("variant", lambda: f"{identity.api.variant}\n"))
        group.add_file(Attribute("features", self._features))
        self._directory = group

    def _features(self) -> str:
        identity = self.identity
        flags = identity.flags[0] if identity is not None else 0
        return "".join(f"{word} " for bit, word in _FEATURES if flags & bit) + "\n"

    def exit(self) -> None:
        """Module exit: remove what init created, and only that."""
        directory, self._directory = self._directory, None
        if directory is not None:
            directory.delete()
            self._kernel.sysfs.root.ensure("hypervisor").remove_entry("type")
        self.identity = None
