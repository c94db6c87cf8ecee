"""What a trapped instruction wanted: syndromes and, where they say too little, the instruction itself.

A data abort with a valid syndrome (ISV) names register, size and direction. LDP, STP, exclusives, vector loads and
stores have none, and the engine claims ISV for write-back forms too (engine.md 1.3.6), so those are read from the
instruction word (Arm DDI 0487, C4.1 "Loads and Stores").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from .registers import Encoding, encoding_of_iss
from .state import Registers

U64: Final = 0xFFFF_FFFF_FFFF_FFFF

ISV: Final = 1 << 24
WNR: Final = 1 << 6
S1PTW: Final = 1 << 7
DFSC: Final = 0x3F

FSC_TRANSLATION: Final = 0x04
FSC_ACCESS_FLAG: Final = 0x08
FSC_PERMISSION: Final = 0x0C
FSC_EXTERNAL: Final = 0x10


def fault_kind(esr: int) -> int:
    """Fault status without its level: FSC_TRANSLATION, FSC_ACCESS_FLAG, FSC_PERMISSION, or another code as it is."""
    code = esr & DFSC
    return code & 0x3C if code < 0x10 else code


class SysregAccess(NamedTuple):
    """A trapped MRS or MSR (ISS of EC 0x18)."""

    register: Encoding
    rt: int
    is_read: bool

    @classmethod
    def from_iss(cls, iss: int) -> SysregAccess:
        """Decode the ISS."""
        return cls(encoding_of_iss(iss), iss >> 5 & 31, bool(iss & 1))


class Transfer(NamedTuple):
    """One register that an instruction loads or stores."""

    offset: int
    """Bytes from the first address."""
    size: int
    """Bytes in memory: 1, 2, 4, 8 or 16."""
    register: int
    """X (31: zero register) or V number."""
    vector: bool
    lane: int
    """First byte within the vector register; -1 replaces the whole register."""
    sign_extend: bool
    wide: bool
    """Whether the destination is a 64-bit register."""


@dataclass(frozen=True, slots=True)
class Access:
    """A load or store: where, what, and what it does besides."""

    is_load: bool
    transfers: tuple[Transfer, ...]
    base: int
    """Base register number, 31 is SP; -1 if unknown (from a syndrome)."""
    writeback: int | None
    """What is added to the base register, None without write-back."""
    exclusive_status: int | None = None
    """Status register of a store exclusive, which reads 0 after success."""
    step_register: int | None = None
    """Register whose value the write-back adds, for the vector forms that name one."""
    narrow: bool = False
    """Whether a load clears the upper half of the vector registers it fills lane by lane."""

    @property
    def size(self) -> int:
        """Bytes from the first to behind the last."""
        return max(transfer.offset + transfer.size for transfer in self.transfers)

    def values(self, registers: Registers) -> Iterator[tuple[Transfer, int]]:
        """Give what a store writes, one value for each transfer."""
        for transfer in self.transfers:
            if transfer.vector:
                value = registers.vector(transfer.register) >> 8 * max(transfer.lane, 0)
            else:
                value = registers.x[transfer.register] if transfer.register != 31 else 0
            yield transfer, value & (1 << 8 * transfer.size) - 1

    def load(self, registers: Registers, transfer: Transfer, value: int) -> None:
        """Put a loaded value into its register, extended as the instruction says."""
        if transfer.vector:
            if transfer.lane >= 0:
                mask = (1 << 8 * transfer.size) - 1 << 8 * transfer.lane
                value = registers.vector(transfer.register) & ~mask | value << 8 * transfer.lane & mask
            registers.set_vector(transfer.register, value)
        elif transfer.register != 31:
            registers.x[transfer.register] = extend(value, transfer.size, transfer.sign_extend, transfer.wide)

    def write_back(self, registers: Registers) -> None:
        """Change the base register as the instruction does, if it does."""
        step = self.writeback
        if self.step_register is not None:
            step = registers.x[self.step_register]
        if step is not None:
            if self.base == 31:
                registers.sp = registers.sp + step
            else:
                registers.x[self.base] = registers.x[self.base] + step

    def finish(self, registers: Registers) -> None:
        """Do the write-back and step over the instruction."""
        self.write_back(registers)
        if self.exclusive_status is not None and self.exclusive_status != 31:
            registers.x[self.exclusive_status] = 0
        registers.pc = registers.pc + 4

    def perform(
        self,
        registers: Registers,
        address: int,
        read: Callable[[int, int], int],
        write: Callable[[int, int, int], object],
    ) -> None:
        """Do the whole instruction through `read(address, size)` and `write(address, size, value)`.

        128-bit registers go as two accesses of 8 bytes. An exception from either leaves the registers as they were for
        stores; loads before it have landed, as the architecture allows.
        """
        if self.is_load:
            for transfer in self.transfers:
                value = 0
                for start in range(0, transfer.size, 8):
                    part = min(8, transfer.size - start)
                    value |= read(address + transfer.offset + start, part) << 8 * start
                self.load(registers, transfer, value)
            if self.narrow:
                for register in {transfer.register for transfer in self.transfers}:
                    registers.set_vector(register, registers.vector(register) & U64)
        else:
            for transfer, value in list(self.values(registers)):
                for start in range(0, transfer.size, 8):
                    part = min(8, transfer.size - start)
                    write(address + transfer.offset + start, part, value >> 8 * start & (1 << 8 * part) - 1)
        self.finish(registers)


def extend(value: int, size: int, sign: bool, wide: bool) -> int:
    """Extend a loaded value of `size` bytes to what its X register then holds."""
    value &= (1 << 8 * size) - 1
    if sign and value >> 8 * size - 1:
        value -= 1 << 8 * size
        value &= U64 if wide or size == 8 else 0xFFFF_FFFF
    return value


def access_from_syndrome(esr: int) -> Access | None:
    """Give the access of a data abort with ISV set, None without; true only for instructions without write-back."""
    if not esr & ISV:
        return None
    size = 1 << (esr >> 22 & 3)
    sign = bool(esr & 1 << 21)
    transfer = Transfer(0, size, esr >> 16 & 31, False, -1, sign, bool(esr & 1 << 15))
    return Access(not esr & WNR, (transfer,), -1, None)


def complete_load(registers: Registers, esr: int, value: int) -> None:
    """Finish a single-register load with valid syndrome whose value has arrived, and step over it."""
    rt = esr >> 16 & 31
    if rt != 31:
        registers.x[rt] = extend(value, 1 << (esr >> 22 & 3), bool(esr & 1 << 21), bool(esr & 1 << 15))
    registers.pc = registers.pc + 4


def store_value(registers: Registers, esr: int) -> int:
    """What a single-register store with valid syndrome writes."""
    rt = esr >> 16 & 31
    return registers.x[rt] & (1 << (8 << (esr >> 22 & 3))) - 1 if rt != 31 else 0


def has_writeback(word: int) -> bool:
    """True for the single-register loads and stores whose syndrome hides a change of the base register."""
    return word & 0x3B20_0400 == 0x3800_0400


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> bits - 1 & 1 else value


def decode_instruction(word: int) -> Access | None:
    """Decode an AArch64 load or store instruction word; None for anything else (also atomics and prefetches)."""
    if word & 0x0A00_0000 != 0x0800_0000:
        return None
    base = word >> 5 & 31
    vector = bool(word & 1 << 26)
    group = word >> 27 & 7
    if group == 5 and word >> 28 & 3 == 2:
        return _pair(word, base, vector)
    if word >> 28 & 3 == 3:
        return _single(word, base, vector)
    if word & 0x3F00_0000 == 0x0800_0000:
        return _exclusive(word, base)
    if word & 0xBE00_0000 == 0x0C00_0000:
        return _vector_structure(word, base)
    return None


def effective_address(word: int, registers: Registers) -> int:
    """Give the VA that a load or store which `decode_instruction` knows accesses first, with the registers before it.
    """
    base = word >> 5 & 31
    address = registers.sp if base == 31 else registers.x[base]
    if word >> 27 & 7 == 5 and word >> 28 & 3 == 2:
        size = 4 << (word >> 30) if word & 1 << 26 else (8 if word >> 30 == 2 else 4)
        if word >> 23 & 3 != 1:
            address += _signed(word >> 15 & 0x7F, 7) * size
    elif word >> 28 & 3 == 3:
        scale = word >> 30 | (word >> 21 & 4 if word & 1 << 26 else 0)
        if word & 1 << 24:
            address += (word >> 10 & 0xFFF) << scale
        elif word & 1 << 21:
            number, option = word >> 16 & 31, word >> 13 & 7
            index = registers.x[number] if number != 31 else 0
            if not option & 1:
                index &= 0xFFFF_FFFF
                if option & 4:
                    index = _signed(index, 32)
            address += index << (scale if word & 1 << 12 else 0)
        elif word >> 10 & 3 != 1:
            address += _signed(word >> 12 & 0x1FF, 9)
    return address & U64


def _pair(word: int, base: int, vector: bool) -> Access | None:
    """LDP, STP, LDPSW, LDNP, STNP."""
    opc, mode = word >> 30, word >> 23 & 3
    if vector:
        if opc == 3:
            return None
        size = 4 << opc
    else:
        if opc == 3 or (opc == 1 and not word & 1 << 22):
            return None
        size = 8 if opc == 2 else 4
    step = _signed(word >> 15 & 0x7F, 7) * size
    sign = not vector and opc == 1
    wide = opc == 2 or sign
    transfers = tuple(
        Transfer(n * size, size, register, vector, -1, sign, wide)
        for n, register in enumerate((word & 31, word >> 10 & 31))
    )
    return Access(bool(word & 1 << 22), transfers, base, step if mode in (1, 3) else None)


def _single(word: int, base: int, vector: bool) -> Access | None:
    """LDR, STR and their kin, register or immediate, all widths."""
    size_bits, opc = word >> 30, word >> 22 & 3
    writeback = None
    if word & 0x0100_0000 == 0:
        if word & 0x0020_0000:
            if word >> 10 & 3 != 2:
                return None
        elif word >> 10 & 1:
            writeback = _signed(word >> 12 & 0x1FF, 9)
    if vector:
        size = 1 << (size_bits | (opc & 2) << 1)
        if size > 16:
            return None
        return Access(bool(opc & 1), (Transfer(0, size, word & 31, True, -1, False, True),), base, writeback)
    if (size_bits == 3 and opc >= 2) or (size_bits == 2 and opc == 3):
        return None
    wide = size_bits == 3 or opc == 2
    transfer = Transfer(0, 1 << size_bits, word & 31, False, -1, opc >= 2, wide)
    return Access(opc != 0, (transfer,), base, writeback)


def _exclusive(word: int, base: int) -> Access | None:
    """LDXR, STXR, LDXP, STXP, LDAR, STLR and their kin; compare-and-swap is none of them."""
    size = 1 << (word >> 30)
    is_load = bool(word & 1 << 22)
    ordered, pair = bool(word & 1 << 23), bool(word & 1 << 21)
    if ordered and pair:
        return None
    if pair and size < 4:
        return None
    registers = (word & 31, word >> 10 & 31) if pair else (word & 31,)
    transfers = tuple(
        Transfer(n * size, size, register, False, -1, False, size == 8) for n, register in enumerate(registers)
    )
    status = None if ordered or is_load else word >> 16 & 31
    return Access(is_load, transfers, base, None, status)


_STRUCTURES: Final = {0: (4, 1), 2: (1, 4), 4: (3, 1), 6: (1, 3), 7: (1, 1), 8: (2, 1), 10: (1, 2)}
"""opcode of LD1..LD4 (multiple structures) -> (elements of a structure, repeats)."""


def _vector_structure(word: int, base: int) -> Access | None:
    """LD1..LD4, ST1..ST4: multiple structures, single structure, and LDnR."""
    is_load, post = bool(word & 1 << 22), bool(word & 1 << 23)
    full, opcode, size_bits = bool(word & 1 << 30), word >> 12 & 15, word >> 10 & 3
    rt, rm = word & 31, word >> 16 & 31
    transfers: list[Transfer] = []
    narrow = False
    if not word & 1 << 24:
        if opcode not in _STRUCTURES or (word & 1 << 21):
            return None
        structure, repeats = _STRUCTURES[opcode]
        element, width = 1 << size_bits, 16 if full else 8
        if structure > 1 and element == 8 and not full:
            return None
        offset, narrow = 0, is_load and not full
        for repeat in range(repeats):
            for index in range(width // element):
                for part in range(structure):
                    register = (rt + repeat + part) % 32
                    transfers.append(Transfer(offset, element, register, True, index * element, False, True))
                    offset += element
    else:
        s_bit = word >> 12 & 1
        structure = (word >> 13 & 1) * 2 + (word >> 21 & 1) + 1
        scale = word >> 14 & 3
        if scale == 3:
            if not is_load or s_bit:
                return None
            element, narrow = 1 << size_bits, not full
            lanes = range((16 if full else 8) // element)
            for part in range(structure):
                transfers += [
                    Transfer(part * element, element, (rt + part) % 32, True, lane * element, False, True)
                    for lane in lanes
                ]
        else:
            index = int(full) << 3 | s_bit << 2 | size_bits
            if scale == 1:
                if size_bits & 1:
                    return None
                index >>= 1
            elif scale == 2:
                if size_bits & 2 or (size_bits & 1 and s_bit):
                    return None
                index >>= 2
                if size_bits & 1:
                    index, scale = int(full), 3
            element = 1 << scale
            transfers = [
                Transfer(part * element, element, (rt + part) % 32, True, index * element, False, True)
                for part in range(structure)
            ]
    step = max(transfer.offset + transfer.size for transfer in transfers)
    if not post:
        return Access(is_load, tuple(transfers), base, None, narrow=narrow)
    if rm == 31:
        return Access(is_load, tuple(transfers), base, step, narrow=narrow)
    return Access(is_load, tuple(transfers), base, None, narrow=narrow, step_register=rm)
