"""System registers that the hypervisor answers for a guest, by architectural name (objects.md 5.3, 10.5, 12)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from gunyah.machine.board import COUNTER_FREQUENCY

if TYPE_CHECKING:
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.vcpu import Vcpu

__all__ = ["UndefinedRegister", "mpidr_of", "read_register", "write_register"]

# Implementer 0, architecture 0xf, part 0x048 or the pinned vCPU's real one (reference.md 2).
MIDR_UNPINNED = 0x000F_0480
MIDR_PINNED = 0x000F_0510
MPIDR_RES1 = 0x8000_0000


class UndefinedRegister(Exception):
    """The register is not there for this vCPU: an undefined-instruction exception, EC 0."""


def _midr(hv: Hypervisor, vcpu: Vcpu) -> int:
    return MIDR_PINNED if vcpu.pinned else MIDR_UNPINNED


def mpidr_of(vcpu: Vcpu) -> int:
    """MPIDR_EL1 of a vCPU: from its VIC index, uniprocessor without a VIC (objects.md 5.3)."""
    if vcpu.vic is None:
        return MPIDR_RES1 | 1 << 30
    return MPIDR_RES1 | vcpu.vic.mpidr(vcpu.vic_index)


def _zero(hv: Hypervisor, vcpu: Vcpu) -> int:
    return 0


READERS: Mapping[str, Callable[[Hypervisor, Vcpu], int]] = MappingProxyType(
    {
        "CNTFRQ_EL0": lambda hv, vcpu: COUNTER_FREQUENCY,
        "CNTVCT_EL0": lambda hv, vcpu: hv.clock.sample() - vcpu.virtual_timer.offset,
        "CNTPCT_EL0": lambda hv, vcpu: hv.clock.sample(),
        "CNTV_CTL_EL0": lambda hv, vcpu: vcpu.virtual_timer.control,
        "CNTV_CVAL_EL0": lambda hv, vcpu: vcpu.virtual_timer.cval,
        "CNTV_TVAL_EL0": lambda hv, vcpu: vcpu.virtual_timer.tval,
        "CNTP_CTL_EL0": lambda hv, vcpu: vcpu.physical_timer.control,
        "CNTP_CVAL_EL0": lambda hv, vcpu: vcpu.physical_timer.cval,
        "CNTP_TVAL_EL0": lambda hv, vcpu: vcpu.physical_timer.tval,
        "CURRENTEL": lambda hv, vcpu: 1 << 2,
        "MIDR_EL1": _midr,
        "MPIDR_EL1": lambda hv, vcpu: mpidr_of(vcpu),
        "REVIDR_EL1": _zero,
        "AIDR_EL1": _zero,
        "ACTLR_EL1": _zero,
        "SCTLR_EL1": lambda hv, vcpu: vcpu.sctlr_el1,
    }
)


def _ignore(hv: Hypervisor, vcpu: Vcpu, value: int) -> None:
    return None


def _set_control(which: str) -> Callable[[Hypervisor, Vcpu, int], None]:
    def write(hv: Hypervisor, vcpu: Vcpu, value: int) -> None:
        getattr(vcpu, which).control = value

    return write


def _set_tval(which: str) -> Callable[[Hypervisor, Vcpu, int], None]:
    def write(hv: Hypervisor, vcpu: Vcpu, value: int) -> None:
        getattr(vcpu, which).tval = value

    return write


WRITERS: Mapping[str, Callable[[Hypervisor, Vcpu, int], None]] = MappingProxyType(
    {
        "CNTV_CTL_EL0": _set_control("virtual_timer"),
        "CNTV_CVAL_EL0": lambda hv, vcpu, value: vcpu.virtual_timer.set_cval(value),
        "CNTV_TVAL_EL0": _set_tval("virtual_timer"),
        "CNTP_CTL_EL0": _set_control("physical_timer"),
        "CNTP_CVAL_EL0": lambda hv, vcpu, value: vcpu.physical_timer.set_cval(value),
        "CNTP_TVAL_EL0": _set_tval("physical_timer"),
        "ACTLR_EL1": _ignore,
    }
)


def read_register(hv: Hypervisor, vcpu: Vcpu, register: str) -> int:
    """MRS of ``register``; raises UndefinedRegister."""
    gic = vcpu.gic
    if gic is not None and register.startswith("ICC_"):
        try:
            return gic.read(register)
        except KeyError:
            raise UndefinedRegister(f"{vcpu}: {register} is not a register of the GIC CPU interface") from None
    reader = READERS.get(register)
    if reader is None:
        raise UndefinedRegister(f"{vcpu}: {register} is not readable here")
    return reader(hv, vcpu)


def write_register(hv: Hypervisor, vcpu: Vcpu, register: str, value: int) -> None:
    """MSR of ``register``; raises UndefinedRegister."""
    gic = vcpu.gic
    if gic is not None and register.startswith("ICC_"):
        try:
            gic.write(register, value)
        except KeyError:
            raise UndefinedRegister(f"{vcpu}: {register} is not a register of the GIC CPU interface") from None
        return
    writer = WRITERS.get(register)
    if writer is None:
        raise UndefinedRegister(f"{vcpu}: {register} is not writable here")
    writer(hv, vcpu, value)
