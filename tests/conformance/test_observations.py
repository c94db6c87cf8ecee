"""How the runner takes interrupts where a recording lists them: a level that stays asserted comes again and again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import pytest

from gunyah.guest.cpu import Cpu
from gunyah.host.conformance.monitor import Monitor
from gunyah.host.conformance.observations import Drain

SPURIOUS = 1023


@dataclass
class Interface:
    """A CPU interface that signals what it is told to, the last of it for ever if it is a level."""

    signalled: list[int]
    storm: list[int]
    ended: list[int] = field(default_factory=list)

    def mrs(self, _name: str) -> int:
        if self.signalled:
            return self.signalled.pop(0)
        return self.storm[len(self.ended) % len(self.storm)] if self.storm else SPURIOUS

    def msr(self, _name: str, value: int) -> None:
        self.ended.append(value)


def taken(notes: list[str], interface: Interface, expected: list[int], *, edge: bool = False) -> list[int]:
    monitor = object.__new__(Monitor)
    monitor.cpu = cast("Cpu", interface)
    return Drain.of(notes, edge=edge).take(monitor, expected)


def test_what_is_signalled_once_is_taken_whole() -> None:
    interface = Interface([41, 42], [])
    assert taken(["irqs taken=[41, 42]"], interface, [41, 42], edge=True) == [41, 42]
    assert interface.ended == [41, 42]


def test_more_than_the_recording_lists_is_seen() -> None:
    assert taken(["irqs taken=[41]"], Interface([41, 42], []), [41], edge=True) == [41, 42]


def test_a_storm_ends_after_as_many_rounds_as_the_recorder_had_patience_for() -> None:
    notes = ["irqs taken=[41]", "irqs taken=[41, 41, 41, 41]"]
    assert taken(notes, Interface([], [41]), [41, 41, 41, 41]) == [41] * 4


def test_a_storm_where_the_recording_has_none_is_seen() -> None:
    """The limit is the scenario's, not the list's: one 41 is not 41 for ever."""
    notes = ["irqs taken=[41]", "irqs taken=[41, 41, 41, 41]"]
    assert taken(notes, Interface([], [41]), [41]) == [41] * 4


def test_a_storm_behind_another_interrupt() -> None:
    assert taken(["irqs taken=[42, 41, 41]"], Interface([42], [41]), [42, 41, 41]) == [42, 41, 41]


def test_a_recorder_that_lists_every_interrupt_once() -> None:
    assert taken(["irqs taken=[41]", "irqs taken=[42, 41]"], Interface([42], [41]), [42, 41]) == [42, 41]


def test_an_edge_twice_is_no_storm_that_ends_by_itself() -> None:
    assert taken(["irqs taken=[41]"], Interface([41, 41], []), [41], edge=True) == [41, 41]


@pytest.mark.parametrize("notes", [[], ["irqs taken=[]"]])
def test_nothing_signalled_nothing_taken(notes: list[str]) -> None:
    assert taken(notes, Interface([], []), []) == []
