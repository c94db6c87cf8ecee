"""The way to the CPU engine: it is loaded when the first native vCPU is powered on, and not before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gunyah.abi.errors import Error
from gunyah.hypervisor.errors import HypervisorError

if TYPE_CHECKING:
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.vcpu import Executor, Vcpu

__all__ = ["native_executor"]


def native_executor(hv: Hypervisor, vcpu: Vcpu) -> Executor:
    """An executor for AArch64 code; FAILURE with one sentence where the host cannot run the engine."""
    from gunyah.hypervisor.native_cpu import NativeCpu
    from gunyah.hypervisor.native_executor import NativeExecutor
    from gunyah.machine.engine import EngineUnavailable

    if hv.native_cpu is None:
        try:
            hv.native_cpu = NativeCpu(hv)
        except EngineUnavailable as unavailable:
            hv.report(vcpu, f"{vcpu} is native code and cannot run: {unavailable}")
            raise HypervisorError(Error.FAILURE, str(unavailable)) from None
    before = vcpu.executor
    if isinstance(before, NativeExecutor):
        # Powered on again: registers that a reset does not touch keep their values (objects.md 5.2).
        return before
    if before is not None:
        before.kill()
    return NativeExecutor(hv, vcpu, hv.native_cpu)
