"""Capability spaces: what a VM may name, and with which rights (objects.md 1.3, hypercalls.md 2 and 3.4).

A CSpace is a two-level table, tables of 62 slots that come into being as they are needed. A slot is empty, valid or
revoked. The number a guest uses for a slot is drawn from a keyed function of the slot, so that one id tells nothing
about another; it stays the same for the life of the CSpace (errors-and-types.md 2). The reference's own scrambling is
weaker and not visible as such.
"""

from __future__ import annotations

import heapq
from hashlib import blake2b
from typing import TYPE_CHECKING

from gunyah.abi.errors import Error
from gunyah.abi.objects import ALL_RIGHTS, OBJECT_ACTIVATE, ObjectState, ObjectType, describe_rights
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.objects import ACTIVE, DESTROYING, KernelObject

if TYPE_CHECKING:
    from gunyah.hypervisor.partition import Partition

__all__ = ["MAX_CAPABILITIES", "SLOTS_PER_TABLE", "CSpace", "Capability"]

SLOTS_PER_TABLE = 62
MAX_TABLES = 230
MAX_CAPABILITIES = SLOTS_PER_TABLE * MAX_TABLES

# Ids whose upper half is 0xffffff00 or above are never issued (errors-and-types.md 2).
_ID_LIMIT = 0xFFFF_FF00 << 32


class Capability:
    """One occupied slot: an object, the rights to it, and whether it is the master (cap_slot_t)."""

    __slots__ = ("cspace", "id", "master", "object", "rights", "slot")

    def __init__(self, cspace: CSpace, slot: int, capid: int, obj: KernelObject, rights: int, master: bool) -> None:
        self.cspace = cspace
        self.slot = slot
        self.id = capid
        self.object = obj
        self.rights = rights
        self.master = master


class CSpace(KernelObject):
    """cspace_t: the capability ids of one or more VMs and what they stand for."""

    type = ObjectType.CSPACE
    heap_size = 2048

    def __init__(self, partition: Partition | None, key: bytes) -> None:
        super().__init__(partition)
        self._key = key
        self.max_capabilities = 0
        self._valid: dict[int, Capability] = {}
        self._revoked: dict[int, Capability] = {}
        # Every id whose table exists; an id outside this is malformed as far as a guest can tell.
        self._known: set[int] = set()
        self._ids: list[int] = []
        self._free: list[int] = []

    # -- configuration -------------------------------------------------------------------------------------------------

    def configure(self, max_capabilities: int) -> None:
        """Set the limit (count_t); 0 is accepted and refused at activation. ARGUMENT_INVALID above 14260."""
        if max_capabilities > MAX_CAPABILITIES:
            raise HypervisorError(
                Error.ARGUMENT_INVALID,
                f"{self}: a limit of {max_capabilities} capabilities is above {MAX_CAPABILITIES}",
            )
        self.max_capabilities = max_capabilities

    def _activate(self) -> None:
        if self.max_capabilities == 0:
            raise HypervisorError(Error.OBJECT_CONFIG, f"{self} has no capability limit")

    def _cleanup(self) -> None:
        for capability in list(self._valid.values()):
            self._forget(capability)
        self._valid.clear()
        self._revoked.clear()

    # -- look-up -------------------------------------------------------------------------------------------------------

    def lookup(self, capid: int, kind: ObjectType, rights: int) -> KernelObject:
        """The ACTIVE object behind ``capid``; raises the first failing step of hypercalls.md 2."""
        capability = self._valid.get(capid)
        if capability is None:
            raise self._missing(capid)
        obj = capability.object
        if obj.type is not kind:
            raise self._wrong_type(capability, kind)
        if rights & ~capability.rights:
            raise self._insufficient(capability, rights)
        if obj.state != ACTIVE:
            raise self._not_active(obj)
        return obj

    def lookup_any_state(self, capid: int, kind: ObjectType | None, rights: int) -> KernelObject:
        """The object behind ``capid`` whatever its state; ``kind`` None accepts every type."""
        capability = self._valid.get(capid)
        if capability is None:
            raise self._missing(capid)
        obj = capability.object
        if kind is not None and obj.type is not kind:
            raise self._wrong_type(capability, kind)
        if rights & ~capability.rights:
            raise self._insufficient(capability, rights)
        if obj.state == DESTROYING:
            raise HypervisorError(Error.CSPACE_CAP_NULL, f"capability {capid:#x}: {obj} is being destroyed")
        return obj

    def lookup_generic(self, capid: int, kind: ObjectType) -> KernelObject:
        """A look-up with the generic activate right: rights are checked before the type ('cfg' of hypercalls.md 2)."""
        obj = self.lookup_any_state(capid, None, OBJECT_ACTIVATE)
        if obj.type is not kind:
            raise HypervisorError(
                Error.CSPACE_WRONG_OBJECT_TYPE, f"capability {capid:#x} is a {obj.type.value}, not a {kind.value}"
            )
        return obj

    def capability(self, capid: int) -> Capability:
        """The valid slot behind ``capid``; raises ARGUMENT_INVALID, CSPACE_CAP_NULL or CSPACE_CAP_REVOKED."""
        capability = self._valid.get(capid)
        if capability is None:
            raise self._missing(capid)
        return capability

    def _missing(self, capid: int) -> HypervisorError:
        if capid in self._revoked:
            return HypervisorError(Error.CSPACE_CAP_REVOKED, f"capability {capid:#x} has been revoked")
        if capid in self._known:
            return HypervisorError(Error.CSPACE_CAP_NULL, f"capability {capid:#x}: the slot is empty")
        return HypervisorError(Error.ARGUMENT_INVALID, f"{capid:#x} is not a capability id of {self}")

    def _wrong_type(self, capability: Capability, kind: ObjectType) -> HypervisorError:
        return HypervisorError(
            Error.CSPACE_WRONG_OBJECT_TYPE,
            f"capability {capability.id:#x} is a {capability.object.type.value}, not a {kind.value}",
        )

    def _insufficient(self, capability: Capability, rights: int) -> HypervisorError:
        kind = capability.object.type
        return HypervisorError(
            Error.CSPACE_INSUFFICIENT_RIGHTS,
            f"capability {capability.id:#x} to {capability.object} has {describe_rights(kind, capability.rights)}, "
            f"the call needs {describe_rights(kind, rights)}",
        )

    def _not_active(self, obj: KernelObject) -> HypervisorError:
        if obj.state == DESTROYING:
            return HypervisorError(Error.CSPACE_CAP_NULL, f"{obj} is being destroyed")
        return HypervisorError(Error.OBJECT_STATE, f"{obj} is {ObjectState(obj.state).name}, not ACTIVE")

    # -- slots ---------------------------------------------------------------------------------------------------------

    @property
    def occupied(self) -> int:
        """Slots in use, valid and revoked."""
        return len(self._valid) + len(self._revoked)

    @property
    def capabilities_held(self) -> tuple[Capability, ...]:
        """The valid slots, for people and tests."""
        return tuple(self._valid.values())

    @property
    def revoked_ids(self) -> tuple[int, ...]:
        """Ids of the slots that hold a revoked capability."""
        return tuple(self._revoked)

    @property
    def ids(self) -> tuple[int, ...]:
        """Every id whose table exists, in the order of the slots."""
        return tuple(self._ids)

    def _add_table(self) -> None:
        first = len(self._ids)
        for slot in range(first, first + SLOTS_PER_TABLE):
            capid = self._scramble(slot)
            self._ids.append(capid)
            self._known.add(capid)
            heapq.heappush(self._free, slot)

    def _scramble(self, slot: int) -> int:
        attempt = 0
        while True:
            message = slot.to_bytes(4, "little") + attempt.to_bytes(4, "little")
            capid = int.from_bytes(blake2b(message, key=self._key, digest_size=8).digest(), "little")
            # Small numbers are what confused callers pass; they must never happen to be somebody's id.
            if 1 << 32 <= capid < _ID_LIMIT and capid not in self._known:
                return capid
            attempt += 1

    def _require_room(self) -> None:
        if self.occupied >= self.max_capabilities:
            raise HypervisorError(
                Error.CSPACE_FULL, f"{self} holds {self.occupied} of {self.max_capabilities} capabilities"
            )

    def _insert(self, obj: KernelObject, rights: int, master: bool) -> Capability:
        self._require_room()
        if not self._free:
            self._add_table()
        slot = heapq.heappop(self._free)
        capability = Capability(self, slot, self._ids[slot], obj, rights, master)
        self._valid[capability.id] = capability
        obj.capabilities[capability] = None
        return capability

    def create_master(self, obj: KernelObject) -> int:
        """Put a master capability with all rights of the type into a slot and return its id; CSPACE_FULL.

        The caller hands over its reference to the object: from now on the capabilities hold it.
        """
        return self._insert(obj, ALL_RIGHTS[obj.type], True).id

    def copy_from(self, source: CSpace, capid: int, mask: int) -> int:
        """A copy of ``source``'s capability with rights AND ``mask``; never a master. INSUFFICIENT_RIGHTS when nothing
        is left.
        """
        # The slot comes first: a full CSpace answers so whatever the source is.
        self._require_room()
        capability = source.capability(capid)
        rights = capability.rights & mask
        if rights == 0:
            raise HypervisorError(
                Error.CSPACE_INSUFFICIENT_RIGHTS,
                f"a copy of capability {capid:#x} with mask {mask:#x} of rights {capability.rights:#x} would have none",
            )
        return self._insert(capability.object, rights, False).id

    def delete(self, capid: int) -> None:
        """Empty a slot, valid or revoked; the object loses its capabilities' reference with the last valid one."""
        revoked = self._revoked.pop(capid, None)
        if revoked is not None:
            heapq.heappush(self._free, revoked.slot)
            return
        capability = self._valid.get(capid)
        if capability is None:
            raise self._missing(capid)
        del self._valid[capid]
        heapq.heappush(self._free, capability.slot)
        self._forget(capability)

    def revoke_others(self, capid: int) -> None:
        """Turn every other capability to the object into a revoked slot; INSUFFICIENT_RIGHTS unless ``capid`` is the
        master.
        """
        capability = self.capability(capid)
        if not capability.master:
            raise HypervisorError(Error.CSPACE_INSUFFICIENT_RIGHTS, f"capability {capid:#x} is not the master")
        for other in list(capability.object.capabilities):
            if other is not capability:
                home = other.cspace
                del home._valid[other.id]
                home._revoked[other.id] = other
                del other.object.capabilities[other]

    @staticmethod
    def _forget(capability: Capability) -> None:
        obj = capability.object
        del obj.capabilities[capability]
        if not obj.capabilities:
            obj.put()
