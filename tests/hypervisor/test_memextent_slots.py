"""Mapping slots against a dictionary of pages: what stands where, what a query finds, what the heap is charged."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gunyah.abi.errors import Error
from gunyah.abi.memory import MappingAttributes
from gunyah.hypervisor.memextent_map import PIECE_SIZE, Slot

from .extents import PAGE, RAM, RO, RW, RWX, V, make_root, refused, space, sparse

PAGES = 12
SPANS = st.tuples(st.integers(0, PAGES - 1), st.integers(1, PAGES)).map(lambda s: (s[0], min(s[1], PAGES - s[0])))
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["insert", "remove", "update"]), SPANS, st.sampled_from([RO, RW, RWX]), st.integers(1, 3)
    ),
    max_size=14,
)

Model = dict[int, tuple[int, MappingAttributes]]
"""Page -> its distance to its IPA in pages, and attributes."""


def found(slot: Slot, first: int, count: int) -> Model:
    """What `find` tells of a range, step by step."""
    seen: Model = {}
    page = first
    while page < first + count:
        piece, size = slot.find(RAM + page * PAGE, (first + count - page) * PAGE)
        assert size % PAGE == 0
        assert 0 < size <= (first + count - page) * PAGE
        for here in range(page, page + size // PAGE):
            if piece is not None:
                assert piece.pa <= RAM + here * PAGE < piece.end
                seen[here] = piece.delta // PAGE, piece.attributes
        page += size // PAGE
    return seen


@given(STEPS, st.lists(SPANS, min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_a_slot_is_a_dictionary_of_pages(
    steps: list[tuple[str, tuple[int, int], MappingAttributes, int]], asked: list[tuple[int, int]]
) -> None:
    root = make_root()
    extent, addrspace = sparse(root), space(root)
    slot, model = extent.slots[0], Model()
    bare = root.charged(extent)
    for step, (first, count), attributes, distance in steps:
        pages = range(first, first + count)
        pa, size = RAM + first * PAGE, count * PAGE
        if step == "insert" and not model.keys() & set(pages):
            slot.insert(addrspace, pa, size, pa + distance * PAGE, attributes)
            model.update(dict.fromkeys(pages, (distance, attributes)))
        elif step == "remove":
            slot.remove(pa, size)
            for page in pages:
                model.pop(page, None)
        elif step == "update":
            slot.update(pa, size, attributes.user, attributes.kernel)
            model.update({page: (model[page][0], attributes) for page in pages if page in model})
        assert found(slot, 0, PAGES) == model
        assert [piece.pa for piece in slot.pieces] == sorted({piece.pa for piece in slot.pieces})
        assert all(piece.pa < piece.end for piece in slot.pieces)
        assert (slot.addrspace is addrspace) == (slot in addrspace.slots)
        if step != "insert":
            assert (slot.addrspace is None) == (not model)
        assert root.charged(extent) == bare + PIECE_SIZE * len(slot.pieces)
    for first, count in asked:
        pages = range(first, first + count)
        pa, size = RAM + first * PAGE, count * PAGE
        assert slot.overlaps(pa, size) == any(page in model for page in pages)
        assert found(slot, first, count) == {page: model[page] for page in pages if page in model}
        for distance in range(1, 4):
            whole = all(page in model and model[page][0] == distance for page in pages)
            assert slot.matches(pa, size, pa + distance * PAGE) == whole


def test_a_query_ends_where_the_next_piece_begins_and_not_before() -> None:
    root = make_root()
    extent, addrspace = sparse(root), space(root)
    slot = extent.slots[0]
    slot.insert(addrspace, RAM + 4 * PAGE, 2 * PAGE, 0, RW)
    assert slot.find(RAM, 16 * PAGE) == (None, 4 * PAGE)
    assert slot.find(RAM, 2 * PAGE) == (None, 2 * PAGE)
    assert slot.find(RAM + 4 * PAGE, 16 * PAGE) == (slot.pieces[0], 2 * PAGE)
    assert slot.find(RAM + 5 * PAGE, PAGE) == (slot.pieces[0], PAGE)
    assert slot.find(RAM + 6 * PAGE, 9 * PAGE) == (None, 9 * PAGE)


def test_a_slot_belongs_to_the_first_address_space_until_it_is_empty() -> None:
    root = make_root()
    extent, one, two = sparse(root), space(root, 7), space(root, 8)
    slot = extent.slots[0]
    slot.insert(one, RAM, PAGE, 0, RW)
    slot.insert(two, RAM + PAGE, PAGE, PAGE, RW)
    assert (slot.addrspace, slot in one.slots, slot in two.slots) == (one, True, False)
    slot.remove(RAM, PAGE)
    assert slot.addrspace is one
    slot.clear()
    assert (slot.addrspace, slot.pieces, one.slots) == (None, [], set())
    slot.clear()
    slot.insert(two, RAM, PAGE, 0, RW)
    assert slot.addrspace is two


def test_a_piece_that_cannot_be_paid_for_changes_nothing() -> None:
    root = make_root()
    extent, addrspace = sparse(root), space(root)
    slot = extent.slots[0]
    heap = root.heap
    heap.book(heap.available - PIECE_SIZE)
    slot.insert(addrspace, RAM, 3 * PAGE, 0, RW)
    before = list(slot.pieces)
    for call in (
        lambda: slot.insert(addrspace, RAM + 8 * PAGE, PAGE, 8 * PAGE, RW),
        lambda: slot.remove(RAM + PAGE, PAGE),
        lambda: slot.update(RAM + PAGE, PAGE, 4, 4),
    ):
        with refused(Error.NOMEM):
            call()
        assert slot.pieces == before
    slot.remove(RAM, PAGE)
    slot.update(RAM, 8 * PAGE, 4, 4)
    assert [piece[:2] for piece in slot.pieces] == [(RAM + PAGE, RAM + 3 * PAGE)]
    assert heap.available == 0


def test_a_slot_that_is_refused_stays_free() -> None:
    root = make_root()
    extent, addrspace = sparse(root), space(root)
    root.heap.book(root.heap.available)
    with refused(Error.NOMEM):
        extent.slots[0].insert(addrspace, RAM, PAGE, 0, RW)
    assert extent.slots[0].addrspace is None
    assert addrspace.slots == set()


@pytest.mark.parametrize("memtype", [0xF, 5, 1])
def test_an_update_keeps_the_memory_type_and_the_rest_of_the_piece(memtype: int) -> None:
    root = make_root()
    extent, addrspace = sparse(root), space(root)
    slot = extent.slots[0]
    slot.insert(addrspace, RAM, 4 * PAGE, 64 * PAGE, MappingAttributes(7, 6, memtype))
    slot.update(RAM + PAGE, PAGE, 5, 4)
    assert [(piece.pa - RAM, piece.end - RAM, piece.delta, piece.attributes) for piece in slot.pieces] == [
        (0, PAGE, 64 * PAGE - RAM, MappingAttributes(7, 6, memtype)),
        (PAGE, 2 * PAGE, 64 * PAGE - RAM, MappingAttributes(5, 4, memtype)),
        (2 * PAGE, 4 * PAGE, 64 * PAGE - RAM, MappingAttributes(7, 6, memtype)),
    ]


def test_neighbours_do_not_overlap_and_what_lies_before_is_not_asked() -> None:
    root = make_root()
    extent, addrspace = sparse(root), space(root)
    slot = extent.slots[0]
    for page in (0, 4, 6):
        slot.insert(addrspace, RAM + page * PAGE, PAGE, V + page * PAGE, RW)
    assert [page for page in range(8) if slot.overlaps(RAM + page * PAGE, PAGE)] == [0, 4, 6]
    assert not slot.overlaps(RAM + PAGE, 3 * PAGE)
    assert not slot.overlaps(RAM + 5 * PAGE, PAGE)
    assert slot.overlaps(RAM + 3 * PAGE, 2 * PAGE)
    for page in (0, 4, 6):
        assert slot.matches(RAM + page * PAGE, PAGE, V + page * PAGE)
        assert not slot.matches(RAM + page * PAGE, PAGE, V) or page == 0
        assert not slot.matches(RAM + page * PAGE, 2 * PAGE, V + page * PAGE)
    assert not slot.matches(RAM + 4 * PAGE, 3 * PAGE, V + 4 * PAGE)
    slot.insert(addrspace, RAM + 5 * PAGE, PAGE, V + 5 * PAGE, RO)
    assert slot.matches(RAM + 4 * PAGE, 3 * PAGE, V + 4 * PAGE)
