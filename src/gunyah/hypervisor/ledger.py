"""The ledger: every object of a hypervisor, who holds it, and the memory it has, at one moment (objects.md 1 and 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gunyah.abi.objects import ObjectState, ObjectType, describe_rights
from gunyah.hypervisor.memextent import MemExtent

if TYPE_CHECKING:
    from gunyah.hypervisor.hypervisor import Hypervisor

__all__ = ["Holding", "Ledger", "LedgerEntry", "ledger_of"]


@dataclass(frozen=True, slots=True)
class Holding:
    """One capability: serial of the CSpace it is in, id there, rights in words, whether it is the master."""

    cspace: int
    capability: int
    rights: str
    master: bool


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One object. ``heap`` bytes of its partition; ``memory`` is (PA, bytes) of what an extent owns."""

    serial: int
    type: ObjectType
    name: str
    state: ObjectState
    references: int
    heap: int
    holders: tuple[Holding, ...]
    memory: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Ledger:
    """All entries, oldest first, and what the root partition has left."""

    entries: tuple[LedgerEntry, ...]
    heap_used: int
    free_memory: tuple[tuple[int, int], ...]

    @property
    def serials(self) -> frozenset[int]:
        """Which objects there are."""
        return frozenset(entry.serial for entry in self.entries)

    def since(self, earlier: Ledger) -> tuple[LedgerEntry, ...]:
        """Objects that are here and were not in ``earlier``: what a test calls a leak."""
        known = earlier.serials
        return tuple(entry for entry in self.entries if entry.serial not in known)


def ledger_of(hv: Hypervisor) -> Ledger:
    """Read the ledger of a hypervisor; changes nothing."""
    partition = hv.root_partition
    entries = []
    for obj in hv.objects():
        holders = tuple(
            Holding(cap.cspace.serial, cap.id, describe_rights(obj.type, cap.rights), cap.master)
            for cap in obj.capabilities
        )
        memory = tuple(obj.owned()) if isinstance(obj, MemExtent) and obj.state == ObjectState.ACTIVE else ()
        entries.append(
            LedgerEntry(
                obj.serial,
                obj.type,
                str(obj),
                ObjectState(obj.state),
                obj.references,
                partition.charged(obj),
                holders,
                memory,
            )
        )
    return Ledger(tuple(entries), partition.heap.used, tuple(partition.free_ranges()))
