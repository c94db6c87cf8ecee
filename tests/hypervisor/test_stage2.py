"""Stage-2 tables against a dictionary of pages, and against what the architecture says of their bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gunyah.abi.errors import Error
from gunyah.abi.memory import MappingAttributes
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.heap import RESERVED_PAGES, Heap
from gunyah.hypervisor.stage2 import Stage2, decode_attributes, encode_attributes
from gunyah.machine.memory import PhysicalMemory

MIB = 1 << 20
PAGE = 4096
BASE = 0x4000_0000
RWX = MappingAttributes(7, 7, 0xF)
RW = MappingAttributes(6, 6, 0xF)
RO = MappingAttributes(4, 4, 0xF)


def make(ipa_bits: int = 36, heap_pages: int = 512) -> Stage2:
    ram = PhysicalMemory([(BASE, 2 << 30)])
    return Stage2(Heap(ram, BASE, (heap_pages + RESERVED_PAGES) * PAGE), 7, ipa_bits)


def hardware_walk(tables: Stage2, ipa: int) -> tuple[int, int] | None:
    """Walk as a CPU does: only VTTBR, VTCR and memory; gives (PA, descriptor)."""
    ram = tables.heap.ram
    t0sz = tables.vtcr & 0x3F
    level = 2 - (tables.vtcr >> 6 & 3)
    table = tables.vttbr & 0xFFFF_FFFF_FFFE
    bits = 64 - t0sz
    if ipa >> bits:
        return None
    index_bits = bits - (12 + 9 * (3 - level))
    while True:
        shift = 12 + 9 * (3 - level)
        index = ipa >> shift & (1 << index_bits) - 1
        descriptor = ram.read_u64(table + 8 * index)
        if not descriptor & 1:
            return None
        if level == 3 or not descriptor & 2:
            assert (level == 3) == bool(descriptor & 2), "a page has bit 1, a block has not"
            output = descriptor & 0xFFFF_FFFF_F000
            assert not output & (1 << shift) - 1, "an output address is aligned to its size"
            return output | ipa & (1 << shift) - 1, descriptor
        table = descriptor & 0xFFFF_FFFF_F000
        level += 1
        index_bits = 9


@pytest.mark.parametrize("memtype", [0, 1, 2, 3, 5, 6, 7, 9, 0xA, 0xB, 0xD, 0xE, 0xF])
def test_attributes_survive_the_descriptor(memtype: int) -> None:
    for kernel in range(8):
        for user in (kernel, kernel ^ 1):
            attributes = MappingAttributes(user, kernel, memtype)
            assert decode_attributes(encode_attributes(attributes)) == attributes


def test_equal_execute_rights_need_no_xnx() -> None:
    for access in range(8):
        assert not encode_attributes(MappingAttributes(access, access, 0xF)) >> 53 & 1


@pytest.mark.parametrize(
    ("bits", "level", "entries", "pages"),
    [(32, 2, 2048, 4), (36, 1, 64, 1), (39, 1, 512, 1), (40, 1, 1024, 2), (42, 1, 4096, 8), (44, 0, 32, 1)],
)
def test_the_start_level_is_the_architectures(bits: int, level: int, entries: int, pages: int) -> None:
    tables = make(bits)
    assert (tables.start_level, tables._root_entries, tables._root_pages) == (level, entries, pages)
    assert tables.root % (pages * PAGE) == 0
    assert tables.vtcr & 0x3F == 64 - bits
    assert tables.vtcr >> 6 & 3 == 2 - level
    assert tables.vttbr >> 48 == 7


@pytest.mark.parametrize("bits", [36, 40])
def test_a_cpu_finds_what_was_mapped_with_the_largest_blocks(bits: int) -> None:
    tables = make(bits)
    top = 1 << bits
    tables.map(0x4000_0000, 0x8000_0000, 0x4000_0000, RWX)
    tables.map(top - 2 * MIB - PAGE, 2 * MIB + PAGE, 0x8020_0000 - PAGE, RO)
    assert tables.lookup(0x7FFF_F123).size == 1 << 30
    assert tables.lookup(top - PAGE).size == 2 * MIB
    assert hardware_walk(tables, 0xBFFF_FFFF)[0] == 0xBFFF_FFFF
    assert hardware_walk(tables, top - 1)[0] == 0x803F_FFFF
    assert hardware_walk(tables, top - 2 * MIB - 1)[0] == 0x801F_FFFF
    assert hardware_walk(tables, top - 2 * MIB - PAGE - 1) is None
    assert hardware_walk(tables, 0x3FFF_FFFF) is None


def test_taking_one_page_out_of_a_gigabyte_splits_it_and_only_it() -> None:
    tables = make()
    tables.map(0x4000_0000, 1 << 30, 0x4000_0000, RW)
    tables.unmap(0x5123_4000, PAGE, 0x5123_4000)
    assert tables.lookup(0x5123_4000) is None
    for ipa in (0x4000_0000, 0x5123_3FFF, 0x5123_5000, 0x7FFF_FFFF):
        assert hardware_walk(tables, ipa)[0] == ipa
        assert tables.lookup(ipa).attributes == RW
    assert sorted({leaf.size for leaf in tables.leaves()}) == [PAGE, 2 * MIB]


def test_unmapping_leaves_what_points_elsewhere() -> None:
    tables = make()
    tables.map(0x1000_0000, 4 * MIB, 0x5000_0000, RW)
    tables.map(0x1010_0000, MIB, 0x7000_0000, RO)
    tables.unmap(0x1000_0000, 4 * MIB, 0x5000_0000)
    assert [(leaf.ipa, leaf.pa) for leaf in tables.leaves()] == [
        (0x1010_0000 + i * PAGE, 0x7000_0000 + i * PAGE) for i in range(256)
    ]


def test_what_is_not_ram_traps_on_a_cpu_and_is_seen_by_the_hypervisor() -> None:
    tables = make()
    tables.map(0, 0x4000_0000, 0, MappingAttributes(6, 6, 1))
    tables.map(0x7FFF_F000, 2 * PAGE, BASE - PAGE, RW)
    assert hardware_walk(tables, 0x0900_0000) is None
    assert tables.lookup(0x0900_0000).pa == 0
    assert tables.lookup(0x0900_0000).size == 1 << 30
    tables.unmap(0x0900_0000, PAGE, 0x0900_0000)
    assert tables.lookup(0x0900_0000) is None
    assert tables.lookup(0x0900_1000).pa == 0x0900_1000
    assert tables.lookup(0x0900_1000).attributes == MappingAttributes(6, 6, 1)
    assert hardware_walk(tables, 0x0900_1000) is None
    assert tables.lookup(0x7FFF_F000).pa == BASE - PAGE
    assert hardware_walk(tables, 0x7FFF_F000) is None
    assert hardware_walk(tables, 0x8000_0000)[0] == BASE


def test_tables_that_become_empty_return_to_the_heap() -> None:
    tables = make()
    before = tables.heap.pages
    for ipa in (0, 0x1_2345_6000, (1 << 36) - PAGE):
        tables.map(ipa, PAGE, 0x5000_0000, RW)
    assert tables.heap.pages == before + 6
    tables.unmap(0, 1 << 36)
    assert tables.heap.pages == before
    tables.destroy()
    assert tables.heap.pages == before - 1


def test_a_changed_descriptor_is_broken_before_it_is_made() -> None:
    tables = make()
    tables.map(0x4000_0000, 2 * MIB, 0x4000_0000, RW)
    seen: list[tuple[int, int, object]] = []
    tables.listeners.append(lambda ipa, size: seen.append((ipa, size, tables.lookup(0x4000_0000))))
    tables.map(0x4000_0000, 2 * MIB, 0x4000_0000, RO)
    assert seen == [(0x4000_0000, 2 * MIB, None)]
    seen.clear()
    tables.map(0x4000_0000, PAGE, 0x4000_0000, RWX)
    assert [(ipa, size) for ipa, size, _ in seen] == [(0x4000_0000, 2 * MIB), (0x4000_0000, PAGE)]
    assert all(found is None for _, _, found in seen)
    seen.clear()
    tables.map(0x4000_0000, PAGE, 0x4000_0000, RWX)
    tables.map(0x9000_0000, PAGE, 0x4000_0000, RWX)
    assert seen == [], "nothing valid has changed"
    made: list[tuple[int, int]] = []
    tables.made_listeners.append(lambda ipa, size: made.append((ipa, size)))
    tables.map(0xA000_0000, 2 * MIB + PAGE, 0x4000_0000, RWX)
    assert (seen, made) == ([], [(0xA000_0000, 2 * MIB + PAGE)])
    tables.map(0xA000_0000, PAGE, 0x4000_0000, RWX)
    assert len(made) == 1


def test_ranges_outside_the_address_space_are_refused() -> None:
    tables = make()
    for ipa, size, error in (
        (1 << 36, PAGE, Error.ADDR_INVALID),
        ((1 << 36) - PAGE, 2 * PAGE, Error.ADDR_OVERFLOW),
        ((1 << 64) - PAGE, PAGE, Error.ADDR_INVALID),
    ):
        with pytest.raises(HypervisorError) as refused:
            tables.map(ipa, size, 0x4000_0000, RW)
        assert refused.value.code is error
    assert list(tables.leaves()) == []
    tables.unmap(1 << 36, 1 << 60)


def test_a_map_that_runs_out_of_tables_changes_nothing() -> None:
    tables = make(heap_pages=4)
    tables.map(0x4000_0000, 2 * MIB, 0x4000_0000, RW)
    before = list(tables.leaves())
    used = tables.heap.used
    with pytest.raises(HypervisorError) as refused:
        tables.map(0x4000_1000, 64 * MIB, 0x5000_0000, RO)
    assert refused.value.code is Error.NOMEM
    assert list(tables.leaves()) == before
    assert tables.heap.used == used
    tables.map(0x8000_0000, 2 * PAGE, 0x5000_0000, RW)
    with pytest.raises(HypervisorError) as refused:
        tables.unmap(0x4000_1000, PAGE)
    assert refused.value.code is Error.NOMEM
    assert tables.lookup(0x4000_1000).size == 2 * MIB
    tables.unmap(0x4000_1000, PAGE, reserve=True)
    assert tables.lookup(0x4000_1000) is None, "destruction may use the reserve"
    assert tables.lookup(0x4000_2000).pa == 0x4000_2000


def test_destruction_never_fails_for_want_of_a_table() -> None:
    tables = make(heap_pages=3)
    tables.map(0x4000_0000, 2 * MIB, 0x4000_0000, RW)
    while tables.heap.size - tables.heap.used >= PAGE:
        tables.heap.allocate(reserve=True)
    tables.unmap(0x4000_1000, PAGE, reserve=True)
    assert tables.lookup(0x4000_1000) is None


SIZES = st.sampled_from([PAGE, 2 * PAGE, 17 * PAGE, 2 * MIB, 2 * MIB + PAGE, 4 * MIB, 6 * MIB - PAGE])
OFFSETS = st.integers(0, 8 * MIB // PAGE).map(lambda n: n * PAGE) | st.sampled_from([0, 2 * MIB, 4 * MIB])
OUTPUTS = OFFSETS.map(lambda n: BASE - 4 * MIB + n)
ATTRIBUTES = st.sampled_from([RW, RO, RWX, MappingAttributes(5, 4, 0xF), MappingAttributes(0, 0, 1)])


class TablesMachine(RuleBasedStateMachine):
    """Random maps and unmaps; the model is a dictionary IPA page -> (PA, attributes)."""

    @initialize(bits=st.sampled_from([36, 40]))
    def start(self, bits: int) -> None:
        self.tables = make(bits)
        self.low = (1 << bits) - 16 * MIB
        self.model: dict[int, tuple[int, MappingAttributes]] = {}
        self.stale: set[int] = set()
        self.tables.listeners.append(self.invalidate)
        self.tlb: dict[int, tuple[int, MappingAttributes]] = {}

    def invalidate(self, ipa: int, size: int) -> None:
        self.tlb = {page: entry for page, entry in self.tlb.items() if not ipa <= page < ipa + size}

    @contextmanager
    def transaction(self, open_one: bool) -> Iterator[None]:
        """Single pages have a short way inside an open transaction."""
        if open_one:
            self.tables.begin()
        yield
        if open_one:
            self.tables.commit()

    @rule(ipa=OFFSETS, size=SIZES, pa=OUTPUTS, attributes=ATTRIBUTES, inside=st.booleans())
    def map(self, ipa: int, size: int, pa: int, attributes: MappingAttributes, inside: bool) -> None:
        with self.transaction(inside):
            self.tables.map(self.low + ipa, size, pa, attributes)
        for offset in range(0, size, PAGE):
            self.model[self.low + ipa + offset] = (pa + offset, attributes)

    @rule(ipa=OFFSETS, size=SIZES, inside=st.booleans())
    def unmap(self, ipa: int, size: int, inside: bool) -> None:
        with self.transaction(inside):
            self.tables.unmap(self.low + ipa, size)
        for offset in range(0, size, PAGE):
            self.model.pop(self.low + ipa + offset, None)

    @rule(pick=st.integers(0, 1 << 16), pa=OUTPUTS, attributes=ATTRIBUTES, inside=st.booleans())
    def change_a_page_and_take_its_neighbour(
        self, pick: int, pa: int, attributes: MappingAttributes, inside: bool
    ) -> None:
        if not self.model:
            return
        page = sorted(self.model)[pick % len(self.model)]
        with self.transaction(inside):
            self.tables.map(page, PAGE, pa, attributes)
            self.model[page] = (pa, attributes)
            for other in (page + PAGE, page):
                if (other in self.model and other != page) or pick % 3 == 0:
                    self.tables.unmap(other, PAGE, self.model[other][0] if other in self.model else None)
                    self.model.pop(other, None)

    @rule(ipa=OFFSETS, size=SIZES, pa=OUTPUTS, inside=st.booleans())
    def unmap_matching(self, ipa: int, size: int, pa: int, inside: bool) -> None:
        with self.transaction(inside):
            self.tables.unmap(self.low + ipa, size, pa)
        for offset in range(0, size, PAGE):
            page = self.low + ipa + offset
            if page in self.model and self.model[page][0] == pa + offset:
                del self.model[page]

    @rule(ipa=OFFSETS, size=SIZES, pa=OUTPUTS, attributes=ATTRIBUTES)
    def aborted(self, ipa: int, size: int, pa: int, attributes: MappingAttributes) -> None:
        self.tables.begin()
        self.tables.map(self.low + ipa, size, pa, attributes)
        for page in sorted(self.model)[:3]:
            self.tables.map(page, PAGE, pa, attributes)
            self.tables.unmap(page, PAGE)
        self.tables.unmap(self.low, 4 * MIB)
        self.tables.abort()

    @precondition(lambda self: getattr(self, "model", None))
    @rule(pick=st.integers(0, 1 << 16))
    def runs_end_where_pages_stop_to_follow(self, pick: int) -> None:
        page = sorted(self.model)[pick % len(self.model)]
        leaf = self.tables.lookup(page)
        assert leaf is not None
        end = self.tables.end_of_run(leaf)
        pa, attributes = self.model[leaf.ipa]
        for at in range(leaf.ipa, end, PAGE):
            assert self.model[at] == (pa + at - leaf.ipa, attributes)
        following = pa + end - leaf.ipa
        # A run is all RAM or all device.
        if end % (2 * MIB) and following != BASE:
            assert self.model.get(end) != (following, attributes)

    @invariant()
    def tables_are_the_model(self) -> None:
        if not hasattr(self, "tables"):
            return
        found = {
            leaf.ipa + offset: (leaf.pa + offset, leaf.attributes)
            for leaf in self.tables.leaves()
            for offset in range(0, leaf.size, PAGE)
        }
        assert found == self.model
        for page, entry in self.tlb.items():
            assert found.get(page) == entry, f"a TLB still has the old translation of {page:#x}"
        self.tlb = dict(found)

    def teardown(self) -> None:
        if hasattr(self, "tables"):
            self.tables.destroy()
            assert self.tables.heap.pages == 0


TablesMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)
TestTables = TablesMachine.TestCase


@pytest.mark.parametrize("bits", [0, 21, 52, 64])
def test_other_address_sizes_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=f"{bits}-bit"):
        make(bits)


def test_what_lies_behind_ram_is_a_device_too() -> None:
    tables = make()
    top = BASE + (2 << 30)
    tables.map(0, 4 * PAGE, top - PAGE, RW)
    assert hardware_walk(tables, 0)[0] == top - PAGE
    assert hardware_walk(tables, PAGE) is None
    assert tables.lookup(3 * PAGE).pa == top + 2 * PAGE
    assert tables.table_pages == 3
