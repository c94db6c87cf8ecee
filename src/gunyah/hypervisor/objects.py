"""Life cycle and reference counting that every hypervisor object shares (objects.md 1.1).

An object is created in INIT, configured, activated once, and destroyed when its last reference goes: deactivation if
it was ACTIVE, then cleanup, then its heap memory returns to the partition. All valid capabilities to an object
together hold one reference; objects hold references to each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from gunyah.abi.errors import Error
from gunyah.abi.objects import ObjectState, ObjectType
from gunyah.hypervisor.errors import HypervisorError

if TYPE_CHECKING:
    from gunyah.hypervisor.cspace import Capability
    from gunyah.hypervisor.partition import Partition

__all__ = ["KernelObject"]

# Plain ints: comparing these in the capability look-up is on every hypercall's path.
INIT = int(ObjectState.INIT)
ACTIVE = int(ObjectState.ACTIVE)
FAILED = int(ObjectState.FAILED)
DESTROYING = int(ObjectState.DESTROYING)


class KernelObject:
    """Base of partition, cspace, addrspace, memextent, thread, doorbell, msgqueue, vic, ... (object_type_t).

    Subclasses set ``type`` and ``heap_size`` (bytes charged to the partition's heap) and override the three hooks.
    ``serial`` names the object for people: it is unique in one hypervisor and never shown to guests. ``capabilities``
    are the valid ones to it, in all capability spaces; together they hold one reference.
    """

    type: ClassVar[ObjectType]
    heap_size: ClassVar[int] = 512

    def __init__(self, partition: Partition | None) -> None:
        self.partition = partition
        self.state: int = INIT
        self.references = 1
        self.capabilities: dict[Capability, None] = {}
        self.serial = 0
        if partition is not None:
            partition.adopt(self)

    # -- references ----------------------------------------------------------------------------------------------------

    def get(self) -> None:
        """Take a reference (the caller becomes a holder)."""
        self.references += 1

    def put(self) -> None:
        """Drop a reference; the last one destroys the object."""
        self.references -= 1
        if self.references == 0:
            if self.partition is not None:
                self.partition.system.destroy(self)
            else:
                self.destroy()

    def destroy(self) -> None:
        """End of the object, when its last reference has gone; for ``put`` alone."""
        was_active = self.state == ACTIVE
        self.state = DESTROYING
        if was_active:
            self._deactivate()
        self._cleanup()
        if self.partition is not None:
            self.partition.release(self)

    # -- activation ----------------------------------------------------------------------------------------------------

    def require_init(self) -> None:
        """Raise OBJECT_STATE (33) unless the object may still be configured."""
        if self.state != INIT:
            raise HypervisorError(Error.OBJECT_STATE, f"{self} is {ObjectState(self.state).name}, not INIT")

    def activate(self) -> None:
        """INIT to ACTIVE, or to FAILED for good when the type's activation refuses (objects.md 1.2)."""
        self.require_init()
        try:
            self._activate()
        except HypervisorError:
            self.state = FAILED
            raise
        self.state = ACTIVE

    def _activate(self) -> None:
        """Hook: check the configuration and take what the object needs; raise HypervisorError to refuse."""

    def _deactivate(self) -> None:
        """Hook: undo activation; called once, when an ACTIVE object is destroyed."""

    def _cleanup(self) -> None:
        """Hook: drop references to other objects; called once, whatever the state was."""

    def __str__(self) -> str:
        return f"{self.type.name.lower()} #{self.serial}"
