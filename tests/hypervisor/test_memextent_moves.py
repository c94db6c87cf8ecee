"""Pages that change their owner while they are mapped: what stage 2 shows afterwards, however little memory is left."""

from __future__ import annotations

from gunyah.abi.errors import Error
from gunyah.abi.memory import MemextentType
from gunyah.hypervisor.memextent_donate import donate_child, donate_sibling
from gunyah.hypervisor.memextent_mapping import map_extent, map_partial, unmap, unmap_partial, update
from gunyah.hypervisor.partition import Partition

from .extents import MIB, PAGE, RAM, RO, RW, RWX, V, basic, derive, expect, pages, refused, space, sparse

SPARSE = MemextentType.SPARSE


def take_everything(root: Partition) -> list[int]:
    """All pages of the heap, the reserve too."""
    taken = []
    while root.heap.size - root.heap.used >= PAGE:
        taken.append(root.heap.allocate(reserve=True))
    return taken


def test_pages_that_leave_do_not_take_a_later_mapping_with_them(root: Partition) -> None:
    leaving, staying, addrspace = sparse(root), basic(root, RAM + 4 * MIB), space(root)
    donate_child(leaving, 0, 2 * MIB, reverse=False)
    map_extent(leaving, addrspace, V, RW)
    map_extent(staying, addrspace, V, RO)
    donate_child(leaving, 0, MIB, reverse=True)
    assert pages(addrspace) == expect(V, RAM + 4 * MIB, 2 * MIB, RO)
    leaving.put()
    assert pages(addrspace) == expect(V, RAM + 4 * MIB, 2 * MIB, RO)


def test_pages_that_come_stand_over_an_earlier_mapping(root: Partition) -> None:
    coming, there, addrspace = sparse(root), basic(root, RAM + 4 * MIB), space(root)
    map_extent(coming, addrspace, V, RW)
    map_extent(there, addrspace, V, RO)
    donate_child(coming, PAGE, PAGE, reverse=False)
    below = expect(V, RAM + 4 * MIB, 2 * MIB, RO)
    assert pages(addrspace) == below | {V + PAGE: (RAM + PAGE, RW)}


def test_every_mapping_of_the_parent_is_restored_the_changed_and_the_others(root: Partition) -> None:
    parent, one, two = basic(root), space(root, 7), space(root, 8)
    places = ((one, V), (two, V), (one, 2 * V))
    for addrspace, base in places:
        map_extent(parent, addrspace, base, RWX)
    child = derive(parent, PAGE, PAGE)
    update(child, two, V + PAGE, 4, 4)
    unmap(child, one, 2 * V + PAGE)
    assert pages(two)[V + PAGE] == (RAM + PAGE, RO)
    assert 2 * V + PAGE not in pages(one)
    child.put()
    assert pages(one) == expect(V, RAM, 2 * MIB, RWX) | expect(2 * V, RAM, 2 * MIB, RWX)
    assert pages(two) == expect(V, RAM, 2 * MIB, RWX)


class TestEndWithoutMemory:
    """Destruction succeeds on a full heap: it has the reserve, and then does with less."""

    def halves(self, root: Partition) -> tuple:  # type: ignore[type-arg]
        """Two children share a block of their parent, whose own mapping has changed or gone."""
        parent, addrspace = basic(root), space(root)
        map_extent(parent, addrspace, V, RW)
        one, two = derive(parent, 0, MIB), derive(parent, MIB, MIB)
        assert [leaf.size for leaf in addrspace.tables.leaves()] == [2 * MIB]
        return parent, addrspace, one, two

    def test_half_a_block_goes_with_a_page_of_the_reserve(self, root: Partition) -> None:
        parent, addrspace, one, two = self.halves(root)
        unmap(parent, addrspace, V)
        root.heap.book(root.heap.available)
        with refused(Error.NOMEM):
            root.heap.allocate()
        one.put()
        assert pages(addrspace) == expect(V + MIB, RAM + MIB, MIB, RW)
        assert list(parent.owned()) == [(RAM, MIB)]
        two.put()
        assert pages(addrspace) == {}

    def test_half_a_block_changes_with_a_page_of_the_reserve(self, root: Partition) -> None:
        parent, addrspace, one, _ = self.halves(root)
        update(parent, addrspace, V, 4, 4)
        root.heap.book(root.heap.available)
        one.put()
        assert pages(addrspace) == expect(V, RAM, MIB, RO) | expect(V + MIB, RAM + MIB, MIB, RW)

    def test_without_a_page_at_all_the_block_goes_whole(self, root: Partition) -> None:
        parent, addrspace, one, two = self.halves(root)
        update(parent, addrspace, V, 4, 4)
        taken = take_everything(root)
        one.put()
        assert pages(addrspace) == {}, "nothing is left mapped that should not be"
        assert (list(parent.owned()), list(two.owned())) == ([(RAM, MIB)], [(RAM + MIB, MIB)])
        for page in taken:
            root.heap.free(page)

    def test_what_the_parent_maps_is_restored_from_the_reserve(self, root: Partition) -> None:
        parent, addrspace = basic(root, size=4 * MIB), space(root)
        map_extent(parent, addrspace, V + PAGE, RWX)
        child = derive(parent, 0, 4 * MIB, 4)
        unmap(child, addrspace, V + PAGE)
        root.heap.book(root.heap.available)
        child.put()
        assert pages(addrspace) == expect(V + PAGE, RAM, 4 * MIB, RWX)

    def test_outside_destruction_the_reserve_is_left_alone(self, root: Partition) -> None:
        parent, addrspace = sparse(root), space(root)
        donate_child(parent, 0, 2 * MIB, reverse=False)
        map_extent(parent, addrspace, V, RW)
        before = pages(addrspace)
        booked = root.heap.available
        root.heap.book(booked)
        with refused(Error.NOMEM):
            donate_child(parent, 0, PAGE, reverse=True)
        with refused(Error.NOMEM):
            unmap_partial(parent, addrspace, V, 0, PAGE)
        assert pages(addrspace) == before
        assert list(parent.owned()) == [(RAM, 2 * MIB)]
        root.heap.unbook(booked)
        donate_child(parent, 0, PAGE, reverse=True)
        assert pages(addrspace) == expect(V + PAGE, RAM + PAGE, 2 * MIB - PAGE, RW)


def test_extents_of_the_partition_are_no_siblings(root: Partition) -> None:
    one, two = sparse(root), sparse(root)
    donate_child(one, 0, PAGE, reverse=False)
    with refused(Error.ARGUMENT_INVALID):
        donate_sibling(one, two, 0, PAGE)
    assert (list(one.owned()), list(two.owned())) == ([(RAM, PAGE)], [])


def test_a_page_moves_between_siblings_mapped_in_different_places(root: Partition) -> None:
    parent, one_space, two_space = sparse(root), space(root, 7), space(root, 8)
    donate_child(parent, 0, MIB, reverse=False)
    one, two = (derive(parent, 0, MIB, kind=SPARSE) for _ in range(2))
    map_partial(one, one_space, V, 0, 4 * PAGE, RW)
    map_partial(two, two_space, 2 * V, 0, 4 * PAGE, RO)
    donate_child(one, 0, 3 * PAGE, reverse=False)
    assert pages(one_space) == expect(V, RAM, 3 * PAGE, RW)
    donate_sibling(one, two, PAGE, PAGE)
    assert pages(one_space) == {V: (RAM, RW), V + 2 * PAGE: (RAM + 2 * PAGE, RW)}
    assert pages(two_space) == {2 * V + PAGE: (RAM + PAGE, RO)}
