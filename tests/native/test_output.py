"""What a guest writes on its console is kept for who looks later, and does not fill the host's memory."""

from __future__ import annotations

from gunyah.output import KEPT_BYTES, ConsoleOutput


def test_the_newest_output_is_kept_and_no_more_than_twice_the_bound() -> None:
    output = ConsoleOutput()
    line = bytes(range(256)) * 64
    for _ in range(5 * KEPT_BYTES // len(line)):
        output.take(line)
        assert len(output) <= 2 * KEPT_BYTES
    output.take(b"the end")
    assert len(output) > KEPT_BYTES and output.endswith(line + b"the end")


def test_positions_hold_for_as_long_as_little_has_come() -> None:
    output = ConsoleOutput()
    output.take(b"one two")
    start = len(output)
    output.take(bytes(KEPT_BYTES))
    assert start == 7 and output[:start] == b"one two"
