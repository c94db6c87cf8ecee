"""What a native vCPU reads of its CPU: identification registers, and the system registers that are trapped for good.

The core is the engine's Cortex-A72, described as the reference describes its pinned vCPUs: implementer 0 in MIDR_EL1
(objects.md 5.3, reference.md 2). Of what the engine could pretend to have, a guest is told what it does well: no
pointer authentication, no SVE, no LSE, no EL2 and EL3; AArch32 at EL0 only. The interrupt controller is a GICv3 with
system registers. Speculation does not exist here, so the fields that say so are set and no guest pays for mitigations.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from gunyah.hypervisor.system_registers import MIDR_PINNED, MIDR_UNPINNED
from gunyah.machine.engine import SYSTEM_REGISTERS, Encoding

if TYPE_CHECKING:
    from gunyah.hypervisor.vcpu import Vcpu
    from gunyah.machine.engine.decode import SysregAccess

__all__ = ["CLIDR", "ID_REGISTERS", "RANDOM", "SVE", "midr", "trapped"]

# ID_AA64PFR0_EL1: CSV3 1, CSV2 1, GIC 1 (system registers), EL1 AArch64 only, EL0 both.
_PFR0 = 1 << 60 | 1 << 56 | 1 << 24 | 1 << 4 | 2
# ID_AA64DFR0_EL1: 4 watch and 6 break points, the last of which can be linked to for a context, PMUv3, ARMv8.0 debug.
_DFR0 = 3 << 20 | 5 << 12 | 1 << 8 | 6
# ID_AA64ISAR0_EL1: CRC32, SHA256, SHA1, AES with PMULL.
_ISAR0 = 1 << 16 | 1 << 12 | 1 << 8 | 2 << 4
# ID_AA64MMFR0_EL1: 64 KiB and 4 KiB granules, secure memory distinguished, mixed endian, 16-bit ASIDs, 36-bit PAs.
_MMFR0 = 1 << 12 | 1 << 8 | 2 << 4 | 1
# ID_AA64MMFR1_EL1: ECBHB 1 (branch history cannot be exploited).
_MMFR1 = 1 << 60

ID_REGISTERS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "REVIDR_EL1": 0,
        "ID_PFR0_EL1": 0x0000_0131,
        "ID_PFR1_EL1": 0x1001_0000,
        "ID_DFR0_EL1": 0x0301_0066,
        "ID_AFR0_EL1": 0,
        "ID_MMFR0_EL1": 0x1020_1105,
        "ID_MMFR1_EL1": 0x4000_0000,
        "ID_MMFR2_EL1": 0x0126_0000,
        "ID_MMFR3_EL1": 0x0210_2211,
        "ID_MMFR4_EL1": 0,
        "ID_ISAR0_EL1": 0x0210_1110,
        "ID_ISAR1_EL1": 0x1311_2111,
        "ID_ISAR2_EL1": 0x2123_2042,
        "ID_ISAR3_EL1": 0x0111_2131,
        "ID_ISAR4_EL1": 0x0001_1142,
        "ID_ISAR5_EL1": 0x0001_1121,
        "ID_ISAR6_EL1": 0,
        "MVFR0_EL1": 0x1011_0222,
        "MVFR1_EL1": 0x1211_1111,
        "MVFR2_EL1": 0x0000_0043,
        "ID_AA64PFR0_EL1": _PFR0,
        "ID_AA64DFR0_EL1": _DFR0,
        "ID_AA64ISAR0_EL1": _ISAR0,
        "ID_AA64MMFR0_EL1": _MMFR0,
        "ID_AA64MMFR1_EL1": _MMFR1,
    }
)
"""Registers that do not read 0."""

CLIDR: Final = 0x0200_0023
"""Separate first level, unified second, coherent at the second; nothing to clean for unification."""
RANDOM: Final = frozenset({SYSTEM_REGISTERS["RNDR"], SYSTEM_REGISTERS["RNDRRS"]})
"""Registers that answer with a random number: the reference's CPU has FEAT_RNG, whatever ID_AA64ISAR0_EL1 tells."""
SVE: Final = frozenset({SYSTEM_REGISTERS["ZCR_EL1"]})
"""Registers whose access EL1 takes as a trapped SVE instruction (EC 0x19), as on the reference's CPU."""

_VALUES: Final = {SYSTEM_REGISTERS[name]: value for name, value in ID_REGISTERS.items()}
_ACTLR: Final = SYSTEM_REGISTERS["ACTLR_EL1"]
_AIDR: Final = Encoding(3, 1, 0, 0, 7)
# DC ISW, DC CSW, DC CISW: there is no cache to clean by set and way.
_SET_WAY: Final = frozenset({Encoding(1, 0, 7, 6, 2), Encoding(1, 0, 7, 10, 2), Encoding(1, 0, 7, 14, 2)})


def midr(vcpu: Vcpu) -> int:
    """MIDR_EL1 of a vCPU, for VPIDR_EL2."""
    return MIDR_PINNED if vcpu.pinned else MIDR_UNPINNED


def trapped(access: SysregAccess) -> int | None:
    """Answer a trapped access: the value of a read, 0 for a write that is ignored, None if it is UNDEFINED."""
    register = access.register
    op0, op1, crn, crm, _ = register
    if access.is_read:
        value = _VALUES.get(register)
        if value is not None:
            return value
        if op0 == 3 and op1 == 0 and crn == 0 and crm < 8:
            # Identification registers that a core does not have read 0.
            return 0
        if register in (_ACTLR, _AIDR):
            return 0
        return None
    if register in _SET_WAY or register == _ACTLR:
        return 0
    return None
