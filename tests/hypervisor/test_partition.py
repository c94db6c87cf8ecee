"""Partitions: their heap runs out cleanly and gets everything back; all of RAM has an owner from the start."""

from __future__ import annotations

import pytest

from gunyah.abi.errors import Error
from gunyah.abi.objects import ObjectType
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.heap import RESERVED_PAGES, Heap
from gunyah.hypervisor.memdb import OwnerKind
from gunyah.hypervisor.objects import KernelObject
from gunyah.hypervisor.partition import Partition, create_partitions
from gunyah.machine.memory import PhysicalMemory

PAGE = 4096
RAM = 0x4000_0000


class Thing(KernelObject):
    type = ObjectType.DOORBELL
    heap_size = 1000


@pytest.fixture
def root() -> Partition:
    return create_partitions(PhysicalMemory([(RAM, 64 << 20)]), root_size=1 << 20)[1]


def test_the_whole_of_ram_is_laid_out_as_on_the_reference() -> None:
    private, root = create_partitions(PhysicalMemory([(RAM, 2 << 30)]))
    assert [(pa, size, owner.kind, owner.holder) for pa, size, owner in root.system.database.ranges()] == [
        (0x4000_0000, 0x4000_0000, OwnerKind.PARTITION, root),
        (0x8000_0000, 0x40_0000, OwnerKind.PARTITION, private),
        (0x8040_0000, 0x3D80_0000, OwnerKind.PARTITION, root),
        (0xBDC0_0000, 0x10_0000, OwnerKind.ALLOCATOR, private),
        (0xBDD0_0000, 0x230_0000, OwnerKind.ALLOCATOR, root),
    ]
    assert list(root.free_ranges()) == [(0x4000_0000, 0x4000_0000), (0x8040_0000, 0x3D80_0000)]
    assert root.privileged
    assert private.privileged


def test_objects_are_charged_numbered_listed_and_refunded(root: Partition) -> None:
    before = root.heap.used
    things = [Thing(root) for _ in range(3)]
    assert root.heap.used == before + 3000
    assert list(root.objects) == things
    assert len({thing.serial for thing in things}) == 3
    root.charge(things[1], 500)
    assert root.charged(things[1]) == 1500
    root.refund(things[1], 100)
    for thing in things:
        thing.put()
    assert root.heap.used == before
    assert root.objects == ()
    assert root.charged(things[1]) == 0


def test_a_full_heap_refuses_the_next_object_and_loses_nothing(root: Partition) -> None:
    things = []
    with pytest.raises(HypervisorError) as failure:
        while True:
            things.append(Thing(root))
    assert failure.value.code is Error.NOMEM
    assert len(things) == (root.heap.size - RESERVED_PAGES * PAGE) // 1000
    assert len(root.objects) == len(things)
    things.pop().put()
    Thing(root)


def test_pages_and_objects_share_one_heap(root: Partition) -> None:
    heap = root.heap
    heap.book(heap.available - PAGE)
    page = heap.allocate()
    with pytest.raises(HypervisorError) as failure:
        heap.allocate()
    assert failure.value.code is Error.NOMEM
    spare = heap.allocate(reserve=True)
    assert heap.available == 0
    heap.free(spare)
    heap.free(page)
    assert heap.available == PAGE


def test_pages_are_zero_aligned_and_used_again(root: Partition) -> None:
    heap = root.heap
    first = heap.allocate()
    pair = heap.allocate(4)
    assert pair % (4 * PAGE) == 0
    heap.ram.write(first, b"\xff" * PAGE)
    heap.ram.write(pair, b"\xff" * 4 * PAGE)
    heap.free(first)
    heap.free(pair, 4)
    assert heap.allocate(4) == pair
    assert heap.ram.read(pair, 4 * PAGE) == bytes(4 * PAGE)
    again = heap.allocate()
    assert again == first
    assert heap.ram.read(again, PAGE) == bytes(PAGE)
    assert heap.pages == 5


def test_a_heap_never_hands_out_what_is_not_its_own(root: Partition) -> None:
    heap = root.heap
    pages = []
    with pytest.raises(HypervisorError):
        while True:
            pages.append(heap.allocate(reserve=True))
    assert len(set(pages)) == len(pages) == heap.size // PAGE
    assert min(pages) == heap.base
    assert max(pages) == heap.base + heap.size - PAGE


def test_mistakes_in_the_hypervisor_itself_are_loud(root: Partition) -> None:
    with pytest.raises(ValueError, match="booked"):
        root.heap.unbook(root.heap.booked + 1)
    with pytest.raises(ValueError, match="whole pages of RAM"):
        Heap(root.system.ram, RAM + 1, PAGE)
    with pytest.raises(ValueError, match="whole pages of RAM"):
        Heap(root.system.ram, 0, PAGE)


def test_a_partition_cannot_be_destroyed(root: Partition) -> None:
    for _ in range(10):
        root.put()
    assert root.state == 2
