"""Runs a vCPU whose code is AArch64 instructions: its register file, power, buffers, and turns on the engine."""

from __future__ import annotations

import struct
import traceback
from collections.abc import MutableSequence
from typing import TYPE_CHECKING, cast

from gunyah.abi.memory import Access as Rights
from gunyah.hypervisor import id_registers
from gunyah.hypervisor.lost_guest import LostGuest
from gunyah.hypervisor.native_cpu import NativeCpu
from gunyah.hypervisor.stage2 import Stage2Fault
from gunyah.hypervisor.system_registers import mpidr_of
from gunyah.machine.engine import HCR, READ, WRITE, Context, Page
from gunyah.machine.engine.decode import WNR, Access, complete_load, decode_instruction, has_writeback

if TYPE_CHECKING:
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.vcpu import Vcpu

__all__ = ["NativeExecutor"]

_PAGE = 0xFFF
_R, _W = int(Rights.R), int(Rights.W)
# X0..X7 with so many results and zeros behind them; X9, and zeros in X10..X17.
_RESULTS = tuple(struct.Struct(f"={count}Q{64 - 8 * count}x").pack for count in range(9))
_CORRUPTED = bytes(64)
LOOK_TICKS = 31_250
"""Run time in which a guest with interrupts masked is not looked at (0.5 ms): one that is lost uses its turns up."""
ANSWERS_MAX = 256
"""Different results whose bytes are kept for a vCPU."""


class NativeExecutor:
    """One native vCPU. While it is on the engine, ``vcpu.x`` is the live register file."""

    def __init__(self, hv: Hypervisor, vcpu: Vcpu, native: NativeCpu) -> None:
        assert vcpu.addrspace is not None
        self.vcpu = vcpu
        self.context = Context(str(vcpu))
        self.deadline = 0
        self.pages: dict[int, Page] = {}
        self.lost = LostGuest()
        self._looked = 0
        self._hv = hv
        self._native = native
        self._addrspace = vcpu.addrspace
        self._addrspace.change_listeners.append(self._stage2_changed)
        self._running = False
        # Syndrome and, with write-back, instruction of the access that a VMM is answering.
        self._waiting: tuple[int, Access | None] | None = None
        self._plain_answer = vcpu.answer_native
        self._fresh = True
        self._make_answer()

    # -- Executor ------------------------------------------------------------------------------------------------------

    def power_on(self, entry: int, context: int) -> None:
        """Reset state of objects.md 5.2 at ``entry``; other registers keep their values."""
        vcpu = self.vcpu
        registers = self.context.registers
        if self._fresh:
            self._fresh = False
            for number in range(31):
                registers.x[number] = vcpu.x[number]
            vcpu.x = self._live_registers()
            vcpu.answer_native = self._answer_native
        self.context.reset(entry, context)
        registers.sp_el0 = vcpu.sp_el0
        registers.sp_el1 = vcpu.sp_el1
        for timer in ("CNTV_CTL_EL0", "CNTP_CTL_EL0"):
            registers.write(timer, 0)
        vcpu.performance_monitor.reset()
        vcpu.performance_monitor.levels = self._native.level_times
        registers.write("CNTVOFF_EL2", vcpu.virtual_timer.offset)
        registers.write("VPIDR_EL2", id_registers.midr(vcpu))
        registers.write("VMPIDR_EL2", mpidr_of(vcpu))
        registers.write("VTTBR_EL2", self._addrspace.vttbr)
        registers.write("VTCR_EL2", self._addrspace.vtcr)
        registers.write("HCR_EL2", HCR.GUEST)
        self.context.touch()
        self.context.set_virq(vcpu.virq)
        self._waiting = None
        self.lost = LostGuest()

    def run(self, deadline: int) -> None:
        """Run guest instructions until it blocks or ``deadline`` (ticks)."""
        native, vcpu = self._native, self.vcpu
        self.deadline = deadline
        vcpu.attention = False
        if native.current is not self:
            native.switch_to(self)
            vcpu.x = self._live_registers()
        native.look_at(self.pages)
        if self._waiting is not None:
            self._complete_access(*self._waiting)
        monitor = vcpu.performance_monitor
        if monitor.counting:
            self.deadline = deadline = monitor.begin(deadline)
        self._running = True
        try:
            if native.debugger is None:
                native.core.run_until(deadline)
            else:
                native.debugger.run(self, deadline)
        except Exception as error:
            self._hv.keep_report(vcpu, traceback.format_exc())
            vcpu.fault(f"{vcpu} at PC {self.context.registers.pc:#x}: {type(error).__name__}: {error}")
        finally:
            self._running = False
            if monitor.counting:
                monitor.end()
        registers = self.context.registers
        vcpu.pc = registers.pc
        ticks, waits = vcpu.run_ticks, not vcpu.runnable
        if ticks - self._looked >= LOOK_TICKS or waits or not registers.irq_masked:
            self._looked = ticks
            lost = self.lost.look(registers, ticks, waits=waits, pending=vcpu.virq)
            if lost is not None:
                self._hv.report(vcpu, f"{vcpu} {lost}")
        if vcpu.powered_off:
            vcpu.sp_el0, vcpu.sp_el1 = registers.sp_el0, registers.sp_el1

    def virtual_counter_changed(self) -> None:
        """The virtual counter has stood still, and goes on."""
        self.context.registers.write("CNTVOFF_EL2", self.vcpu.virtual_timer.offset)

    def taken_off(self) -> None:
        """The context is in its own buffer again."""
        self.vcpu.x = self._live_registers()

    def _live_registers(self) -> MutableSequence[int]:
        # A ctypes array does what a vCPU's x is asked for: items and slices of the same length.
        return cast("MutableSequence[int]", self.context.registers.x)

    def interrupt(self) -> None:
        """Come back to the loop before the next block of instructions."""
        self.vcpu.attention = True
        if self._running:
            self._native.core.leave()

    def set_virq(self, level: bool) -> None:
        """The engine takes the interrupt by itself when PSTATE.I allows."""
        self.context.set_virq(level)

    def kill(self) -> None:
        """Let go of the engine; the registers stay readable in the vCPU."""
        listeners = self._addrspace.change_listeners
        if self._stage2_changed in listeners:
            listeners.remove(self._stage2_changed)
        self._native.take_off(self)
        if not self._fresh:
            self.vcpu.x = list(self.context.registers.x)
            self.vcpu.answer_native = self._plain_answer

    def _stage2_changed(self, ipa: int, size: int) -> None:
        self.pages.clear()
        if self._native.current is self:
            self._native.core.flush_tlb()

    # -- accesses that a VMM answers -----------------------------------------------------------------------------------

    def wait_for_vmm(self, esr: int) -> None:
        """The present load or store goes to the VMM: it is completed when this vCPU is run again."""
        core = self._native.core
        word = core.instruction(core.registers.pc)
        self._waiting = esr, decode_instruction(word) if word is not None and has_writeback(word) else None

    def _complete_access(self, esr: int, access: Access | None) -> None:
        self._waiting = None
        registers = self.context.registers
        if esr & WNR:
            registers.pc += 4
        else:
            complete_load(registers, esr, self.vcpu.vmmio_answer)
        if access is not None:
            access.write_back(registers)

    # -- answers -------------------------------------------------------------------------------------------------------

    def _make_answer(self) -> None:
        """Windows on the engine's register file, for writing the results of a hypercall at once."""
        core = self._native.core
        words = memoryview(core.registers.words).cast("B").cast("Q")
        pc = core.library.offsets.env_pc // 8
        window = memoryview(core.x).cast("B")
        x, results_window, corrupted = window.cast("Q"), window[:64], window[80:144]
        # Most calls answer one of few results: their bytes are kept.
        packed: dict[tuple[int, ...], bytes] = {}

        def answer(results: tuple[int, ...]) -> None:
            """As a Python vCPU's answer (hypercalls.md 1.1), on the live register file: three stores, not sixteen."""
            if native.current is not self:
                plain(results)
                return
            data = packed.get(results)
            if data is None:
                data = _RESULTS[len(results)](*results)
                if len(packed) < ANSWERS_MAX:
                    packed[results] = data
            results_window[:] = data
            corrupted[:] = _CORRUPTED
            x[9] = words[pc]

        native, plain = self._native, self._plain_answer
        self._answer_native = answer

    # -- guest buffers -------------------------------------------------------------------------------------------------

    def copy_in(self, address: int, size: int) -> bytes:
        """Guest virtual memory through stage 1 and stage 2 as they are now; raises Stage2Fault."""
        if (address & _PAGE) + size <= _PAGE + 1:
            data = self._native.walker.read(address, size)
            if data is not None:
                return data
        memory = self._hv.memory
        return b"".join([memory.read(pa, count) for pa, count in self._pieces(address, size, READ)])

    def copy_out(self, address: int, data: bytes) -> None:
        """Guest virtual memory through stage 1 and stage 2 as they are now, all or nothing; raises Stage2Fault."""
        size = len(data)
        if (address & _PAGE) + size <= _PAGE + 1 and self._native.walker.write(address, data):
            return
        memory = self._hv.memory
        offset = 0
        for pa, count in self._pieces(address, size, WRITE):
            memory.write(pa, data[offset : offset + count])
            offset += count

    def _pieces(self, address: int, size: int, access: int) -> list[tuple[int, int]]:
        end = address + size
        if end > 1 << 64:
            raise Stage2Fault("address size", address, 0, _W if access == WRITE else _R)
        pieces = []
        while address < end:
            count = min(end - address, _PAGE + 1 - (address & _PAGE))
            pieces.append((self._physical(address, access), count))
            address += count
        return pieces

    def _physical(self, address: int, access: int) -> int:
        pa = self._native.core.physical(address, access)
        if pa is None:
            raise self._fault(address, access)
        return pa

    def _fault(self, address: int, access: int) -> Stage2Fault:
        """Why ``core.physical`` has just failed: a stage-1 fault (with the VA), or what stage 2 says of the IPA."""
        fault = self._native.core.fault
        rights = _W if access == WRITE else _R
        if fault.stage == 2 and fault.ipa is not None:
            found = self._addrspace.fault_at(fault.ipa, rights)
            if found is not None:
                return found
        return Stage2Fault(f"stage-1 {fault.kind}", address, fault.level, rights)
