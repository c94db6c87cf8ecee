"""The user's own terminal as the far end of a pseudo-terminal: raw, both ways, until Ctrl-A x.

Ctrl-A a sends one Ctrl-A. When standard input is no terminal it is copied until its end, so that a console can be fed
from a pipe.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from gunyah.host.errors import HostError, reason

__all__ = ["Escape", "connect", "raw_terminal"]

ESCAPE: Final = 0x01
LEAVE: Final = frozenset(b"xX")


class Escape:
    """Splits what the user types into bytes for the console and the wish to leave."""

    def __init__(self) -> None:
        self._pending = False
        self.leave = False

    def feed(self, data: bytes) -> bytes:
        """The bytes that go to the console; ``leave`` is True once Ctrl-A x was typed, and what follows is dropped."""
        out = bytearray()
        for byte in data:
            if self._pending:
                self._pending = False
                if byte in LEAVE:
                    self.leave = True
                    break
                out.append(ESCAPE)
                if byte not in (ESCAPE, ord("a")):
                    out.append(byte)
            elif byte == ESCAPE:
                self._pending = True
            else:
                out.append(byte)
        return bytes(out)


@contextmanager
def raw_terminal(descriptor: int) -> Iterator[None]:
    """The terminal in raw mode for the time of the block; nothing when ``descriptor`` is no terminal."""
    if not os.isatty(descriptor):
        yield
        return
    saved = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSAFLUSH, saved)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def connect(path: str | Path) -> None:
    """Copy between standard input and output and the terminal at ``path``; returns at Ctrl-A x or a hang-up."""
    try:
        line = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"the console {path} cannot be opened: {reason(error)}") from error
    user_in, user_out = sys.stdin.fileno(), sys.stdout.fileno()
    escape = Escape()
    watched = [line, user_in]
    if os.isatty(user_in):
        print(f"connected to {path}, leave with Ctrl-A x", file=sys.stderr)
    try:
        with raw_terminal(user_in):
            while not escape.leave:
                ready, _, _ = select.select(watched, [], [])
                if user_in in ready:
                    typed = os.read(user_in, 4096)
                    if not typed:
                        watched.remove(user_in)
                    _write_all(line, escape.feed(typed) if os.isatty(user_in) else typed)
                if line in ready:
                    try:
                        data = os.read(line, 65536)
                    except OSError:
                        break
                    if not data:
                        break
                    _write_all(user_out, data)
    finally:
        os.close(line)
