"""Memory extents: a range of physical memory, its ownership and its mappings (objects.md 3, hypercalls.md 3.6).

A basic extent owns its whole range, less what has been derived from it, and is mapped whole. A sparse one owns the
pages that were donated to it and is mapped page by page. Stage 2 always shows, in every place where an extent is
mapped, exactly the pages it owns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gunyah.abi.errors import Error
from gunyah.abi.memory import (
    EXTENT_ACCESSES,
    MEMEXTENT_ATTRIBUTES_RESERVED,
    MEMEXTENT_MAPPINGS_MAX,
    PERMITTED_MEMTYPES,
    Access,
    MappingAttributes,
    MemextentAttributes,
    MemextentMemtype,
    MemextentType,
)
from gunyah.abi.objects import ObjectType
from gunyah.abi.types import PAGE_MASK, U64
from gunyah.hypervisor import memextent_mapping
from gunyah.hypervisor.addrspace import Addrspace, atomically
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.memdb import Owner, OwnerKind
from gunyah.hypervisor.memextent_map import Slot
from gunyah.hypervisor.objects import KernelObject

if TYPE_CHECKING:
    from gunyah.hypervisor.partition import Partition
    from gunyah.hypervisor.vdevice import VirtualDevice

__all__ = ["MemExtent"]

_RW = int(Access.RW)
_R, _W, _X = int(Access.R), int(Access.W), int(Access.X)
# Without forced write-back in stage 2 an extent cannot be restricted to cached mappings.
_MEMTYPES = frozenset({MemextentMemtype.ANY, MemextentMemtype.DEVICE, MemextentMemtype.UNCACHED})
_KINDS = frozenset({MemextentType.BASIC, MemextentType.SPARSE})


class MemExtent(KernelObject):
    """memextent_t. ``base`` is a PA, ``size`` bytes; ``kind`` is MemextentType, ``memtype`` MemextentMemtype."""

    type = ObjectType.MEMEXTENT
    heap_size = 512

    def __init__(self, partition: Partition) -> None:
        super().__init__(partition)
        self.system = partition.system
        self._partition = partition
        # Memory that becomes known by this extent; nobody owned it before.
        self._device = False
        self.base = 0
        self.size = 0
        self.access = 0
        self.memtype = 0
        self.kind = int(MemextentType.BASIC)
        self.parent: MemExtent | None = None
        self.children: set[MemExtent] = set()
        self.attached = False
        """The hypervisor has it mapped for itself (information page, virtio registers)."""
        self.vdevice: VirtualDevice | None = None
        """What answers writes to read-only mappings of this extent."""
        self.owner = Owner(OwnerKind.EXTENT, self)
        self.slots = [Slot(self) for _ in range(MEMEXTENT_MAPPINGS_MAX)]

    @classmethod
    def device(cls, partition: Partition, base: int, size: int, word: int) -> MemExtent:
        """An active extent over physical addresses that are not RAM, which only the hypervisor makes, at its start.

        ``word``: attributes word (32 bits). MEMDB_NOT_OWNER: somebody owns part of [base, base + size) already.
        """
        extent = cls(partition)
        extent._device = True
        try:
            extent.configure(base, size, word)
            extent.activate()
        except HypervisorError:
            extent.put()
            raise
        return extent

    @property
    def sparse(self) -> bool:
        """True if memory comes and goes by donation and any pages can be mapped."""
        return self.kind == MemextentType.SPARSE

    @property
    def _source(self) -> Owner:
        """Who the memory comes from and returns to."""
        return self.parent.owner if self.parent is not None else self._partition.free_memory

    def charge(self, size: int) -> None:
        """Take heap bytes for a record of this extent; raises NOMEM."""
        self._partition.charge(self, size)

    def refund(self, size: int) -> None:
        """Give heap bytes back."""
        self._partition.refund(self, size)

    def owned(self, pa: int | None = None, size: int | None = None) -> Iterator[tuple[int, int]]:
        """(PA, bytes) of what the extent owns, in its whole range or in the given one."""
        database = self.system.database
        return database.owned(self.owner, self.base if pa is None else pa, self.size if size is None else size)

    def owns(self, pa: int, size: int) -> bool:
        """True if the extent owns all of [pa, pa + size)."""
        return self.system.database.is_owned(pa, size, self.owner)

    # -- configuration -------------------------------------------------------------------------------------------------

    def configure(self, base: int, size: int, word: int) -> None:
        """Take [base, base + size) of the partition's memory at activation; ``word`` is the attributes word (32 bits).

        ARGUMENT_INVALID: 0 bytes, wraps, bad attributes. ARGUMENT_ALIGNMENT: not whole pages.
        """
        self._check_size(base, size)
        self._check_pages(base, size)
        attributes = self._check_attributes(word)
        self._set(base, size, attributes, None)

    def configure_derive(self, parent: MemExtent, offset: int, size: int, word: int) -> None:
        """Take ``size`` bytes at ``offset`` of ``parent`` at activation.

        ARGUMENT_INVALID: as `configure`, more access than the parent, another memory type. ADDR_INVALID: outside the
        parent. ARGUMENT_ALIGNMENT: not whole pages.
        """
        self._check_size(offset, size)
        if offset + size > parent.size:
            raise HypervisorError(
                Error.ADDR_INVALID, f"{parent} has {parent.size:#x} bytes: {offset:#x}+{size:#x} is not inside"
            )
        self._check_pages(offset, size)
        attributes = self._check_attributes(word)
        if attributes.access & ~parent.access:
            raise HypervisorError(
                Error.ARGUMENT_INVALID, f"{self}: access {attributes.access} is more than {parent}'s {parent.access}"
            )
        if parent.memtype not in (MemextentMemtype.ANY, attributes.memtype):
            raise HypervisorError(
                Error.ARGUMENT_INVALID, f"{self}: memory type {attributes.memtype}, {parent} has {parent.memtype}"
            )
        self._set(parent.base + offset, size, attributes, parent)

    def _check_size(self, base: int, size: int) -> None:
        if size == 0 or base + size - 1 > U64:
            raise HypervisorError(Error.ARGUMENT_INVALID, f"{self}: range {base:#x}+{size:#x} is empty or wraps")

    def _check_pages(self, base: int, size: int) -> None:
        if (base | size) & PAGE_MASK:
            raise HypervisorError(Error.ARGUMENT_ALIGNMENT, f"{self}: range {base:#x}+{size:#x} is not whole pages")

    def _check_attributes(self, word: int) -> MemextentAttributes:
        attributes = MemextentAttributes.unpack(word)
        if (
            word & MEMEXTENT_ATTRIBUTES_RESERVED
            or attributes.append
            or attributes.type not in _KINDS
            or attributes.memtype not in _MEMTYPES
            or attributes.access not in EXTENT_ACCESSES
        ):
            raise HypervisorError(Error.ARGUMENT_INVALID, f"{self}: attributes {word:#x}: {attributes}")
        return attributes

    def _set(self, base: int, size: int, attributes: MemextentAttributes, parent: MemExtent | None) -> None:
        self.base, self.size = base, size
        self.access, self.memtype, self.kind = attributes.access, attributes.memtype, attributes.type
        if parent is not None:
            parent.get()
        if self.parent is not None:
            self.parent.put()
        self.parent = parent

    # -- life ----------------------------------------------------------------------------------------------------------

    def _activate(self) -> None:
        if self.size == 0:
            raise HypervisorError(Error.OBJECT_CONFIG, f"{self} is not configured")
        database = self.system.database
        if self.parent is not None:
            self._activate_derived(self.parent)
        elif self._device:
            database.insert(self.base, self.size, self.owner)
        elif not self.sparse:
            database.transfer(self.base, self.size, self._source, self.owner)

    def _activate_derived(self, parent: MemExtent) -> None:
        if parent.attached:
            raise HypervisorError(Error.BUSY, f"{parent} is attached to the hypervisor: nothing can be derived from it")
        database = self.system.database
        moves = not (self.sparse and parent.sparse)
        if moves:
            database.transfer(self.base, self.size, parent.owner, self.owner)
        try:
            self._inherit(parent)
            if moves:
                self.move_mappings(parent, self, ((self.base, self.size),))
        except HypervisorError:
            for slot in self.slots:
                slot.clear()
            if moves:
                database.transfer(self.base, self.size, self.owner, parent.owner)
            raise
        parent.children.add(self)

    def _inherit(self, parent: MemExtent) -> None:
        """Record the parent's mappings of the child's range as the child's, less the access the child lacks."""
        end = self.base + self.size
        for source, slot in zip(parent.slots, self.slots, strict=True):
            if source.addrspace is None:
                continue
            at = self.base
            while at < end:
                piece, size = source.find(at, end - at)
                if not self.sparse and size != self.size:
                    raise HypervisorError(
                        Error.DENIED, f"{parent} is mapped over part of {self} only, which cannot be mapped in part"
                    )
                if piece is not None:
                    user, kernel, memtype = piece.attributes
                    masked = MappingAttributes(user & self.access, kernel & self.access, memtype)
                    if self.sparse:
                        self.record(source.addrspace, at, size, at + piece.delta, masked)
                    else:
                        slot.insert(source.addrspace, at, size, at + piece.delta, masked)
                at += size

    def _deactivate(self) -> None:
        database = self.system.database
        owned = tuple(self.owned())
        self.move_mappings(self, self.parent, owned, lenient=True)
        for pa, size in owned:
            database.transfer(pa, size, self.owner, self._source)
        for slot in self.slots:
            slot.clear()
        if self.parent is not None:
            self.parent.children.discard(self)

    def _cleanup(self) -> None:
        if self.parent is not None:
            self.parent.put()
            self.parent = None

    def attach(self, partition: Partition, size: int) -> None:
        """Map the first ``size`` bytes for the hypervisor itself.

        DENIED: another partition's or not read-write. ARGUMENT_SIZE: too small. MEMEXTENT_TYPE: sparse. BUSY: it has
        children, or is attached already.
        """
        if partition is not self.partition or self.access & _RW != _RW:
            raise HypervisorError(Error.DENIED, f"{self} (access {self.access}) cannot be attached to {partition}")
        if not self.system.ram.contains(self.base, self.size):
            raise HypervisorError(Error.DENIED, f"{self} at {self.base:#x} is not RAM: it cannot be attached")
        if size > self.size:
            raise HypervisorError(Error.ARGUMENT_SIZE, f"{self} has {self.size:#x} bytes, {size:#x} are needed")
        if self.sparse:
            raise HypervisorError(Error.MEMEXTENT_TYPE, f"{self} is sparse: it cannot be attached to the hypervisor")
        if self.children or self.attached:
            raise HypervisorError(Error.BUSY, f"{self} has children or is attached already")
        self.attached = True

    def detach(self) -> None:
        """Undo `attach`."""
        self.attached = False

    # -- ownership -----------------------------------------------------------------------------------------------------

    def take(self, pa: int, size: int) -> None:
        """Get pages from the partition, with their stage-2 effect. MEMDB_NOT_OWNER and what a mapping raises."""
        self._move(self._partition.free_memory, None, self.owner, self, pa, size)

    def give(self, receiver: MemExtent | None, pa: int, size: int) -> None:
        """Hand pages to another extent, or to the partition. MEMDB_NOT_OWNER and what a mapping raises."""
        new = receiver.owner if receiver is not None else self._partition.free_memory
        self._move(self.owner, self, new, receiver, pa, size)

    def _move(
        self, old: Owner, giver: MemExtent | None, new: Owner, receiver: MemExtent | None, pa: int, size: int
    ) -> None:
        database = self.system.database
        database.transfer(pa, size, old, new)
        try:
            self.move_mappings(giver, receiver, ((pa, size),))
        except HypervisorError:
            database.transfer(pa, size, new, old)
            raise

    # -- stage 2 -------------------------------------------------------------------------------------------------------

    def move_mappings(
        self,
        giver: MemExtent | None,
        taker: MemExtent | None,
        ranges: tuple[tuple[int, int], ...],
        *,
        lenient: bool = False,
    ) -> None:
        """Make stage 2 follow an ownership change: the ranges leave the giver's mappings and appear in the taker's.

        What both map at the same IPA of the same address space is changed in place. All address spaces change, or none
        does. ``lenient`` is for destruction, which must succeed: what the taker cannot get back there stays unmapped.
        """
        out = [slot for slot in giver.slots if slot.addrspace is not None] if giver is not None else []
        into = [slot for slot in taker.slots if slot.addrspace is not None] if taker is not None else []
        if not (out or into):
            return
        spaces = {slot.addrspace for slot in (*out, *into) if slot.addrspace is not None}
        with atomically(spaces):
            for pa, size in ranges:
                end = pa + size
                while pa < end:
                    pa += self._move_step(out, into, pa, end - pa, lenient)

    @staticmethod
    def _move_step(out: list[Slot], into: list[Slot], pa: int, size: int, lenient: bool) -> int:
        old: dict[tuple[Addrspace, int], MappingAttributes] = {}
        new: dict[tuple[Addrspace, int], MappingAttributes] = {}
        for slots, found in ((out, old), (into, new)):
            for slot in slots:
                piece, size = slot.find(pa, size)
                if piece is not None and slot.addrspace is not None:
                    found[slot.addrspace, pa + piece.delta] = piece.attributes
        for space, ipa in old:
            if (space, ipa) not in new:
                space.tables.unmap(ipa, size, pa, reserve=lenient)
        for (space, ipa), attributes in new.items():
            if old.get((space, ipa)) == attributes:
                continue
            try:
                space.tables.map(ipa, size, pa, attributes, reserve=lenient)
            except HypervisorError:
                if not lenient:
                    raise
                space.tables.unmap(ipa, size, pa, reserve=True)
        return size

    def record(self, addrspace: Addrspace, pa: int, size: int, ipa: int, attributes: MappingAttributes) -> Slot:
        """Record a mapping in a slot of ``addrspace`` where nothing overlaps, or in a free one.

        MEMEXTENT_MAPPINGS_FULL: there is none. NOMEM.
        """
        free = None
        for slot in self.slots:
            if slot.addrspace is addrspace:
                if not slot.overlaps(pa, size):
                    break
            elif slot.addrspace is None and free is None:
                free = slot
        else:
            if free is None:
                raise HypervisorError(Error.MEMEXTENT_MAPPINGS_FULL, f"{self}: all mapping slots are in use")
            slot = free
        slot.insert(addrspace, pa, size, ipa, attributes)
        return slot

    def map(self, addrspace: Addrspace, vbase: int, attributes: MappingAttributes) -> None:
        """Map the whole extent with its start at ``vbase``; see `memextent_mapping.map_extent` for what it raises."""
        memextent_mapping.map_extent(self, addrspace, vbase, attributes)

    def check_mapping(self, attributes: MappingAttributes) -> None:
        """Raise ARGUMENT_INVALID unless the extent permits the access and the memory type."""
        self.check_access(attributes.user, attributes.kernel)
        if attributes.memtype not in PERMITTED_MEMTYPES[self.memtype]:
            raise HypervisorError(
                Error.ARGUMENT_INVALID, f"{self}: memory type {attributes.memtype:#x} is not one it may be mapped with"
            )

    def check_access(self, user: int, kernel: int) -> None:
        """Raise ARGUMENT_INVALID unless the extent has the rights and stage 2 can express them."""
        if (user | kernel) & ~self.access:
            raise HypervisorError(
                Error.ARGUMENT_INVALID, f"{self}: access {user}/{kernel} is more than its {self.access}"
            )
        if (user ^ kernel) & _RW or kernel == _X:
            raise HypervisorError(
                Error.ARGUMENT_INVALID, f"{self}: stage 2 cannot give user access {user} with kernel access {kernel}"
            )
