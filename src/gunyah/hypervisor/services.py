"""SMCCC functions that are not hypercalls: identification, architecture, TRNG and PSCI.

Sources: hypercalls.md 1.3 to 1.5, objects.md 11 and 13.

A function answers in X0..X3 and nothing else changes; 32-bit functions get 32-bit answers, but for those that edit the
caller's registers themselves (``_WIDE``). An unknown id leaves X0 = -1 (64 bits).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from gunyah.abi import smccc
from gunyah.abi.errors import TrngError
from gunyah.abi.identify import API_INFO
from gunyah.hypervisor.psci import PSCI, psci_features

if TYPE_CHECKING:
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.vcpu import Vcpu

__all__ = ["NEVER_RETURNS", "Services"]

U32 = (1 << 32) - 1
U64 = (1 << 64) - 1

# What a function gives back: the words of X0.., no word when the id is nobody's after all, None when the guest does
# not go on after the call.
Answer = tuple[int, ...] | None
Function = Callable[["Hypervisor", "Vcpu", int], Answer]

NEVER_RETURNS = None

# The bits of a function id that a question after it looks at.
_ASKED = U32 & ~smccc.HINT_SVE

# What SMCCC_ARCH_FEATURES says yes to (hypercalls.md 1.5).
_ARCH_FEATURES = frozenset(
    {smccc.SMCCC_VERSION, smccc.SMCCC_ARCH_FEATURES, smccc.STANDARD_HYP_CALL_UID, smccc.STANDARD_HYP_REVISION}
)
_TRNG_FUNCTIONS = frozenset(
    {smccc.TRNG_VERSION, smccc.TRNG_FEATURES, smccc.TRNG_GET_UUID, smccc.TRNG_RND_32, smccc.TRNG_RND_64}
)


def _uid(hv: Hypervisor, vcpu: Vcpu, fid: int) -> Answer:
    return hv.profile_of(vcpu).uid


def _arch_features(hv: Hypervisor, vcpu: Vcpu, fid: int) -> Answer:
    return (0 if vcpu.x[1] & _ASKED in _ARCH_FEATURES else -1,)


def _trng_features(hv: Hypervisor, vcpu: Vcpu, fid: int) -> Answer:
    return (0 if vcpu.x[1] & _ASKED in _TRNG_FUNCTIONS else int(TrngError.NOT_SUPPORTED),)


def _trng_random(hv: Hypervisor, vcpu: Vcpu, fid: int) -> Answer:
    width = 64 if smccc.is_64bit(fid) else 32
    # The count is a 32-bit argument in the 32-bit call, and 64 bits wide in the other one.
    bits = vcpu.x[1] & (U64 if width == 64 else U32)
    if not 0 < bits <= 3 * width:
        return (int(TrngError.INVALID_PARAMETERS), 0, 0, 0)
    value = hv.random.getrandbits(bits)
    words = [value >> width * i & (1 << width) - 1 for i in range(3)]
    return (int(TrngError.SUCCESS), words[2], words[1], words[0])


def _constant(*words: int) -> Function:
    def answer(hv: Hypervisor, vcpu: Vcpu, fid: int) -> Answer:
        return words

    return answer


FUNCTIONS: Mapping[int, Function] = {
    smccc.SMCCC_VERSION: _constant(smccc.SMCCC_VERSION_1_3),
    smccc.SMCCC_ARCH_FEATURES: _arch_features,
    smccc.VENDOR_HYP_CALL_UID: _uid,
    smccc.VENDOR_HYP_REVISION: _constant(API_INFO),
    smccc.STANDARD_HYP_CALL_UID: _uid,
    smccc.STANDARD_HYP_REVISION: _constant(smccc.STANDARD_HYP_REVISION_MAJOR, smccc.STANDARD_HYP_REVISION_MINOR),
    smccc.TRNG_VERSION: _constant(smccc.TRNG_VERSION_1_0, 0, 0, 0),
    smccc.TRNG_FEATURES: _trng_features,
    smccc.TRNG_GET_UUID: _constant(*smccc.TRNG_UUID),
    smccc.TRNG_RND_32: _trng_random,
    smccc.TRNG_RND_64: _trng_random,
    **{fid: _constant(U32) for fid in smccc.TRNG_UNASSIGNED},
    smccc.PSCI_FEATURES: psci_features,
    **PSCI,
}

# 32-bit ids whose answers are 64 bits wide, errors sign-extended, and that leave the other registers whole: the vendor-
# hypervisor services (hypercalls.md 1.4) and the TRNG interface, which knows no convention (objects.md 13).
_WIDE = frozenset(
    {
        smccc.VENDOR_HYP_CALL_UID,
        smccc.VENDOR_HYP_REVISION,
        smccc.TRNG_VERSION,
        smccc.TRNG_FEATURES,
        smccc.TRNG_GET_UUID,
        smccc.TRNG_RND_32,
        *smccc.TRNG_UNASSIGNED,
    }
)

_SMC64 = smccc.SMC64
_UNKNOWN: Answer = ()


class NamedFunction:
    """An SMCCC function as an instrument sees it."""

    __slots__ = ("name",)

    def __init__(self, fid: int) -> None:
        self.name = smccc.function_name(fid) or f"smccc {fid:#x}"


class Services:
    """The functions bound to one hypervisor."""

    def __init__(self, hv: Hypervisor) -> None:
        self._hv = hv

    def call(self, vcpu: Vcpu, fid: int) -> None:
        """Answer SMCCC function ``fid`` (W0) in the vCPU's registers."""
        hv, x = self._hv, vcpu.x
        watched = args = None
        if hv.instruments:
            watched, args = NamedFunction(fid), (x[1], x[2], x[3])
            hv.watch_enter(vcpu, watched, args)
        function = FUNCTIONS.get(fid)
        answer = function(hv, vcpu, fid) if function is not None else _UNKNOWN
        if answer is None:
            return
        if not answer:
            x[0] = U64
        elif fid & _SMC64 or fid in _WIDE:
            x[: len(answer)] = [word & U64 for word in answer]
        else:
            # A handled 32-bit function writes back X0..X3, each cut to 32 bits (hypercalls.md 1.5).
            for register, word in enumerate(answer):
                x[register] = word & U32
            for register in range(len(answer), 4):
                if x[register] > U32:
                    x[register] &= U32
        if watched is not None and args is not None:
            hv.watch_exit(vcpu, watched, args, (x[0], x[1], x[2], x[3]))
