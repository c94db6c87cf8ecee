"""RM's hold on physical memory: parent extents, what each VM owns, moving pages and mapping them.

All RAM that VMs may own hangs in one sparse parent extent, all device space in the extent RM got at boot. Every VM that
owns memory, and every memparcel, is a sparse child of one of the two, so pages move between them by sibling donation,
and the hypervisor's invariant (only the owning extent can be mapped) makes each RM rule a rule of the MMU. All DDR
children start at physical address 0, device children at the device base, so an offset is the same in all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from gunyah.abi.errors import Error
from gunyah.abi.memory import (
    IPA_BITS,
    MAP_PARTIAL,
    NO_SYNC,
    Access,
    DonateOptions,
    DonateType,
    MapMemtype,
    MappingAttributes,
    MemextentAttributes,
    MemextentMemtype,
    MemextentModifyOp,
    MemextentType,
    ModifyFlags,
)
from gunyah.abi.rm import MemAttribute, MemType
from gunyah.abi.types import PAGE_SIZE
from gunyah.guest.hypercall import HypercallFailed, Hypercalls
from gunyah.rm.address import AddressAllocator
from gunyah.rm.environment import Environment

__all__ = ["Memory", "Region", "VmMemory", "Window", "memtype_of"]

_WINDOW_BASE = 0x4_0000_0000
_WINDOW_SIZE = 0x4_0000_0000
"""Where RM maps other VMs' memory into its own address space while it works on it: above all RAM, below 36 bits."""

_PARTIAL = MAP_PARTIAL | NO_SYNC
_TO_CHILD = DonateOptions(DonateType.TO_CHILD).pack()
_TO_PARENT = DonateOptions(DonateType.TO_PARENT).pack()
_TO_SIBLING = DonateOptions(DonateType.TO_SIBLING).pack()
_ZERO = ModifyFlags(MemextentModifyOp.ZERO_RANGE, no_sync=True).pack()
_UNMAP_ALL = ModifyFlags(MemextentModifyOp.UNMAP_ALL).pack()

_MEMTYPES = {
    MemAttribute.NORMAL: MapMemtype.NORMAL_WB,
    MemAttribute.CACHED: MapMemtype.NORMAL_WB,
    MemAttribute.UNCACHED: MapMemtype.NORMAL_NC,
    MemAttribute.DEVICE: MapMemtype.DEVICE_NGNRE,
}


def memtype_of(attribute: int) -> MapMemtype:
    """Stage-2 memory type for a memparcel attribute (rm-rpc.md 4.10)."""
    return _MEMTYPES[MemAttribute(attribute)]


class Region(NamedTuple):
    """A physically contiguous piece: physical address, size in bytes, and the owner's IPA it came from."""

    pa: int
    size: int
    owner_ipa: int

    @property
    def end(self) -> int:
        """First byte after it."""
        return self.pa + self.size


@dataclass(slots=True)
class VmMemory:
    """What RM knows of one VM's memory: its address space, the extents that are its own, and its IPA ranges."""

    addrspace: int
    allocator: AddressAllocator
    direct: bool
    """IPA = PA for normal memory."""
    owned: dict[int, int] = field(default_factory=dict)
    """MemType to the extent of memory that is the VM's own."""
    received: list[tuple[int, int, Region]] = field(default_factory=list)
    """Donated to the VM: (MemType, donor's VMID, region with the donor's IPA)."""


class Window:
    """Part of an extent mapped into RM's own address space; a context manager. ``address`` is RM's IPA."""

    def __init__(self, memory: Memory, extent: int, pieces: list[tuple[int, int]], access: Access) -> None:
        self._memory = memory
        self._extent = extent
        self._pieces = pieces
        self._access = access
        self.size = sum(size for _, size in pieces)
        self.address = 0
        self._mapped: list[tuple[int, int, int]] = []

    def __enter__(self) -> Window:
        memory = self._memory
        at = self.address = memory.windows.allocate(self.size, PAGE_SIZE)
        try:
            for offset, size in self._pieces:
                memory.map_piece(memory.environment.addrspace, self._extent, at, offset, size, self._access)
                self._mapped.append((at, offset, size))
                at += size
        except HypercallFailed:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmap and give the window back."""
        memory = self._memory
        for at, offset, size in self._mapped:
            memory.unmap_piece(memory.environment.addrspace, self._extent, at, offset, size)
        if self.address:
            memory.windows.free(self.address, self.size)
        self._mapped.clear()
        self.address = 0


class Memory:
    """Parent extents and the operations on their children. ``before`` is called before each of them (faults)."""

    def __init__(self, hyp: Hypercalls, environment: Environment) -> None:
        self.hyp = hyp
        self.environment = environment
        self.windows = AddressAllocator(_WINDOW_BASE, _WINDOW_SIZE)
        self.spare = AddressAllocator(0, 1 << IPA_BITS)
        """Physical pages RM keeps for itself: free RAM outside the primary VM's and RM's own."""
        self._reserve_foreign()
        self.before: Callable[[str], None] = _nothing
        attributes = MemextentAttributes(Access.RWX, MemextentMemtype.ANY, MemextentType.SPARSE)
        self.ddr = hyp.partition_create_memextent(environment.partition, environment.cspace)
        hyp.memextent_configure(self.ddr, 0, 1 << IPA_BITS, attributes.pack())
        hyp.object_activate(self.ddr)

    def _reserve_foreign(self) -> None:
        """Take everything that is not spare out of the pool of spare pages."""
        environment = self.environment
        at = 0
        hlos_end = environment.hlos_base + environment.hlos_size
        busy = [(environment.hlos_base, hlos_end), (environment.own_base, environment.own_base + environment.own_size)]
        for base, size in sorted(environment.free_ranges):
            busy.append((at, base))
            at = base + size
        busy.append((at, 1 << IPA_BITS))
        start = 0
        for base, end in sorted(busy):
            if max(start, base) < end:
                self.spare.allocate_fixed(max(start, base), end - max(start, base))
                start = end

    # -- extents -------------------------------------------------------------------------------------------------------

    def _base(self, mem_type: int) -> int:
        return self.environment.device_base if mem_type == MemType.IO else 0

    def new_extent(self, mem_type: int) -> int:
        """A sparse child that owns nothing yet and is mapped nowhere; its capability in RM's space."""
        hyp, environment = self.hyp, self.environment
        extent = hyp.partition_create_memextent(environment.partition, environment.cspace)
        try:
            if mem_type == MemType.IO:
                attributes = MemextentAttributes(Access.RW, MemextentMemtype.DEVICE, MemextentType.SPARSE)
                parent, size = environment.device_extent, environment.device_size
            else:
                attributes = MemextentAttributes(Access.RWX, MemextentMemtype.ANY, MemextentType.SPARSE)
                parent, size = int(self.ddr), 1 << IPA_BITS
            hyp.memextent_configure_derive(extent, parent, 0, size, attributes.pack())
            hyp.object_activate(extent)
        except HypercallFailed:
            self.delete(extent)
            raise
        return extent

    def delete(self, capability: int) -> None:
        """Drop RM's capability to an object; its pages go to the parent when nothing else holds it."""
        self.hyp.cspace_delete_cap_from(self.environment.cspace, capability)

    def owned_extent(self, vm: VmMemory, mem_type: int) -> int:
        """The extent of the VM's own memory of this kind, made at first use."""
        if mem_type not in vm.owned:
            vm.owned[mem_type] = self.new_extent(mem_type)
        return vm.owned[mem_type]

    # -- moving pages --------------------------------------------------------------------------------------------------

    def give_from_partition(self, vm: VmMemory, pa: int, size: int) -> None:
        """Move free RAM to a VM: partition to parent extent to the VM's own."""
        hyp = self.hyp
        hyp.memextent_donate(_TO_CHILD, self.environment.partition, self.ddr, pa, size)
        try:
            hyp.memextent_donate(_TO_CHILD, self.ddr, self.owned_extent(vm, MemType.NORMAL), pa, size)
        except HypercallFailed:
            hyp.memextent_donate(_TO_PARENT, self.ddr, self.environment.partition, pa, size)
            raise

    def give_device(self, vm: VmMemory, pa: int, size: int) -> None:
        """Move device space from RM's device extent to a VM."""
        extent = self.owned_extent(vm, MemType.IO)
        self.hyp.memextent_donate(_TO_CHILD, self.environment.device_extent, extent, pa - self._base(MemType.IO), size)

    def donate(self, mem_type: int, giver: int, taker: int, pa: int, size: int) -> None:
        """Move pages between two children; raises HypercallFailed, and then nothing moved."""
        self.before("donate")
        self.hyp.memextent_donate(_TO_SIBLING, giver, taker, pa - self._base(mem_type), size)

    def give_back(self, vm: VmMemory, ranges: list[tuple[int, int]]) -> None:
        """Return a VM's own RAM to the partition (pa, size)."""
        for pa, size in ranges:
            self.hyp.memextent_donate(_TO_PARENT, vm.owned[MemType.NORMAL], self.ddr, pa, size)
            self.hyp.memextent_donate(_TO_PARENT, self.ddr, self.environment.partition, pa, size)

    def zero(self, extent: int, pa: int, size: int) -> None:
        """Zero normal memory that ``extent`` owns."""
        self.hyp.memextent_modify(extent, _ZERO, pa, size)

    def unmap_all(self, extent: int) -> None:
        """Remove every mapping of an extent."""
        self.hyp.memextent_modify(extent, _UNMAP_ALL)

    # -- mapping -------------------------------------------------------------------------------------------------------

    def map_piece(
        self,
        addrspace: int,
        extent: int,
        ipa: int,
        offset: int,
        size: int,
        access: int,
        memtype: int = MapMemtype.NORMAL_WB,
    ) -> None:
        """Map part of a sparse extent, the same access for user and kernel; raises HypercallFailed."""
        self.before("map")
        attributes = MappingAttributes(access, access, memtype).pack()
        self.hyp.addrspace_map(addrspace, extent, ipa, attributes, _PARTIAL, offset, size)

    def unmap_piece(self, addrspace: int, extent: int, ipa: int, offset: int, size: int) -> None:
        """Take a partial mapping back; harmless when it is gone already."""
        try:
            self.hyp.addrspace_unmap(addrspace, extent, ipa, _PARTIAL, offset, size)
        except HypercallFailed as failure:
            if failure.error != Error.ADDR_INVALID:
                raise

    def map(
        self, vm: VmMemory, extent: int, mem_type: int, ipa: int, region: Region, rights: int, memtype: int
    ) -> None:
        """Map a region of an extent into a VM."""
        offset = region.pa - self._base(mem_type)
        self.map_piece(vm.addrspace, extent, ipa, offset, region.size, rights, memtype)

    def unmap(self, vm: VmMemory, extent: int, mem_type: int, ipa: int, region: Region) -> None:
        """Take a region's mapping out of a VM."""
        self.unmap_piece(vm.addrspace, extent, ipa, region.pa - self._base(mem_type), region.size)

    def lookup(self, vm: VmMemory, mem_type: int, ipa: int, size: int) -> tuple[int, int]:
        """(pa, size) of the contiguous piece of the VM's own memory that starts at ``ipa``; raises HypercallFailed."""
        extent = self.owned_extent(vm, mem_type)
        offset, length, _ = self.hyp.addrspace_lookup(vm.addrspace, extent, ipa, size)
        return offset + self._base(mem_type), length

    def window(self, extent: int, pieces: list[tuple[int, int]], access: Access = Access.RW) -> Window:
        """A view of (offset, size) pieces of an extent, contiguous in RM's address space."""
        return Window(self, extent, pieces, access)


def _nothing(_operation: str) -> None:
    return
