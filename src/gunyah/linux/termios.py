"""struct ktermios with the flags and control characters of asm-generic/termbits.h (the numbers arm64 uses)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

__all__ = ["Termios"]

# c_iflag
ISTRIP, INLCR, IGNCR, ICRNL, IUCLC, IXON, IXANY, IXOFF = 0x20, 0x40, 0x80, 0x100, 0x200, 0x400, 0x800, 0x1000
IGNBRK, BRKINT, PARMRK, IMAXBEL = 0x1, 0x2, 0x8, 0x2000
# c_oflag
OPOST, ONLCR, OCRNL, ONOCR, ONLRET = 0x1, 0x4, 0x8, 0x10, 0x20
# c_cflag
B38400, CS8, CREAD, HUPCL, CLOCAL, CSIZE, PARENB = 0xF, 0x30, 0x80, 0x400, 0x800, 0x30, 0x100
# c_lflag
ISIG, ICANON, ECHO, ECHOE, ECHOK, ECHONL, NOFLSH = 0x1, 0x2, 0x8, 0x10, 0x20, 0x40, 0x80
ECHOCTL, ECHOKE, IEXTEN = 0x200, 0x800, 0x8000
# c_cc
VINTR, VQUIT, VERASE, VKILL, VEOF, VTIME, VMIN, VSWTC, VSTART, VSTOP, VSUSP, VEOL = range(12)
VREPRINT, VDISCARD, VWERASE, VLNEXT, VEOL2 = range(12, 17)
NCCS = 19

_INIT_CC = b"\x03\x1c\x7f\x15\x04\x00\x01\x00\x11\x13\x1a\x00\x12\x0f\x17\x16\x00".ljust(NCCS, b"\0")


@dataclass(slots=True)
class Termios:
    """Settings of one terminal; the default is the kernel's tty_std_termios (cooked, echoing)."""

    iflag: int = ICRNL | IXON
    oflag: int = OPOST | ONLCR
    cflag: int = B38400 | CS8 | CREAD | HUPCL
    lflag: int = ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN
    cc: bytearray = field(default_factory=lambda: bytearray(_INIT_CC))

    def copy(self) -> Termios:
        """An independent copy."""
        return replace(self, cc=bytearray(self.cc))

    def raw(self) -> Termios:
        """cfmakeraw of this: bytes go through untouched, reads return from one byte on."""
        cc = bytearray(self.cc)
        cc[VMIN], cc[VTIME] = 1, 0
        return Termios(
            self.iflag & ~(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON),
            self.oflag & ~OPOST,
            self.cflag & ~(CSIZE | PARENB) | CS8,
            self.lflag & ~(ECHO | ECHONL | ICANON | ISIG | IEXTEN),
            cc,
        )
