"""VM records and their table: who exists, who owns whom, who may ask about whom, and which state may follow which.

The transition table is rm-rpc.md 4.1, the VMID pools rm-behaviour.md 1.1 (QEMU's sets). Records know nothing of
capabilities; what a VM owns in the hypervisor hangs at ``Vm.objects``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from gunyah.abi.errors import RmError
from gunyah.abi.rm import GUID_SIZE, VM_TRANSITIONS, AuthType, OsStatus, VmStatus
from gunyah.abi.types import VMID_HLOS, VMID_RM
from gunyah.rm.errors import RmFailure

if TYPE_CHECKING:
    from gunyah.abi.profile import Profile
    from gunyah.rm.vm_objects import VmObjects
    from gunyah.rm.vmconfig import VmConfig

__all__ = [
    "CRASH_MESSAGE_MAX",
    "DYNAMIC_VMIDS",
    "Image",
    "ResetStage",
    "SECONDARY_VMIDS",
    "Vm",
    "VmTable",
]

SECONDARY_VMIDS = frozenset(range(4, 32))
"""Fixed ids that may be asked for by number: QEMU's bit map 0xFFFFFFF0."""
DYNAMIC_VMIDS = range(0x80, 0xBF)
"""Ids handed out on request, lowest free first."""
CRASH_MESSAGE_MAX = 192
"""Bytes kept of a crash message."""
SENTENCES_MAX = 32
"""Refusals RM remembers per client."""


class ResetStage(Enum):
    """Where the destruction of a VM stands (rm-behaviour.md 11)."""

    INIT = auto()
    DESTROY_VDEVICES = auto()
    RELEASE_MEMPARCELS = auto()
    RELEASE_IRQS = auto()
    DESTROY_VM = auto()
    CLEANUP = auto()
    COMPLETED = auto()


@dataclass(slots=True)
class Image:
    """What VM_CONFIG_IMAGE said: byte ranges inside the image memparcel, and what firmware was set for the VM."""

    auth: AuthType
    handle: int
    offset: int
    size: int
    dt_offset: int
    dt_size: int
    firmware_handle: int | None = None
    firmware_offset: int = 0
    firmware_size: int = 0
    entry: int | None = None
    """Where an ELF image begins to run; other images begin at their offset."""
    ramdisk: tuple[int, int] | None = None
    """(offset, bytes) in the memparcel of an ELF image's RAM disk."""
    bootargs: str = ""
    """What an ELF image's configuration archive adds to the command line."""


@dataclass(slots=True, eq=False)
class Vm:
    """One VM record (vm_t): identity, state and relations."""

    vmid: int
    owner: int
    profile: Profile
    state: VmStatus = VmStatus.LOAD
    os_state: OsStatus = OsStatus.NONE
    app_status: int = 0
    name: str = ""
    uri: str = ""
    guid: bytes = bytes(GUID_SIZE)
    peers: list[Vm] = field(default_factory=list)
    crash_message: bytes | None = None
    image: Image | None = None
    config: VmConfig | None = None
    objects: VmObjects | None = None
    accepted: list[int] = field(default_factory=list)
    """Handles of memparcels this VM has accepted, in order."""
    boot_registers: list[tuple[int, int, int]] = field(default_factory=list)
    """(register set, index, value) for the boot vCPU, from VM_SET_BOOT_CONTEXT."""
    paged_ranges: list[tuple[int, int]] = field(default_factory=list)
    """(IPA, size) a later Linux host wants to page on demand."""
    layout: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Range id (0 image, 1 firmware) to (IPA, size), from VM_SET_ADDRESS_LAYOUT."""
    parcels_owned: int = 0
    no_shutdown: bool = False
    no_reset: bool = False
    crash_fatal: bool = False
    sensitive: bool = False
    reset_stage: ResetStage = ResetStage.INIT
    sentences: deque[str] = field(default_factory=lambda: deque(maxlen=SENTENCES_MAX))
    """The latest refusals this client got, for a person who asks why."""

    def may_become(self, target: VmStatus) -> bool:
        """Whether ``target`` may follow the present state, the VM's own conditions included (rm-rpc.md 4.1)."""
        if target in (VmStatus.PAUSED, VmStatus.EXITED) and self.no_shutdown:
            return False
        if target is VmStatus.EXITED and self.crash_fatal:
            return False
        if target is VmStatus.RESETTING and self.no_reset:
            return False
        return self.state in VM_TRANSITIONS.get(target, frozenset())

    def become(self, target: VmStatus) -> None:
        """Change the state; raises RmFailure VM_STATE where the table forbids it."""
        if not self.may_become(target):
            raise RmFailure(RmError.VM_STATE, f"VM {self.vmid}: {target.name} cannot follow {self.state.name}")
        self.state = target

    def exited(self) -> bool:
        """The VM has stopped for good (until a reset), or never ran and is being destroyed."""
        return self.state in (VmStatus.EXITED, VmStatus.RESETTING, VmStatus.RESET)

    def add_peer(self, other: Vm) -> None:
        """Link both VMs as peers; harmless when they are."""
        if other not in self.peers:
            self.peers.append(other)
        if self not in other.peers:
            other.peers.append(self)

    def drop_peers(self) -> None:
        """Remove every peer link of this VM."""
        for other in self.peers:
            if self in other.peers:
                other.peers.remove(self)
        self.peers.clear()

    def may_be_queried_by(self, client: Vm) -> bool:
        """The caller is the VM itself, its owner or a peer (rm-rpc.md 7)."""
        return client is self or client.vmid == self.owner or client in self.peers

    def clear(self) -> None:
        """Forget names, messages and statuses: the CLEANUP stage of a reset."""
        self.name = self.uri = ""
        self.guid = bytes(GUID_SIZE)
        self.crash_message = None
        self.os_state = OsStatus.NONE
        self.app_status = 0
        self.image = None
        self.config = None
        self.boot_registers.clear()
        self.paged_ranges.clear()
        self.layout.clear()
        self.no_shutdown = self.no_reset = self.crash_fatal = self.sensitive = False


class VmTable:
    """All VM records by VMID, in that order."""

    def __init__(self) -> None:
        self._vms: dict[int, Vm] = {}

    def __iter__(self) -> Iterator[Vm]:
        return iter([self._vms[vmid] for vmid in sorted(self._vms)])

    def __len__(self) -> int:
        return len(self._vms)

    def get(self, vmid: int) -> Vm | None:
        """The record, or None."""
        return self._vms.get(vmid)

    def lookup(self, vmid: int, code: RmError = RmError.VMID_INVALID) -> Vm:
        """The record; raises RmFailure ``code`` when there is no such VM."""
        vm = self._vms.get(vmid)
        if vm is None:
            raise RmFailure(code, f"there is no VM {vmid}")
        return vm

    def owned(self, vmid: int, client: Vm, code: RmError = RmError.DENIED) -> Vm:
        """The record of a VM that ``client`` owns; VMID_INVALID when unknown, ``code`` when it is another's."""
        vm = self.lookup(vmid)
        if vm.owner != client.vmid:
            raise RmFailure(code, f"VM {vmid} is owned by VM {vm.owner}, not by the caller, VM {client.vmid}")
        return vm

    def queried(self, vmid: int, client: Vm, unknown: RmError, refused: RmError) -> Vm:
        """The record of a VM that ``client`` may ask about; 0 is the client itself."""
        vm = client if vmid == 0 else self.lookup(vmid, unknown)
        if not vm.may_be_queried_by(client):
            raise RmFailure(refused, f"VM {client.vmid} is neither VM {vmid} nor its owner nor a peer of it")
        return vm

    def add(self, vm: Vm) -> Vm:
        """Enter a record; the owner, if it is a VM other than RM, becomes a peer."""
        if vm.vmid in self._vms:
            raise ValueError(f"VM {vm.vmid} exists already")
        self._vms[vm.vmid] = vm
        if vm.owner != VMID_RM:
            vm.add_peer(self._vms[vm.owner])
        return vm

    def free_vmid(self, wanted: int) -> int:
        """The VMID an allocation gets: ``wanted`` of the secondary set, or the lowest free dynamic one for 0."""
        if wanted == 0:
            for vmid in DYNAMIC_VMIDS:
                if vmid not in self._vms:
                    return vmid
            raise RmFailure(RmError.NORESOURCE, f"all {len(DYNAMIC_VMIDS)} dynamic VMIDs are taken")
        if wanted not in SECONDARY_VMIDS:
            raise RmFailure(RmError.NORESOURCE, f"VMID {wanted} is not one of the secondary ids 4..31")
        if wanted in self._vms:
            raise RmFailure(RmError.NORESOURCE, f"VMID {wanted} is taken")
        return wanted

    def remove(self, vm: Vm) -> None:
        """Delete the record of a VM in LOAD or RESET; raises RmFailure VM_STATE otherwise."""
        if vm.state not in (VmStatus.LOAD, VmStatus.RESET):
            raise RmFailure(
                RmError.VM_STATE, f"VM {vm.vmid} is {vm.state.name}; only LOAD and RESET can be deallocated"
            )
        vm.drop_peers()
        del self._vms[vm.vmid]

    def valid_in_acl(self, vmid: int) -> bool:
        """Whether ``vmid`` may stand in an access list: the primary VM, RM, a secondary id, an allocated dynamic id."""
        return vmid in (VMID_HLOS, VMID_RM) or vmid in SECONDARY_VMIDS or (vmid in DYNAMIC_VMIDS and vmid in self._vms)
