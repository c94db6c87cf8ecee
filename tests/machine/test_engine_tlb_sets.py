"""Each address space identifier has a TLB of its own: none answers for another, and maintenance reaches them all."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gunyah.machine.engine import Context, Core, tlb_sets
from gunyah.machine.engine import unicorn_private as private
from gunyah.machine.engine.fast_walk import taken

from . import rig
from .rig import CODE, DATA, FINISHED, Rig

VECTORS = CODE + 0x10_0000
PAGE = 0x1000
BLOCK = 1 << 21
SPACES = 3
VA = 0x40_0000
"""Of the pages that address spaces map differently."""

TABLE = 3
USER_DATA = 3 << 8 | 1 << 11 | 0x403
"""A page or block of normal memory that is accessed, not global, read and written by EL1."""
NOT_EXECUTABLE = 3 << 53

READ = (0xF9400020,)  # ldr x0, [x1]
WRITE = (0xF9000020,)  # str x0, [x1]
CALL = (0xD63F0020,)  # blr x1
SET_TTBR0 = (0xD5182001, 0xD5033FDF)  # msr ttbr0_el1, x1; isb
SET_TTBR1 = (0xD5182021, 0xD5033FDF)  # msr ttbr1_el1, x1; isb
TLBI_VAE1 = (0xD5088721,)  # tlbi vae1, x1
TLBI_VAAE1IS = (0xD5088361,)  # tlbi vaae1is, x1
TLBI_ASIDE1IS = (0xD5088341,)  # tlbi aside1is, x1
TLBI_VMALLE1 = (0xD508871F,)
TLBI_VMALLE1IS = (0xD508831F,)
IC_IVAU = (0xD50B7521,)  # ic ivau, x1
IC_IALLU = (0xD508751F,)
END = (0xD5033F9F, 0xD5033FDF, 0xD4001FE2)  # dsb sy; isb; hvc #0xff
NO_PAGE = -1


class Spaces(Rig):
    """A guest with some address spaces, switched by ASID; EL1 runs from the upper half, which is global."""

    def __init__(self, *, asid_in_ttbr1: bool = False, spaces: int = SPACES) -> None:
        super().__init__()
        self.asid_in_ttbr1 = asid_in_ttbr1
        self.upper = self.page()
        self.write_u64(self.upper + 8 * (CODE >> 30), CODE & -(1 << 30) | USER_DATA & ~(2 | 1 << 11))
        self.spaces = [self.page() for _ in range(spaces)]
        self.pages = itertools.count(DATA, PAGE)
        self.high = -(1 << 39) & (1 << 64) - 1
        self.vcpu.reset(CODE, 0)
        registers = self.vcpu.registers
        registers.write("TTBR1_EL1", self.upper)
        registers.write("TTBR0_EL1", self.spaces[0])
        registers.write("TCR_EL1", 1 << 36 | 5 << 32 | 2 << 30 | 25 << 16 | 25 | int(asid_in_ttbr1) << 22)
        registers.write("MAIR_EL1", 0xFF)
        registers.write("SCTLR_EL1", 0x30D0_0801)
        registers.write("VBAR_EL1", self.high + VECTORS)
        self.place((0xD4000022,), VECTORS + 0x200)
        self.vcpu.touch()
        self.now = 0

    def write_u64(self, address: int, value: int) -> None:
        self.memory.write_u64(address, value)

    def slot(self, space: int, va: int, level: int = 3) -> int:
        """Where the descriptor for an address is; tables on the way are made."""
        table = self.spaces[space]
        for at in range(1, level):
            place = table + (va >> 39 - 9 * at & 511) * 8
            if not self.memory.read_u64(place) & 1:
                self.write_u64(place, self.page() | TABLE)
            table = self.memory.read_u64(place) & 0xFFFF_FFFF_F000
        return table + (va >> 39 - 9 * level & 511) * 8

    def set(self, space: int, va: int, page: int | None, attributes: int = USER_DATA) -> None:
        """Map a page, or let nothing be there; the guest's maintenance is another matter."""
        self.write_u64(self.slot(space, va), 0 if page is None else page | attributes)

    def do(self, words: tuple[int, ...], x1: int = 0, x0: int = 0) -> int:
        """Execute some instructions at EL1; X0 afterwards, or NO_PAGE where they fault."""
        self.calls.clear()
        self.place(words + END)
        self.core.invalidate(CODE, 4 * len(words + END))
        registers = self.registers
        registers.pc = self.high + CODE
        registers.x[0], registers.x[1] = x0, x1
        self.exits.hvc = self._ended
        self.go_on()
        return NO_PAGE if self.calls[0][0] != FINISHED else self.x[0]

    def _ended(self, immediate: int) -> bool:
        self.calls.append((immediate, self.x[0]))
        return False

    def switch(self, space: int) -> None:
        """As an operating system does it."""
        asid = space + 1 << 48
        if self.asid_in_ttbr1:
            self.do(SET_TTBR1 + (0xAA0003E1,) + SET_TTBR0, self.upper | asid, self.spaces[space])
        else:
            self.do(SET_TTBR0, self.spaces[space] | asid)
        self.now = space

    def fresh_page(self, value: int) -> int:
        """A page that begins with a number."""
        page = next(self.pages)
        self.write_u64(page, value)
        return page


def page_of(va: int, asid: int = 0) -> int:
    return va >> 12 | asid << 48


@pytest.fixture(params=[False, True], ids=["ASID in TTBR0", "ASID in TTBR1"])
def spaces(request: pytest.FixtureRequest) -> Spaces:
    spaces = Spaces(asid_in_ttbr1=request.param)
    for space in range(SPACES):
        spaces.set(space, VA, spaces.fresh_page(space + 100))
        spaces.switch(space)
    return spaces


def test_each_space_reads_its_own_page_and_comes_back_without_a_walk(spaces: Spaces) -> None:
    for space in range(SPACES):
        spaces.switch(space)
        assert spaces.do(READ, VA) == space + 100
    walks, fresh = taken(spaces.core), spaces.core.shortcuts.tlb.fresh
    for space in (0, 1, 2, 1, 0, 2):
        spaces.switch(space)
        assert spaces.do(READ, VA) == space + 100
    assert taken(spaces.core) == walks
    assert spaces.core.shortcuts.tlb.fresh == fresh


def test_each_space_writes_its_own_page(spaces: Spaces) -> None:
    for space in (0, 1, 2, 0, 1, 2):
        spaces.switch(space)
        value = spaces.do(READ, VA)
        spaces.do(WRITE, VA, value + 10)
    for space in range(SPACES):
        assert spaces.memory.read_u64(spaces.memory.read_u64(spaces.slot(space, VA)) & 0xFFFF_FFFF_F000) == space + 120


def test_each_space_executes_its_own_code(spaces: Spaces) -> None:
    for space in range(SPACES):
        page = next(spaces.pages)
        spaces.memory.write(page, struct.pack("<2I", 0xD2800000 | 7 + space << 5, 0xD65F03C0))  # mov x0, #...; ret
        spaces.set(space, VA + PAGE, page)
    for space in (0, 1, 2, 0, 2, 1, 0):
        spaces.switch(space)
        assert spaces.do(CALL, VA + PAGE) == 7 + space


@pytest.mark.parametrize(
    ("words", "argument"),
    [
        (TLBI_VAE1, page_of(VA, 1)),
        (TLBI_VAAE1IS, page_of(VA)),
        (TLBI_ASIDE1IS, 1 << 48),
        (TLBI_VMALLE1, 0),
        (TLBI_VMALLE1IS, 0),
    ],
    ids=["VAE1", "VAAE1IS", "ASIDE1IS", "VMALLE1", "VMALLE1IS"],
)
def test_maintenance_reaches_a_space_that_is_not_there(spaces: Spaces, words: tuple[int, ...], argument: int) -> None:
    spaces.switch(0)
    assert spaces.do(READ, VA) == 100
    spaces.switch(1)
    assert spaces.do(READ, VA) == 101
    spaces.set(0, VA, spaces.fresh_page(200))
    spaces.do(words, argument)
    spaces.switch(0)
    assert spaces.do(READ, VA) == 200
    spaces.set(0, VA, None)
    spaces.switch(1)
    spaces.do(words, argument)
    spaces.switch(0)
    assert spaces.do(READ, VA) == NO_PAGE


def test_maintenance_reaches_the_code_of_a_space_that_is_not_there(spaces: Spaces) -> None:
    for value in (1, 2):
        page = next(spaces.pages)
        spaces.memory.write(page, struct.pack("<2I", 0xD2800000 | value << 5, 0xD65F03C0))
        spaces.switch(1)
        spaces.set(0, VA + PAGE, page)
        spaces.do(TLBI_VAE1, page_of(VA + PAGE, 1))
        spaces.switch(0)
        assert spaces.do(CALL, VA + PAGE) == value


@pytest.mark.parametrize("maintenance", [IC_IVAU, IC_IALLU], ids=["IC IVAU", "IC IALLU"])
def test_new_code_reaches_a_space_that_was_not_there(spaces: Spaces, maintenance: tuple[int, ...]) -> None:
    page = next(spaces.pages)
    for value in (1, 2, 3):
        spaces.switch(1)
        spaces.set(1, VA + 2 * PAGE, page)
        spaces.do(TLBI_VMALLE1 if value == 1 else READ, VA)
        spaces.do(WRITE, VA + 2 * PAGE, 0xD65F03C0 << 32 | 0xD2800000 | value << 5)
        spaces.do(maintenance, VA + 2 * PAGE)
        spaces.switch(0)
        spaces.set(0, VA + PAGE, page)
        assert spaces.do(CALL, VA + PAGE) == value


def test_full_code_buffer_forgets_the_blocks_of_spaces_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig, "Core", lambda *places, **options: Core(*places, **{**options, "buffer_size": 1 << 20}))
    spaces = Spaces()
    page, long = next(spaces.pages), DATA + BLOCK
    spaces.memory.write(page, struct.pack("<2I", 0xD2800000 | 7 << 5, 0xD65F03C0))  # mov x0, #7; ret
    spaces.set(0, VA + PAGE, page)
    # add x0, x0, #1 all the way, then ret
    count = (BLOCK >> 2) - 1
    spaces.memory.write(long, struct.pack("<I", 0x91000400) * count + struct.pack("<I", 0xD65F03C0))
    for _ in range(3):
        spaces.switch(0)
        assert spaces.do(CALL, VA + PAGE) == 7
        spaces.switch(1)
        before = spaces.core.shortcuts.tlb.drops
        assert spaces.do(CALL, spaces.high + long) == count
        assert spaces.core.shortcuts.tlb.drops > before


def test_maintenance_of_one_page_drops_a_whole_block(spaces: Spaces) -> None:
    va = 4 * BLOCK
    first, second = (DATA + n * BLOCK for n in (1, 2))
    for n, block in enumerate((first, second)):
        for offset in (0, 0x4000, 0x1F_F000):
            spaces.write_u64(block + offset, 1000 * (n + 1) + offset)
    spaces.write_u64(spaces.slot(0, va, 2), first | USER_DATA & ~2)
    spaces.switch(0)
    assert [spaces.do(READ, va + offset) - offset for offset in (0, 0x4000, 0x1F_F000)] == [1000, 1000, 1000]
    spaces.switch(1)
    spaces.write_u64(spaces.slot(0, va, 2), second | USER_DATA & ~2)
    spaces.do(TLBI_VAE1, page_of(va + 0x4000, 1))
    spaces.switch(0)
    assert [spaces.do(READ, va + offset) - offset for offset in (0, 0x4000, 0x1F_F000)] == [2000, 2000, 2000]


def test_change_of_stage_2_reaches_all_spaces(spaces: Spaces) -> None:
    block = DATA & -BLOCK
    copy = DATA + 4 * BLOCK
    spaces.memory.write(copy, spaces.memory.read(block, BLOCK))
    for space in range(SPACES):
        spaces.switch(space)
        assert spaces.do(READ, VA) == space + 100
        page = spaces.memory.read_u64(spaces.slot(space, VA)) & 0xFFFF_FFFF_F000
        spaces.write_u64(page - block + copy, space + 300)
    spaces.map(spaces.stage2, block, copy, BLOCK)
    spaces.core.flush_tlb()
    for space in range(SPACES):
        spaces.switch(space)
        assert spaces.do(READ, VA) == space + 300


def test_vcpus_with_the_same_asids_share_nothing(spaces: Spaces) -> None:
    other = Context("other")
    spaces.switch(0)
    assert spaces.do(READ, VA) == 100
    first = spaces.core.context
    assert first is not None
    for name in ("VTTBR_EL2", "VTCR_EL2", "HCR_EL2", "TCR_EL1", "MAIR_EL1", "TTBR1_EL1", "VBAR_EL1", "SCTLR_EL1"):
        other.registers.write(name, spaces.registers.read(name))
    table = spaces.page()
    spaces.spaces.append(table)
    spaces.set(SPACES, VA, spaces.fresh_page(999))
    other.registers.write("TTBR0_EL1", table | spaces.registers.read("TTBR0_EL1") & -1 << 48)
    other.registers.write("TTBR1_EL1", spaces.registers.read("TTBR1_EL1"))
    for _ in range(3):
        spaces.core.load(other)
        assert spaces.do(READ, VA) == 999
        spaces.core.load(first)
        assert spaces.do(READ, VA) == 100


def test_more_spaces_than_there_are_sets_take_turns() -> None:
    spaces = Spaces(spaces=20)
    for space in range(20):
        spaces.set(space, VA, spaces.fresh_page(space))
    for space in [*range(20), *range(20), *reversed(range(20)), 3, 7, 3, 7]:
        spaces.switch(space)
        assert spaces.do(READ, VA) == space


VAS = [VA, VA + PAGE, VA + 64 * PAGE, VA + 256 * PAGE]
"""The last has its place in the TLB in common with the first."""
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("switch"), st.integers(0, SPACES - 1)),
        st.tuples(st.just("read"), st.sampled_from(VAS)),
        st.tuples(st.just("write"), st.sampled_from(VAS)),
        st.tuples(
            st.just("map"), st.integers(0, SPACES - 1), st.sampled_from(VAS), st.booleans(),
            st.sampled_from(["VAE1", "VAAE1IS", "ASIDE1IS", "VMALLE1"]),
        ),
    ),
    max_size=30,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(_steps)
def test_reads_and_writes_go_where_the_tables_say(steps: list[tuple[str, int, int, bool, str]]) -> None:
    spaces = Spaces()
    numbers = itertools.count(1)
    tables: dict[tuple[int, int], int] = {}
    spaces.switch(0)
    for step in steps:
        match step:
            case ("switch", space):
                spaces.switch(space)
            case ("read", va):
                page = tables.get((spaces.now, va))
                expected = NO_PAGE if page is None else spaces.memory.read_u64(page)
                assert spaces.do(READ, va) == expected
            case ("write", va):
                page = tables.get((spaces.now, va))
                number = next(numbers)
                assert spaces.do(WRITE, va, number) == (NO_PAGE if page is None else number)
                assert page is None or spaces.memory.read_u64(page) == number
            case ("map", space, va, there, operation):
                tables.pop((space, va), None)
                if there:
                    tables[space, va] = spaces.fresh_page(next(numbers))
                spaces.set(space, va, tables.get((space, va)), USER_DATA | NOT_EXECUTABLE)
                words = {"VAE1": TLBI_VAE1, "VAAE1IS": TLBI_VAAE1IS, "ASIDE1IS": TLBI_ASIDE1IS}.get(operation)
                asid = space + 1
                spaces.do(words or TLBI_VMALLE1, asid << 48 if operation == "ASIDE1IS" else page_of(va, asid))


def test_verified_library_gets_every_shortcut() -> None:
    assert all(Rig().core.shortcuts.present.values())


def test_tlb_grows_until_a_working_set_fits() -> None:
    spaces = Spaces()
    pages = 1500
    for n in range(pages):
        spaces.set(0, VA + n * PAGE, DATA + n % 64 * PAGE)
    spaces.switch(0)
    # ldr x2, [x1], #4096 as ldr x2, [x1]; add x1, x1, #1, lsl #12; subs x0, x0, #1; b.ne .-12
    walk = (0xF9400022, 0x91400421, 0xF1000400, 0x54FFFFA1)
    for _ in range(4):
        before = taken(spaces.core)
        spaces.do(walk, VA, pages)
        needed = taken(spaces.core) - before
    assert needed <= 10
    assert 1 <= spaces.core.shortcuts.tlb.grown <= 6


@pytest.mark.parametrize("symbol", [symbol for symbol, _, _ in tlb_sets._VERIFIED])
def test_other_code_in_the_library_is_left_alone(monkeypatch: pytest.MonkeyPatch, symbol: str) -> None:
    original = private.Library.text

    def text(self: private.Library, name: str, size: int) -> bytes:
        return bytes(size) if name == symbol else original(self, name, size)

    monkeypatch.setattr(private.Library, "text", text)
    monkeypatch.setattr(tlb_sets, "_entries", [])
    spaces = Spaces()
    assert not spaces.core.shortcuts.tlb.active
    assert not spaces.core.shortcuts.present["a TLB for each ASID"]
    for space in (0, 1, 0):
        spaces.set(space, VA, spaces.fresh_page(space))
        spaces.switch(space)
        assert spaces.do(READ, VA) == space
    assert spaces.core.shortcuts.tlb.switches == 0
