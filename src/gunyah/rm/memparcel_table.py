"""All memparcels, and everything that can be done with them (rm-behaviour.md 9, rm-rpc.md 8).

A memparcel is a sparse extent that its pages were donated to, so who can touch a page is decided by the hypervisor:
LEND and DONATE take the owner's mapping away at once (also on this board, where the reference leaves it), SHARE maps
the pages into the owner through the parcel. Every operation either completes or leaves everything as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from gunyah.abi.errors import RmError
from gunyah.abi.rm import (
    LIST_MAX,
    AclEntry,
    AttributeEntry,
    MemAcceptFlag,
    MemAttribute,
    MemCreateFlag,
    MemTrans,
    MemType,
    SglEntry,
)
from gunyah.abi.types import PAGE_MASK, U32
from gunyah.guest.hypercall import HypercallFailed
from gunyah.rm.address import AddressUnavailable
from gunyah.rm.errors import RmFailure, failure_of
from gunyah.rm.memory import Memory, Region, VmMemory, memtype_of
from gunyah.rm.memparcel import (
    ADDRESS_LIMIT,
    Member,
    Memparcel,
    MemparcelState,
    aligned,
    look_ahead,
    physical_runs,
    runs,
    spans,
    without,
)
from gunyah.rm.memparcel_checks import (
    acceptor,
    apply_attributes,
    check_sanitize,
    members_of,
    validate,
    wants_contiguous,
)
from gunyah.rm.vm import Vm, VmTable

__all__ = ["ADDRESS_LIMIT", "PARCELS_MAX", "MemparcelTable"]

PARCELS_MAX = 64
"""Memparcels per owner."""
REGIONS_MAX = 64 * LIST_MAX
"""Pieces one memparcel may collect by appending: a bound on RM's memory that no client of ours reaches."""
_RWX, _RW = 7, 6


class MemparcelTable:
    """All memparcels by handle, and the rules."""

    def __init__(self, memory: Memory, vms: VmTable) -> None:
        self.memory = memory
        self.vms = vms
        self._parcels: dict[int, Memparcel] = {}
        self._next_handle = 0

    def __iter__(self) -> Iterator[Memparcel]:
        return iter(list(self._parcels.values()))

    def __len__(self) -> int:
        return len(self._parcels)

    def lookup(self, handle: int) -> Memparcel:
        """The memparcel; raises HANDLE_INVALID."""
        parcel = self._parcels.get(handle)
        if parcel is None:
            raise RmFailure(RmError.HANDLE_INVALID, f"there is no memparcel {handle:#x}")
        return parcel

    def for_target(self, handle: int, vmid: int) -> Memparcel | None:
        """The memparcel if the VM is in its access list and does not own it."""
        parcel = self._parcels.get(handle)
        return parcel if parcel is not None and parcel.owner != vmid and parcel.member(vmid) else None

    def targeting(self, vmid: int) -> list[Memparcel]:
        """Complete memparcels whose access list names the VM and which another VM owns, oldest first."""
        return [
            parcel
            for parcel in self._parcels.values()
            if parcel.owner != vmid and parcel.member(vmid) and parcel.state is not MemparcelState.INIT
        ]

    def owned_by(self, vmid: int) -> list[Memparcel]:
        """Memparcels of one owner, oldest first."""
        return [parcel for parcel in self._parcels.values() if parcel.owner == vmid]

    def _memory_of(self, vm: Vm) -> VmMemory:
        if vm.objects is None:
            raise RmFailure(RmError.VM_STATE, f"VM {vm.vmid} has no address space yet")
        return vm.objects.memory

    def _allocate_handle(self) -> int:
        while True:
            handle = self._next_handle
            self._next_handle = (handle + 1) & U32
            if handle != U32 and handle not in self._parcels:
                return handle

    # -- creation ------------------------------------------------------------------------------------------------------

    def create(
        self,
        owner: Vm,
        trans_type: MemTrans,
        mem_type: int,
        flags: int,
        label: int,
        acl: Sequence[AclEntry],
        sgl: Sequence[SglEntry],
        attributes: Sequence[AttributeEntry],
    ) -> Memparcel:
        """MEM_DONATE, MEM_LEND, MEM_SHARE (rm-rpc.md 8.2)."""
        if not acl or not sgl:
            raise RmFailure(
                RmError.ARGUMENT_INVALID, f"{len(acl)} access entries and {len(sgl)} ranges: both are needed"
            )
        if trans_type is MemTrans.DONATE and len(acl) > 1:
            raise RmFailure(RmError.ARGUMENT_INVALID, f"a donation goes to one VM, the access list names {len(acl)}")
        if owner.parcels_owned >= PARCELS_MAX:
            raise RmFailure(RmError.DENIED, f"VM {owner.vmid} owns {PARCELS_MAX} memparcels, the most it may")
        sanitize = bool(flags & MemCreateFlag.SANITIZE)
        if sanitize and mem_type == MemType.IO:
            raise RmFailure(RmError.ARGUMENT_INVALID, "IO memory cannot be sanitized")
        # A refused request consumes a number too, as on the reference (reference.md 4.2).
        handle = self._allocate_handle()
        kind = MemType.IO if mem_type == MemType.IO else MemType.NORMAL
        members = members_of(self.vms, owner, trans_type, kind, acl)
        apply_attributes(kind, trans_type, members, attributes)
        try:
            extent = self.memory.new_extent(kind)
        except HypercallFailed as failure:
            raise RmFailure(RmError.NOMEM, f"no extent for the memparcel: {failure}") from failure
        parcel = Memparcel(
            handle,
            owner.vmid,
            kind,
            trans_type,
            label,
            extent,
            members,
            list(attributes),
            type_code=mem_type,
            sanitize_create=sanitize,
        )
        try:
            self._add_ranges(owner, parcel, sgl, whole=not flags & MemCreateFlag.APPEND)
        except RmFailure:
            self.memory.delete(extent)
            raise
        if not flags & MemCreateFlag.APPEND:
            parcel.state = MemparcelState.SHARING
        self._parcels[handle] = parcel
        owner.parcels_owned += 1
        return parcel

    def _add_ranges(self, owner: Vm, parcel: Memparcel, sgl: Sequence[SglEntry], *, whole: bool = False) -> None:
        """Find the pages, move them into the parcel's extent; on failure give all back.

        ``whole``: nothing will be appended, so mappings for the owner may reach over what is not the parcel's. A sparse
        extent shows what it owns and nothing else.
        """
        memory, vm_memory = self.memory, self._memory_of(owner)
        pieces = self._find_pieces(owner, parcel, sgl)
        own = parcel.member(owner.vmid)
        extent = memory.owned_extent(vm_memory, parcel.mem_type)
        mapped: list[tuple[int, Region]] = []
        donated: list[Region] = []
        try:
            if own is not None:
                # The record comes first: the pages change hands without a moment in which the owner has none.
                memtype = memtype_of(own.attribute)
                places = spans(pieces) if whole else runs((piece.owner_ipa, piece) for piece in pieces)
                for ipa, run in places:
                    memory.map(vm_memory, parcel.extent, parcel.mem_type, ipa, run, own.rights, memtype)
                    mapped.append((ipa, run))
        except HypercallFailed as failure:
            self._undo_ranges(vm_memory, parcel, extent, mapped, donated)
            raise RmFailure(RmError.MAP_FAILED, f"the owner's mapping failed: {failure}") from failure
        try:
            for run in physical_runs(pieces):
                memory.donate(parcel.mem_type, extent, parcel.extent, run.pa, run.size)
                donated.append(run)
            if parcel.sanitize_create:
                for run in donated:
                    memory.zero(parcel.extent, run.pa, run.size)
        except HypercallFailed as failure:
            self._undo_ranges(vm_memory, parcel, extent, mapped, donated)
            raise RmFailure(RmError.MEM_INVALID, f"the owner's pages could not be taken: {failure}") from failure
        parcel.regions.extend(pieces)

    def _undo_ranges(
        self,
        vm_memory: VmMemory,
        parcel: Memparcel,
        extent: int,
        mapped: list[tuple[int, Region]],
        donated: list[Region],
    ) -> None:
        memory = self.memory
        for run in donated:
            memory.donate(parcel.mem_type, parcel.extent, extent, run.pa, run.size)
        for ipa, run in mapped:
            memory.unmap(vm_memory, parcel.extent, parcel.mem_type, ipa, run)

    def _find_pieces(self, owner: Vm, parcel: Memparcel, sgl: Sequence[SglEntry]) -> list[Region]:
        """Physical pieces of the ranges, none across the border of two ranges."""
        pieces: list[Region] = []
        # What the latest look-up found: hundreds of neighbouring pages cost one look-up.
        known = Region(0, 0, 0)
        for index, entry in enumerate(sgl):
            if not aligned(entry.address) or not aligned(entry.size):
                raise RmFailure(
                    RmError.ARGUMENT_INVALID,
                    f"range {entry.address:#x}+{entry.size:#x} is not of whole pages below 2^44",
                )
            at, left = entry.address, entry.size
            if not left:
                raise RmFailure(RmError.MEM_INVALID, f"the range at {at:#x} is empty")
            while left:
                skip = at - known.owner_ipa
                if not 0 <= skip < known.size:
                    known = self._look_up(owner, parcel, at, left, look_ahead(sgl, index) - (entry.size - left))
                    skip = 0
                size = min(left, known.size - skip)
                pieces.append(Region(known.pa + skip, size, at))
                at, left = at + size, left - size
                if len(pieces) + len(parcel.regions) > REGIONS_MAX:
                    raise RmFailure(RmError.NOMEM, f"a memparcel of more than {REGIONS_MAX} pieces")
        for first, second in pairwise(sorted(pieces, key=lambda piece: piece.pa)):
            if second.pa < first.end:
                raise RmFailure(
                    RmError.MEM_INVALID, f"the page at physical {second.pa:#x} stands twice in the list of ranges"
                )
        return pieces

    def _look_up(self, owner: Vm, parcel: Memparcel, at: int, size: int, ahead: int) -> Region:
        """What of the owner's own memory stands at ``at``: more than ``size`` bytes of it, if ``ahead`` shows more."""
        memory, vm_memory = self.memory, self._memory_of(owner)
        for wanted in dict.fromkeys((ahead, size)):
            try:
                return Region(*memory.lookup(vm_memory, parcel.mem_type, at, wanted), at)
            except HypercallFailed as failure:
                # Something behind what is asked for may be another extent's.
                refusal = failure
        raise RmFailure(RmError.MEM_INVALID, f"VM {owner.vmid} does not own what is mapped at {at:#x}: {refusal}")

    def append(self, owner: Vm, handle: int, *, done: bool, sgl: Sequence[SglEntry]) -> None:
        """MEM_APPEND (rm-rpc.md 8.3)."""
        if not sgl:
            raise RmFailure(RmError.ARGUMENT_INVALID, "nothing to append")
        parcel = self.lookup(handle)
        if parcel.owner != owner.vmid:
            raise RmFailure(RmError.DENIED, f"{parcel} is owned by VM {parcel.owner}, not by VM {owner.vmid}")
        if parcel.state is not MemparcelState.INIT:
            raise RmFailure(RmError.DENIED, f"{parcel} is complete")
        self._add_ranges(owner, parcel, sgl)
        if done:
            parcel.state = MemparcelState.SHARING

    # -- acceptance ----------------------------------------------------------------------------------------------------

    def accept(
        self,
        vm: Vm,
        handle: int,
        mem_type: int,
        trans_type: int,
        flags: int,
        *,
        label: int = 0,
        acl: Sequence[AclEntry] = (),
        sgl: Sequence[SglEntry] = (),
        attributes: Sequence[AttributeEntry] = (),
        map_vmid: int = 0,
    ) -> tuple[list[SglEntry], bool]:
        """MEM_ACCEPT: addresses assigned by this call and whether more remain (rm-rpc.md 8.4)."""
        parcel = self.lookup(handle)
        if mem_type != parcel.type_code or trans_type != parcel.trans_type:
            raise RmFailure(
                RmError.ARGUMENT_INVALID,
                f"{parcel} is a {parcel.trans_type.name} of {parcel.mem_type.name} memory, not what VM {vm.vmid} named",
            )
        if parcel.state is MemparcelState.INIT:
            raise RmFailure(RmError.DENIED, f"{parcel} is not complete: its owner still appends to it")
        validate(parcel, flags, label, acl, attributes)
        member = acceptor(parcel, vm, flags, map_vmid)
        contiguous = wants_contiguous(parcel, member, flags)
        sanitize = check_sanitize(parcel, member.rights, bool(flags & MemAcceptFlag.SANITIZE))
        mappings = 1 if contiguous else len(parcel.regions)
        room = min(mappings - len(member.ipas), LIST_MAX)
        wanted = room
        if sgl:
            if len(sgl) > room:
                raise RmFailure(RmError.ARGUMENT_INVALID, f"{len(sgl)} addresses for {parcel}, {room} are open")
            wanted = len(sgl)
        assigned = self._assign(parcel, vm, member, contiguous, wanted, sgl)
        was = (member.contiguous, member.started)
        member.contiguous, member.started = contiguous, True
        member.ipas.extend(entry.address for entry in assigned)
        done = bool(flags & MemAcceptFlag.DONE)
        try:
            if done:
                if len(member.ipas) != mappings:
                    raise RmFailure(
                        RmError.ARGUMENT_INVALID,
                        f"{parcel}: {mappings - len(member.ipas)} addresses are still to be assigned",
                    )
                self._map_member(parcel, vm, member)
        except RmFailure:
            del member.ipas[len(member.ipas) - len(assigned) :]
            member.contiguous, member.started = was
            self._free_addresses(vm, parcel, assigned)
            raise
        if sanitize:
            parcel.sanitize_reclaim = True
        incomplete = len(member.ipas) < mappings
        if done and parcel.trans_type is MemTrans.DONATE:
            self._finish_donation(parcel, vm)
        elif not member.shared:
            member.shared = True
            parcel.state = MemparcelState.SHARED
            vm.accepted.append(parcel.handle)
        return assigned, incomplete

    def _assign(
        self, parcel: Memparcel, vm: Vm, member: Member, contiguous: bool, count: int, sgl: Sequence[SglEntry]
    ) -> list[SglEntry]:
        """Take IPA ranges for ``count`` further mappings; all or none."""
        if contiguous:
            wanted = [Region(-1, parcel.size, 0)] if count else []
        else:
            wanted = parcel.regions[len(member.ipas) : len(member.ipas) + count]
        assigned: list[SglEntry] = []
        vm_memory = self._memory_of(vm)
        try:
            if not sgl and not vm_memory.direct and parcel.mem_type is MemType.NORMAL:
                sizes = [region.size for region in wanted]
                return [SglEntry(*place) for place in zip(self._take_any(vm, sizes), sizes, strict=True)]
            for index, region in enumerate(wanted):
                ipa = None
                if sgl:
                    entry = sgl[index]
                    if not aligned(entry.address) or entry.size != region.size:
                        raise RmFailure(
                            RmError.ARGUMENT_INVALID,
                            f"{entry.address:#x}+{entry.size:#x} was given for a piece of {region.size:#x} bytes",
                        )
                    ipa = entry.address
                assigned.append(SglEntry(self._take_address(parcel, vm, region, ipa), region.size))
        except RmFailure:
            self._free_addresses(vm, parcel, assigned)
            raise
        return assigned

    def _take_any(self, vm: Vm, sizes: list[int]) -> list[int]:
        """IPAs of RM's choice; all or none."""
        try:
            return self._memory_of(vm).allocator.allocate_each(sizes)
        except AddressUnavailable as unavailable:
            raise RmFailure(RmError.NORESOURCE, f"VM {vm.vmid}: {unavailable}") from unavailable

    def _take_address(self, parcel: Memparcel, vm: Vm, region: Region, ipa: int | None) -> int:
        memory = self._memory_of(vm)
        if memory.direct or parcel.mem_type is MemType.IO:
            if region.pa < 0 or (ipa is not None and ipa != region.pa):
                raise RmFailure(RmError.NORESOURCE, f"{parcel} can only be mapped one to one into VM {vm.vmid}")
            return region.pa
        allocator = memory.allocator
        assert ipa is not None
        try:
            allocator.allocate_fixed(ipa, region.size)
        except AddressUnavailable as unavailable:
            raise RmFailure(RmError.NORESOURCE, f"VM {vm.vmid}: {unavailable}") from unavailable
        tag = allocator.tag_of(ipa, region.size)
        if tag is not None and tag.demands_more_than_normal:
            allocator.free(ipa, region.size)
            raise RmFailure(RmError.MEM_INVALID, f"{parcel} is ordinary memory, {ipa:#x} is reserved for {tag}")
        return ipa

    def _free_addresses(self, vm: Vm, parcel: Memparcel, ranges: Sequence[SglEntry]) -> None:
        memory = self._memory_of(vm)
        if memory.direct or parcel.mem_type is MemType.IO:
            return
        for address, run in runs((entry.address, Region(entry.address, entry.size, 0)) for entry in ranges):
            memory.allocator.free(address, run.size)

    def _map_member(self, parcel: Memparcel, vm: Vm, member: Member) -> None:
        memory, vm_memory = self.memory, self._memory_of(vm)
        donate = parcel.trans_type is MemTrans.DONATE
        extent = memory.owned_extent(vm_memory, parcel.mem_type) if donate else parcel.extent
        moved: list[Region] = []
        mapped: list[tuple[int, Region]] = []
        try:
            try:
                for run in physical_runs(parcel.regions) if donate else ():
                    memory.donate(parcel.mem_type, parcel.extent, extent, run.pa, run.size)
                    moved.append(run)
            except HypercallFailed as failure:
                raise RmFailure(RmError.MEM_INVALID, f"{parcel} could not be handed over: {failure}") from failure
            try:
                for ipa, run in runs(parcel.ipas_of(member)):
                    memory.map(
                        vm_memory, extent, parcel.mem_type, ipa, run, member.rights, memtype_of(member.attribute)
                    )
                    mapped.append((ipa, run))
            except HypercallFailed as failure:
                raise RmFailure(
                    RmError.MAP_FAILED, f"{parcel} could not be mapped into VM {vm.vmid}: {failure}"
                ) from failure
        except RmFailure:
            for ipa, run in mapped:
                memory.unmap(vm_memory, extent, parcel.mem_type, ipa, run)
            for run in moved:
                memory.donate(parcel.mem_type, extent, parcel.extent, run.pa, run.size)
            raise
        member.mapped = True

    def _finish_donation(self, parcel: Memparcel, acceptor: Vm) -> None:
        """The pages are the acceptor's own now: forget where the old owner had them, and the memparcel."""
        owner = self.vms.get(parcel.owner)
        received = self._memory_of(acceptor).received
        received.extend((parcel.mem_type, parcel.owner, region) for region in parcel.regions)
        if owner is not None:
            vm_memory = self._memory_of(owner)
            extent = self.memory.owned_extent(vm_memory, parcel.mem_type)
            for ipa, run in runs((region.owner_ipa, region) for region in parcel.regions):
                self.memory.unmap(vm_memory, extent, parcel.mem_type, ipa, run)
            self._free_addresses(owner, parcel, [SglEntry(region.owner_ipa, region.size) for region in parcel.regions])
            vm_memory.received = without(vm_memory.received, parcel)
        self._forget(parcel)

    def _forget(self, parcel: Memparcel) -> None:
        del self._parcels[parcel.handle]
        owner = self.vms.get(parcel.owner)
        if owner is not None:
            owner.parcels_owned -= 1
        self.memory.delete(parcel.extent)

    # -- release and reclaim -------------------------------------------------------------------------------------------

    def release(self, vm: Vm, handle: int, *, sanitize: bool) -> Memparcel:
        """MEM_RELEASE (rm-rpc.md 8.5)."""
        parcel = self.lookup(handle)
        if parcel.locked:
            raise RmFailure(RmError.DENIED, f"{parcel} holds a VM's image and is locked")
        member = parcel.member(vm.vmid)
        if member is None:
            raise RmFailure(RmError.HANDLE_INVALID, f"VM {vm.vmid} is not in the access list of {parcel}")
        if vm.vmid == parcel.owner:
            raise RmFailure(RmError.DENIED, f"VM {vm.vmid} owns {parcel}; an owner reclaims")
        if not member.shared:
            raise RmFailure(RmError.MEM_RELEASED, f"VM {vm.vmid} has not accepted {parcel}")
        if check_sanitize(parcel, member.rights, sanitize):
            parcel.sanitize_reclaim = True
        self._release_member(parcel, vm, member)
        return parcel

    def _release_member(self, parcel: Memparcel, vm: Vm, member: Member) -> None:
        memory, vm_memory = self.memory, self._memory_of(vm)
        if member.mapped:
            try:
                for ipa, run in runs(parcel.ipas_of(member)):
                    memory.unmap(vm_memory, parcel.extent, parcel.mem_type, ipa, run)
            except HypercallFailed as failure:
                raise RmFailure(RmError.MAP_FAILED, f"{parcel} could not be unmapped: {failure}") from failure
        if member.contiguous:
            ranges = [SglEntry(ipa, parcel.size) for ipa in member.ipas]
        else:
            ranges = [SglEntry(ipa, region.size) for ipa, region in zip(member.ipas, parcel.regions, strict=False)]
        self._free_addresses(vm, parcel, ranges)
        member.ipas = []
        member.contiguous = member.started = member.shared = member.mapped = False
        member.phandle = None
        if not any(other.shared for other in parcel.members):
            parcel.state = MemparcelState.SHARING
        if parcel.handle in vm.accepted:
            vm.accepted.remove(parcel.handle)

    def release_one_accepted(self, vm: Vm) -> Memparcel | None:
        """One step of a VM's reset: release the oldest memparcel it has accepted."""
        if not vm.accepted:
            return None
        parcel = self.lookup(vm.accepted[0])
        parcel.locked = False
        member = parcel.member(vm.vmid)
        if member is None:
            raise ValueError(f"VM {vm.vmid} accepted {parcel} without being in its access list")
        self._release_member(parcel, vm, member)
        return parcel

    def reclaim(self, owner: Vm, handle: int, *, sanitize: bool) -> None:
        """MEM_RECLAIM (rm-rpc.md 8.5)."""
        parcel = self.lookup(handle)
        if parcel.owner != owner.vmid:
            raise RmFailure(RmError.DENIED, f"{parcel} is owned by VM {parcel.owner}, not by VM {owner.vmid}")
        if parcel.state is MemparcelState.SHARED:
            users = ", ".join(str(member.vmid) for member in parcel.members if member.shared)
            raise RmFailure(RmError.MEM_INUSE, f"{parcel} is in use by VM {users}")
        if parcel.locked:
            raise RmFailure(RmError.DENIED, f"{parcel} holds a VM's image and is locked")
        if sanitize and parcel.mem_type is MemType.IO:
            raise RmFailure(RmError.ARGUMENT_INVALID, "IO memory cannot be sanitized")
        self._reclaim(owner, parcel, sanitize or parcel.sanitize_reclaim)

    def _reclaim(self, owner: Vm, parcel: Memparcel, sanitize: bool) -> None:
        memory, vm_memory = self.memory, self._memory_of(owner)
        extent = memory.owned_extent(vm_memory, parcel.mem_type)
        moved: list[Region] = []
        try:
            for run in physical_runs(parcel.regions):
                if sanitize:
                    memory.zero(parcel.extent, run.pa, run.size)
                memory.donate(parcel.mem_type, parcel.extent, extent, run.pa, run.size)
                moved.append(run)
        except HypercallFailed as failure:
            for run in moved:
                memory.donate(parcel.mem_type, extent, parcel.extent, run.pa, run.size)
            raise failure_of(failure.error, f"{parcel} could not be returned to VM {owner.vmid}") from failure
        self._forget(parcel)

    def abandon(self, owner: Vm) -> None:
        """Take back everything a VM that is being destroyed has given away, from whoever holds it."""
        for parcel in self.owned_by(owner.vmid):
            parcel.locked = False
            for member in parcel.members:
                holder = self.vms.get(member.vmid)
                if member.shared and holder is not None:
                    self._release_member(parcel, holder, member)
            self._reclaim(owner, parcel, True)

    def return_donations(self, vm: Vm) -> None:
        """What was donated to a VM that is being destroyed goes back to the donor, zeroed, where it came from."""
        memory, vm_memory = self.memory, self._memory_of(vm)
        for mem_type, donor, region in vm_memory.received:
            home = self.vms.get(donor)
            if home is None or home.objects is None or mem_type not in vm_memory.owned:
                continue
            mine, theirs = vm_memory.owned[mem_type], memory.owned_extent(home.objects.memory, mem_type)
            if mem_type == MemType.NORMAL:
                memory.zero(mine, region.pa, region.size)
            rights, attribute = (_RW, MemAttribute.DEVICE) if mem_type == MemType.IO else (_RWX, MemAttribute.NORMAL)
            memory.map(home.objects.memory, theirs, mem_type, region.owner_ipa, region, rights, memtype_of(attribute))
            memory.donate(mem_type, mine, theirs, region.pa, region.size)
        vm_memory.received.clear()

    # -- lookup --------------------------------------------------------------------------------------------------------

    def find(
        self,
        owner: Vm,
        mem_type: int,
        label: int,
        acl: Sequence[AclEntry],
        sgl: Sequence[SglEntry],
        attributes: Sequence[AttributeEntry],
    ) -> Memparcel:
        """MEM_QCOM_LOOKUP_SGL: an owner's memparcel that nobody has accepted and that matches in everything."""
        access = [(entry.vmid, entry.rights) for entry in acl]
        ranges = [(entry.address, entry.size) for entry in sgl]
        for parcel in self._parcels.values():
            if parcel.owner != owner.vmid or parcel.state is not MemparcelState.SHARING or parcel.type_code != mem_type:
                continue
            if (
                access == [(member.vmid, member.rights) for member in parcel.members]
                and ranges == [(region.owner_ipa, region.size) for region in parcel.regions]
                and [(a.attribute, a.vmid) for a in attributes] == [(a.attribute, a.vmid) for a in parcel.attributes]
            ):
                if not parcel.label_valid:
                    parcel.label, parcel.label_valid = label, True
                return parcel
        raise RmFailure(RmError.LOOKUP_FAILED, f"VM {owner.vmid} has no unaccepted memparcel with these lists")

    # -- RM's own view -------------------------------------------------------------------------------------------------

    def pieces(self, parcel: Memparcel, offset: int, size: int) -> list[tuple[int, int]]:
        """(extent offset, size) of the pages that hold bytes ``offset`` .. ``offset + size`` of a memparcel."""
        first, last = offset & ~PAGE_MASK, (offset + size + PAGE_MASK) & ~PAGE_MASK
        result: list[tuple[int, int]] = []
        at = 0
        for region in parcel.regions:
            start, end = max(first, at), min(last, at + region.size)
            if start < end:
                result.append((region.pa + start - at, end - start))
            at += region.size
        return result
