"""How a vCPU's index in its VIC becomes its MPIDR_EL1, and back (objects.md 10.1, hypercalls.md 3.11).

index = OR over i of (Aff_i AND mask_i) << shift_i, contiguous from bit 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from gunyah.abi.errors import Error
from gunyah.hypervisor.errors import HypervisorError

__all__ = ["DEFAULT_MAPPING", "MPIDR_AFFINITY", "MpidrMapping", "NO_MATCH"]

MPIDR_AFFINITY = 0xFF_00FF_FFFF
"""Aff3..Aff0 of MPIDR_EL1, without RES1, U and MT."""

_MPIDR_RES1 = 1 << 31
_MPIDR_U = 1 << 30
_MPIDR_MT = 1 << 24
# Aff3 sits apart, above MT, U and the reserved bit.
_MPIDR_FIELDS = (0, 8, 16, 32)
_SHIFT_LIMIT = 32
_INDEX_LIMIT = 0xFFFF

NO_MATCH = -1
"""Index of an affinity that no vCPU can have."""


@dataclass(frozen=True, slots=True)
class MpidrMapping:
    """Masks (uint8_t) and shifts (0..31) of Aff0..Aff3, and the MT bit."""

    masks: tuple[int, int, int, int]
    shifts: tuple[int, int, int, int]
    multithread: bool = False

    @classmethod
    def from_arguments(cls, mask: int, shifts: tuple[int, int, int, int], multithread: bool) -> MpidrMapping:
        """Mapping of ``vgic_set_mpidr_mapping``; ``mask`` in MPIDR layout (uint64_t).

        ARGUMENT_INVALID: a shift of 32 or more, overlapping output bits, or output bits that are not contiguous from
        bit 0 or do not fit a CPU index.
        """
        masks = tuple(mask >> field & 0xFF for field in _MPIDR_FIELDS)
        taken = 0
        for level, (bits, shift) in enumerate(zip(masks, shifts, strict=True)):
            if shift >= _SHIFT_LIMIT:
                raise HypervisorError(Error.ARGUMENT_INVALID, f"shift {shift} of Aff{level} is above 31")
            output = bits << shift
            if taken & output:
                raise HypervisorError(
                    Error.ARGUMENT_INVALID, f"Aff{level} & {bits:#x} << {shift} overlaps index bits {taken & output:#x}"
                )
            taken |= output
        if taken & (taken + 1) or taken >= _INDEX_LIMIT:
            raise HypervisorError(
                Error.ARGUMENT_INVALID, f"index bits {taken:#x} are not contiguous from bit 0, or too many"
            )
        return cls((masks[0], masks[1], masks[2], masks[3]), shifts, multithread)

    def index(self, aff0: int, aff1: int, aff2: int, aff3: int) -> int:
        """Index of the vCPU with this affinity (four uint8_t), NO_MATCH if a field has bits outside its mask."""
        m0, m1, m2, m3 = self.masks
        if aff0 & ~m0 or aff1 & ~m1 or aff2 & ~m2 or aff3 & ~m3:
            return NO_MATCH
        s0, s1, s2, s3 = self.shifts
        return aff0 << s0 | aff1 << s1 | aff2 << s2 | aff3 << s3

    def affinity(self, index: int) -> int:
        """Aff3:Aff2:Aff1:Aff0 of the vCPU at ``index`` as one 32-bit word, the layout of GICR_TYPER[63:32]."""
        word = 0
        for level in range(4):
            word |= (index >> self.shifts[level] & self.masks[level]) << 8 * level
        return word

    def mpidr(self, index: int) -> int:
        """MPIDR_EL1 of the vCPU at ``index`` (uint64_t)."""
        word = self.affinity(index)
        value = _MPIDR_RES1 | word & 0xFF_FFFF | (word >> 24) << 32
        if self.multithread:
            value |= _MPIDR_MT
        if not any(self.masks):
            value |= _MPIDR_U
        return value


DEFAULT_MAPPING = MpidrMapping((7, 0, 0, 0), (0, 0, 0, 0))
"""The board's own: Aff0 is the index, 0..7."""
