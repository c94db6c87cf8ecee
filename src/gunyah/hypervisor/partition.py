"""Partitions: who owns memory, and the heap that objects are allocated from (objects.md 2, boot.md 1, 3 and 6).

Two exist: the hypervisor-private one, to which no capability leads, and the root partition with all other RAM. Both are
privileged. A partition is never destroyed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from gunyah.abi.objects import ObjectType
from gunyah.hypervisor.heap import Heap
from gunyah.hypervisor.memdb import MemoryDatabase, Owner, OwnerKind
from gunyah.hypervisor.objects import ACTIVE, KernelObject
from gunyah.machine import board

if TYPE_CHECKING:
    from gunyah.hypervisor.addrspace import Addrspace
    from gunyah.machine.memory import PhysicalMemory

__all__ = ["HYPERVISOR_IMAGE_SIZE", "Partition", "SystemMemory", "create_partitions"]

HYPERVISOR_IMAGE_SIZE = 0x40_0000
"""Bytes from the image's base that the hypervisor keeps: the root environment's free ranges begin behind them."""


class SystemMemory:
    """What all partitions of one hypervisor share: RAM, the ownership database, and the VMIDs in use."""

    def __init__(self, ram: PhysicalMemory) -> None:
        self.ram = ram
        self.database = MemoryDatabase()
        self.vmids: dict[int, Addrspace] = {}
        self.on_destroy: Callable[[KernelObject], None] | None = None
        """Told of each object whose end has come."""
        self._serial = 0
        self._unreferenced: list[KernelObject] = []
        self._destroying = False

    def destroy(self, obj: KernelObject) -> None:
        """Destroy an object that nobody holds, and what it was the last to hold: one after the other.

        Chains of holders are as long as a guest likes (spaces in spaces, extents of extents), so destruction must not
        nest.
        """
        self._unreferenced.append(obj)
        if self._destroying:
            return
        self._destroying = True
        try:
            while self._unreferenced:
                gone = self._unreferenced.pop()
                if self.on_destroy is not None:
                    self.on_destroy(gone)
                gone.destroy()
        finally:
            self._destroying = False

    def next_serial(self) -> int:
        """A number for people that no other object of this hypervisor has."""
        self._serial += 1
        return self._serial


class Partition(KernelObject):
    """partition_t: a heap, a set of owned physical pages, and the objects that were allocated from it."""

    type = ObjectType.PARTITION

    def __init__(self, system: SystemMemory, name: str, heap: Heap, *, privileged: bool = True) -> None:
        self.system = system
        self.name = name
        self.heap = heap
        self.privileged = privileged
        self._objects: dict[int, tuple[KernelObject, int]] = {}
        super().__init__(None)
        self.serial = system.next_serial()
        # Objects hold references to their partition, which nothing ever takes to zero.
        self.references = 1 << 62
        self.free_memory = Owner(OwnerKind.PARTITION, self)
        self.heap_memory = Owner(OwnerKind.ALLOCATOR, self)
        self.state = ACTIVE

    # -- objects -------------------------------------------------------------------------------------------------------

    def adopt(self, obj: KernelObject) -> None:
        """Allocate ``obj`` (its ``heap_size`` bytes) and give it a serial number; raises NOMEM."""
        size = obj.heap_size
        self.heap.book(size)
        obj.serial = self.system.next_serial()
        self._objects[obj.serial] = (obj, size)

    def release(self, obj: KernelObject) -> None:
        """Return the memory of a destroyed object, and whatever it still had charged."""
        found = self._objects.pop(obj.serial, None)
        if found is not None:
            self.heap.unbook(found[1])

    def charge(self, obj: KernelObject, size: int) -> None:
        """Allocate ``size`` more bytes for ``obj``, an object of this partition; raises NOMEM."""
        self.heap.book(size)
        _, charged = self._objects[obj.serial]
        self._objects[obj.serial] = (obj, charged + size)

    def refund(self, obj: KernelObject, size: int) -> None:
        """Free ``size`` bytes that ``charge`` gave."""
        _, charged = self._objects[obj.serial]
        self._objects[obj.serial] = (obj, charged - size)
        self.heap.unbook(size)

    @property
    def objects(self) -> tuple[KernelObject, ...]:
        """Every live object, oldest first."""
        return tuple(obj for obj, _ in self._objects.values())

    def charged(self, obj: KernelObject) -> int:
        """Heap bytes that ``obj`` holds, 0 for an object that is not this partition's."""
        return self._objects.get(obj.serial, (obj, 0))[1]

    # -- memory --------------------------------------------------------------------------------------------------------

    def free_ranges(self) -> Iterator[tuple[int, int]]:
        """(PA, bytes) of the memory that the partition owns and no extent or heap has taken."""
        return self.system.database.ranges_of(self.free_memory)

    def __str__(self) -> str:
        return f"partition {self.name}"


def create_partitions(
    ram: PhysicalMemory,
    *,
    root_size: int = board.ROOT_PARTITION_HEAP.size,
    private_size: int = board.HYPERVISOR_EXTRA_HEAP.size,
) -> tuple[Partition, Partition]:
    """Hypervisor-private and root partition over ``ram``, every page of which gets its owner (boot.md 1, 2 and 3).

    The heaps (bytes) are the end of RAM: with the board's 2 GiB that gives the addresses of the reference.
    """
    system = SystemMemory(ram)
    database = system.database
    end = max(base + size for base, size in ram.regions)
    root_heap = Heap(ram, end - root_size, root_size)
    private_heap = Heap(ram, end - root_size - private_size, private_size)
    private = Partition(system, "hypervisor", private_heap)
    root = Partition(system, "root", root_heap)
    for base, size in ram.regions:
        database.insert(base, size, root.free_memory)
    image = board.HYPERVISOR_IMAGE
    if ram.contains(image, HYPERVISOR_IMAGE_SIZE) and image + HYPERVISOR_IMAGE_SIZE <= private_heap.base:
        database.transfer(image, HYPERVISOR_IMAGE_SIZE, root.free_memory, private.free_memory)
    database.transfer(private_heap.base, private_heap.size, root.free_memory, private.heap_memory)
    database.transfer(root_heap.base, root_heap.size, root.free_memory, root.heap_memory)
    return private, root
