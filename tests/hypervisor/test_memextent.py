"""Memory extents: who owns what, and that stage 2 always shows exactly the pages an extent owns."""

from __future__ import annotations

import pytest

from gunyah.abi.errors import Error
from gunyah.abi.memory import MappingAttributes, MemextentType
from gunyah.abi.objects import ObjectState
from gunyah.hypervisor.memdb import OwnerKind
from gunyah.hypervisor.memextent import MemExtent
from gunyah.hypervisor.memextent_donate import donate_child
from gunyah.hypervisor.memextent_mapping import (
    clean_range,
    map_extent,
    map_partial,
    unmap,
    unmap_all,
    unmap_partial,
    update,
    update_partial,
)
from gunyah.hypervisor.partition import Partition, create_partitions

from .extents import (
    DEVICE_RW,
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

# -- configuration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "size", "attributes", "error"),
    [
        (RAM, 0, 7, Error.ARGUMENT_INVALID),
        (0xFFFF_FFFF_FFFF_F000, 0x2000, 7, Error.ARGUMENT_INVALID),
        (0xFFFF_FFFF_FFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF, 7, Error.ARGUMENT_INVALID),
        (RAM + 0x800, PAGE, 7, Error.ARGUMENT_ALIGNMENT),
        (RAM, 0x800, 7, Error.ARGUMENT_ALIGNMENT),
        (RAM, PAGE, 0, Error.ARGUMENT_INVALID),
        (RAM, PAGE, 3, Error.ARGUMENT_INVALID),
        (RAM, PAGE, 0xF, Error.ARGUMENT_INVALID),
        (RAM, PAGE, 0x407, Error.ARGUMENT_INVALID),
        (RAM, PAGE, 0x307, Error.ARGUMENT_INVALID),
        (RAM, PAGE, 0x2_0007, Error.ARGUMENT_INVALID),
        (RAM, PAGE, 0x8000_0007, Error.ARGUMENT_INVALID),
    ],
)
def test_a_bad_configuration_is_refused(root: Partition, base: int, size: int, attributes: int, error: Error) -> None:
    extent = MemExtent(root)
    with refused(error):
        extent.configure(base, size, attributes)
    with refused(Error.OBJECT_CONFIG):
        extent.activate()
    assert extent.state == ObjectState.FAILED
    with refused(Error.OBJECT_STATE):
        extent.activate()


@pytest.mark.parametrize(
    ("offset", "size", "attributes", "error"),
    [
        (0, 0, 6, Error.ARGUMENT_INVALID),
        (0xFFFF_FFFF_FFFF_F000, 0x2000, 6, Error.ARGUMENT_INVALID),
        (0xFFFF_FFFF_FFFF_F000, 0x1000, 6, Error.ADDR_INVALID),
        (2 * MIB, PAGE, 6, Error.ADDR_INVALID),
        (2 * MIB - PAGE, 2 * PAGE, 6, Error.ADDR_INVALID),
        (0x800, PAGE, 6, Error.ARGUMENT_ALIGNMENT),
        (0, 0x800, 6, Error.ARGUMENT_ALIGNMENT),
        (0, PAGE, 7, Error.ARGUMENT_INVALID),
        (0, PAGE, 0x8000_0006, Error.ARGUMENT_INVALID),
    ],
)
def test_a_bad_derivation_is_refused(root: Partition, offset: int, size: int, attributes: int, error: Error) -> None:
    parent = basic(root, access=6)
    child = MemExtent(root)
    with refused(error):
        child.configure_derive(parent, offset, size, attributes)
    with refused(Error.OBJECT_CONFIG):
        child.activate()


def test_a_child_keeps_its_parents_memory_type(root: Partition) -> None:
    parent = MemExtent(root)
    parent.configure(RAM, MIB, word(6, 2))
    parent.activate()
    child = MemExtent(root)
    for memtype in (0, 1):
        with refused(Error.ARGUMENT_INVALID):
            child.configure_derive(parent, 0, PAGE, word(6, memtype))
    child.configure_derive(parent, 0, PAGE, word(6, 2))
    child.activate()
    addrspace = space(root)
    with refused(Error.ARGUMENT_INVALID):
        map_extent(child, addrspace, V, RW)
    map_extent(child, addrspace, V, MappingAttributes(6, 6, 5))
    map_extent(child, addrspace, V + MIB, DEVICE_RW)


# -- ownership ---------------------------------------------------------------------------------------------------------


def test_a_basic_extent_takes_its_range_from_the_partition_and_returns_it(root: Partition) -> None:
    before = list(root.free_ranges())
    extent = basic(root, RAM + MIB, MIB)
    assert list(extent.owned()) == [(RAM + MIB, MIB)]
    second = MemExtent(root)
    second.configure(RAM + 2 * MIB - PAGE, 2 * PAGE, word())
    with refused(Error.MEMDB_NOT_OWNER):
        second.activate()
    second.put()
    extent.put()
    assert list(root.free_ranges()) == before
    assert root.objects == ()


@pytest.mark.parametrize(
    ("base", "error"),
    [(RAM + 64 * MIB - PAGE, Error.MEMDB_NOT_OWNER), (0x10_0000_0000, Error.ADDR_INVALID), (0, Error.ADDR_INVALID)],
)
def test_memory_that_is_not_the_partitions_cannot_be_had(root: Partition, base: int, error: Error) -> None:
    extent = MemExtent(root)
    extent.configure(base, PAGE, word())
    with refused(error):
        extent.activate()


def test_siblings_cannot_share_a_page(root: Partition) -> None:
    parent = basic(root)
    derive(parent, 0, 4 * PAGE)
    late = MemExtent(root)
    late.configure_derive(parent, 3 * PAGE, 2 * PAGE, word())
    with refused(Error.MEMDB_NOT_OWNER):
        late.activate()
    assert list(parent.owned()) == [(RAM + 4 * PAGE, 2 * MIB - 4 * PAGE)]


def test_a_child_keeps_its_parent_alive(root: Partition) -> None:
    parent = basic(root)
    child = derive(parent, 0, PAGE)
    parent.put()
    assert parent.state == ObjectState.ACTIVE
    child.put()
    assert parent.state == ObjectState.DESTROYING
    assert root.objects == ()
    assert next(root.free_ranges())[0] == RAM


def test_a_long_line_of_descendants_dies_without_recursion(root: Partition) -> None:
    extent = sparse(root)
    for _ in range(3000):
        child = derive(extent, 0, PAGE, kind=MemextentType.SPARSE)
        extent.put()
        extent = child
    extent.put()
    assert root.objects == ()


def test_sparse_extents_of_any_size_own_nothing_at_first(root: Partition) -> None:
    for size in (1 << 36, 1 << 44, 1 << 63, (1 << 64) - PAGE):
        extent = sparse(root, 0, size)
        assert list(extent.owned()) == []
        extent.put()


# -- mapping -----------------------------------------------------------------------------------------------------------


def test_a_mapping_shows_the_whole_extent_with_the_largest_blocks(root: Partition) -> None:
    extent, addrspace = basic(root, size=4 * MIB), space(root)
    map_extent(extent, addrspace, V, RWX)
    assert {leaf.size for leaf in addrspace.tables.leaves()} == {2 * MIB}
    assert pages(addrspace) == expect(V, RAM, 4 * MIB, RWX)
    unmap(extent, addrspace, V)
    assert pages(addrspace) == {}


def test_children_are_carved_out_of_their_parents_mapping(root: Partition) -> None:
    parent, addrspace = basic(root), space(root)
    child = derive(parent, 0x1_0000, 0x1_0000, 6)
    map_extent(parent, addrspace, V, RWX)
    whole = expect(V, RAM, 2 * MIB, RWX)
    carved = {ipa: entry for ipa, entry in whole.items() if not V + 0x1_0000 <= ipa < V + 0x2_0000}
    assert pages(addrspace) == carved
    assert addrspace.lookup(V, 2 * MIB) == (RAM, 0x1_0000, RWX)
    map_extent(child, addrspace, V + 0x1_0000, RW)
    assert pages(addrspace) == carved | expect(V + 0x1_0000, RAM + 0x1_0000, 0x1_0000, RW)
    child.put()
    assert pages(addrspace) == whole, "the parent's mapping is restored when the child dies"


def test_a_child_inherits_mappings_less_the_access_it_lacks(root: Partition) -> None:
    parent, one, two = basic(root), space(root, 7), space(root, 8)
    map_extent(parent, one, V, RWX)
    map_extent(parent, two, 2 * V, RO)
    child = derive(parent, 0x1000, 0x1000, 6)
    assert pages(one)[V + 0x1000] == (RAM + 0x1000, RW)
    assert pages(one)[V + 0x2000] == (RAM + 0x2000, RWX)
    assert pages(two)[2 * V + 0x1000] == (RAM + 0x1000, RO)
    unmap(child, one, V + 0x1000)
    assert V + 0x1000 not in pages(one)
    assert V in pages(one)
    unmap(parent, two, 2 * V)
    assert list(pages(two)) == [2 * V + 0x1000], "the child's own mapping stays"
    child.put()
    assert pages(one) == expect(V, RAM, 2 * MIB, RWX)
    assert pages(two) == {}


def test_there_are_four_slots_and_the_same_place_can_take_two(root: Partition) -> None:
    extent, addrspace = basic(root), space(root)
    for base in (V, V, 2 * V, 3 * V):
        map_extent(extent, addrspace, base, RW)
    with refused(Error.MEMEXTENT_MAPPINGS_FULL):
        map_extent(extent, addrspace, 4 * V, RW)
    unmap(extent, addrspace, V)
    assert V not in pages(addrspace)
    unmap(extent, addrspace, V)
    with refused(Error.ADDR_INVALID):
        unmap(extent, addrspace, V)
    map_extent(extent, addrspace, 4 * V, RW)


def test_unmapping_leaves_a_later_mapping_in_the_same_place(root: Partition) -> None:
    first, second, addrspace = basic(root), basic(root, RAM + 4 * MIB), space(root)
    map_extent(first, addrspace, V, RW)
    map_extent(second, addrspace, V, RO)
    unmap(first, addrspace, V)
    assert pages(addrspace) == expect(V, RAM + 4 * MIB, 2 * MIB, RO)


@pytest.mark.parametrize(
    ("base", "attributes", "error"),
    [
        (V + 0x800, RW, Error.ARGUMENT_ALIGNMENT),
        (V, MappingAttributes(6, 6, 4), Error.ARGUMENT_INVALID),
        (V, MappingAttributes(6, 6, 0x10), Error.ARGUMENT_INVALID),
        (V, MappingAttributes(7, 7, 0xF), Error.ARGUMENT_INVALID),
        (V, MappingAttributes(4, 6, 0xF), Error.ARGUMENT_INVALID),
        (V, MappingAttributes(6, 4, 0xF), Error.ARGUMENT_INVALID),
        (0xFFFF_FFFF_FFFF_F000, RW, Error.ADDR_OVERFLOW),
        (1 << 36, RW, Error.ADDR_INVALID),
        ((1 << 36) - PAGE, RW, Error.ADDR_OVERFLOW),
    ],
)
def test_a_bad_mapping_is_refused(root: Partition, base: int, attributes: MappingAttributes, error: Error) -> None:
    extent, addrspace = basic(root, access=6), space(root)
    with refused(error):
        map_extent(extent, addrspace, base, attributes)
    assert pages(addrspace) == {}
    for i in range(4):
        map_extent(extent, addrspace, V + 2 * i * MIB, RW)


def test_execute_alone_cannot_be_given_to_a_kernel(root: Partition) -> None:
    extent, addrspace = basic(root), space(root)
    with refused(Error.ARGUMENT_INVALID):
        map_extent(extent, addrspace, V, MappingAttributes(1, 1, 0xF))
    map_extent(extent, addrspace, V, MappingAttributes(5, 4, 0xF))
    assert addrspace.lookup(V, PAGE)[2] == MappingAttributes(5, 4, 0xF)
    with refused(Error.ARGUMENT_INVALID):
        update(extent, addrspace, V, 1, 1)
    map_extent(extent, addrspace, 2 * V, MappingAttributes(0, 0, 0xF))
    assert addrspace.lookup(2 * V, PAGE)[2] == MappingAttributes(0, 0, 0xF)


def test_access_changes_in_place_and_keeps_the_memory_type(root: Partition) -> None:
    extent, addrspace = basic(root), space(root)
    map_extent(extent, addrspace, V, MappingAttributes(6, 6, 5))
    update(extent, addrspace, V, 5, 5)
    assert pages(addrspace) == expect(V, RAM, 2 * MIB, MappingAttributes(5, 5, 5))
    with refused(Error.ADDR_INVALID):
        update(extent, addrspace, V + 2 * MIB, 4, 4)
    with refused(Error.ARGUMENT_ALIGNMENT):
        update(extent, addrspace, V + 1, 4, 4)
    child = derive(extent, 0, PAGE)
    update(extent, addrspace, V, 4, 4)
    assert pages(addrspace)[V][1] == MappingAttributes(5, 5, 5), "the child's page is not the parent's any more"
    assert pages(addrspace)[V + PAGE][1] == MappingAttributes(4, 4, 5)
    child.put()
    assert pages(addrspace)[V][1] == MappingAttributes(4, 4, 5)


def test_a_basic_extent_is_mapped_whole_or_not_at_all(root: Partition) -> None:
    extent, addrspace = basic(root), space(root)
    map_extent(extent, addrspace, V, RW)
    with refused(Error.MEMEXTENT_TYPE):
        map_partial(extent, addrspace, V, PAGE, PAGE, RW)
    with refused(Error.MEMEXTENT_TYPE):
        unmap_partial(extent, addrspace, V, PAGE, PAGE)
    with refused(Error.MEMEXTENT_TYPE):
        update_partial(extent, addrspace, V, PAGE, PAGE, 4, 4)


def test_a_read_only_address_space_is_left_alone(root: Partition) -> None:
    extent, addrspace = sparse(root), space(root)
    addrspace.read_only = True
    for call in (
        lambda: map_extent(extent, addrspace, V, RW),
        lambda: map_partial(extent, addrspace, V, 0, PAGE, RW),
        lambda: unmap(extent, addrspace, V),
        lambda: unmap_partial(extent, addrspace, V, 0, PAGE),
        lambda: update(extent, addrspace, V, 4, 4),
        lambda: update_partial(extent, addrspace, V, 0, PAGE, 4, 4),
    ):
        with refused(Error.DENIED):
            call()


def test_unmap_all_takes_every_mapping_in_every_address_space(root: Partition) -> None:
    extent, one, two = basic(root), space(root, 7), space(root, 8)
    for addrspace in (one, two):
        map_extent(extent, addrspace, V, RW)
        map_extent(extent, addrspace, 2 * V, RO)
    unmap_all(extent)
    assert pages(one) == pages(two) == {}
    map_extent(extent, one, V, RW)


def test_an_address_space_that_dies_frees_the_slots(root: Partition) -> None:
    extent, addrspace = basic(root), space(root)
    for i in range(4):
        map_extent(extent, addrspace, V * (i + 1), RW)
    before = root.heap.pages
    addrspace.put()
    assert root.heap.pages < before
    other = space(root)
    for i in range(4):
        map_extent(extent, other, V * (i + 1), RW)
    other.put()
    assert root.heap.pages == 0


# -- contents ----------------------------------------------------------------------------------------------------------


def test_zeroing_touches_only_what_the_extent_owns(root: Partition) -> None:
    extent = basic(root)
    derive(extent, PAGE, PAGE)
    ram = root.system.ram
    ram.write(RAM, b"\xaa" * 4 * PAGE)
    clean_range(extent, 0, 3 * PAGE, zero=True)
    assert ram.read(RAM, 4 * PAGE) == bytes(PAGE) + b"\xaa" * PAGE + bytes(PAGE) + b"\xaa" * PAGE
    clean_range(extent, 3 * PAGE, PAGE, zero=False)
    assert ram.read(RAM + 3 * PAGE, PAGE) == b"\xaa" * PAGE


@pytest.mark.parametrize(
    ("offset", "size", "error"),
    [
        (0x800, PAGE, Error.ARGUMENT_ALIGNMENT),
        (0, 0, Error.ARGUMENT_SIZE),
        (0, 0xFFFF_FFFF_FFFF_F000, Error.ARGUMENT_SIZE),
        (0xFFFF_FFFF_FFFF_F000, PAGE, Error.ARGUMENT_INVALID),
        (2 * MIB, PAGE, Error.ARGUMENT_INVALID),
    ],
)
def test_a_bad_range_is_not_zeroed(root: Partition, offset: int, size: int, error: Error) -> None:
    extent = basic(root)
    for zero in (False, True):
        with refused(error):
            clean_range(extent, offset, size, zero=zero)


def test_read_only_and_device_extents_are_not_zeroed(root: Partition) -> None:
    with refused(Error.DENIED):
        clean_range(basic(root, access=5), 0, PAGE, zero=True)
    device = MemExtent.device(root, 0, MIB, word(6, 1))
    with refused(Error.DENIED):
        clean_range(device, 0, PAGE, zero=True)


# -- devices and attachment --------------------------------------------------------------------------------------------


def test_a_device_extent_loses_what_is_derived_from_it(root: Partition) -> None:
    device = MemExtent.device(root, 0, 0x4000_0000, word(6, 1, MemextentType.SPARSE))
    addrspace = space(root)
    uart = derive(device, 0x900_0000, PAGE, 6, memtype=1)
    map_extent(device, addrspace, 0, DEVICE_RW)
    assert addrspace.tables.lookup(0x900_0000) is None
    assert addrspace.tables.lookup(0x901_0000).pa == 0x901_0000
    map_extent(uart, addrspace, 0x900_0000, DEVICE_RW)
    assert addrspace.lookup(0x900_0000, PAGE) == (0x900_0000, PAGE, DEVICE_RW)
    with refused(Error.ARGUMENT_INVALID):
        map_extent(uart, addrspace, V, RW)
    with refused(Error.MEMDB_NOT_OWNER):
        MemExtent.device(root, RAM - PAGE, 2 * PAGE, word(6, 1))


def test_what_the_hypervisor_has_attached_has_no_children(root: Partition) -> None:
    extent = basic(root, size=4 * PAGE)
    with refused(Error.ARGUMENT_SIZE):
        extent.attach(root, 5 * PAGE)
    extent.attach(root, PAGE)
    with refused(Error.BUSY):
        extent.attach(root, PAGE)
    with refused(Error.BUSY):
        derive(extent, 0, PAGE)
    extent.detach()
    child = derive(extent, 0, PAGE)
    with refused(Error.BUSY):
        extent.attach(root, PAGE)
    child.put()
    extent.attach(root, PAGE)
    with refused(Error.DENIED):
        basic(root, RAM + MIB, PAGE, access=4).attach(root, PAGE)
    with refused(Error.MEMEXTENT_TYPE):
        sparse(root).attach(root, PAGE)
    other = create_partitions(root.system.ram, root_size=4 * MIB)[1]
    with refused(Error.DENIED):
        basic(root, RAM + 2 * MIB, PAGE).attach(other, PAGE)


def test_everything_returns_when_everybody_is_gone(root: Partition) -> None:
    before = root.heap.used, list(root.system.database.ranges())
    extent, addrspace = basic(root, size=8 * MIB), space(root)
    map_extent(extent, addrspace, V + PAGE, RWX)
    children = [derive(extent, i * MIB, PAGE, 4) for i in range(8)]
    holes = sparse(root, RAM + 16 * MIB, MIB)
    donate_child(holes, 0, MIB, reverse=False)
    for i in range(0, 256, 2):
        map_partial(holes, addrspace, 2 * V + i * PAGE, i * PAGE, PAGE, RO)
    assert {owner.kind for _, _, owner in root.system.database.ranges()} > {OwnerKind.EXTENT}
    extent.put()
    for child in children:
        child.put()
    addrspace.put()
    holes.put()
    assert (root.heap.used, list(root.system.database.ranges())) == before
    assert root.objects == ()


def test_a_mapping_without_memory_for_tables_leaves_no_trace(root: Partition) -> None:
    extent, addrspace = basic(root, size=4 * MIB), space(root)
    map_extent(extent, addrspace, V, RW)
    unmap(extent, addrspace, V)
    taken = root.heap.available - 64
    root.heap.book(taken)
    with refused(Error.NOMEM):
        map_extent(extent, addrspace, V + PAGE, RW)
    assert pages(addrspace) == {}
    root.heap.unbook(taken)
    for i in range(4):
        map_extent(extent, addrspace, V + i * 4 * MIB, RW)


def test_a_derivation_without_memory_gives_the_range_back(root: Partition) -> None:
    parent, addrspace = basic(root), space(root)
    map_extent(parent, addrspace, V, RWX)
    child = MemExtent(root)
    child.configure_derive(parent, PAGE, PAGE, word(4))
    before = pages(addrspace), list(root.system.database.ranges())
    for left in (0, 64):
        taken = root.heap.available - left
        root.heap.book(taken)
        with refused(Error.NOMEM):
            child.activate()
        root.heap.unbook(taken)
        assert (pages(addrspace), list(root.system.database.ranges())) == before
        child.put()
        child = MemExtent(root)
        child.configure_derive(parent, PAGE, PAGE, word(4))
    child.activate()
    assert pages(addrspace)[V + PAGE] == (RAM + PAGE, RO)


def test_what_cannot_be_restored_when_a_child_dies_is_unmapped(root: Partition) -> None:
    parent, addrspace = basic(root, size=4 * MIB), space(root)
    map_extent(parent, addrspace, V + PAGE, RWX)
    child = derive(parent, 0, 4 * MIB, 4)
    unmap(child, addrspace, V + PAGE)
    assert pages(addrspace) == {}
    heap = root.heap
    taken = []
    while heap.size - heap.used >= PAGE:
        taken.append(heap.allocate(reserve=True))
    child.put()
    assert pages(addrspace) == {}
    assert list(parent.owned()) == [(RAM, 4 * MIB)]
    for page in taken:
        heap.free(page)


def test_reconfiguring_a_child_lets_go_of_the_old_parent(root: Partition) -> None:
    one, two = basic(root), basic(root, RAM + 4 * MIB)
    child = MemExtent(root)
    child.configure_derive(one, 0, PAGE, word())
    child.configure_derive(two, 0, PAGE, word())
    one.put()
    assert one.state == ObjectState.DESTROYING
    child.configure(RAM, PAGE, word())
    two.put()
    assert two.state == ObjectState.DESTROYING
    child.activate()
    assert list(child.owned()) == [(RAM, PAGE)]
