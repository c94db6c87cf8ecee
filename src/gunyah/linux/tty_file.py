"""An open terminal as a process holds it: read, write, close, termios and the usual controls.

Blocking operations run in tasks and may be interrupted by signals (Interrupted). The ``_nowait`` forms never block and
may be used in functions posted from outside the VM; ``on_ready`` is then called whenever reading or writing may have
become possible.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from gunyah.linux import termios as t
from gunyah.linux.errno import Interrupted, error
from gunyah.linux.termios import Termios
from gunyah.linux.tty import Tty, TtyCore

__all__ = ["TtyFile"]

_TENTH_NS = 100_000_000
_OPOST_ROOM = 2
_PIECE = 65_536

TCGETS, TCSETS, TCSETSW, TCSETSF, TCXONC, TCFLSH = 0x5401, 0x5402, 0x5403, 0x5404, 0x540A, 0x540B
TIOCOUTQ, TIOCGWINSZ, TIOCSWINSZ, FIONREAD, TIOCVHANGUP = 0x5411, 0x5413, 0x5414, 0x541B, 0x5437


class TtyFile:
    """struct file of a tty. Made by ``Kernel.open_tty``; ``close`` or a ``with`` block gives it back."""

    def __init__(self, core: TtyCore, tty: Tty, *, nonblock: bool = False) -> None:
        self._core = core
        self._tty = tty
        self._closed = False
        self.nonblock = nonblock
        self.on_ready: Callable[[], None] | None = None
        tty.files.add(self)

    @property
    def name(self) -> str:
        """``ttyGH0``."""
        return self._tty.name

    @property
    def closed(self) -> bool:
        """``close`` was called."""
        return self._closed

    @property
    def hung_up(self) -> bool:
        """The terminal was hung up: reads give end-of-file, writes fail."""
        return self._tty.hung_up

    def _live(self) -> Tty:
        if self._closed:
            raise error(errno.EBADF, f"{self._tty.name}: this file is closed")
        return self._tty

    # -- read ----------------------------------------------------------------------------------------------------------

    def read(self, size: int, timeout_ns: int | None = None) -> bytes:
        """Up to ``size`` bytes as termios says (a line, or VMIN bytes within VTIME); empty at end-of-file, hang-up or
        time-out.

        Raises OSError EAGAIN for a non-blocking file without data, EBADF; Interrupted.
        """
        tty = self._live()
        ldisc = tty.ldisc
        if size <= 0 or tty.hung_up:
            return b""
        minimum, interbyte = 1, None
        if not tty.termios.lflag & t.ICANON:
            vmin, vtime = tty.termios.cc[t.VMIN], tty.termios.cc[t.VTIME]
            if vmin:
                minimum = min(vmin, size)
                interbyte = vtime * _TENTH_NS if vtime else None
            elif timeout_ns is None:
                timeout_ns = vtime * _TENTH_NS
        if not (ldisc.readable and (minimum == 1 or ldisc.available >= minimum)):
            if self.nonblock:
                if not ldisc.readable:
                    raise error(errno.EAGAIN, f"{tty.name}: nothing to read")
            else:
                self._wait_readable(tty, minimum, timeout_ns, interbyte)
        return self._take(tty, size)

    def _wait_readable(self, tty: Tty, minimum: int, timeout_ns: int | None, interbyte: int | None) -> None:
        ldisc = tty.ldisc
        task = self._core.services.scheduler.current
        tty.readers.add(task)
        try:
            tty.read_wait.wait_for(lambda: ldisc.readable or tty.hung_up, timeout_ns, interruptible=True)
            while ldisc.readable and ldisc.available < minimum and not tty.hung_up:
                if tty.termios.lflag & t.ICANON or not tty.read_wait.wait(interbyte, interruptible=True):
                    return
        finally:
            tty.readers.discard(task)

    @staticmethod
    def _take(tty: Tty, size: int) -> bytes:
        data = tty.ldisc.take(size)
        if data:
            tty.consumed()
        return data

    def read_nowait(self, size: int) -> bytes:
        """What is there, up to ``size`` bytes; empty when there is nothing."""
        tty = self._live()
        parts = []
        while size > 0 and tty.ldisc.readable:
            data = self._take(tty, size)
            if not data:
                break
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    # -- write ---------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> int:
        """Write all of ``data``, waiting for room; a non-blocking file takes what fits. Bytes taken.

        Fewer than all when a hang-up or a signal came in between. Raises OSError EAGAIN (non-blocking, no room), EIO
        after a hang-up, EBADF; Interrupted if nothing was taken yet.
        """
        tty = self._live()
        if self.nonblock:
            taken = self.write_nowait(data)
            if data and not taken:
                raise error(errno.EAGAIN, f"{tty.name}: no room to write")
            return taken
        done = 0
        with tty.write_lock:
            while done < len(data):
                if not done:
                    self._check(tty)
                elif tty.hung_up:
                    break
                taken = tty.ldisc.write(data[done : done + _PIECE] if done or len(data) > _PIECE else data)
                done += taken
                if done < len(data) and not taken:
                    try:
                        tty.write_wait.wait_for(
                            lambda: tty.hung_up or (not tty.stopped and tty.output_room() >= _OPOST_ROOM),
                            interruptible=True,
                        )
                    except Interrupted:
                        if not done:
                            raise
                        break
        return done

    def write_nowait(self, data: bytes) -> int:
        """Write what fits now; bytes taken. Raises OSError EIO after a hang-up, EBADF."""
        tty = self._live()
        self._check(tty)
        if tty.write_lock.owner is not None:
            return 0
        return tty.ldisc.write(data)

    @staticmethod
    def _check(tty: Tty) -> None:
        if tty.hung_up:
            raise error(errno.EIO, f"{tty.name} was hung up")

    # -- controls ------------------------------------------------------------------------------------------------------

    def poll(self) -> tuple[bool, bool]:
        """(readable, writable) now; after a hang-up both."""
        tty = self._live()
        if tty.hung_up:
            return True, True
        return tty.ldisc.readable, not tty.stopped and tty.output_room() > 0

    def tcgetattr(self) -> Termios:
        """A copy of the settings."""
        return self._live().termios.copy()

    def tcsetattr(self, termios: Termios, *, drain: bool = False, flush: bool = False) -> None:
        """New settings: at once, after output is out (TCSADRAIN), or then also forgetting input (TCSAFLUSH)."""
        tty = self._live()
        if drain or flush:
            self._core.wait_until_sent(tty)
        if flush:
            tty.flush_input()
        tty.set_termios(termios)

    def set_raw(self) -> None:
        """cfmakeraw, at once."""
        self.tcsetattr(self.tcgetattr().raw())

    def tcdrain(self, timeout_ns: int | None = None) -> bool:
        """Wait until all output has left the driver; False after the time-out."""
        return self._core.wait_until_sent(self._live(), timeout_ns)

    def tcflush(self, *, input: bool = True, output: bool = False) -> None:
        """Forget input not read, output not sent."""
        tty = self._live()
        if input:
            tty.flush_input()
        if output:
            tty.flush_output()

    def hangup(self) -> None:
        """TIOCVHANGUP."""
        self._live().hangup()

    def ioctl(self, request: int, argument: object = None) -> object:
        """The controls by number; the argument is what the C structure would carry. Raises OSError ENOTTY, EINVAL,
        EIO.
        """
        tty = self._live()
        self._check(tty)
        if request == TCGETS:
            return self.tcgetattr()
        if request in (TCSETS, TCSETSW, TCSETSF) and isinstance(argument, Termios):
            self.tcsetattr(argument, drain=request != TCSETS, flush=request == TCSETSF)
        elif request == TCFLSH and argument in (0, 1, 2):
            self.tcflush(input=argument in (0, 2), output=argument in (1, 2))
        elif request == TCXONC and argument in (0, 1):
            if argument:
                tty.start()
            else:
                tty.stopped = True
        elif request == FIONREAD:
            return tty.ldisc.available
        elif request == TIOCOUTQ:
            return tty.driver.chars_in_buffer(tty.port)
        elif request == TIOCGWINSZ:
            return tty.winsize
        elif request == TIOCSWINSZ and isinstance(argument, tuple) and len(argument) == 2:
            tty.winsize = argument
        elif request == TIOCVHANGUP:
            tty.hangup()
        else:
            known = request in (TCSETS, TCSETSW, TCSETSF, TCFLSH, TCXONC, TIOCSWINSZ)
            raise error(errno.EINVAL if known else errno.ENOTTY, f"{tty.name}: ioctl {request:#x} of {argument!r}")
        return None

    def close(self) -> None:
        """Give the file back; the last one waits for output and shuts the port down. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self.on_ready = None
            self._tty.files.discard(self)
            self._core.close(self._tty)

    def __enter__(self) -> TtyFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
