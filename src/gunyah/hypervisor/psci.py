"""PSCI 1.1 for the vCPUs of a virtual-PM group (objects.md 11).

For a vCPU outside a group there is no such function, but for PSCI_FEATURES. The conduit is HVC #0 or SMC #0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from gunyah.abi import smccc
from gunyah.abi.errors import PsciError
from gunyah.abi.vcpu import RESET_TYPE_SYSTEM_RESET, system_reset2_type
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.vcpu import Block

if TYPE_CHECKING:
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.vcpu import Vcpu

__all__ = ["PSCI", "UNKNOWN", "psci_features"]

U32 = (1 << 32) - 1
U64 = (1 << 64) - 1

Answer = tuple[int, ...] | None

UNKNOWN: Answer = ()
"""Nobody answers: X0 = -1 of 64 bits whatever the convention, and nothing else changes (hypercalls.md 1.5)."""

_NOT_SUPPORTED: Answer = (int(PsciError.NOT_SUPPORTED),)
_INVALID: Answer = (int(PsciError.INVALID_PARAMETERS),)
_SUCCESS: Answer = (int(PsciError.SUCCESS),)

# MPIDR bits that carry an affinity: Aff3 in 39:32, Aff2..Aff0 in 23:0. The others are not looked at.
_AFFINITY_BITS = 0xFF_00FF_FFFF


def _argument(vcpu: Vcpu, fid: int, number: int) -> int:
    return vcpu.x[number] & (U64 if smccc.is_64bit(fid) else U32)


def _version(hv: Hypervisor, vcpu: Vcpu, fid: int) -> Answer:
    return (smccc.PSCI_VERSION_1_1,) if vcpu.vpm is not None else UNKNOWN


def _suspend(hv: Hypervisor, vcpu: Vcpu, power_state: int, powerdown: bool, entry: int, context: int) -> Answer:
    if vcpu.virq:
        return _SUCCESS
    vcpu.suspend_word = power_state
    if powerdown:
        vcpu.suspend_resume = (entry, context)
    else:
        vcpu.suspend_resume = None
        vcpu.x[0] = int(PsciError.SUCCESS)
    vcpu.block(int(Block.SUSPENDED))
    return _SUCCESS


def _cpu_suspend(hv: Hypervisor, vcpu: Vcpu, fid: int) -> Answer:
    if vcpu.vpm is None:
        return UNKNOWN
    state = _argument(vcpu, fid, 1) & U32
    powerdown = state & smccc.POWER_STATE_POWERDOWN != 0
    return _suspend(hv, vcpu, state, powerdown, _argument(vcpu, fid, 2), _argument(vcpu, fid, 3))


def _cpu_default_suspend(hv: Hypervisor, vcpu: Vcpu, fid: int) -> Answer:
    if vcpu.vpm is None:
        return UNKNOWN
    return _suspend(hv, vcpu, smccc.POWER_STATE_DEEPEST, True, _argument(vcpu, fid, 1), _argument(vcpu, fid, 2))


def _cpu_off(hv: Hypervisor, vcpu: Vcpu, fid: int) -> Answer:
    group = vcpu.vpm
    if group is None:
        return UNKNOWN
    if group.aggregates and group.online == 1:
        return (int(PsciError.DENIED),)
    vcpu.power_off()
    return None


def _affinity(vcpu: Vcpu, fid: int) -> int:
    """The affinity argument in X1: Aff3, Aff2, Aff1 and Aff0 of an MPIDR."""
    return _argument(vcpu, fid, 1) & _AFFINITY_BITS


def _cpu_on(hv: Hypervisor, vcpu: Vcpu, fid: int) -> Answer:
    group = vcpu.vpm
    if group is None:
        return UNKNOWN
    index = group.index_of(vcpu, _affinity(vcpu, fid))
    if index is None:
        return _INVALID
    target = group.members.get(index)
    if target is None:
        return (int(PsciError.INTERNAL_FAILURE),)
    if not target.powered_off:
        return (int(PsciError.ALREADY_ON),)
    try:
        target.power_on(_argument(vcpu, fid, 2), _argument(vcpu, fid, 3))
    except HypervisorError as refusal:
        # Killed before it ever ran.
        hv.remark(vcpu, str(refusal))
        return (int(PsciError.INTERNAL_FAILURE),)
    return _SUCCESS


def _affinity_info(hv: Hypervisor, vcpu: Vcpu, fid: int) -> Answer:
    group = vcpu.vpm
    if group is None:
        return UNKNOWN
    index = group.index_of(vcpu, _affinity(vcpu, fid))
    if index is None or _argument(vcpu, fid, 2) != 0:
        return _INVALID
    target = group.members.get(index)
    if target is None:
        return _INVALID
    return (smccc.AFFINITY_OFF if target.powered_off else smccc.AFFINITY_ON,)


def _system_off(hv: Hypervisor, vcpu: Vcpu, fid: int) -> Answer:
    if vcpu.vpm is None:
        return UNKNOWN
    if vcpu.critical:
        hv.system_off(vcpu)
    else:
        vcpu.vpm.system_stop(vcpu, None)
    return None


def _system_reset(hv: Hypervisor, vcpu: Vcpu, fid: int) -> Answer:
    if vcpu.vpm is None:
        return UNKNOWN
    if vcpu.critical:
        hv.system_reset(vcpu)
    else:
        vcpu.vpm.system_stop(vcpu, (RESET_TYPE_SYSTEM_RESET, 0))
    return None


def _system_reset2(hv: Hypervisor, vcpu: Vcpu, fid: int) -> Answer:
    if vcpu.vpm is None:
        return UNKNOWN
    if vcpu.critical:
        # 32 bits in both conventions.
        return (int(PsciError.NOT_SUPPORTED) & U32,)
    wide = smccc.is_64bit(fid)
    kind = system_reset2_type(vcpu.x[1] & U32, smc64=wide)
    vcpu.vpm.system_stop(vcpu, (kind, _argument(vcpu, fid, 2)))
    return None


def _set_suspend_mode(hv: Hypervisor, vcpu: Vcpu, fid: int) -> Answer:
    if vcpu.vpm is None:
        return UNKNOWN
    return _SUCCESS if _argument(vcpu, fid, 1) == 0 else _INVALID


def psci_features(hv: Hypervisor, vcpu: Vcpu, fid: int) -> Answer:
    """PSCI_FEATURES: SMCCC_VERSION is announced even without a group."""
    asked = vcpu.x[1] & U32 & ~smccc.HINT_SVE
    if asked == smccc.SMCCC_VERSION:
        return _SUCCESS
    if vcpu.vpm is None:
        return _NOT_SUPPORTED
    if asked in (smccc.PSCI_CPU_SUSPEND_32, smccc.PSCI_CPU_SUSPEND_64):
        return (smccc.PSCI_FEATURES_CPU_SUSPEND,)
    if asked in PSCI or asked == smccc.PSCI_FEATURES:
        return _SUCCESS
    return _NOT_SUPPORTED


PSCI: Mapping[int, Callable[[Hypervisor, Vcpu, int], Answer]] = {
    smccc.PSCI_VERSION: _version,
    smccc.PSCI_CPU_SUSPEND_32: _cpu_suspend,
    smccc.PSCI_CPU_SUSPEND_64: _cpu_suspend,
    smccc.PSCI_CPU_OFF: _cpu_off,
    smccc.PSCI_CPU_ON_32: _cpu_on,
    smccc.PSCI_CPU_ON_64: _cpu_on,
    smccc.PSCI_AFFINITY_INFO_32: _affinity_info,
    smccc.PSCI_AFFINITY_INFO_64: _affinity_info,
    smccc.PSCI_SYSTEM_OFF: _system_off,
    smccc.PSCI_SYSTEM_RESET: _system_reset,
    smccc.PSCI_CPU_DEFAULT_SUSPEND_32: _cpu_default_suspend,
    smccc.PSCI_CPU_DEFAULT_SUSPEND_64: _cpu_default_suspend,
    smccc.PSCI_SET_SUSPEND_MODE: _set_suspend_mode,
    smccc.PSCI_SYSTEM_RESET2_32: _system_reset2,
    smccc.PSCI_SYSTEM_RESET2_64: _system_reset2,
}
