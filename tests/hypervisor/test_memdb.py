"""The ownership database against a dictionary of pages."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gunyah.abi.errors import Error
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.memdb import NOBODY, MemoryDatabase, Owner, OwnerKind

PAGE = 4096
ROOT = Owner(OwnerKind.PARTITION, "root")
EXTENT = Owner(OwnerKind.EXTENT, "extent")
OTHER = Owner(OwnerKind.EXTENT, "other")


def refused(error: Error, database: MemoryDatabase, pa: int, size: int, old: Owner, new: Owner) -> str:
    before = list(database.ranges())
    with pytest.raises(HypervisorError) as failure:
        database.transfer(pa, size, old, new)
    assert failure.value.code is error
    assert list(database.ranges()) == before, "a refused transfer changes nothing"
    return str(failure.value)


@pytest.fixture
def database() -> MemoryDatabase:
    database = MemoryDatabase()
    database.insert(0x4000_0000, 0x8000_0000, ROOT)
    return database


def test_a_transfer_moves_exactly_its_range(database: MemoryDatabase) -> None:
    database.transfer(0x4010_0000, 0x20_0000, ROOT, EXTENT)
    assert list(database.ranges()) == [
        (0x4000_0000, 0x10_0000, ROOT),
        (0x4010_0000, 0x20_0000, EXTENT),
        (0x4030_0000, 0x7FD0_0000, ROOT),
    ]
    assert database.owner_at(0x400F_FFFF) == ROOT
    assert database.owner_at(0x4010_0000) == EXTENT
    assert database.owner_at(0x402F_FFFF) == EXTENT
    assert database.owner_at(0x3FFF_FFFF) == NOBODY


def test_memory_that_returns_joins_its_neighbours(database: MemoryDatabase) -> None:
    database.transfer(0x4010_0000, 0x20_0000, ROOT, EXTENT)
    database.transfer(0x4010_0000, 0x20_0000, EXTENT, ROOT)
    assert list(database.ranges()) == [(0x4000_0000, 0x8000_0000, ROOT)]


def test_a_range_with_one_foreign_page_is_refused_and_the_page_is_named(database: MemoryDatabase) -> None:
    database.transfer(0x4010_0000, PAGE, ROOT, OTHER)
    sentence = refused(Error.MEMDB_NOT_OWNER, database, 0x4000_0000, 0x20_0000, ROOT, EXTENT)
    assert "other owns 0x40100000" in sentence
    refused(Error.MEMDB_NOT_OWNER, database, 0x4010_0000, PAGE, EXTENT, ROOT)


def test_unknown_memory_is_not_an_address(database: MemoryDatabase) -> None:
    refused(Error.ADDR_INVALID, database, 0x10_0000_0000, PAGE, ROOT, EXTENT)
    refused(Error.ADDR_INVALID, database, 0x2000_0000_0000, PAGE, ROOT, EXTENT)
    refused(Error.ADDR_INVALID, database, 0xC000_0000, PAGE, ROOT, EXTENT)
    refused(Error.ADDR_INVALID, database, 0x4000_0000, 0x1_0000_0000, ROOT, EXTENT)
    refused(Error.MEMDB_NOT_OWNER, database, 0xBFFF_F000, 2 * PAGE, ROOT, EXTENT)


def test_known_memory_cannot_become_known_again(database: MemoryDatabase) -> None:
    for pa, size in ((0x4000_0000, PAGE), (0x3FFF_F000, 2 * PAGE), (0xBFFF_F000, 2 * PAGE), (0, 1 << 36)):
        with pytest.raises(HypervisorError) as failure:
            database.insert(pa, size, OTHER)
        assert failure.value.code is Error.MEMDB_NOT_OWNER
    database.insert(0, 0x4000_0000, OTHER)
    database.insert(0xC000_0000, PAGE, OTHER)
    assert list(database.ranges_of(OTHER)) == [(0, 0x4000_0000), (0xC000_0000, PAGE)]


@pytest.mark.parametrize("size", [0, -PAGE])
def test_an_empty_range_is_a_mistake_of_the_caller(database: MemoryDatabase, size: int) -> None:
    with pytest.raises(ValueError, match="memory database"):
        database.transfer(0x4000_0000, size, ROOT, EXTENT)
    with pytest.raises(ValueError, match="memory database"):
        database.insert(0, size, EXTENT)


def test_owned_parts_are_cut_to_the_range_asked_for(database: MemoryDatabase) -> None:
    for pa in (0x4000_1000, 0x4000_3000, 0x4000_5000):
        database.transfer(pa, PAGE, ROOT, EXTENT)
    assert list(database.owned(ROOT, 0x4000_0800, 0x5000)) == [
        (0x4000_0800, 0x800),
        (0x4000_2000, PAGE),
        (0x4000_4000, PAGE),
    ]
    assert list(database.owned(EXTENT, 0, 1 << 52)) == [(0x4000_1000, PAGE), (0x4000_3000, PAGE), (0x4000_5000, PAGE)]
    assert list(database.owned(OTHER, 0, 1 << 52)) == []
    assert list(database.owned(NOBODY, 0xBFFF_F000, 2 * PAGE)) == [(0xC000_0000, PAGE)]


PAGES = 24
SPAN = st.tuples(st.integers(0, PAGES - 1), st.integers(1, PAGES)).map(lambda s: (s[0], min(s[1], PAGES - s[0])))
OWNERS = st.sampled_from([ROOT, EXTENT, OTHER, NOBODY])


class DatabaseMachine(RuleBasedStateMachine):
    """Random transfers; the model is one owner for each page."""

    @initialize()
    def start(self) -> None:
        self.database = MemoryDatabase()
        self.database.insert(0, PAGES * PAGE, ROOT)
        self.model = [ROOT] * PAGES

    @rule(span=SPAN, old=OWNERS, new=OWNERS)
    def transfer(self, span: tuple[int, int], old: Owner, new: Owner) -> None:
        first, count = span
        allowed = all(owner == old for owner in self.model[first : first + count])
        try:
            self.database.transfer(first * PAGE, count * PAGE, old, new)
        except HypervisorError as failure:
            assert not allowed
            assert failure.code in (Error.MEMDB_NOT_OWNER, Error.ADDR_INVALID)
        else:
            assert allowed
            self.model[first : first + count] = [new] * count

    @rule(first=st.integers(0, PAGES - 1), new=OWNERS)
    def transfer_what_is_there(self, first: int, new: Owner) -> None:
        old = self.model[first]
        last = first
        while last < PAGES and self.model[last] == old:
            last += 1
        self.transfer((first, last - first), old, new)

    @rule(span=SPAN, owner=OWNERS)
    def queries(self, span: tuple[int, int], owner: Owner) -> None:
        first, count = span
        asked = self.database.is_owned(first * PAGE, count * PAGE, owner)
        assert asked == all(found == owner for found in self.model[first : first + count])
        pages = {
            (pa + offset) // PAGE
            for pa, size in self.database.owned(owner, first * PAGE, count * PAGE)
            for offset in range(0, size, PAGE)
        }
        assert pages == {page for page in range(first, first + count) if self.model[page] == owner}

    @invariant()
    def every_page_has_its_owner(self) -> None:
        if hasattr(self, "database"):
            self.database.check()
            assert [self.database.owner_at(page * PAGE) for page in range(PAGES)] == self.model


DatabaseMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)
TestDatabase = DatabaseMachine.TestCase
