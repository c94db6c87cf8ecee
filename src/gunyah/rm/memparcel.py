"""Memparcel records: what one VM lends, shares or donates, to whom, and what each made of it (rm-behaviour.md 9)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from gunyah.abi.rm import AttributeEntry, MemAttribute, MemTrans, MemType
from gunyah.rm.memory import Region

__all__ = ["Member", "Memparcel", "MemparcelState", "physical_runs", "runs"]

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
