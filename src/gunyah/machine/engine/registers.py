"""System registers by name, and the bits of those that a hypervisor sets: the vocabulary of the engine.

Encodings are those of the Arm architecture (DDI 0487, D17.3), as (op0, op1, CRn, CRm, op2).
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Encoding(NamedTuple):
    """How MRS and MSR name a system register."""

    op0: int
    op1: int
    crn: int
    crm: int
    op2: int

    @property
    def iss(self) -> int:
        """The register's fields as the ISS of a trapped access (EC 0x18) places them; Rt and direction are 0."""
        return self.op0 << 20 | self.op2 << 17 | self.op1 << 14 | self.crn << 10 | self.crm << 1

    def __str__(self) -> str:
        """The assembler's generic name."""
        return f"S{self.op0}_{self.op1}_C{self.crn}_C{self.crm}_{self.op2}"


ISS_REGISTER: Final = 0x003F_FC1E
"""Bits of a trapped access's ISS that name the register."""


def encoding_of_iss(iss: int) -> Encoding:
    """Give the register that a trapped MRS or MSR named (ISS of EC 0x18)."""
    return Encoding(iss >> 20 & 3, iss >> 14 & 7, iss >> 10 & 15, iss >> 1 & 15, iss >> 17 & 7)


SYSTEM_REGISTERS: Final[dict[str, Encoding]] = {
    name: Encoding(*fields)
    for name, fields in {
        # Identification: trapped by HCR_EL2.TID3, except the first three
        "MIDR_EL1": (3, 0, 0, 0, 0),
        "MPIDR_EL1": (3, 0, 0, 0, 5),
        "REVIDR_EL1": (3, 0, 0, 0, 6),
        "ID_PFR0_EL1": (3, 0, 0, 1, 0),
        "ID_PFR1_EL1": (3, 0, 0, 1, 1),
        "ID_DFR0_EL1": (3, 0, 0, 1, 2),
        "ID_AFR0_EL1": (3, 0, 0, 1, 3),
        "ID_MMFR0_EL1": (3, 0, 0, 1, 4),
        "ID_MMFR1_EL1": (3, 0, 0, 1, 5),
        "ID_MMFR2_EL1": (3, 0, 0, 1, 6),
        "ID_MMFR3_EL1": (3, 0, 0, 1, 7),
        "ID_ISAR0_EL1": (3, 0, 0, 2, 0),
        "ID_ISAR1_EL1": (3, 0, 0, 2, 1),
        "ID_ISAR2_EL1": (3, 0, 0, 2, 2),
        "ID_ISAR3_EL1": (3, 0, 0, 2, 3),
        "ID_ISAR4_EL1": (3, 0, 0, 2, 4),
        "ID_ISAR5_EL1": (3, 0, 0, 2, 5),
        "ID_MMFR4_EL1": (3, 0, 0, 2, 6),
        "ID_ISAR6_EL1": (3, 0, 0, 2, 7),
        "MVFR0_EL1": (3, 0, 0, 3, 0),
        "MVFR1_EL1": (3, 0, 0, 3, 1),
        "MVFR2_EL1": (3, 0, 0, 3, 2),
        "ID_AA64PFR0_EL1": (3, 0, 0, 4, 0),
        "ID_AA64PFR1_EL1": (3, 0, 0, 4, 1),
        "ID_AA64ZFR0_EL1": (3, 0, 0, 4, 4),
        "ID_AA64DFR0_EL1": (3, 0, 0, 5, 0),
        "ID_AA64DFR1_EL1": (3, 0, 0, 5, 1),
        "ID_AA64AFR0_EL1": (3, 0, 0, 5, 4),
        "ID_AA64AFR1_EL1": (3, 0, 0, 5, 5),
        "ID_AA64ISAR0_EL1": (3, 0, 0, 6, 0),
        "ID_AA64ISAR1_EL1": (3, 0, 0, 6, 1),
        "ID_AA64ISAR2_EL1": (3, 0, 0, 6, 2),
        "ID_AA64MMFR0_EL1": (3, 0, 0, 7, 0),
        "ID_AA64MMFR1_EL1": (3, 0, 0, 7, 1),
        "ID_AA64MMFR2_EL1": (3, 0, 0, 7, 2),
        # EL1 state
        "SCTLR_EL1": (3, 0, 1, 0, 0),
        "ACTLR_EL1": (3, 0, 1, 0, 1),
        "CPACR_EL1": (3, 0, 1, 0, 2),
        "TTBR0_EL1": (3, 0, 2, 0, 0),
        "TTBR1_EL1": (3, 0, 2, 0, 1),
        "TCR_EL1": (3, 0, 2, 0, 2),
        "SPSR_EL1": (3, 0, 4, 0, 0),
        "ELR_EL1": (3, 0, 4, 0, 1),
        "SP_EL0": (3, 0, 4, 1, 0),
        "AFSR0_EL1": (3, 0, 5, 1, 0),
        "AFSR1_EL1": (3, 0, 5, 1, 1),
        "ESR_EL1": (3, 0, 5, 2, 0),
        "FAR_EL1": (3, 0, 6, 0, 0),
        "PAR_EL1": (3, 0, 7, 4, 0),
        "MAIR_EL1": (3, 0, 10, 2, 0),
        "AMAIR_EL1": (3, 0, 10, 3, 0),
        "VBAR_EL1": (3, 0, 12, 0, 0),
        "CONTEXTIDR_EL1": (3, 0, 13, 0, 1),
        "TPIDR_EL1": (3, 0, 13, 0, 4),
        "CNTKCTL_EL1": (3, 0, 14, 1, 0),
        "CLIDR_EL1": (3, 1, 0, 0, 1),
        "CSSELR_EL1": (3, 2, 0, 0, 0),
        "CTR_EL0": (3, 3, 0, 0, 1),
        "DCZID_EL0": (3, 3, 0, 0, 7),
        "DAIF": (3, 3, 4, 2, 1),
        "FPCR": (3, 3, 4, 4, 0),
        "FPSR": (3, 3, 4, 4, 1),
        # Performance monitor
        "PMCR_EL0": (3, 3, 9, 12, 0),
        "PMCNTENSET_EL0": (3, 3, 9, 12, 1),
        "PMCNTENCLR_EL0": (3, 3, 9, 12, 2),
        "PMOVSCLR_EL0": (3, 3, 9, 12, 3),
        "PMSWINC_EL0": (3, 3, 9, 12, 4),
        "PMSELR_EL0": (3, 3, 9, 12, 5),
        "PMCEID0_EL0": (3, 3, 9, 12, 6),
        "PMCEID1_EL0": (3, 3, 9, 12, 7),
        "PMCCNTR_EL0": (3, 3, 9, 13, 0),
        "PMXEVTYPER_EL0": (3, 3, 9, 13, 1),
        "PMXEVCNTR_EL0": (3, 3, 9, 13, 2),
        "PMUSERENR_EL0": (3, 3, 9, 14, 0),
        "PMOVSSET_EL0": (3, 3, 9, 14, 3),
        "PMINTENSET_EL1": (3, 0, 9, 14, 1),
        "PMINTENCLR_EL1": (3, 0, 9, 14, 2),
        **{f"PMEVCNTR{n}_EL0": (3, 3, 14, 8, n) for n in range(6)},
        **{f"PMEVTYPER{n}_EL0": (3, 3, 14, 12, n) for n in range(6)},
        "PMCCFILTR_EL0": (3, 3, 14, 15, 7),
        # Threads, debug
        "TPIDR_EL0": (3, 3, 13, 0, 2),
        "TPIDRRO_EL0": (3, 3, 13, 0, 3),
        "MDSCR_EL1": (2, 0, 0, 2, 2),
        # Timers
        "CNTFRQ_EL0": (3, 3, 14, 0, 0),
        "CNTPCT_EL0": (3, 3, 14, 0, 1),
        "CNTVCT_EL0": (3, 3, 14, 0, 2),
        "CNTP_TVAL_EL0": (3, 3, 14, 2, 0),
        "CNTP_CTL_EL0": (3, 3, 14, 2, 1),
        "CNTP_CVAL_EL0": (3, 3, 14, 2, 2),
        "CNTV_TVAL_EL0": (3, 3, 14, 3, 0),
        "CNTV_CTL_EL0": (3, 3, 14, 3, 1),
        "CNTV_CVAL_EL0": (3, 3, 14, 3, 2),
        # Not in the engine: whoever wants them has them trapped
        "RNDR": (3, 3, 2, 4, 0),
        "RNDRRS": (3, 3, 2, 4, 1),
        "ZCR_EL1": (3, 0, 1, 2, 0),
        # GICv3 CPU interface: not in the engine, defined by whoever models the interrupt controller
        "ICC_PMR_EL1": (3, 0, 4, 6, 0),
        "ICC_IAR0_EL1": (3, 0, 12, 8, 0),
        "ICC_EOIR0_EL1": (3, 0, 12, 8, 1),
        "ICC_HPPIR0_EL1": (3, 0, 12, 8, 2),
        "ICC_BPR0_EL1": (3, 0, 12, 8, 3),
        "ICC_AP0R0_EL1": (3, 0, 12, 8, 4),
        "ICC_AP0R1_EL1": (3, 0, 12, 8, 5),
        "ICC_AP0R2_EL1": (3, 0, 12, 8, 6),
        "ICC_AP0R3_EL1": (3, 0, 12, 8, 7),
        "ICC_AP1R0_EL1": (3, 0, 12, 9, 0),
        "ICC_AP1R1_EL1": (3, 0, 12, 9, 1),
        "ICC_AP1R2_EL1": (3, 0, 12, 9, 2),
        "ICC_AP1R3_EL1": (3, 0, 12, 9, 3),
        "ICC_DIR_EL1": (3, 0, 12, 11, 1),
        "ICC_RPR_EL1": (3, 0, 12, 11, 3),
        "ICC_SGI1R_EL1": (3, 0, 12, 11, 5),
        "ICC_ASGI1R_EL1": (3, 0, 12, 11, 6),
        "ICC_SGI0R_EL1": (3, 0, 12, 11, 7),
        "ICC_IAR1_EL1": (3, 0, 12, 12, 0),
        "ICC_EOIR1_EL1": (3, 0, 12, 12, 1),
        "ICC_HPPIR1_EL1": (3, 0, 12, 12, 2),
        "ICC_BPR1_EL1": (3, 0, 12, 12, 3),
        "ICC_CTLR_EL1": (3, 0, 12, 12, 4),
        "ICC_SRE_EL1": (3, 0, 12, 12, 5),
        "ICC_IGRPEN0_EL1": (3, 0, 12, 12, 6),
        "ICC_IGRPEN1_EL1": (3, 0, 12, 12, 7),
        # EL2 and EL3 state that holds for a vCPU
        "VPIDR_EL2": (3, 4, 0, 0, 0),
        "VMPIDR_EL2": (3, 4, 0, 0, 5),
        "HCR_EL2": (3, 4, 1, 1, 0),
        "MDCR_EL2": (3, 4, 1, 1, 1),
        "CPTR_EL2": (3, 4, 1, 1, 2),
        "HSTR_EL2": (3, 4, 1, 1, 3),
        "VTTBR_EL2": (3, 4, 2, 1, 0),
        "VTCR_EL2": (3, 4, 2, 1, 2),
        "SP_EL1": (3, 4, 4, 1, 0),
        "ESR_EL2": (3, 4, 5, 2, 0),
        "FAR_EL2": (3, 4, 6, 0, 0),
        "HPFAR_EL2": (3, 4, 6, 0, 4),
        "CNTVOFF_EL2": (3, 4, 14, 0, 3),
        "CNTHCTL_EL2": (3, 4, 14, 1, 0),
        "SCR_EL3": (3, 6, 1, 1, 0),
    }.items()
}

NAMES: Final[dict[Encoding, str]] = {encoding: name for name, encoding in SYSTEM_REGISTERS.items()}


class HCR:
    """Bits of HCR_EL2."""

    VM: Final = 1 << 0
    SWIO: Final = 1 << 1
    PTW: Final = 1 << 2
    FMO: Final = 1 << 3
    IMO: Final = 1 << 4
    AMO: Final = 1 << 5
    VF: Final = 1 << 6
    VI: Final = 1 << 7
    VSE: Final = 1 << 8
    FB: Final = 1 << 9
    BSU_INNER: Final = 1 << 10
    DC: Final = 1 << 12
    TWI: Final = 1 << 13
    TWE: Final = 1 << 14
    TID0: Final = 1 << 15
    TID1: Final = 1 << 16
    TID2: Final = 1 << 17
    TID3: Final = 1 << 18
    TSC: Final = 1 << 19
    TIDCP: Final = 1 << 20
    TACR: Final = 1 << 21
    TSW: Final = 1 << 22
    TPCP: Final = 1 << 23
    TPU: Final = 1 << 24
    TTLB: Final = 1 << 25
    TVM: Final = 1 << 26
    TGE: Final = 1 << 27
    TDZ: Final = 1 << 28
    HCD: Final = 1 << 29
    TRVM: Final = 1 << 30
    RW: Final = 1 << 31

    GUEST: Final = RW | VM | IMO | FMO | AMO | TWI | TSC | TID3 | TID1 | TACR | TSW | FB | BSU_INNER
    """What a hypervisor sets for an AArch64 VM: stage 2, its interrupts virtual, and objects.md 5.3's traps."""


class MDCR:
    """Bits of MDCR_EL2."""

    TDE: Final = 1 << 8
    """Debug exceptions of the guest (BRK, step, break and watch points) come to EL2."""
    TDA: Final = 1 << 9
    TDOSA: Final = 1 << 10
    TDRA: Final = 1 << 11


class EC:
    """Exception classes, ESR_ELx[31:26]."""

    UNKNOWN: Final = 0x00
    WFX: Final = 0x01
    ILLEGAL_STATE: Final = 0x0E
    SVC64: Final = 0x15
    HVC64: Final = 0x16
    SMC64: Final = 0x17
    SYSREG: Final = 0x18
    SVE: Final = 0x19
    INSTRUCTION_ABORT_LOWER: Final = 0x20
    INSTRUCTION_ABORT_SAME: Final = 0x21
    PC_ALIGNMENT: Final = 0x22
    DATA_ABORT_LOWER: Final = 0x24
    DATA_ABORT_SAME: Final = 0x25
    BREAKPOINT_LOWER: Final = 0x30
    STEP_LOWER: Final = 0x32
    WATCHPOINT_LOWER: Final = 0x34
    BRK64: Final = 0x3C


ESR_IL: Final = 1 << 25
"""32-bit instruction."""

PSTATE_EL0T: Final = 0x0
PSTATE_EL1T: Final = 0x4
PSTATE_EL1H: Final = 0x5
PSTATE_DAIF: Final = 0x3C0
PSTATE_RESET: Final = PSTATE_EL1H | PSTATE_DAIF
"""EL1h, all of D, A, I, F masked: how a vCPU powers on (objects.md 5.2)."""

SCTLR_EL1_RESET: Final = 0x30D0_0800
"""MMU and caches off, reserved-one bits set (reference.md 2)."""
