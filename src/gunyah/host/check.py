"""``--check``: every hypercall of a run is held against the executable specification, and the first divergence ends it.

What is shown then are both states, the one that the rules of ownership and capabilities allow after the call and the
one that was found, as far as they are not the same. Exit status 5.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from gunyah.hypervisor.specification.checker import Checker, Divergence
from gunyah.hypervisor.specification.state import World, thing_lines

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from gunyah.hypervisor.hypervisor import Hypervisor

__all__ = ["EXIT_DIVERGENCE", "Check", "rows", "shown"]

EXIT_DIVERGENCE: Final = 5
GONE: Final = "(not there)"
_WIDTH: Final = 120


class Check:
    """What ``System(check=...)`` is given, and asked for its verdict in the end."""

    def __init__(self) -> None:
        self._checkers: list[Checker] = []

    def __call__(self, hv: Hypervisor) -> Checker:
        """Make the checker of a machine."""
        checker = Checker(hv)
        self._checkers.append(checker)
        return checker

    @property
    def divergence(self) -> Divergence | None:
        """The first one."""
        return next((checker.divergence for checker in self._checkers if checker.divergence is not None), None)

    @property
    def checked(self) -> int:
        """Hypercalls that were held against the specification."""
        return sum(checker.checked for checker in self._checkers)

    def verdict(self, status: int, console: Console | None = None) -> int:
        """Say on standard error what came of it; the exit status of a command that would have ended with ``status``."""
        divergence = self.divergence
        if divergence is None:
            print(f"gunyah: {self.checked} hypercalls were as the specification has them", file=sys.stderr)
            return status
        if console is None:
            from rich.console import Console

            # A file keeps the columns, whatever the width of a terminal that nobody looks at.
            console = Console(stderr=True, highlight=False)
            if not console.is_terminal:
                console = Console(stderr=True, highlight=False, width=_WIDTH)
        console.print(shown(divergence, self.checked))
        return EXIT_DIVERGENCE


Row = tuple[str, tuple[str, ...], tuple[str, ...]]
"""What it is about, and its lines on both sides."""


def rows(divergence: Divergence) -> tuple[list[Row], list[Row], int]:
    """What differs, what is the same and has to do with it, and how many objects and ranges are left out."""
    expected, found = divergence.expected, divergence.found
    serials = sorted({*expected.things, *found.things})
    different = [serial for serial in serials if expected.things.get(serial) != found.things.get(serial)]
    near = _neighbours(expected, different) | _neighbours(found, different)
    same = [serial for serial in serials if serial in near and serial not in different]
    changed = [(f"#{serial}", _lines(expected, serial), _lines(found, serial)) for serial in different]
    ranges = sorted({*expected.owners} ^ {*found.owners}, key=lambda piece: (piece[0], piece[1]))
    for piece in ranges:
        text = f"{piece[0]:#x}..{piece[1]:#x} {_owner(piece[2])}"
        left, right = piece in expected.owners, piece in found.owners
        changed.append(("memory", (text,) if left else (GONE,), (text,) if right else (GONE,)))
    kept = [(f"#{serial}", _lines(expected, serial), _lines(found, serial)) for serial in same]
    equal = len({*expected.owners} & {*found.owners})
    return changed, kept, len(serials) - len(different) - len(same) + equal


def _owner(owner: int | str) -> str:
    return f"#{owner}" if isinstance(owner, int) else owner


def _lines(world: World, serial: int) -> tuple[str, ...]:
    thing = world.things.get(serial)
    return (GONE,) if thing is None else tuple(thing_lines(serial, thing))


def _neighbours(world: World, serials: Iterable[int]) -> set[int]:
    """What these hold, by reference or in a slot whose object is one of them."""
    near: set[int] = set()
    for serial in serials:
        thing = world.things.get(serial)
        if thing is not None:
            near.update(thing.holds)
    return near


def _marked(lines: tuple[str, ...], other: tuple[str, ...], style: str) -> Iterator[tuple[str, str]]:
    for line in lines:
        yield f"{line}\n", "dim" if line in other else style


def _common(left: tuple[str, ...], right: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """Both sides without the slots and lines that are the same, but the first one; how many those are."""
    same = {*left[1:]} & {*right[1:]}
    few = len(same) <= 4
    if few:
        return left, right, 0
    return (
        tuple(line for line in left if line not in same),
        tuple(line for line in right if line not in same),
        len(same),
    )


def shown(divergence: Divergence, checked: int) -> RenderableType:
    """The divergence for a person: the call, what is different, and both states in two columns."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    changed, kept, left_out = rows(divergence)
    title = Text.assemble((" diverges ", "white on red"), " ", (divergence.call, "bold"))
    sentences = [Text(f"  {sentence}") for sentence in divergence.different]
    table = Table(title="the two states after the call", title_justify="left", expand=True, show_lines=True)
    table.add_column("what", no_wrap=True, style="cyan")
    table.add_column("the specification allows", ratio=1, overflow="fold")
    table.add_column("found", ratio=1, overflow="fold")
    for what, expected, found in changed:
        left, right, same = _common(expected, found)
        tail = [(f"    and {same} lines that are the same\n", "dim")] if same else []
        table.add_row(
            what,
            Text.assemble(*_marked(left, found, "green"), *tail),
            Text.assemble(*_marked(right, expected, "red"), *tail),
        )
    for what, expected, found in kept:
        table.add_row(what, Text("\n".join(expected[:2]), "dim"), Text("\n".join(found[:2]), "dim"))
    closing = Text(f"{left_out} other objects and ranges are the same on both sides; {checked} calls were checked")
    return Group(title, *sentences, table, closing)
