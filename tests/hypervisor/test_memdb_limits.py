"""The ownership database at its edges: the tree that ends somewhere, single bytes, and what it tells people."""

from __future__ import annotations

import pytest
from tests.hypervisor.extents import refused

from gunyah.abi.errors import Error
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.memdb import NOBODY, MemoryDatabase, Owner, OwnerKind

PAGE = 4096
GIB = 1 << 30
ROOT = Owner(OwnerKind.PARTITION, "root")
EXTENT = Owner(OwnerKind.EXTENT, "extent")


def database_to(end: int) -> MemoryDatabase:
    """All memory up to ``end`` is the root partition's."""
    database = MemoryDatabase()
    database.insert(GIB, end - GIB, ROOT)
    return database


@pytest.mark.parametrize("end", [2 * GIB, 3 * GIB, 1 << 32])
def test_a_range_that_leaves_the_tree_is_no_address_and_one_inside_is_not_owned(end: int) -> None:
    database = database_to(end)
    tree = 1 << 32
    start = end - PAGE
    if end < tree:
        with refused(Error.MEMDB_NOT_OWNER):
            database.transfer(start, tree - start, ROOT, EXTENT)
    with refused(Error.ADDR_INVALID):
        database.transfer(start, tree + 1 - start, ROOT, EXTENT)
    with refused(Error.MEMDB_NOT_OWNER):
        database.transfer(start, PAGE, EXTENT, ROOT)


def test_the_tree_grows_by_four_bits_for_the_first_byte_beyond_it() -> None:
    database = database_to(1 << 32)
    database.insert(1 << 32, 1, EXTENT)
    with refused(Error.MEMDB_NOT_OWNER):
        database.transfer(1 << 32, 1, ROOT, EXTENT)
    with refused(Error.MEMDB_NOT_OWNER):
        database.transfer(1 << 32, (1 << 36) - (1 << 32), EXTENT, ROOT)
    with refused(Error.ADDR_INVALID):
        database.transfer(1 << 32, (1 << 36) + 1 - (1 << 32), EXTENT, ROOT)


def test_a_single_byte_can_be_owned() -> None:
    database = database_to(2 * GIB)
    database.transfer(GIB, 1, ROOT, EXTENT)
    assert list(database.ranges()) == [(GIB, 1, EXTENT), (GIB + 1, GIB - 1, ROOT)]


def test_whoever_is_in_the_way_of_new_memory_is_named_with_the_address() -> None:
    database = database_to(2 * GIB)
    with pytest.raises(HypervisorError, match="partition root owns 0x40000000"):
        database.insert(GIB - PAGE, 2 * PAGE, EXTENT)
    assert database.owner_at(GIB - PAGE) == NOBODY


def test_a_neighbour_of_the_range_asked_for_is_not_part_of_it() -> None:
    database = database_to(2 * GIB)
    database.transfer(GIB, PAGE, ROOT, EXTENT)
    assert list(database.owned(EXTENT, GIB + PAGE, PAGE)) == []
    assert list(database.owned(ROOT, GIB, PAGE)) == []
    assert list(database.owned(NOBODY, 0, GIB)) == [(0, GIB)]


@pytest.mark.parametrize(
    ("owner", "shown"),
    [(EXTENT, "extent"), (ROOT, "partition root"), (NOBODY, "none")],
    ids=["extent", "root", "nobody"],
)
def test_an_owner_reads_as_what_it_is(owner: Owner, shown: str) -> None:
    assert str(owner) == shown


class TestCheck:
    """What the database says of itself when its representation is damaged."""

    def damaged(self, starts: list[int], owners: list[Owner], sentence: str | None = None) -> None:
        database = MemoryDatabase()
        database._starts, database._owners = starts, owners
        with pytest.raises(AssertionError, match=sentence):
            database.check()

    def test_boundaries_ascend(self) -> None:
        self.damaged([0, PAGE, PAGE, 2 * PAGE], [NOBODY, ROOT, EXTENT, NOBODY], "not ascending")
        self.damaged([0, 2 * PAGE, PAGE], [NOBODY, ROOT, NOBODY], "not ascending")

    def test_neighbours_differ(self) -> None:
        self.damaged([0, PAGE, 2 * PAGE, 3 * PAGE], [NOBODY, ROOT, ROOT, NOBODY], "equal neighbours")

    def test_memory_ends(self) -> None:
        self.damaged([0, PAGE], [NOBODY, ROOT], "without end")

    def test_it_starts_at_zero(self) -> None:
        self.damaged([PAGE], [NOBODY])
