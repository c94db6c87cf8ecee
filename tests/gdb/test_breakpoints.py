"""Breakpoints in memory against a model: a debugger never sees them, the guest's bytes are never lost."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gunyah.host.gdb.breakpoints import BRK, WATCHES, Breakpoints, NoMore, Watch
from gunyah.machine.engine.debug import Hit
from gunyah.machine.memory import PhysicalMemory

BASE, WORDS = 0x4000_0000, 16
VMS = st.integers(1, 2)
PLACES = st.integers(0, WORDS - 1)


class Patching(RuleBasedStateMachine):
    """Two VMs share a piece of memory and both have breakpoints in it, at different virtual addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = PhysicalMemory([(BASE, 4096)])
        self.breakpoints = Breakpoints(self.memory)
        # What a debugger is to see, and whose breakpoints are where.
        self.expected = bytearray(range(4 * WORDS))
        self.memory.write(BASE, bytes(self.expected))
        self.set: set[tuple[int, int]] = set()

    @rule(vmid=VMS, word=PLACES)
    def insert(self, vmid: int, word: int) -> None:
        self.breakpoints.insert(vmid, 0x1000 * vmid + 4 * word, BASE + 4 * word)
        self.set.add((vmid, word))

    @rule(vmid=VMS, word=PLACES)
    def remove(self, vmid: int, word: int) -> None:
        self.breakpoints.remove(vmid, 0x1000 * vmid + 4 * word)
        self.set.discard((vmid, word))

    @rule(at=st.integers(0, 4 * WORDS - 1), data=st.binary(min_size=1, max_size=13))
    def write(self, at: int, data: bytes) -> None:
        data = data[: 4 * WORDS - at]
        self.memory.write(BASE + at, self.breakpoints.kept(BASE + at, data))
        self.expected[at : at + len(data)] = data

    @rule(word=PLACES, value=st.binary(min_size=4, max_size=4))
    def guest_writes(self, word: int, value: bytes) -> None:
        """The guest itself puts an instruction somewhere: a breakpoint that was there is lost, not the instruction."""
        self.memory.write(BASE + 4 * word, value)
        self.expected[4 * word : 4 * word + 4] = value
        for vmid in (1, 2):
            self.remove(vmid, word)

    @rule(word=PLACES)
    def lift_and_drop(self, word: int) -> None:
        pa = BASE + 4 * word
        if self.breakpoints.patched(pa):
            self.breakpoints.lift(pa)
            assert self.memory.read(pa, 4) == self.expected[4 * word : 4 * word + 4]
            self.breakpoints.drop(pa)

    @rule(vmid=VMS)
    def clear(self, vmid: int) -> None:
        self.breakpoints.clear(vmid)
        self.set = {(owner, word) for owner, word in self.set if owner != vmid}

    @invariant()
    def a_debugger_sees_what_was_written(self) -> None:
        for at, size in ((0, 4 * WORDS), (3, 9), (13, 2)):
            seen = self.breakpoints.unseen(BASE + at, self.memory.read(BASE + at, size))
            assert seen == self.expected[at : at + size]

    @invariant()
    def memory_holds_a_brk_where_somebody_wants_one(self) -> None:
        wanted = {word for _, word in self.set}
        for word in range(WORDS):
            held = self.memory.read(BASE + 4 * word, 4)
            assert held == (BRK if word in wanted else self.expected[4 * word : 4 * word + 4])
            if word in wanted:
                for vmid in (1, 2):
                    assert self.breakpoints.belongs_to(BASE + 4 * word, vmid) == ((vmid, word) in self.set)


Patching.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestPatching = Patching.TestCase


def test_a_watch_over_two_pages_knows_the_virtual_address_of_a_hit() -> None:
    watch = Watch(3, 0x1FF8, 16, False, True, ((BASE + 0xFF8, 8), (BASE + 0x5000, 8)))
    assert watch.address_of(Hit(BASE + 0xFF4, 8, True)) == 0x1FF8
    assert watch.address_of(Hit(BASE + 0xFFC, 1, True)) == 0x1FFC
    assert watch.address_of(Hit(BASE + 0x5004, 4, True)) == 0x2004
    assert watch.address_of(Hit(BASE + 0x5008, 4, True)) is None
    assert watch.address_of(Hit(BASE + 0x5000, 4, False)) is None


def test_there_are_as_many_watchpoints_as_are_said() -> None:
    breakpoints = Breakpoints(PhysicalMemory([(BASE, 4096)]))
    for n in range(WATCHES):
        breakpoints.insert_watch(Watch(3, 8 * n, 8, True, True, ((BASE + 8 * n, 8),)))
    with pytest.raises(NoMore, match="16 watchpoints already"):
        breakpoints.insert_watch(Watch(3, 0x900, 8, True, True, ((BASE + 0x900, 8),)))
