"""Memparcel records: what one VM lends, shares or donates, to whom, and what each made of it (rm-behaviour.md 9)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice

from gunyah.abi.rm import AttributeEntry, MemAttribute, MemTrans, MemType, SglEntry
from gunyah.abi.types import PAGE_MASK
from gunyah.rm.memory import Region

__all__ = [
    "ADDRESS_LIMIT",
    "Member",
    "Memparcel",
    "MemparcelState",
    "aligned",
    "look_ahead",
    "physical_runs",
    "runs",
    "spans",
    "without",
]

ADDRESS_LIMIT = 1 << 44
LOOK_AHEAD_MAX = 128
LOOK_AHEAD_WASTE = 4
"""Entries of a request, and bytes for each byte that is wanted, that one look-up goes ahead."""
_RWX = 7


class MemparcelState(Enum):
    """INIT: being appended to; SHARING: complete, nobody accepted; SHARED: at least one acceptance."""

    INIT = "init"
    SHARING = "sharing"
    SHARED = "shared"


@dataclass(slots=True)
class Member:
    """One VM of the access list and what it has made of the memparcel (vm_meminfo)."""

    vmid: int
    rights: int
    attribute: int
    ipas: list[int] = field(default_factory=list)
    """Addresses assigned so far: one for all when ``contiguous``, else one per region."""
    contiguous: bool = False
    started: bool = False
    """Addresses were asked for, so ``contiguous`` is decided."""
    shared: bool = False
    """Accepted, at least in part."""
    mapped: bool = False
    phandle: int | None = None


@dataclass(slots=True, eq=False)
class Memparcel:
    """One memparcel. ``extent`` is RM's capability to the extent that owns the pages."""

    handle: int
    owner: int
    mem_type: MemType
    trans_type: MemTrans
    label: int
    extent: int
    members: list[Member]
    attributes: list[AttributeEntry]
    type_code: int
    """What the owner called the memory type: every number but IO's behaves as normal memory, and must be named again
    by who accepts or looks for the memparcel."""
    label_valid: bool = True
    regions: list[Region] = field(default_factory=list)
    state: MemparcelState = MemparcelState.INIT
    sanitize_create: bool = False
    sanitize_reclaim: bool = False
    locked: bool = False
    tag: int = 0
    tag_set: bool = False

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(region.size for region in self.regions)

    def member(self, vmid: int) -> Member | None:
        """The access-list entry of a VM."""
        return next((member for member in self.members if member.vmid == vmid), None)

    def is_exclusive(self, vmid: int) -> bool:
        """Only this VM has access."""
        return len(self.members) == 1 and self.members[0].vmid == vmid

    def is_private(self, vmid: int) -> bool:
        """Fit to become general RAM of the VM: label 0, exclusive, RWX, normal memory (rm-behaviour.md 9)."""
        return (
            self.label == 0
            and self.is_exclusive(vmid)
            and self.members[0].rights == _RWX
            and self.type_code == MemType.NORMAL
            and self.members[0].attribute == MemAttribute.NORMAL
        )

    def ipas_of(self, member: Member) -> Iterator[tuple[int, Region]]:
        """(IPA, region) of everything the member has addresses for."""
        if member.contiguous:
            at = member.ipas[0] if member.ipas else 0
            for region in self.regions if member.ipas else ():
                yield at, region
                at += region.size
        else:
            yield from zip(member.ipas, self.regions, strict=False)

    def __str__(self) -> str:
        return f"memparcel {self.handle:#x}"


def runs(pieces: Iterable[tuple[int, Region]]) -> list[tuple[int, Region]]:
    """Neighbours merged where both IPA and physical address continue: fewer hypercalls for the same pages."""
    merged: list[tuple[int, Region]] = []
    for ipa, region in pieces:
        if merged:
            last_ipa, last = merged[-1]
            if last.end == region.pa and last_ipa + last.size == ipa:
                merged[-1] = last_ipa, Region(last.pa, last.size + region.size, last.owner_ipa)
                continue
        merged.append((ipa, region))
    return merged


def physical_runs(regions: Sequence[Region]) -> list[Region]:
    """Neighbours merged where the physical address continues."""
    return [run for _, run in runs((region.pa, region) for region in regions)]


def aligned(value: int) -> bool:
    """A whole number of pages, below the limit of addresses."""
    return value < ADDRESS_LIMIT and not value & PAGE_MASK


def look_ahead(sgl: Sequence[SglEntry], index: int) -> int:
    """Bytes from the start of entry ``index`` on that one look-up may ask for: entries that follow each other, and gaps
    between them as long as most of what is asked for is wanted.
    """
    start = end = sgl[index].address
    wanted = 0
    for entry in islice(sgl, index, index + LOOK_AHEAD_MAX):
        wanted += entry.size
        if entry.address < end or not aligned(entry.address | entry.size):
            break
        if entry.address + entry.size - start > LOOK_AHEAD_WASTE * wanted:
            break
        end = entry.address + entry.size
    return max(end - start, sgl[index].size)


def spans(pieces: Sequence[Region]) -> list[tuple[int, Region]]:
    """(owner's IPA, physical range) that cover the pieces: from one piece to the next, however far apart, while both
    stand at the same distance from their physical address. Pieces that are not the parcel's stay what they are.
    """
    spans: list[tuple[int, Region]] = []
    for piece in sorted(pieces, key=lambda piece: piece.pa):
        if spans:
            ipa, span = spans[-1]
            if piece.owner_ipa - piece.pa == ipa - span.pa:
                spans[-1] = ipa, Region(span.pa, piece.end - span.pa, ipa)
                continue
        spans.append((piece.owner_ipa, piece))
    return spans


def without(received: list[tuple[int, int, Region]], parcel: Memparcel) -> list[tuple[int, int, Region]]:
    """What is left of donated regions when a memparcel of them has been donated on."""
    left = received
    for gone in parcel.regions:
        pieces: list[tuple[int, int, Region]] = []
        for mem_type, donor, region in left:
            if mem_type != parcel.mem_type or gone.end <= region.pa or region.end <= gone.pa:
                pieces.append((mem_type, donor, region))
                continue
            for start, end in ((region.pa, gone.pa), (gone.end, region.end)):
                if start < end:
                    pieces.append((mem_type, donor, Region(start, end - start, region.owner_ipa + start - region.pa)))
        left = pieces
    return left
