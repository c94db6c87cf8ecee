"""One pseudo-terminal that stands on the user's machine for a terminal port of a VM.

We hold the master; a user opens the slave by a stable link in the run directory, with screen, picocom, cat or pyserial.
The slave starts raw (8 bits, no echo, no translation). The kernel tells a master whether anybody has the slave open
only by the hang-up state that ``poll`` reports, so while nobody has, the master is looked at now and then and not
watched (a hung-up descriptor would be ready for ever).

Both directions are bounded. Towards the user: ``send`` takes what fits into ``SEND_LIMIT`` bytes and ``on_room`` tells
when there is room again. From the user: ``on_input`` gets at most what ``input_room`` allows, and with no room the
master is not read, so that the writer at the other end blocks in his own ``write``.
"""

from __future__ import annotations

import os
import select
import termios
import tty
from pathlib import Path
from typing import Final

from gunyah.host.errors import HostError, reason
from gunyah.host.loop import HostLoop, Timer
from gunyah.host.rundir import RunDirectory

__all__ = ["Pty", "PtyListener"]

SEND_LIMIT: Final = 64 * 1024
READ_SIZE: Final = 16 * 1024
WATCH_INTERVAL: Final = 0.02
"""Seconds between two looks at a pseudo-terminal that nobody has open."""


class PtyListener:
    """What the owner of a ``Pty`` hears; override what matters."""

    def on_open(self) -> None:
        """Somebody opened the slave and nobody had it open before."""

    def on_close(self) -> None:
        """The last opener closed the slave; all input up to that was delivered."""

    def input_room(self) -> int:
        """Bytes that ``on_input`` would take now; 0 stops reading until ``Pty.resume``."""
        return READ_SIZE

    def on_input(self, data: bytes) -> None:
        """Bytes that the user wrote."""

    def on_room(self) -> None:
        """After ``send`` took less than offered: there is room again."""


def _make_raw(descriptor: int) -> None:
    attributes = termios.tcgetattr(descriptor)
    attributes[tty.IFLAG] = 0
    attributes[tty.OFLAG] = 0
    attributes[tty.CFLAG] = termios.CS8 | termios.CREAD | termios.HUPCL
    attributes[tty.LFLAG] = 0
    attributes[tty.ISPEED] = attributes[tty.OSPEED] = termios.B115200
    attributes[tty.CC][termios.VMIN] = 1
    attributes[tty.CC][termios.VTIME] = 0
    termios.tcsetattr(descriptor, termios.TCSANOW, attributes)


class Pty:
    """A pseudo-terminal with the link ``name`` in ``directory``; raises HostError when the machine has none left."""

    def __init__(self, loop: HostLoop, directory: RunDirectory, name: str, listener: PtyListener) -> None:
        self.name = name
        self.is_open = False
        self._loop = loop
        self._directory = directory
        self._listener = listener
        self._outgoing = bytearray()
        self._short = False
        self._timer: Timer | None = None
        try:
            self._master, slave = os.openpty()
        except OSError as error:
            raise HostError(f"no pseudo-terminal for {name}: {reason(error)}") from error
        try:
            os.set_blocking(self._master, False)
            _make_raw(slave)
            self.slave_path = os.ttyname(slave)
            self.link: Path = directory.link(name, self.slave_path)
        except BaseException:
            os.close(self._master)
            raise
        finally:
            os.close(slave)  # From here on the master is hung up, until somebody opens the slave.
        self._poll = select.poll()
        self._poll.register(self._master, select.POLLIN)
        self._watch_for_open()

    # -- state of the other end ----------------------------------------------------------------------------------------

    def _state(self) -> int:
        ready = self._poll.poll(0)
        return ready[0][1] if ready else 0

    def _watch_for_open(self) -> None:
        self._timer = self._loop.call_later(WATCH_INTERVAL, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self.look():
            self._watch_for_open()

    def look(self) -> bool:
        """Notice an opener that came since the last look; True while the slave is (or was, with input left) open."""
        if self._master < 0 or self.is_open:
            return self.is_open
        state = self._state()
        if state & select.POLLHUP and not state & select.POLLIN:
            return False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.is_open = True
        self._listener.on_open()
        self.resume()
        return True

    def _closed(self) -> None:
        self.is_open = False
        self._loop.remove_reader(self._master)
        self._drop_outgoing()
        self._reset_line()
        self._listener.on_close()
        if self._master >= 0:
            self._watch_for_open()

    def _reset_line(self) -> None:
        """Forget what the last opener left unread and how he set the line, as a serial driver does."""
        try:
            slave = os.open(self.slave_path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return  # The slave cannot be opened (a lost /dev/pts): the next opener will learn it as well.
        try:
            termios.tcflush(slave, termios.TCIFLUSH)
            _make_raw(slave)
        finally:
            os.close(slave)

    # -- from the user -------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """The listener has room for input again."""
        if self.is_open and self._listener.input_room() > 0:
            self._loop.add_reader(self._master, self._readable)

    def _readable(self) -> None:
        room = self._listener.input_room()
        if room <= 0:
            self._loop.remove_reader(self._master)
            return
        try:
            data = os.read(self._master, min(room, READ_SIZE))
        except BlockingIOError:
            return
        except OSError:  # EIO: the last opener is gone and all that he wrote has been read.
            self._closed()
            return
        if data:
            self._listener.on_input(data)
        else:
            self._closed()

    # -- to the user ---------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> int:
        """Take as many of ``data`` as there is room for; the count. With nobody there, all is taken and lost."""
        if not self.is_open:
            return len(data)
        taken = 0
        while True:
            room = SEND_LIMIT - len(self._outgoing)
            self._outgoing += data[taken : taken + room]
            taken = min(taken + room, len(data))
            if not self._write_out() or taken == len(data):
                break
        self._short = taken < len(data)
        return taken

    def _write_out(self) -> bool:
        """Give the terminal what it takes; True if that was anything."""
        outgoing = self._outgoing
        try:
            written = os.write(self._master, outgoing) if outgoing else 0
        except BlockingIOError:
            written = 0
            if self._state() & select.POLLHUP:  # Nobody reads any more, so it would never drain.
                outgoing.clear()
        except OSError:
            written = 0
            outgoing.clear()
        del outgoing[:written]
        if outgoing:
            self._loop.add_writer(self._master, self._writable)
        else:
            self._loop.remove_writer(self._master)
        return written > 0

    def _writable(self) -> None:
        self._write_out()
        self._tell_room()

    def _drop_outgoing(self) -> None:
        self._outgoing.clear()
        self._loop.remove_writer(self._master)
        self._tell_room()

    def _tell_room(self) -> None:
        if self._short and len(self._outgoing) <= SEND_LIMIT // 2:
            self._short = False
            self._listener.on_room()

    @property
    def unsent(self) -> int:
        """Bytes that wait for the user to read."""
        return len(self._outgoing)

    @property
    def room(self) -> int:
        """Bytes that ``send`` takes now."""
        return SEND_LIMIT - len(self._outgoing) if self.is_open else SEND_LIMIT

    def want_room(self) -> None:
        """Call ``on_room`` once when the user has read half of what waits, as after a short ``send``."""
        self._short = True

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Hang up: whoever has the slave open reads end of file; the link goes away."""
        if self._master < 0:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._loop.remove_reader(self._master)
        self._loop.remove_writer(self._master)
        self._directory.unlink(self.name)
        os.close(self._master)
        self._master = -1
        self.is_open = False
        self._outgoing.clear()
