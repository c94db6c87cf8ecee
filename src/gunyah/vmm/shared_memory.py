"""Memory that several VMs of one owner share: one memparcel, whose access list names all of them (rm-rpc.md 8.2).

RM accepts it for each VM when that VM starts and releases it when the VM is reset, so the owner can take it back only
when the last of them is gone. A VM that starts again while another one still has it finds what is in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gunyah.abi.rm import AclEntry, MemRights, SglEntry
from gunyah.abi.types import PAGE_SIZE
from gunyah.guest.heap import Buffer
from gunyah.vmm.errors import VmError

if TYPE_CHECKING:
    from gunyah.vmm.manager import VirtualMachine, VmManager
    from gunyah.vmm.vm_config import SharedMemory

__all__ = ["Region", "Regions"]

_RW: Final = MemRights.R | MemRights.W


@dataclass(slots=True, eq=False)
class Region:
    """One piece of memory: the owner's buffer of it, its memparcel, and who has it now."""

    label: int
    members: frozenset[str]
    buffer: Buffer
    handle: int
    users: set[str] = field(default_factory=set)


class Regions:
    """What the VMs of one manager share with each other."""

    def __init__(self, manager: VmManager) -> None:
        self._manager = manager
        self._regions: list[Region] = []

    def _find(self, label: int, members: frozenset[str]) -> Region | None:
        return next((r for r in self._regions if (r.label, r.members) == (label, members)), None)

    def join(self, vm: VirtualMachine, shared: SharedMemory) -> Region:
        """The region, made if ``vm`` is the first to want it. Raises RmRefused, OutOfMemory, VmError for unknown peers.

        Peers that RM does not know yet get their VMIDs now, so that the access list can name them.
        """
        members = frozenset((vm.name, *shared.peers))
        region = self._find(shared.label, members)
        if region is None:
            region = self._make(shared, members)
        elif region.buffer.size != shared.size:
            others = ", ".join(sorted(members - {vm.name}))
            raise VmError(
                f"VM {vm.name}: shared memory {shared.label} has {region.buffer.size:#x} bytes for {others}, "
                f"not {shared.size:#x}"
            )
        region.users.add(vm.name)
        return region

    def _make(self, shared: SharedMemory, members: frozenset[str]) -> Region:
        manager = self._manager
        services = manager.kernel.services
        vmids = [manager.named(name).allocate() for name in sorted(members)]
        buffer = services.heap.allocate(shared.size, PAGE_SIZE)
        try:
            services.cpu.write(buffer.address, bytes(shared.size))
            acl = [AclEntry(vmid, _RW) for vmid in (*vmids, manager.own_vmid)]
            handle = manager.rm.mem_share(acl, (SglEntry(buffer.address, shared.size),), label=shared.label)
        except BaseException:
            buffer.free()
            raise
        region = Region(shared.label, members, buffer, handle)
        self._regions.append(region)
        return region

    def leave(self, vm: VirtualMachine) -> None:
        """``vm`` was reset: what nobody has any more goes back to the owner."""
        for region in [region for region in self._regions if vm.name in region.users]:
            region.users.discard(vm.name)
            if not region.users:
                self._manager.rm.mem_reclaim(region.handle, sanitize=True)
                region.buffer.free()
                self._regions.remove(region)

    def holders(self, vm: VirtualMachine) -> set[str]:
        """Other VMs that have memory now whose access list names ``vm``."""
        others = [region.users - {vm.name} for region in self._regions if vm.name in region.members]
        return set().union(*others)
