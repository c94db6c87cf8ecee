"""What AArch64 gives code that runs at EL1: the consumer side of a Python VM's vCPU.

A Python VM is a function ``program(cpu, x0)``. It reaches memory only through its stage-2 mappings (stage 1 is off:
VA = IPA) and everything else by HVC/SMC with the register ABI, by system registers, and by interrupts. The hypervisor
implements this protocol; guest code depends on nothing else. Interrupts are taken at hypercalls, memory accesses that
trap, ``wfi`` and when ``irq_masked`` is cleared.
"""

from __future__ import annotations

from collections.abc import Callable, MutableSequence
from typing import Protocol

__all__ = ["Cpu", "GuestAbort", "GuestUndefined", "Program"]


class GuestAbort(Exception):
    """A synchronous abort delivered to the guest's EL1: external data abort, ESR 0x96000010 (objects.md 4.1).

    ``esr`` is ESR_EL1, ``far`` FAR_EL1 (the address that was accessed, guest virtual).
    """

    def __init__(self, esr: int, far: int, sentence: str) -> None:
        super().__init__(sentence)
        self.esr = esr
        self.far = far


class GuestUndefined(Exception):
    """An undefined-instruction exception delivered to EL1 (EC 0, ESR 0x2000000): a system register or instruction that
    is not there.
    """

    def __init__(self, sentence: str, esr: int = 0x0200_0000) -> None:
        super().__init__(sentence)
        self.esr = esr


class Cpu(Protocol):
    """One vCPU as its own code sees it (uint64_t registers; addresses are guest virtual = IPA)."""

    x: MutableSequence[int]
    irq_masked: bool

    def hvc(self, imm: int = 0, /) -> None:
        """HVC #imm with the arguments in ``x``; results in ``x`` (hypercalls.md 1)."""

    def smc(self, imm: int = 0, /) -> None:
        """SMC #imm, trapped by the hypervisor."""

    def read(self, address: int, size: int, /) -> bytes:
        """Copy ``size`` bytes of normal memory; raises GuestAbort where stage 2 refuses."""

    def write(self, address: int, data: bytes | bytearray | memoryview, /) -> None:
        """Copy bytes to normal memory; raises GuestAbort where stage 2 refuses."""

    def load(self, address: int, width: int, /) -> int:
        """One aligned load of 1, 2, 4 or 8 bytes: memory or an emulated device; raises GuestAbort."""

    def store(self, address: int, value: int, width: int, /) -> None:
        """One aligned store of 1, 2, 4 or 8 bytes: memory or an emulated device; raises GuestAbort."""

    def mrs(self, register: str, /) -> int:
        """Read a system register by its architectural name (``ICC_IAR1_EL1``); raises GuestUndefined."""

    def msr(self, register: str, value: int, /) -> None:
        """Write a system register by its architectural name; raises GuestUndefined."""

    def wfi(self) -> None:
        """Wait for interrupt: returns when one is pending (even if masked); may return spuriously."""

    def set_vector(self, handler: Callable[[], None], /) -> None:
        """Install the IRQ vector (VBAR_EL1 + 0x280): called with IRQs masked, on the interrupted stack; must not
        block.
        """

    def nudge(self) -> None:
        """For the host that shares the process with this VM: make a waiting or the next ``wfi`` return at once."""

    def ticks(self) -> int:
        """CNTVCT_EL0: system counter ticks, CNTFRQ_EL0 = 62 500 000 a second."""


Program = Callable[[Cpu, int], None]
