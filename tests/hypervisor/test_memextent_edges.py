"""Memory extents at their edges: the last page of a range, of an address space, of all addresses."""

from __future__ import annotations

import pytest

from gunyah.abi.errors import Error
from gunyah.abi.memory import MappingAttributes, MemextentType
from gunyah.abi.objects import ObjectState
from gunyah.abi.types import U64
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.memextent import MemExtent
from gunyah.hypervisor.memextent_donate import donate_child, donate_sibling
from gunyah.hypervisor.memextent_map import PIECE_SIZE
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
from gunyah.machine.memory import PhysicalMemory

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

END = U64 + 1
SPARSE = MemextentType.SPARSE


# -- configuration -----------------------------------------------------------------------------------------------------


def test_a_range_may_end_with_the_last_address(root: Partition) -> None:
    extent = MemExtent(root)
    extent.configure(END - PAGE, PAGE, word(kind=SPARSE))
    assert (extent.base, extent.size) == (END - PAGE, PAGE)
    with refused(Error.ARGUMENT_INVALID):
        extent.configure(END - PAGE, 2 * PAGE, word(kind=SPARSE))
    assert (extent.base, extent.size) == (END - PAGE, PAGE)


def test_a_child_may_be_the_last_page_or_all_of_its_parent(root: Partition) -> None:
    parent = basic(root, size=4 * PAGE, access=6)
    child = derive(parent, 3 * PAGE, PAGE, 4)
    assert (child.base, child.size, child.access, child.parent) == (RAM + 3 * PAGE, PAGE, 4, parent)
    assert parent.children == {child}
    child.put()
    assert parent.children == set()
    whole = derive(parent, 0, 4 * PAGE, 6)
    assert list(whole.owned()) == [(RAM, 4 * PAGE)]
    assert list(parent.owned()) == []


@pytest.mark.parametrize(
    ("attributes", "access", "memtype", "kind"),
    [(0x007, 7, 0, 0), (0x106, 6, 1, 0), (0x205, 5, 2, 0), (0x1_0004, 4, 0, 1), (0x1_0106, 6, 1, 1)],
)
def test_the_attributes_word_says_access_memory_type_and_kind(
    root: Partition, attributes: int, access: int, memtype: int, kind: int
) -> None:
    extent = MemExtent(root)
    extent.configure(RAM, PAGE, attributes)
    assert (extent.access, extent.memtype, extent.kind, extent.sparse) == (access, memtype, kind, bool(kind))
    assert (extent.base, extent.size, extent.parent) == (RAM, PAGE, None)


def test_an_append_is_not_taken(root: Partition) -> None:
    extent = MemExtent(root)
    for bit in range(18, 32):
        with refused(Error.ARGUMENT_INVALID):
            extent.configure(RAM, PAGE, 7 | 1 << bit)


def test_a_fresh_extent_is_nothing_yet(root: Partition) -> None:
    extent = MemExtent(root)
    assert (extent.base, extent.size, extent.access, extent.memtype, extent.kind) == (0, 0, 0, 0, 0)
    assert (extent.attached, extent.parent, extent.vdevice, extent.children) == (False, None, None, set())
    assert [slot.addrspace for slot in extent.slots] == [None] * 4
    with refused(Error.OBJECT_CONFIG):
        extent.activate()


# -- devices -----------------------------------------------------------------------------------------------------------


def test_a_device_is_known_from_now_on_and_leaves_to_nobody_else(root: Partition) -> None:
    device = MemExtent.device(root, 0x900_0000, 2 * PAGE, word(6, 1))
    assert (device.state, list(device.owned())) == (ObjectState.ACTIVE, [(0x900_0000, 2 * PAGE)])
    other = MemExtent(root)
    other.configure(0x900_0000, PAGE, word(6, 1))
    with refused(Error.MEMDB_NOT_OWNER):
        other.activate()


def test_a_device_over_somebodys_memory_leaves_nothing_behind(root: Partition) -> None:
    before = root.heap.used, list(root.system.database.ranges())
    for base, size, error in ((RAM - PAGE, 2 * PAGE, Error.MEMDB_NOT_OWNER), (RAM, 0, Error.ARGUMENT_INVALID)):
        with refused(error):
            MemExtent.device(root, base, size, word(6, 1))
    assert (root.heap.used, list(root.system.database.ranges())) == before
    assert root.objects == ()


# -- attachment --------------------------------------------------------------------------------------------------------


def test_only_ram_can_be_attached(root: Partition) -> None:
    end = RAM + 64 * MIB
    for extent in (
        MemExtent.device(root, 0x900_0000, PAGE, word(6, 1)),
        sparse(root, end - PAGE, 2 * PAGE),
        sparse(root, RAM - PAGE, 2 * PAGE),
    ):
        with refused(Error.DENIED):
            extent.attach(root, PAGE)
        assert extent.attached is False


def test_an_extent_is_attached_up_to_its_last_byte_and_detached_again(root: Partition) -> None:
    extent = basic(root, size=PAGE, access=6)
    with refused(Error.ARGUMENT_SIZE):
        extent.attach(root, PAGE + 1)
    assert extent.attached is False
    extent.attach(root, PAGE)
    assert extent.attached is True
    extent.detach()
    assert extent.attached is False


# -- mapping -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "error"),
    [
        (END - 2 * MIB, Error.ADDR_INVALID),
        (END - 2 * MIB + PAGE, Error.ADDR_OVERFLOW),
        ((1 << 48) - 2 * MIB + PAGE, Error.ADDR_INVALID),
        ((1 << 48) - 2 * MIB, None),
    ],
)
def test_a_sparse_mapping_ends_with_48_bits(root: Partition, base: int, error: Error | None) -> None:
    """Nothing is owned, so nothing shows; the record is made, or not."""
    extent, addrspace = sparse(root), space(root)
    calls = (
        lambda: map_extent(extent, addrspace, base, RW),
        lambda: update(extent, addrspace, base, 4, 4),
        lambda: unmap(extent, addrspace, base),
    )
    for call in calls:
        if error is None:
            call()
        else:
            with refused(error):
                call()
    assert addrspace.slots == set()
    parts = (
        lambda: map_partial(extent, addrspace, base, 0, 2 * MIB, RW),
        lambda: update_partial(extent, addrspace, base, 0, 2 * MIB, 4, 4),
        lambda: unmap_partial(extent, addrspace, base, 0, 2 * MIB),
    )
    for call in parts:
        if error is None:
            call()
        else:
            # What wraps is the fault of the size here.
            with refused(Error.ARGUMENT_SIZE if error is Error.ADDR_OVERFLOW else error):
                call()


@pytest.mark.parametrize(("base", "error"), [((1 << 44) - MIB, None), ((1 << 44) - MIB + PAGE, Error.ARGUMENT_SIZE)])
def test_a_sparse_mapping_ends_with_44_bits_of_memory(root: Partition, base: int, error: Error | None) -> None:
    extent, addrspace = sparse(root, base, MIB), space(root)
    for call in (
        lambda: map_extent(extent, addrspace, V, RW),
        lambda: unmap(extent, addrspace, V),
        lambda: map_partial(extent, addrspace, V, MIB - PAGE, PAGE, RW),
        lambda: update_partial(extent, addrspace, V, MIB - PAGE, PAGE, 4, 4),
        lambda: unmap_partial(extent, addrspace, V, MIB - PAGE, PAGE),
    ):
        if error is None:
            call()
        else:
            with refused(error):
                call()


def test_a_basic_mapping_may_not_wrap_and_may_not_leave_the_ipa_space(root: Partition) -> None:
    extent, addrspace = basic(root, size=2 * PAGE), space(root)
    for base, error in (
        (END - PAGE, Error.ADDR_OVERFLOW),
        (END - 2 * PAGE, Error.ADDR_INVALID),
        ((1 << 36) - PAGE, Error.ADDR_OVERFLOW),
    ):
        with refused(error):
            map_extent(extent, addrspace, base, RW)
    map_extent(extent, addrspace, (1 << 36) - 2 * PAGE, RW)
    assert sorted(pages(addrspace)) == [(1 << 36) - 2 * PAGE, (1 << 36) - PAGE]


def test_a_mapping_is_charged_and_its_end_refunded(root: Partition) -> None:
    extent, addrspace = sparse(root), space(root)
    bare = root.charged(extent)
    map_partial(extent, addrspace, V, 0, 4 * PAGE, RW)
    assert root.charged(extent) == bare + PIECE_SIZE
    unmap_partial(extent, addrspace, V + PAGE, PAGE, PAGE)
    assert root.charged(extent) == bare + 2 * PIECE_SIZE
    unmap_all(extent)
    assert root.charged(extent) == bare


def test_mappings_take_the_first_free_slot_and_sparse_ones_share(root: Partition) -> None:
    extent, one, two = sparse(root), space(root, 7), space(root, 8)
    map_partial(extent, one, V, 0, PAGE, RW)
    map_partial(extent, two, V, 0, PAGE, RW)
    map_partial(extent, one, V + PAGE, PAGE, PAGE, RW)
    map_partial(extent, two, 2 * V, 0, PAGE, RW)
    assert [slot.addrspace for slot in extent.slots] == [one, two, two, None]
    assert [len(slot.pieces) for slot in extent.slots] == [2, 1, 1, 0]
    unmap_partial(extent, two, V, 0, PAGE)
    assert [slot.addrspace for slot in extent.slots] == [one, None, two, None]
    map_partial(extent, one, 2 * V, 0, PAGE, RW)
    assert [slot.addrspace for slot in extent.slots] == [one, one, two, None]
    assert (one.slots, two.slots) == ({extent.slots[0], extent.slots[1]}, {extent.slots[2]})


def test_a_basic_mapping_takes_the_first_free_slot(root: Partition) -> None:
    extent, one, two = basic(root), space(root, 7), space(root, 8)
    map_extent(extent, one, V, RW)
    map_extent(extent, two, V, RW)
    unmap(extent, one, V)
    map_extent(extent, two, 2 * V, RW)
    assert [slot.addrspace for slot in extent.slots] == [two, two, None, None]


def test_unmapping_and_updating_one_of_two_address_spaces_leaves_the_other(root: Partition) -> None:
    extent, one, two = basic(root), space(root, 7), space(root, 8)
    map_extent(extent, one, V, RW)
    map_extent(extent, two, V, RW)
    update(extent, two, V, 4, 4)
    assert pages(one) == expect(V, RAM, 2 * MIB, RW)
    assert pages(two) == expect(V, RAM, 2 * MIB, RO)
    unmap(extent, two, V)
    assert pages(one) == expect(V, RAM, 2 * MIB, RW)
    assert pages(two) == {}
    with refused(Error.ADDR_INVALID):
        update(extent, two, V, 4, 4)


def test_user_and_kernel_may_differ_in_execution_alone(root: Partition) -> None:
    extent, addrspace = basic(root), space(root)
    for user, kernel in ((7, 6), (6, 7), (5, 4), (4, 5), (3, 2), (1, 0), (0, 0)):
        wanted = MappingAttributes(user, kernel, 0xF)
        map_extent(extent, addrspace, V, wanted)
        assert addrspace.lookup(V, PAGE)[2] == wanted
        unmap(extent, addrspace, V)
    for user, kernel in ((6, 4), (4, 6), (2, 4), (7, 1), (0, 1), (1, 1), (2, 0)):
        with refused(Error.ARGUMENT_INVALID):
            map_extent(extent, addrspace, V, MappingAttributes(user, kernel, 0xF))


def test_neither_user_nor_kernel_gets_more_than_the_extent_has(root: Partition) -> None:
    extent, addrspace = basic(root, access=6), space(root)
    for user, kernel in ((7, 6), (6, 7), (7, 7)):
        with refused(Error.ARGUMENT_INVALID):
            map_extent(extent, addrspace, V, MappingAttributes(user, kernel, 0xF))
    map_extent(extent, addrspace, V, RW)
    for user, kernel in ((7, 6), (6, 7), (7, 7)):
        with refused(Error.ARGUMENT_INVALID):
            update(extent, addrspace, V, user, kernel)
    assert pages(addrspace) == expect(V, RAM, 2 * MIB, RW)


# -- inheritance -------------------------------------------------------------------------------------------------------


def test_a_sparse_child_inherits_each_part_of_a_mapping(root: Partition) -> None:
    parent, addrspace = sparse(root), space(root)
    donate_child(parent, 0, MIB, reverse=False)
    map_partial(parent, addrspace, V, 0, 2 * PAGE, RWX)
    map_partial(parent, addrspace, 2 * V, 4 * PAGE, 4 * PAGE, RW)
    child = derive(parent, PAGE, 5 * PAGE, 5, SPARSE)
    (slot,) = (slot for slot in child.slots if slot.addrspace is not None)
    assert [(piece.pa - RAM, piece.end - RAM, piece.delta + piece.pa, piece.attributes) for piece in slot.pieces] == [
        (PAGE, 2 * PAGE, V + PAGE, MappingAttributes(5, 5, 0xF)),
        (4 * PAGE, 6 * PAGE, 2 * V, RO),
    ]
    before = pages(addrspace)
    donate_child(child, 0, 5 * PAGE, reverse=False)
    changed = {V + PAGE: (RAM + PAGE, MappingAttributes(5, 5, 0xF))}
    changed |= expect(2 * V, RAM + 4 * PAGE, 2 * PAGE, RO)
    assert pages(addrspace) == before | changed
    child.put()
    assert pages(addrspace) == before


def test_a_refused_inheritance_gives_every_slot_back(root: Partition) -> None:
    parent, one, two = sparse(root), space(root, 7), space(root, 8)
    donate_child(parent, 0, MIB, reverse=False)
    map_partial(parent, one, V, 0, MIB, RW)
    map_partial(parent, two, V, 0, PAGE, RW)
    used = root.heap.used
    child = MemExtent(root)
    child.configure_derive(parent, 0, 2 * PAGE, word())
    with refused(Error.DENIED):
        child.activate()
    assert [slot.addrspace for slot in child.slots] == [None] * 4
    assert parent.children == set()
    assert list(parent.owned()) == [(RAM, MIB)]
    child.put()
    assert root.heap.used == used
    assert parent.references == 1


def test_a_mapping_is_inherited_from_whichever_slot_has_it(root: Partition) -> None:
    parent, one, two = basic(root), space(root, 7), space(root, 8)
    for addrspace, base in ((one, 2 * V), (two, V), (one, V)):
        map_extent(parent, addrspace, base, RW)
    unmap(parent, one, 2 * V)
    assert [slot.addrspace for slot in parent.slots] == [None, two, one, None]
    child = derive(parent, PAGE, PAGE, 4)
    assert [slot.addrspace for slot in child.slots] == [None, two, one, None]
    for addrspace in (one, two):
        assert pages(addrspace) == expect(V, RAM, 2 * MIB, RW) | {V + PAGE: (RAM + PAGE, RO)}


# -- donation ----------------------------------------------------------------------------------------------------------


def test_the_first_and_the_last_page_can_be_donated(root: Partition) -> None:
    extent = sparse(root, RAM + MIB, 4 * PAGE)
    for offset in (0, 3 * PAGE):
        donate_child(extent, offset, PAGE, reverse=False)
    assert list(extent.owned()) == [(RAM + MIB, PAGE), (RAM + MIB + 3 * PAGE, PAGE)]
    with refused(Error.ARGUMENT_INVALID):
        donate_child(extent, 4 * PAGE, PAGE, reverse=False)


def test_a_donation_of_the_last_addresses_does_not_wrap(root: Partition) -> None:
    extent = sparse(root, END - 2 * PAGE, 2 * PAGE)
    with refused(Error.ADDR_INVALID):
        donate_child(extent, 0, 2 * PAGE, reverse=False)
    with refused(Error.ARGUMENT_SIZE):
        donate_child(extent, PAGE, 2 * PAGE, reverse=False)
    with refused(Error.ARGUMENT_INVALID):
        donate_child(extent, 2 * PAGE, PAGE, reverse=False)


def test_siblings_share_what_both_of_them_span(root: Partition) -> None:
    parent = sparse(root)
    donate_child(parent, 0, MIB, reverse=False)
    one = derive(parent, 0, 4 * PAGE, kind=SPARSE)
    two = derive(parent, 2 * PAGE, 4 * PAGE, kind=SPARSE)
    donate_child(one, 0, 4 * PAGE, reverse=False)
    with refused(Error.ARGUMENT_INVALID):
        donate_sibling(one, two, PAGE, 2 * PAGE)
    donate_sibling(one, two, 2 * PAGE, 2 * PAGE)
    donate_sibling(two, one, PAGE, PAGE)
    assert list(one.owned()) == [(RAM, 2 * PAGE), (RAM + 3 * PAGE, PAGE)]
    assert list(two.owned()) == [(RAM + 2 * PAGE, PAGE)]
    donate_child(two, 3 * PAGE, PAGE, reverse=False)
    with refused(Error.ARGUMENT_INVALID):
        donate_sibling(two, one, 3 * PAGE, PAGE)


# -- contents ----------------------------------------------------------------------------------------------------------


def test_a_range_is_zeroed_from_its_offset_to_its_end(root: Partition) -> None:
    extent = basic(root, RAM + PAGE, 4 * PAGE)
    ram = root.system.ram
    for offset, size in ((PAGE, 2 * PAGE), (3 * PAGE, PAGE), (0, 4 * PAGE), (2 * PAGE, PAGE)):
        ram.write(RAM, b"\xaa" * 6 * PAGE)
        clean_range(extent, offset, size, zero=False)
        assert ram.read(RAM, 6 * PAGE) == b"\xaa" * 6 * PAGE
        clean_range(extent, offset, size, zero=True)
        left = b"\xaa" * (PAGE + offset)
        assert ram.read(RAM, 6 * PAGE) == left + bytes(size) + b"\xaa" * (6 * PAGE - len(left) - size)


def test_a_range_may_end_with_the_last_address_and_own_nothing(root: Partition) -> None:
    extent = sparse(root, END - 2 * PAGE, 2 * PAGE)
    clean_range(extent, 0, 2 * PAGE, zero=True)
    clean_range(extent, PAGE, PAGE, zero=True)
    with refused(Error.ARGUMENT_SIZE):
        clean_range(extent, PAGE, 2 * PAGE, zero=True)
    with refused(Error.ARGUMENT_INVALID):
        clean_range(extent, 2 * PAGE, PAGE, zero=True)


@pytest.mark.parametrize(("access", "allowed"), [(7, True), (6, True), (5, False), (4, False)])
def test_zeroing_takes_the_right_to_write(root: Partition, access: int, allowed: bool) -> None:
    extent = basic(root, size=PAGE, access=access)
    if allowed:
        clean_range(extent, 0, PAGE, zero=True)
    else:
        with refused(Error.DENIED):
            clean_range(extent, 0, PAGE, zero=True)


def test_zeroing_stays_within_ram_where_an_extent_spans_more() -> None:
    regions = [(RAM, 64 * MIB), (RAM + 128 * MIB, 64 * MIB)]
    root = create_partitions(PhysicalMemory(regions), root_size=4 * MIB)[1]
    ram = root.system.ram
    hole = MemExtent.device(root, RAM + 64 * MIB, 64 * MIB, word(6, 0, SPARSE))
    ends = ((RAM + 64 * MIB - PAGE, PAGE), (RAM + 128 * MIB, PAGE))
    for pa, size in ends:
        root.system.database.transfer(pa, size, root.free_memory, hole.owner)
        ram.write(pa, b"\xaa" * size)
    ram.write(RAM + 64 * MIB - 2 * PAGE, b"\xaa" * PAGE)
    ram.write(RAM + 128 * MIB + PAGE, b"\xaa" * PAGE)
    spanning = MemExtent(root)
    spanning.configure(RAM + 64 * MIB - PAGE, 64 * MIB + 2 * PAGE, word(6, 0, SPARSE))
    spanning.activate()
    for pa, size in list(hole.system.database.owned(hole.owner, 0, 1 << 40)):
        root.system.database.transfer(pa, size, hole.owner, spanning.owner)
    clean_range(spanning, 0, spanning.size, zero=True)
    for pa, size in ends:
        assert ram.read(pa, size) == bytes(size)
    assert ram.read(RAM + 64 * MIB - 2 * PAGE, PAGE) == b"\xaa" * PAGE
    assert ram.read(RAM + 128 * MIB + PAGE, PAGE) == b"\xaa" * PAGE


# -- refusals ----------------------------------------------------------------------------------------------------------


def sentence(call: object, error: Error) -> str:
    with pytest.raises(HypervisorError) as raised:
        call()  # type: ignore[operator]
    assert raised.value.code is error
    return str(raised.value)


def test_every_refusal_names_the_extent_and_the_address(root: Partition) -> None:
    plain, holes, addrspace = basic(root, RAM, MIB, 6), sparse(root, RAM + 4 * MIB, MIB), space(root)
    cases = [
        (plain, lambda: map_extent(plain, addrspace, V + 1, RW), Error.ARGUMENT_ALIGNMENT, [V + 1]),
        (plain, lambda: unmap(plain, addrspace, V + 1), Error.ARGUMENT_ALIGNMENT, [V + 1]),
        (plain, lambda: update(plain, addrspace, V + 1, 4, 4), Error.ARGUMENT_ALIGNMENT, [V + 1]),
        (plain, lambda: unmap(plain, addrspace, V), Error.ADDR_INVALID, [V]),
        (plain, lambda: map_extent(plain, addrspace, END - PAGE, RW), Error.ADDR_OVERFLOW, [END - PAGE, MIB]),
        (plain, lambda: map_partial(plain, addrspace, V, 0, PAGE, RW), Error.MEMEXTENT_TYPE, []),
        (plain, lambda: clean_range(plain, 1, PAGE, zero=True), Error.ARGUMENT_ALIGNMENT, [1, PAGE]),
        (plain, lambda: clean_range(plain, MIB, PAGE, zero=True), Error.ARGUMENT_INVALID, [MIB, PAGE]),
        (holes, lambda: map_extent(holes, addrspace, 1 << 48, RW), Error.ADDR_INVALID, [1 << 48]),
        (holes, lambda: unmap(holes, addrspace, 1 << 48), Error.ADDR_INVALID, [1 << 48]),
        (holes, lambda: update(holes, addrspace, 1 << 48, 4, 4), Error.ADDR_INVALID, [1 << 48]),
        (holes, lambda: map_partial(holes, addrspace, V, 1, PAGE, RW), Error.ARGUMENT_ALIGNMENT, [V, 1, PAGE]),
        (holes, lambda: map_partial(holes, addrspace, 1 << 48, 0, PAGE, RW), Error.ADDR_INVALID, [1 << 48, PAGE]),
        (holes, lambda: unmap_partial(holes, addrspace, 1 << 48, 0, PAGE), Error.ADDR_INVALID, [1 << 48, PAGE]),
        (holes, lambda: update_partial(holes, addrspace, 1 << 48, 0, PAGE, 4, 4), Error.ADDR_INVALID, [1 << 48, PAGE]),
        (holes, lambda: unmap_partial(holes, addrspace, V, MIB, PAGE), Error.ARGUMENT_SIZE, [V, MIB, PAGE]),
        (holes, lambda: unmap_partial(holes, addrspace, V, 0, PAGE), Error.ADDR_INVALID, [V]),
        (holes, lambda: donate_child(holes, MIB, PAGE, reverse=False), Error.ARGUMENT_INVALID, [RAM + 5 * MIB]),
        (plain, lambda: donate_child(plain, 0, PAGE, reverse=False), Error.MEMEXTENT_TYPE, []),
    ]
    for extent, call, error, values in cases:
        text = sentence(call, error)
        assert str(extent) in text
        for value in values:
            assert f"{value:#x}" in text, text
    assert str(addrspace) in sentence(lambda: unmap(plain, addrspace, V), Error.ADDR_INVALID)
