"""Sparse extents: mapped page by page, filled and emptied by donation, never half."""

from __future__ import annotations

import pytest

from gunyah.abi.errors import Error
from gunyah.abi.memory import MemextentType
from gunyah.hypervisor.memextent import MemExtent
from gunyah.hypervisor.memextent_donate import donate_child, donate_sibling
from gunyah.hypervisor.memextent_mapping import (
    map_extent,
    map_partial,
    unmap,
    unmap_all,
    unmap_partial,
    update,
    update_partial,
)
from gunyah.hypervisor.partition import Partition

from .extents import (
    MIB,
    PAGE,
    RAM,
    RO,
    RW,
    RWX,
    V,
    basic,
    derive,
    expect,
    pages,
    refused,
    space,
    sparse,
    word,
)

# -- sparse ------------------------------------------------------------------------------------------------------------


def test_donated_pages_appear_in_every_mapping_and_leave_again(root: Partition) -> None:
    extent, one, two = sparse(root, 0, 1 << 36), space(root, 7), space(root, 8)
    map_partial(extent, one, V, RAM, 4 * MIB, RW)
    map_partial(extent, two, 2 * V, RAM + MIB, MIB, RO)
    assert pages(one) == pages(two) == {}
    donate_child(extent, RAM, 3 * MIB, reverse=False)
    assert pages(one) == expect(V, RAM, 3 * MIB, RW)
    assert pages(two) == expect(2 * V, RAM + MIB, MIB, RO)
    with refused(Error.MEMDB_NOT_OWNER):
        donate_child(extent, RAM, 3 * MIB, reverse=False)
    donate_child(extent, RAM + MIB, 2 * MIB, reverse=True)
    assert pages(one) == expect(V, RAM, MIB, RW)
    assert pages(two) == {}
    assert list(extent.owned()) == [(RAM, MIB)]


def test_a_sparse_extent_beyond_the_ipa_space_maps_what_fits(root: Partition) -> None:
    extent, addrspace = sparse(root, 0, 1 << 36), space(root)
    donate_child(extent, RAM, PAGE, reverse=False)
    map_extent(extent, addrspace, 0x1_0000_0000, RW)
    assert list(pages(addrspace)) == [0x1_0000_0000 + RAM]
    unmap(extent, addrspace, 0x1_0000_0000)
    with refused(Error.ADDR_INVALID):
        map_extent(extent, addrspace, 0xF_C000_0000, RW)
    map_extent(extent, addrspace, 0xF_BFFF_F000, RW)
    assert list(pages(addrspace)) == [(1 << 36) - PAGE]
    with refused(Error.ADDR_INVALID):
        donate_child(extent, RAM + PAGE, PAGE, reverse=False)
    assert list(extent.owned()) == [(RAM, PAGE)]


@pytest.mark.parametrize(
    ("base", "offset", "size", "error"),
    [
        (V, 0x800, PAGE, Error.ARGUMENT_ALIGNMENT),
        (V, 0, 0x800, Error.ARGUMENT_ALIGNMENT),
        (V + 1, 0, PAGE, Error.ARGUMENT_ALIGNMENT),
        (V, 0, 0, Error.ARGUMENT_SIZE),
        (V, 0xFFFF_FFFF_FFFF_F000, 0x2000, Error.ARGUMENT_SIZE),
        (0xFFFF_FFFF_FFFF_F000, 0, 0x2000, Error.ARGUMENT_SIZE),
        (V, 2 * MIB, PAGE, Error.ARGUMENT_SIZE),
        (V, MIB, MIB + PAGE, Error.ARGUMENT_SIZE),
        (1 << 48, 0, PAGE, Error.ADDR_INVALID),
        (1 << 36, 0, PAGE, Error.ADDR_INVALID),
        ((1 << 36) - PAGE, 0, 2 * PAGE, Error.ADDR_OVERFLOW),
    ],
)
def test_a_bad_partial_mapping_is_refused(root: Partition, base: int, offset: int, size: int, error: Error) -> None:
    extent, addrspace = sparse(root), space(root)
    donate_child(extent, 0, 2 * MIB, reverse=False)
    used = root.heap.used
    with refused(error):
        map_partial(extent, addrspace, base, offset, size, RW)
    assert pages(addrspace) == {}
    assert root.heap.used == used
    assert all(slot.addrspace is None for slot in extent.slots)


def test_one_slot_holds_many_parts_and_overlap_takes_another(root: Partition) -> None:
    extent, addrspace = sparse(root), space(root)
    donate_child(extent, 0, 2 * MIB, reverse=False)
    for i in range(0, 64, 2):
        map_partial(extent, addrspace, V + i * PAGE, i * PAGE, PAGE, RW)
    assert sum(slot.addrspace is not None for slot in extent.slots) == 1
    for i in range(3):
        map_partial(extent, addrspace, 2 * V + i * PAGE, 0, PAGE, RW)
    with refused(Error.MEMEXTENT_MAPPINGS_FULL):
        map_partial(extent, addrspace, 4 * V, 0, PAGE, RW)
    other = space(root, 9)
    with refused(Error.MEMEXTENT_MAPPINGS_FULL):
        map_partial(extent, other, V, PAGE, PAGE, RW)
    for i in range(0, 64, 2):
        unmap_partial(extent, addrspace, V + i * PAGE, i * PAGE, PAGE)
    map_partial(extent, other, V, PAGE, PAGE, RW)


def test_part_of_a_sparse_mapping_can_be_taken_back_and_changed(root: Partition) -> None:
    extent, addrspace = sparse(root), space(root)
    donate_child(extent, 0, 2 * MIB, reverse=False)
    map_extent(extent, addrspace, V, RW)
    unmap_partial(extent, addrspace, V + MIB, MIB, PAGE)
    update_partial(extent, addrspace, V + PAGE, PAGE, 2 * PAGE, 4, 4)
    expected = expect(V, RAM, 2 * MIB, RW) | expect(V + PAGE, RAM + PAGE, 2 * PAGE, RO)
    del expected[V + MIB]
    assert pages(addrspace) == expected
    with refused(Error.ADDR_INVALID):
        unmap_partial(extent, addrspace, V + MIB, MIB, PAGE)
    with refused(Error.ADDR_INVALID):
        update(extent, addrspace, V, 4, 4)
    with refused(Error.ADDR_INVALID):
        unmap_partial(extent, addrspace, V + PAGE, 0, PAGE)
    donate_child(extent, 0, 2 * MIB, reverse=True)
    assert pages(addrspace) == {}
    donate_child(extent, 0, 2 * MIB, reverse=False)
    assert pages(addrspace) == expected, "the record of the mapping is kept while the pages are away"


def test_donation_between_parent_child_and_siblings_changes_mappings_in_place(root: Partition) -> None:
    parent, addrspace = sparse(root), space(root)
    donate_child(parent, 0, 2 * MIB, reverse=False)
    map_extent(parent, addrspace, V, RWX)
    one = derive(parent, 0, MIB, 7, MemextentType.SPARSE)
    two = derive(parent, 0, 2 * MIB, 6, MemextentType.SPARSE)
    assert pages(addrspace) == expect(V, RAM, 2 * MIB, RWX), "nothing has moved yet"
    broken: list[tuple[int, int]] = []
    addrspace.change_listeners.append(lambda ipa, size: broken.append((ipa, size)))
    donate_child(one, 0, MIB, reverse=False)
    assert broken == [], "the same mapping under a new owner is not touched"
    donate_sibling(one, two, PAGE, PAGE)
    assert pages(addrspace)[V + PAGE] == (RAM + PAGE, RW)
    assert list(two.owned()) == [(RAM + PAGE, PAGE)]
    unmap_all(one)
    assert sorted(pages(addrspace)) == [V + PAGE, *range(V + MIB, V + 2 * MIB, PAGE)]
    donate_child(two, PAGE, PAGE, reverse=True)
    assert pages(addrspace)[V + PAGE] == (RAM + PAGE, RWX)
    one.put()
    two.put()
    assert pages(addrspace) == expect(V, RAM, 2 * MIB, RWX)


def test_bad_donations_are_refused_in_the_references_order(root: Partition) -> None:
    parent = sparse(root)
    donate_child(parent, 0, 2 * MIB, reverse=False)
    one = derive(parent, 0, MIB, kind=MemextentType.SPARSE)
    two = derive(parent, MIB, MIB, kind=MemextentType.SPARSE)
    plain = derive(parent, 0, MIB)
    for offset, size, error in (
        (1, 0, Error.ARGUMENT_ALIGNMENT),
        (0xFFFF_FFFF_FFFF_F000, PAGE, Error.ARGUMENT_INVALID),
        (0, 0, Error.ARGUMENT_SIZE),
        (0, 0xFFFF_FFFF_FFFF_F000, Error.ARGUMENT_SIZE),
        (MIB, PAGE, Error.ARGUMENT_INVALID),
        (0, MIB + PAGE, Error.ARGUMENT_INVALID),
        (0, PAGE, Error.MEMDB_NOT_OWNER),
    ):
        with refused(error):
            donate_child(one, offset, size, reverse=False)
    with refused(Error.MEMEXTENT_TYPE):
        donate_child(plain, 0, PAGE, reverse=True)
    with refused(Error.ARGUMENT_INVALID):
        donate_sibling(one, two, 0, PAGE)
    with refused(Error.ARGUMENT_INVALID):
        donate_sibling(one, one, 0, PAGE)
    with refused(Error.ARGUMENT_INVALID):
        donate_sibling(parent, one, 0, PAGE)
    with refused(Error.MEMEXTENT_TYPE):
        donate_sibling(plain, one, 0, PAGE)
    with refused(Error.ARGUMENT_INVALID):
        donate_sibling(one, plain, 0, PAGE)
    lone = derive(plain, 0, PAGE, kind=MemextentType.SPARSE)
    with refused(Error.ARGUMENT_INVALID):
        donate_child(lone, 0, PAGE, reverse=True)


def test_a_donation_that_cannot_be_mapped_moves_nothing(root: Partition) -> None:
    giver, addrspace, other = sparse(root), space(root, 7), space(root, 8)
    donate_child(giver, 0, MIB, reverse=False)
    child = derive(giver, 0, MIB, kind=MemextentType.SPARSE)
    map_extent(giver, addrspace, V, RW)
    map_extent(child, other, (1 << 36) - 2 * MIB, RW)
    map_extent(child, addrspace, (1 << 37), RO)
    before = pages(addrspace), pages(other), list(root.system.database.ranges())
    with refused(Error.ADDR_INVALID):
        donate_child(child, 0, MIB, reverse=False)
    assert (pages(addrspace), pages(other), list(root.system.database.ranges())) == before
    heap = root.heap
    unmap(child, addrspace, 1 << 37)
    heap.book(heap.available)
    with refused(Error.NOMEM):
        donate_child(child, 0, MIB, reverse=False)
    assert (pages(addrspace), pages(other), list(root.system.database.ranges())) == before


def test_a_basic_child_of_a_partly_mapped_sparse_parent_is_refused(root: Partition) -> None:
    parent, addrspace = sparse(root), space(root)
    donate_child(parent, 0, MIB, reverse=False)
    map_partial(parent, addrspace, V, 0, 2 * PAGE, RW)
    child = MemExtent(root)
    child.configure_derive(parent, PAGE, 2 * PAGE, word())
    with refused(Error.DENIED):
        child.activate()
    assert list(parent.owned()) == [(RAM, MIB)]
    assert sorted(pages(addrspace)) == [V, V + PAGE]
    child.put()
    inside = derive(parent, 0, 2 * PAGE, 4)
    assert pages(addrspace) == expect(V, RAM, 2 * PAGE, RO)
    with refused(Error.MEMDB_NOT_OWNER):
        derive(parent, MIB, PAGE)
    inside.put()
    assert pages(addrspace) == expect(V, RAM, 2 * PAGE, RW)


def test_a_sparse_child_of_a_basic_parent_takes_its_range_at_once(root: Partition) -> None:
    parent, addrspace = basic(root), space(root)
    map_extent(parent, addrspace, V, RWX)
    child = derive(parent, MIB, MIB, 4, MemextentType.SPARSE)
    assert list(child.owned()) == [(RAM + MIB, MIB)]
    assert pages(addrspace) == expect(V, RAM, MIB, RWX) | expect(V + MIB, RAM + MIB, MIB, RO)
    child.put()
    assert pages(addrspace) == expect(V, RAM, 2 * MIB, RWX)


@pytest.mark.parametrize(
    ("base", "error"),
    [((1 << 64) - PAGE, Error.ADDR_OVERFLOW), ((1 << 48) - PAGE, Error.ADDR_INVALID), (0, Error.ARGUMENT_SIZE)],
)
def test_an_extent_larger_than_any_table_is_refused_not_walked(root: Partition, base: int, error: Error) -> None:
    extent, addrspace = sparse(root, 0, 1 << 45), space(root)
    for call in (
        lambda: map_extent(extent, addrspace, base, RW),
        lambda: unmap(extent, addrspace, base),
        lambda: update(extent, addrspace, base, 4, 4),
    ):
        with refused(error):
            call()


def test_a_failed_partial_unmap_keeps_the_mapping(root: Partition) -> None:
    extent, addrspace = sparse(root), space(root)
    donate_child(extent, 0, 2 * MIB, reverse=False)
    map_extent(extent, addrspace, V, RW)
    before = pages(addrspace)
    taken = root.heap.available
    root.heap.book(taken)
    for call in (
        lambda: unmap_partial(extent, addrspace, V + PAGE, PAGE, PAGE),
        lambda: update_partial(extent, addrspace, V + PAGE, PAGE, PAGE, 4, 4),
    ):
        with refused(Error.NOMEM):
            call()
        assert pages(addrspace) == before
    root.heap.unbook(taken)
    unmap(extent, addrspace, V)
