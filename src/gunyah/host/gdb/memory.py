"""Guest memory as a debugger sees it: virtual addresses through the vCPU's stage 1 and its VM's stage 2.

Translation is in software and leaves no trace: no fault is taken, no TLB changes, the vCPU may sleep. Pages that stage
1 maps read-only are written all the same, as debuggers do; what stage 2 forbids stays forbidden, except for
breakpoints. Devices are never touched, for reading one may change it. A vCPU without native registers (a Python VM, or
one that was never powered on) has its MMU off: a VA is an IPA.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from gunyah.abi.memory import Access as Rights
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.native_executor import NativeExecutor
from gunyah.hypervisor.stage2 import Stage2Fault
from gunyah.machine.engine.translate import TranslationFault, translate

if TYPE_CHECKING:
    from gunyah.host.gdb.breakpoints import Breakpoints
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.vcpu import Vcpu

__all__ = ["GuestMemory", "Unmapped"]

PAGE: Final = 4096
_R, _W = int(Rights.R), int(Rights.W)


class Unmapped(Exception):
    """A virtual address that leads to no memory of the VM; the sentence says why."""


class GuestMemory:
    """Reads and writes for a debugger; its breakpoints are not to be seen in what is read."""

    def __init__(self, hv: Hypervisor, breakpoints: Breakpoints) -> None:
        self._hv = hv
        self._breakpoints = breakpoints

    def physical(self, vcpu: Vcpu, address: int, rights: int = _R) -> int:
        """PA of a VA; ``rights`` are what stage 2 has to grant. Raises Unmapped."""
        space = vcpu.addrspace
        if space is None:
            raise Unmapped(f"{vcpu} has no address space")
        try:
            pa = space.translate(self._intermediate(vcpu, address), rights)
        except (TranslationFault, Stage2Fault, HypervisorError, ValueError) as fault:
            raise Unmapped(str(fault)) from None
        if not self._hv.memory.contains(pa):
            raise Unmapped(f"{address:#x} of {vcpu} is a device")
        return pa

    def _intermediate(self, vcpu: Vcpu, address: int) -> int:
        executor = vcpu.executor
        if not isinstance(executor, NativeExecutor):
            return address
        space = vcpu.addrspace
        assert space is not None
        memory, registers = self._hv.memory, executor.context.registers

        def table(ipa: int) -> int:
            return space.translate(ipa, _R)

        try:
            return translate(memory, registers, address, el=1, stage2=table).address
        except TranslationFault:
            # A page that EL0 may read and EL1 may not, by PAN.
            return translate(memory, registers, address, el=0, stage2=table).address

    def _pieces(self, vcpu: Vcpu, address: int, size: int, rights: int) -> Iterator[tuple[int, int]]:
        end = address + size
        if end > 1 << 64:
            raise Unmapped(f"{size} bytes at {address:#x} are beyond the last address")
        while address < end:
            count = min(end - address, PAGE - address % PAGE)
            yield self.physical(vcpu, address, rights), count
            address += count

    def read(self, vcpu: Vcpu, address: int, size: int) -> bytes:
        """Up to ``size`` bytes: as many as lead to memory. Raises Unmapped when the first does not."""
        data = bytearray()
        try:
            for pa, count in self._pieces(vcpu, address, size, _R):
                data += self._breakpoints.unseen(pa, self._hv.memory.read(pa, count))
        except Unmapped:
            if not data:
                raise
        return bytes(data)

    def write(self, vcpu: Vcpu, address: int, data: bytes) -> None:
        """Write all or nothing; raises Unmapped. Breakpoints in the way stay where they are."""
        offset = 0
        for pa, count in list(self._pieces(vcpu, address, len(data), _W)):
            self._hv.memory.write(pa, self._breakpoints.kept(pa, data[offset : offset + count]))
            offset += count
