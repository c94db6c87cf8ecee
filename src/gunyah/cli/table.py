"""Plain columns: readable in a terminal, and by cut and awk."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["print_table"]


def print_table(heads: Sequence[str], rows: Sequence[Sequence[object]], indent: str = "") -> None:
    """Print left-aligned columns; numbers are right-aligned."""
    cells = [[str(value) for value in row] for row in rows]
    widths = [max([len(head), *(len(row[i]) for row in cells)]) for i, head in enumerate(heads)]
    numeric = [bool(rows) and all(isinstance(row[i], int) for row in rows) for i in range(len(heads))]
    for line in (list(heads), *cells):
        padded = (
            value.rjust(width) if right else value.ljust(width)
            for value, width, right in zip(line, widths, numeric, strict=True)
        )
        print((indent + "  ".join(padded)).rstrip())
