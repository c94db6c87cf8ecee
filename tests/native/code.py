"""Tiny AArch64 programs, made of instruction words without an assembler (encodings: Arm ARM, chapter C4)."""

from __future__ import annotations

import struct

from gunyah.machine.engine import SYSTEM_REGISTERS
from gunyah.vmm.images import Image, Segment

__all__ = ["DAIFCLR", "DAIFSET", "PSCI_OFF", "UART", "Code", "guest"]

UART = 0x0900_0000
PSCI_OFF = 0x8400_0008
SYSREGS = {
    "DBGBVR0_EL1": (2, 0, 0, 0, 4),
    "DBGBCR0_EL1": (2, 0, 0, 0, 5),
    "DBGWVR0_EL1": (2, 0, 0, 0, 6),
    "DBGWCR0_EL1": (2, 0, 0, 0, 7),
    "DBGBVR5_EL1": (2, 0, 0, 5, 4),
    "DBGBCR5_EL1": (2, 0, 0, 5, 5),
    "MDSCR_EL1": (2, 0, 0, 2, 2),
    "MPIDR_EL1": (3, 0, 0, 0, 5),
    "ID_AA64MMFR0_EL1": (3, 0, 0, 7, 0),
    "SCTLR_EL1": (3, 0, 1, 0, 0),
    "SPSR_EL1": (3, 0, 4, 0, 0),
    "ELR_EL1": (3, 0, 4, 0, 1),
    "ESR_EL1": (3, 0, 5, 2, 0),
    "FAR_EL1": (3, 0, 6, 0, 0),
    "VBAR_EL1": (3, 0, 12, 0, 0),
    "CONTEXTIDR_EL1": (3, 0, 13, 0, 1),
    "SP_EL0": (3, 0, 4, 1, 0),
    "ICC_PMR_EL1": (3, 0, 4, 6, 0),
    "ICC_IAR1_EL1": (3, 0, 12, 12, 0),
    "ICC_EOIR1_EL1": (3, 0, 12, 12, 1),
    "ICC_IGRPEN1_EL1": (3, 0, 12, 12, 7),
    "CNTV_TVAL_EL0": (3, 3, 14, 3, 0),
    "CNTV_CTL_EL0": (3, 3, 14, 3, 1),
    "CNTVCT_EL0": (3, 3, 14, 0, 2),
}
DAIFSET, DAIFCLR = 0xD503_40DF, 0xD503_40FF
ISB = 0xD503_3FDF
CONDITIONS = {"eq": 0, "ne": 1, "hs": 2, "lo": 3}


class Code:
    """Words in the order of the calls; labels may be used before they are set."""

    def __init__(self) -> None:
        self._words: list[int] = []
        self._labels: dict[str, int] = {}
        self._uses: list[tuple[int, str, int, int]] = []

    @property
    def here(self) -> int:
        """Bytes so far."""
        return 4 * len(self._words)

    def word(self, *words: int) -> Code:
        """Instructions, or anything else."""
        self._words += words
        return self

    def label(self, name: str) -> Code:
        self._labels[name] = len(self._words)
        return self

    def align(self, size: int) -> Code:
        while self.here % size:
            self.word(0)
        return self

    def _use(self, word: int, name: str, bits: int, shift: int) -> Code:
        self._uses.append((len(self._words), name, bits, shift))
        return self.word(word)

    # -- moves and arithmetic ------------------------------------------------------------------------------------------

    def mov(self, rd: int, value: int) -> Code:
        """A 64-bit constant."""
        self.word(0xD280_0000 | (value & 0xFFFF) << 5 | rd)
        for part in range(1, 4):
            half = value >> 16 * part & 0xFFFF
            if half:
                self.word(0xF280_0000 | part << 21 | half << 5 | rd)
        return self

    def move(self, rd: int, rm: int) -> Code:
        return self.word(0xAA00_03E0 | rm << 16 | rd)

    def adr(self, rd: int, name: str) -> Code:
        """Address of a label within 1 MiB, which is a multiple of 4."""
        return self._use(0x1000_0000 | rd, name, 19, 5)

    def add(self, rd: int, rn: int, rm: int) -> Code:
        return self.word(0x8B00_0000 | rm << 16 | rn << 5 | rd)

    def addi(self, rd: int, rn: int, value: int) -> Code:
        return self.word(0x9100_0000 | value << 10 | rn << 5 | rd)

    def subi(self, rd: int, rn: int, value: int) -> Code:
        return self.word(0xD100_0000 | value << 10 | rn << 5 | rd)

    def lsri(self, rd: int, rn: int, bits: int) -> Code:
        return self.word(0xD340_FC00 | bits << 16 | rn << 5 | rd)

    def cmpi(self, rn: int, value: int) -> Code:
        return self.word(0xF100_001F | value << 10 | rn << 5)

    def cmp(self, rn: int, rm: int) -> Code:
        return self.word(0xEB00_001F | rm << 16 | rn << 5)

    # -- branches ------------------------------------------------------------------------------------------------------

    def b(self, name: str) -> Code:
        return self._use(0x1400_0000, name, 26, 0)

    def bl(self, name: str) -> Code:
        return self._use(0x9400_0000, name, 26, 0)

    def bc(self, condition: str, name: str) -> Code:
        return self._use(0x5400_0000 | CONDITIONS[condition], name, 19, 5)

    def cbz(self, rt: int, name: str) -> Code:
        return self._use(0xB400_0000 | rt, name, 19, 5)

    def cbnz(self, rt: int, name: str) -> Code:
        return self._use(0xB500_0000 | rt, name, 19, 5)

    def tbz(self, rt: int, bit: int, name: str) -> Code:
        return self._use(0x3600_0000 | bit << 19 | rt, name, 14, 5)

    def br(self, rn: int) -> Code:
        return self.word(0xD61F_0000 | rn << 5)

    def blr(self, rn: int) -> Code:
        return self.word(0xD63F_0000 | rn << 5)

    def ret(self) -> Code:
        return self.word(0xD65F_03C0)

    def eret(self) -> Code:
        return self.word(0xD69F_03E0)

    # -- memory --------------------------------------------------------------------------------------------------------

    def load(self, rt: int, rn: int, size: int = 8) -> Code:
        return self.word((size.bit_length() - 1) << 30 | 0x3940_0000 | rn << 5 | rt)

    def store(self, rt: int, rn: int, size: int = 8) -> Code:
        return self.word((size.bit_length() - 1) << 30 | 0x3900_0000 | rn << 5 | rt)

    def load_at(self, rt: int, rn: int, offset: int, size: int = 8) -> Code:
        """LDUR: any offset from -256 to 255."""
        return self.word((size.bit_length() - 1) << 30 | 0x3840_0000 | (offset & 0x1FF) << 12 | rn << 5 | rt)

    def store_at(self, rt: int, rn: int, offset: int, size: int = 8) -> Code:
        """STUR: any offset from -256 to 255."""
        return self.word((size.bit_length() - 1) << 30 | 0x3800_0000 | (offset & 0x1FF) << 12 | rn << 5 | rt)

    # -- system --------------------------------------------------------------------------------------------------------

    def hvc(self, imm: int = 0) -> Code:
        return self.word(0xD400_0002 | imm << 5)

    def smc(self, imm: int = 0) -> Code:
        return self.word(0xD400_0003 | imm << 5)

    def wfi(self) -> Code:
        return self.word(0xD503_207F)

    def daifset(self, bits: int = 0xF) -> Code:
        return self.word(DAIFSET | bits << 8)

    def daifclr(self, bits: int = 0xF) -> Code:
        return self.word(DAIFCLR | bits << 8)

    def isb(self) -> Code:
        return self.word(ISB)

    def mrs(self, rt: int, name: str) -> Code:
        return self.word(_system(name) | 1 << 21 | rt)

    def msr(self, name: str, rt: int) -> Code:
        return self.word(_system(name) | rt)

    # -- things that programs do ---------------------------------------------------------------------------------------

    def data(self, *values: int) -> Code:
        """64-bit values."""
        for value in values:
            self.word(value & 0xFFFF_FFFF, value >> 32)
        return self

    def say(self, text: str) -> Code:
        """Send characters through the UART; changes X0 and X1."""
        self.mov(0, UART)
        for character in text.encode():
            self.mov(1, character).store(1, 0, 1)
        return self

    def power_off(self) -> Code:
        return self.mov(0, PSCI_OFF).hvc()

    def pack(self) -> bytes:
        """The bytes, labels filled in."""
        words = list(self._words)
        for at, name, bits, shift in self._uses:
            words[at] |= (self._labels[name] - at & (1 << bits) - 1) << shift
        return struct.pack(f"<{len(words)}I", *words)


def _system(name: str) -> int:
    op0, op1, crn, crm, op2 = SYSREGS.get(name) or SYSTEM_REGISTERS[name]
    return 0xD500_0000 | op0 << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5


def guest(code: Code) -> Image:
    """A flat binary of the code."""
    data = code.pack()
    return Image("binary", (Segment(0, data, len(data)),), 0, False)
