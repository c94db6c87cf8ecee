"""drivers/tty/n_tty.c: the line discipline of terminals, between what a driver received and what a process reads.

Raw input is moved in whole pieces. Cooked input is looked at byte by byte: line editing, echo, signals, flow-control
characters, CR and NL mapping. At most 4096 bytes are held; ``receive`` takes what fits and the rest stays in the
port's flip buffer, so nothing is lost. In canonical mode a line that is longer than the buffer loses its tail, as
there is no other way to its end.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from gunyah.linux import termios as t
from gunyah.linux.termios import Termios

__all__ = ["BUFFER_SIZE", "LineDiscipline", "TtyOutput"]

BUFFER_SIZE = 4096
_ECHO_MAX = 4096
_THROTTLE_ROOM = 128
_COOKED_INPUT = t.ISTRIP | t.INLCR | t.IGNCR | t.ICRNL | t.IUCLC | t.IXON
_COOKED_LOCAL = t.ISIG | t.ICANON | t.ECHO | t.ECHONL
_NL, _CR, _TAB = 0x0A, 0x0D, 0x09


class TtyOutput(Protocol):
    """What the discipline needs of its tty."""

    stopped: bool

    def output(self, data: bytes, /) -> int:
        """Hand bytes to the driver; how many it took."""

    def output_room(self) -> int:
        """Bytes the driver takes now."""

    def start(self) -> None:
        """Output may go on (^Q)."""

    def signal(self, name: str, /) -> None:
        """Send a signal to the foreground processes."""


class LineDiscipline:
    """N_TTY of one open terminal."""

    def __init__(self, tty: TtyOutput, termios: Termios) -> None:
        self._tty = tty
        self.termios = termios
        self._data = bytearray()
        self._line = bytearray()
        # Canonical mode: lengths of the complete lines in _data. An end-of-file adds a line without a delimiter.
        self._lines: deque[int] = deque()
        self._echo = bytearray()
        self._literal = False
        self._raw = False
        self.set_termios(termios)

    # -- settings ------------------------------------------------------------------------------------------------------

    def set_termios(self, termios: Termios) -> None:
        """New settings: what was received stays readable, a line under construction included."""
        was_canonical = bool(self.termios.lflag & t.ICANON)
        self.termios = termios
        canonical = bool(termios.lflag & t.ICANON)
        if was_canonical and not canonical:
            self._data += self._line
            self._line.clear()
            self._lines.clear()
        elif canonical and not was_canonical and self._data:
            self._lines.append(len(self._data))
        self._literal = False
        self._raw = not termios.iflag & _COOKED_INPUT and not termios.lflag & _COOKED_LOCAL

    # -- input ---------------------------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """Bytes that ``receive`` takes now. A canonical line can always be finished."""
        room = BUFFER_SIZE - len(self._data) - len(self._line)
        if room < 2 and self.termios.lflag & t.ICANON and not self._lines:
            return 1
        return max(0, room)

    def receive(self, data: bytes | bytearray | memoryview) -> int:
        """Input from the driver; bytes taken."""
        if self._raw:
            room = BUFFER_SIZE - len(self._data)
            taken = len(data) if len(data) <= room else max(0, room)
            self._data += data if taken == len(data) else data[:taken]
            return taken
        taken = 0
        for byte in data:
            if not self.room:
                break
            self._input(byte)
            taken += 1
        self.flush_echo()
        return taken

    def _input(self, byte: int) -> None:
        termios = self.termios
        iflag, lflag, cc = termios.iflag, termios.lflag, termios.cc
        if self._literal:
            self._literal = False
            self._store(byte)
            return
        if iflag & t.ISTRIP:
            byte &= 0x7F
        if iflag & t.IXON:
            if byte == cc[t.VSTOP] and byte:
                self._tty.stopped = True
                return
            if byte == cc[t.VSTART] and byte:
                self._tty.start()
                return
        if lflag & t.ISIG and byte and self._signal(byte):
            return
        if byte == _CR:
            if iflag & t.IGNCR:
                return
            if iflag & t.ICRNL:
                byte = _NL
        elif byte == _NL and iflag & t.INLCR:
            byte = _CR
        if lflag & t.ICANON:
            self._canonical(byte)
        else:
            self._data.append(byte)
            self._echo_byte(byte)

    def _signal(self, byte: int) -> bool:
        cc = self.termios.cc
        for index, name in ((t.VINTR, "SIGINT"), (t.VQUIT, "SIGQUIT"), (t.VSUSP, "SIGTSTP")):
            if byte == cc[index]:
                if not self.termios.lflag & t.NOFLSH:
                    self.flush()
                self._echo_byte(byte)
                self._tty.signal(name)
                return True
        return False

    def _canonical(self, byte: int) -> None:
        lflag, cc = self.termios.lflag, self.termios.cc
        extended = bool(lflag & t.IEXTEN)
        if (byte and byte in (cc[t.VERASE], cc[t.VKILL])) or (extended and byte and byte == cc[t.VWERASE]):
            self._erase(byte)
        elif extended and byte and byte == cc[t.VLNEXT]:
            self._literal = True
            if lflag & t.ECHO and lflag & t.ECHOCTL:
                self._echo += b"^\b"
        elif extended and byte and byte == cc[t.VREPRINT]:
            if lflag & t.ECHO:
                self._echo += b"^R\n" + self._line
        elif byte == _NL:
            if lflag & (t.ECHO | t.ECHONL):
                self._echo.append(_NL)
            self._end_of_line(b"\n")
        elif byte and byte == cc[t.VEOF]:
            self._end_of_line(b"")
        elif byte and (byte == cc[t.VEOL] or (extended and byte == cc[t.VEOL2])):
            self._echo_byte(byte)
            self._end_of_line(bytes((byte,)))
        else:
            self._store(byte)

    def _store(self, byte: int) -> None:
        canonical = bool(self.termios.lflag & t.ICANON)
        if canonical and len(self._data) + len(self._line) >= BUFFER_SIZE - 1:
            return
        (self._line if canonical else self._data).append(byte)
        self._echo_byte(byte)

    def _end_of_line(self, delimiter: bytes) -> None:
        self._line += delimiter
        self._lines.append(len(self._line))
        self._data += self._line
        self._line.clear()

    def _erase(self, byte: int) -> None:
        lflag, cc = self.termios.lflag, self.termios.cc
        line = self._line
        if byte == cc[t.VERASE]:
            count = min(1, len(line))
        elif byte == cc[t.VKILL]:
            count = len(line)
        else:
            kept = line.rstrip(b" \t")
            while kept and (kept[-1] > 0x7F or chr(kept[-1]).isalnum() or kept[-1] == 0x5F):
                kept.pop()
            count = max(len(line) - len(kept), min(1, len(line)))
        removed = bytes(line[len(line) - count :])
        del line[len(line) - count :]
        if not lflag & t.ECHO:
            return
        if byte == cc[t.VKILL] and not (lflag & t.ECHOKE and lflag & t.ECHOE):
            self._echo_byte(byte)
            if lflag & t.ECHOK:
                self._echo.append(_NL)
        elif lflag & t.ECHOE:
            for erased in reversed(removed):
                self._echo += b"\b \b" * (2 if erased < 0x20 and erased != _TAB and lflag & t.ECHOCTL else 1)
        else:
            self._echo_byte(byte)

    # -- echo and output -----------------------------------------------------------------------------------------------

    def _echo_byte(self, byte: int) -> None:
        lflag = self.termios.lflag
        if not lflag & t.ECHO or len(self._echo) >= _ECHO_MAX:
            return
        if lflag & t.ECHOCTL and (byte < 0x20 or byte == 0x7F) and byte not in (_NL, _TAB):
            self._echo += bytes((0x5E, byte ^ 0x40))
        else:
            self._echo.append(byte)

    def flush_echo(self) -> None:
        """Hand pending echo to the driver, as far as it has room."""
        if self._echo and not self._tty.stopped:
            del self._echo[: self._output(bytes(self._echo))]

    def _output(self, data: bytes) -> int:
        """Output processing: bytes of ``data`` that the driver took, mapped as c_oflag says."""
        oflag = self.termios.oflag
        if not oflag & t.OPOST:
            return self._tty.output(data)
        room = self._tty.output_room()
        taken = data[:room]
        mapped = self._map_output(taken)
        while len(mapped) > room:
            taken = taken[: len(taken) - (len(mapped) - room)]
            mapped = self._map_output(taken)
        if mapped:
            self._tty.output(mapped)
        return len(taken)

    def _map_output(self, data: bytes) -> bytes:
        oflag = self.termios.oflag
        if oflag & t.OCRNL:
            data = data.replace(b"\r", b"\n")
        if oflag & t.ONLCR:
            data = data.replace(b"\n", b"\r\n")
        return data

    def write(self, data: bytes) -> int:
        """Output of a process; bytes taken, 0 while stopped or without room."""
        if self._echo:
            self.flush_echo()
        return 0 if self._tty.stopped else self._output(data)

    # -- reading -------------------------------------------------------------------------------------------------------

    @property
    def available(self) -> int:
        """Bytes a reader could get now (FIONREAD)."""
        return sum(self._lines) if self.termios.lflag & t.ICANON else len(self._data)

    @property
    def readable(self) -> bool:
        """Whether ``take`` has something, an end-of-file included."""
        return bool(self._lines) if self.termios.lflag & t.ICANON else bool(self._data)

    @property
    def nearly_full(self) -> bool:
        """The flow of input should stop. Never while a canonical reader still waits for the end of a line."""
        canonical = bool(self.termios.lflag & t.ICANON)
        return self.room < _THROTTLE_ROOM and not (canonical and not self._lines)

    def take(self, size: int) -> bytes:
        """Up to ``size`` bytes: in canonical mode of one line only; empty for an end-of-file or when there is
        nothing.
        """
        data = self._data
        if self.termios.lflag & t.ICANON:
            if not self._lines:
                return b""
            length = self._lines[0]
            size = min(size, length)
            if size == length:
                self._lines.popleft()
            else:
                self._lines[0] = length - size
        taken = bytes(data[:size])
        del data[:size]
        return taken

    def flush(self) -> None:
        """Forget all input (tcflush)."""
        self._data.clear()
        self._line.clear()
        self._lines.clear()
