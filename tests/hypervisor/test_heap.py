"""The heap: what is booked, which pages come next, and what is kept back."""

from __future__ import annotations

import pytest

from gunyah.abi.errors import Error
from gunyah.abi.objects import ObjectState, ObjectType
from gunyah.hypervisor.heap import RESERVED_PAGES, Heap
from gunyah.hypervisor.memdb import OwnerKind
from gunyah.hypervisor.objects import KernelObject
from gunyah.hypervisor.partition import HYPERVISOR_IMAGE_SIZE, Partition, create_partitions
from gunyah.machine import board
from gunyah.machine.memory import PhysicalMemory

from .extents import MIB, PAGE, RAM, refused

PAGES = 256
BASE = RAM + MIB + 3 * PAGE


@pytest.fixture
def heap() -> Heap:
    return Heap(PhysicalMemory([(RAM, 64 * MIB)]), BASE, PAGES * PAGE)


class Thing(KernelObject):
    type = ObjectType.DOORBELL
    heap_size = 100


class TestHeap:
    """Bytes of objects and pages of tables share one piece of RAM."""

    def test_a_fresh_heap(self, heap: Heap) -> None:
        assert (heap.base, heap.size, heap.booked, heap.pages, heap.used) == (BASE, PAGES * PAGE, 0, 0, 0)
        assert heap.available == (PAGES - RESERVED_PAGES) * PAGE

    @pytest.mark.parametrize(
        ("base", "size"),
        [
            (RAM + 1, PAGE),
            (RAM, PAGE + 1),
            (RAM - PAGE, 2 * PAGE),
            (RAM + 64 * MIB - PAGE, 2 * PAGE),
            (RAM + 2048, PAGE),
        ],
    )
    def test_a_heap_is_whole_pages_of_ram(self, base: int, size: int) -> None:
        ram = PhysicalMemory([(RAM, 64 * MIB)])
        with pytest.raises(ValueError, match="whole pages of RAM"):
            Heap(ram, base, size)
        Heap(ram, RAM + 64 * MIB - PAGE, PAGE)

    def test_bytes_are_booked_to_the_last_one_and_returned(self, heap: Heap) -> None:
        all_of_it = heap.available
        heap.book(all_of_it)
        assert (heap.booked, heap.available, heap.used) == (all_of_it, 0, all_of_it)
        with refused(Error.NOMEM):
            heap.book(1)
        heap.book(0)
        heap.unbook(10)
        heap.book(4)
        assert (heap.booked, heap.available) == (all_of_it - 6, 6)
        heap.unbook(all_of_it - 6)
        assert heap.booked == 0
        with pytest.raises(ValueError, match="1 bytes returned, 0 were booked"):
            heap.unbook(1)

    def test_the_reserve_is_for_those_who_may(self, heap: Heap) -> None:
        heap.book(heap.available)
        with refused(Error.NOMEM):
            heap.allocate()
        taken = [heap.allocate(reserve=True) for _ in range(RESERVED_PAGES)]
        assert (heap.pages, heap.available, heap.used) == (RESERVED_PAGES, 0, heap.size)
        with refused(Error.NOMEM):
            heap.allocate(reserve=True)
        assert heap.pages == RESERVED_PAGES
        heap.free(taken.pop())
        heap.allocate(reserve=True)

    def test_an_ordinary_allocation_takes_all_but_the_reserve(self, heap: Heap) -> None:
        for _ in range(PAGES - RESERVED_PAGES):
            heap.allocate()
        assert heap.available == 0
        with refused(Error.NOMEM):
            heap.allocate()
        with refused(Error.NOMEM):
            heap.book(1)

    def test_pages_come_from_the_start_up_and_the_lowest_free_one_first(self, heap: Heap) -> None:
        pages = [heap.allocate() for _ in range(6)]
        assert pages == [BASE + i * PAGE for i in range(6)]
        for at in (4, 1, 3):
            heap.free(pages[at])
        assert heap.pages == 3
        assert [heap.allocate() for _ in range(4)] == [pages[1], pages[3], pages[4], BASE + 6 * PAGE]

    def test_runs_are_aligned_and_the_gap_before_them_is_used(self, heap: Heap) -> None:
        first = heap.allocate(8)
        assert first == RAM + MIB + 8 * PAGE
        assert [heap.allocate() for _ in range(5)] == [BASE + i * PAGE for i in range(5)]
        assert heap.allocate() == first + 8 * PAGE
        assert heap.allocate(2) == first + 10 * PAGE
        assert heap.allocate() == first + 9 * PAGE
        assert heap.pages == 8 + 5 + 1 + 2 + 1

    def test_runs_are_used_again_by_size(self, heap: Heap) -> None:
        four, two = heap.allocate(4), heap.allocate(2)
        heap.free(four, 4)
        heap.free(two, 2)
        assert heap.pages == 0
        assert heap.allocate(2) == two
        assert heap.allocate(4) == four
        assert heap.allocate(4) not in (four, two)

    def test_a_run_that_does_not_fit_any_more_is_refused_and_loses_no_page(self, heap: Heap) -> None:
        with refused(Error.NOMEM):
            heap.allocate(256)
        last = heap.allocate(128)
        assert last == RAM + MIB + 128 * PAGE
        with refused(Error.NOMEM):
            heap.allocate(128, reserve=True)
        singles = [heap.allocate(reserve=True) for _ in range(PAGES - 128)]
        assert len({*singles}) == PAGES - 128
        assert heap.used == heap.size

    def test_pages_are_zero_and_their_neighbours_are_left_alone(self, heap: Heap) -> None:
        heap.ram.write(BASE - PAGE, b"\xff" * 8 * PAGE)
        heap.allocate()
        assert heap.ram.read(BASE - PAGE, 3 * PAGE) == b"\xff" * PAGE + bytes(PAGE) + b"\xff" * PAGE


class TestPartition:
    """Objects on the heap, and who owns what at the start."""

    def partitions(self, size: int = 64 * MIB, **sizes: int) -> tuple[Partition, Partition]:
        return create_partitions(PhysicalMemory([(RAM, size)]), **sizes)

    def test_the_sizes_of_the_heaps(self) -> None:
        private, root = self.partitions(root_size=2 * MIB, private_size=MIB)
        assert (root.heap.base, root.heap.size) == (RAM + 62 * MIB, 2 * MIB)
        assert (private.heap.base, private.heap.size) == (RAM + 61 * MIB, MIB)
        owners = [(pa, size, owner.kind, owner.holder) for pa, size, owner in root.system.database.ranges()]
        assert owners == [
            (RAM, 61 * MIB, OwnerKind.PARTITION, root),
            (RAM + 61 * MIB, MIB, OwnerKind.ALLOCATOR, private),
            (RAM + 62 * MIB, 2 * MIB, OwnerKind.ALLOCATOR, root),
        ]
        assert list(root.free_ranges()) == [(RAM, 61 * MIB)]
        assert list(private.free_ranges()) == []

    @pytest.mark.parametrize(("spare", "kept"), [(0, True), (-PAGE, False)])
    def test_the_image_is_the_hypervisors_where_it_fits_below_the_heaps(self, spare: int, kept: bool) -> None:
        base = board.HYPERVISOR_IMAGE
        size = HYPERVISOR_IMAGE_SIZE + 3 * MIB + spare
        ram = PhysicalMemory([(base, size)])
        private, root = create_partitions(ram, root_size=2 * MIB, private_size=MIB)
        image = [(base, HYPERVISOR_IMAGE_SIZE)] if kept else []
        assert list(private.free_ranges()) == image
        assert list(root.free_ranges()) == ([] if kept else [(base, HYPERVISOR_IMAGE_SIZE - PAGE)])

    def test_an_image_that_is_only_partly_ram_is_nobodys_but_the_roots(self) -> None:
        base = board.HYPERVISOR_IMAGE
        private, root = create_partitions(
            PhysicalMemory([(base, MIB), (base + 64 * MIB, 16 * MIB)]), root_size=2 * MIB, private_size=MIB
        )
        assert list(private.free_ranges()) == []
        assert list(root.free_ranges()) == [(base, MIB), (base + 64 * MIB, 13 * MIB)]

    def test_ram_in_two_pieces_is_all_known(self) -> None:
        ram = PhysicalMemory([(RAM, 16 * MIB), (RAM + 64 * MIB, 16 * MIB)])
        private, root = create_partitions(ram, root_size=2 * MIB, private_size=MIB)
        assert root.heap.base == RAM + 78 * MIB
        assert list(root.free_ranges()) == [(RAM, 16 * MIB), (RAM + 64 * MIB, 13 * MIB)]
        assert private.system is root.system

    def test_partitions_are_active_privileged_and_have_names_and_numbers(self) -> None:
        private, root = self.partitions(root_size=2 * MIB)
        assert (str(private), str(root)) == ("partition hypervisor", "partition root")
        assert (private.serial, root.serial) == (1, 2)
        for partition in (private, root):
            assert (partition.state, partition.privileged, partition.partition) == (ObjectState.ACTIVE, True, None)
            assert partition.type is ObjectType.PARTITION
            assert partition.references > 1 << 60
        small = Partition(root.system, "small", root.heap, privileged=False)
        assert (small.privileged, small.serial) == (False, 3)

    def test_what_is_charged_to_an_object_is_known_and_returned_with_it(self) -> None:
        _, root = self.partitions(root_size=2 * MIB)
        one, two = Thing(root), Thing(root)
        assert (one.serial, two.serial, root.objects) == (3, 4, (one, two))
        root.charge(one, 50)
        root.charge(one, 7)
        root.refund(one, 20)
        assert (root.charged(one), root.charged(two), root.heap.booked) == (137, 100, 237)
        one.put()
        assert (root.charged(one), root.objects, root.heap.booked) == (0, (two,), 100)
        root.release(one)
        assert root.heap.booked == 100
        assert Thing(root).serial == 5

    def test_a_charge_that_does_not_fit_changes_nothing(self) -> None:
        _, root = self.partitions(root_size=2 * MIB)
        one = Thing(root)
        left = root.heap.available
        with refused(Error.NOMEM):
            root.charge(one, left + 1)
        assert (root.charged(one), root.heap.available) == (100, left)
        root.charge(one, left)
        with refused(Error.NOMEM):
            Thing(root)
        assert root.objects == (one,)

    def test_destruction_goes_on_after_an_object_that_fails_in_it(self) -> None:
        _, root = self.partitions(root_size=2 * MIB)

        class Broken(Thing):
            def _cleanup(self) -> None:
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            Broken(root).put()
        after = Thing(root)
        after.put()
        assert after.state == ObjectState.DESTROYING

    def test_whoever_is_last_to_hold_something_takes_it_along_one_after_the_other(self) -> None:
        _, root = self.partitions(root_size=2 * MIB)
        order: list[str] = []

        class Holder(Thing):
            def __init__(self, name: str, *held: Thing) -> None:
                super().__init__(root)
                self.name, self.held = name, held

            def _cleanup(self) -> None:
                order.append(f"{self.name} begins")
                for each in self.held:
                    each.put()
                order.append(f"{self.name} ends")

        leaf = Holder("leaf")
        leaf.get()
        middle = Holder("middle", leaf)
        top = Holder("top", middle, leaf)
        gone: list[KernelObject] = []
        root.system.on_destroy = gone.append
        top.put()
        assert order == ["top begins", "top ends", "middle begins", "middle ends", "leaf begins", "leaf ends"]
        assert gone == [top, middle, leaf]
        assert root.objects == ()
