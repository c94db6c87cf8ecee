"""Runs a vCPU whose code is AArch64 instructions: the CPU engine's exits become hypercalls, traps and aborts.

One engine serves all native vCPUs of a hypervisor, one at a time; a world switch moves register state in and out of it. The callbacks run
deep inside the engine, so nothing here blocks: what has to stop the guest sets a block reason or ``attention`` and the engine comes back
(engine.md 5, objects.md 4.1 and 5.3).
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from gunyah.hypervisor.emulation import ExternalAbort, VmmioExit, fault_access
from gunyah.hypervisor.id_registers import IdRegisters
from gunyah.hypervisor.stage2 import Stage2Fault
from gunyah.hypervisor.system_registers import mpidr_of
from gunyah.hypervisor.vcpu import Block
from gunyah.hypervisor.vgic_cpu_interface import REGISTERS as ICC_REGISTERS
from gunyah.machine.clock import NS_PER_TICK, VirtualClock
from gunyah.machine.engine import HCR, Context, Core, Encoding, ExitHandler
from gunyah.machine.engine.decode import SysregAccess, complete_load

if TYPE_CHECKING:
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.vcpu import Vcpu

__all__ = ["NativeCpu", "NativeExecutor"]

U64 = (1 << 64) - 1
PAGE = 0xFFF
_WFI = int(Block.WFI)
_WNR = 1 << 6

ESR_EL1_UNKNOWN = 0x0200_0000


class NativeCpu:
    """The engine of one hypervisor, and the callbacks it makes."""

    def __init__(self, hv: Hypervisor) -> None:
        """Load the engine; raises ``gunyah.machine.engine.EngineUnavailable`` where the host cannot run it."""
        self.hv = hv
        exits = ExitHandler()
        self.core = Core(hv.memory, 0, exits, clock=hv.clock)
        self.x_address = ctypes.addressof(self.core.x)
        self.current: NativeExecutor | None = None
        self.vcpu: Vcpu | None = None
        self._hvc_dispatch = hv.dispatcher.hvc
        self._smc_dispatch = hv.dispatcher.smc
        self._ids = IdRegisters(self.core)
        exits.hvc = self._hvc
        exits.smc = self._smc
        exits.wfi = self._wfi
        exits.mmio_read = self._mmio_read
        exits.mmio_write = self._mmio_write
        exits.data_abort = self._data_abort
        exits.instruction_abort = self._instruction_abort
        exits.sysreg = self._sysreg
        exits.other = self._other
        exits.timer = self._timer
        for name, encoding in ICC_REGISTERS.items():
            self._define_icc(name, Encoding(*encoding))

    # -- the GIC's CPU interface ---------------------------------------------------------------------------------------

    def _define_icc(self, name: str, encoding: Encoding) -> None:
        def read() -> int:
            vcpu = self.vcpu
            assert vcpu is not None
            gic = vcpu.gic
            return gic.readers[name]() if gic is not None else 0

        def write(value: int) -> None:
            vcpu = self.vcpu
            assert vcpu is not None
            gic = vcpu.gic
            if gic is not None:
                gic.writers[name](value)
            if vcpu.attention:
                self.core.leave()

        from gunyah.hypervisor.vgic_cpu_interface import READABLE, WRITABLE

        self.core.define_sysreg(encoding, read if name in READABLE else None, write if name in WRITABLE else None)

    # -- calls ---------------------------------------------------------------------------------------------------------

    def _hvc(self, imm: int) -> bool:
        vcpu = self.vcpu
        assert vcpu is not None
        self._hvc_dispatch(vcpu, imm)
        return not vcpu.attention

    def _smc(self, imm: int) -> bool:
        vcpu = self.vcpu
        assert vcpu is not None
        self._smc_dispatch(vcpu, imm)
        return not vcpu.attention

    def _wfi(self) -> bool:
        vcpu = self.vcpu
        assert vcpu is not None
        if vcpu.virq:
            return True
        if self.hv.instruments:
            self.hv.watch_trap(vcpu, "wfi", 0)
        vcpu.block(_WFI)
        return False

    def _timer(self, which: int) -> None:
        vcpu = self.vcpu
        assert vcpu is not None
        registers = self.core.registers
        if which == 0:
            vcpu.virtual_timer.program(registers.read("CNTV_CTL_EL0"), registers.read("CNTV_CVAL_EL0"))
        else:
            vcpu.physical_timer.program(registers.read("CNTP_CTL_EL0"), registers.read("CNTP_CVAL_EL0"))
        # The run's deadline was chosen before this timer was set.
        self.current_deadline_check()

    def current_deadline_check(self) -> None:
        """Come back to the loop when a timer now comes before the end of this run."""
        executor = self.current
        assert executor is not None
        upcoming = self.hv.timers.next()
        if upcoming is not None and upcoming < executor.deadline:
            assert self.vcpu is not None
            self.vcpu.attention = True
            self.core.leave()

    # -- memory --------------------------------------------------------------------------------------------------------

    def _mmio_read(self, ipa: int, size: int) -> int | None:
        vcpu = self.vcpu
        assert vcpu is not None
        try:
            value = fault_access(self.hv, vcpu, ipa, size, False, 0)
        except (ExternalAbort, VmmioExit):
            return None
        if vcpu.attention:
            self.core.leave()
        return value

    def _mmio_write(self, ipa: int, size: int, value: int) -> bool:
        vcpu = self.vcpu
        assert vcpu is not None
        try:
            fault_access(self.hv, vcpu, ipa, size, True, value)
        except (ExternalAbort, VmmioExit):
            return False
        if vcpu.attention:
            self.core.leave()
        return True

    def _data_abort(self, esr: int, far: int, ipa: int) -> bool:
        vcpu, executor = self.vcpu, self.current
        assert vcpu is not None and executor is not None
        if vcpu.vmmio is not None:
            # The VMM answers; the instruction is completed when the vCPU is run again.
            executor.waiting_esr = esr
            return False
        if esr & 0x3C == 0xC and esr & (1 << 24) and esr & _WNR:
            # A write to a read-only page of a virtual device (virtio) comes as a permission fault.
            size = 1 << (esr >> 22 & 3)
            rt = esr >> 16 & 31
            value = self.core.x[rt] & (1 << 8 * size) - 1 if rt != 31 else 0
            if self._mmio_write(ipa, size, value):
                self.core.registers.pc += 4
                return not vcpu.attention
        if self.hv.instruments:
            self.hv.watch_trap(vcpu, "external abort", ipa)
        self.core.inject_data_abort(far)
        return not vcpu.attention

    def _instruction_abort(self, esr: int, far: int, ipa: int) -> bool:
        vcpu = self.vcpu
        assert vcpu is not None
        if self.hv.instruments:
            self.hv.watch_trap(vcpu, "instruction abort", ipa)
        self.core.inject_instruction_abort(far)
        return not vcpu.attention

    # -- other traps ---------------------------------------------------------------------------------------------------

    def _sysreg(self, iss: int) -> bool:
        access = SysregAccess.from_iss(iss)
        registers = self.core.registers
        value = self._ids.trapped(access)
        if value is None:
            self.core.inject_undefined()
            return True
        if access.is_read and access.rt != 31:
            registers.x[access.rt] = value
        registers.pc += 4
        return True

    def _other(self, esr: int) -> bool:
        self.core.inject_undefined()
        return True


class NativeExecutor:
    """One native vCPU."""

    def __init__(self, hv: Hypervisor, vcpu: Vcpu, native: NativeCpu) -> None:
        self._hv = hv
        self._vcpu = vcpu
        self._native = native
        self.context = Context(str(vcpu))
        self.deadline = 0
        self.waiting_esr: int | None = None
        addrspace = vcpu.addrspace
        assert addrspace is not None
        self._addrspace = addrspace
        addrspace.change_listeners.append(self._stage2_changed)
        self._running = False

    # -- Executor ------------------------------------------------------------------------------------------------------

    def power_on(self, entry: int, context: int) -> None:
        """Reset state of objects.md 5.2 at ``entry``; other registers keep their values."""
        vcpu = self._vcpu
        registers = self.context.registers
        for number in range(31):
            registers.x[number] = vcpu.x[number]
        vcpu.x = registers.x
        vcpu.answer_native = self._answer_native
        self.context.reset(entry, context)
        registers.sp_el0 = vcpu.sp_el0
        registers.sp_el1 = vcpu.sp_el1
        registers.write("VPIDR_EL2", self._native._ids.midr(vcpu))
        registers.write("VMPIDR_EL2", mpidr_of(vcpu))
        registers.write("VTTBR_EL2", self._addrspace.vttbr)
        registers.write("VTCR_EL2", self._addrspace.vtcr)
        registers.write("HCR_EL2", HCR.GUEST)
        self.context.touch()
        self.context.set_virq(vcpu.virq)
        self.waiting_esr = None

    def run(self, deadline: int) -> None:
        """Run guest instructions until it blocks or ``deadline`` (ticks)."""
        native, vcpu, core = self._native, self._vcpu, self._native.core
        self.deadline = deadline
        vcpu.attention = False
        if core.context is not self.context:
            self._load()
        if self.waiting_esr is not None:
            self._complete_access(self.waiting_esr)
        clock = self._hv.clock
        started = time.monotonic_ns()
        budget = max(0, deadline - clock.ticks()) * NS_PER_TICK
        native.vcpu, native.current = vcpu, self
        self._running = True
        try:
            core.run(started + budget)
        finally:
            self._running = False
            if isinstance(clock, VirtualClock):
                clock.advance((time.monotonic_ns() - started) // NS_PER_TICK)
        vcpu.pc = self.context.registers.pc

    def _load(self) -> None:
        native = self._native
        previous = native.current
        native.core.load(self.context)
        if previous is not None and previous is not self:
            previous._vcpu.x = previous.context.registers.x
        self._vcpu.x = self.context.registers.x

    def _complete_access(self, esr: int) -> None:
        """The VMM has answered: finish the load or store that stopped this vCPU."""
        self.waiting_esr = None
        registers = self.context.registers
        if not esr & _WNR:
            complete_load(registers, esr, self._vcpu.vmmio_answer)
        registers.pc += 4

    def interrupt(self) -> None:
        """Come back to the loop before the next block of instructions."""
        self._vcpu.attention = True
        if self._running:
            self._native.core.leave()

    def set_virq(self, level: bool) -> None:
        """The engine takes the interrupt by itself when PSTATE.I allows."""
        self.context.set_virq(level)

    def kill(self) -> None:
        """Let go of the register state."""
        listeners = self._addrspace.change_listeners
        if self._stage2_changed in listeners:
            listeners.remove(self._stage2_changed)
        native = self._native
        if native.core.context is self.context:
            native.core.save()
        if native.current is self:
            native.current = native.vcpu = None
        vcpu = self._vcpu
        vcpu.x = list(self.context.registers.x)
        del vcpu.answer_native
        vcpu.answer_native = vcpu.default_answer_native

    def _stage2_changed(self, ipa: int, size: int) -> None:
        core = self._native.core
        if core.context is self.context:
            core.flush_tlb()

    # -- answers -------------------------------------------------------------------------------------------------------

    def _answer_native(self, results: tuple[int, ...]) -> None:
        """As ``Vcpu._answer_native`` on a live register file: two clears in C instead of sixteen stores."""
        x = self._vcpu.x
        address = ctypes.addressof(x)  # type: ignore[arg-type]  # a ctypes array while the executor exists
        count = len(results)
        for number in range(count):
            x[number] = results[number]
        ctypes.memset(address + 8 * count, 0, 64 - 8 * count)
        x[9] = self.context.registers.pc
        ctypes.memset(address + 80, 0, 64)

    # -- guest buffers -------------------------------------------------------------------------------------------------

    def copy_in(self, address: int, size: int) -> bytes:
        """Guest virtual memory through stage 1 and stage 2 as they are now; raises Stage2Fault."""
        parts = [self._hv.memory.read(pa, count) for pa, count in self._pieces(address, size, False)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def copy_out(self, address: int, data: bytes) -> None:
        """Guest virtual memory through stage 1 and stage 2 as they are now, all or nothing; raises Stage2Fault."""
        memory = self._hv.memory
        offset = 0
        for pa, count in self._pieces(address, len(data), True):
            memory.write(pa, data[offset : offset + count])
            offset += count

    def _pieces(self, address: int, size: int, write: bool) -> list[tuple[int, int]]:
        if address + size > 1 << 64:
            raise Stage2Fault("address size", address, 0, 0)
        pieces = []
        end = address + size
        while address < end:
            count = min(end - address, 0x1000 - (address & PAGE))
            pieces.append((self._physical(address, write), count))
            address += count
        return pieces

    def _physical(self, address: int, write: bool) -> int:
        translate: Callable[[int], int | None] = self._native.core.physical
        pa = translate(address)
        if pa is None:
            raise Stage2Fault("translation", address, 0, 0)
        if not self._hv.memory.contains(pa, 1):
            raise Stage2Fault("device", address, 0, 0, pa)
        return pa


