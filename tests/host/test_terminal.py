"""Leaving a console: Ctrl-A x, and nothing else, ends it; all other bytes go through."""

from __future__ import annotations

import pytest

from gunyah.host.terminal import Escape


@pytest.mark.parametrize(
    ("typed", "sent", "leave"),
    [
        (b"hello", b"hello", False),
        (b"\x01x", b"", True),
        (b"a\x01Xb", b"a", True),
        (b"\x01a", b"\x01", False),
        (b"\x01\x01", b"\x01", False),
        (b"\x01z", b"\x01z", False),
    ],
)
def test_escape(typed: bytes, sent: bytes, leave: bool) -> None:
    whole, piecewise = Escape(), Escape()
    assert whole.feed(typed) == sent
    assert b"".join(piecewise.feed(bytes((byte,))) for byte in typed if not piecewise.leave) == sent
    assert whole.leave is piecewise.leave is leave
