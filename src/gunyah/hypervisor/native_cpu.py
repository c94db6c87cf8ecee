"""The CPU engine of one hypervisor: its exits become hypercalls, traps, device accesses and aborts.

One engine serves all native vCPUs, one at a time. The callbacks run deep inside the engine's C code, so nothing here
blocks: what has to stop the guest sets a block reason or ``attention`` and the engine comes back (engine.md 5,
objects.md 4.1 and 5.3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from gunyah.abi.hypercalls import CALL_NUMBER_MAX, HVC_BASE
from gunyah.hypervisor import id_registers, performance_monitor
from gunyah.hypervisor.emulation import ExternalAbort, VmmioExit, device_page, fault_access
from gunyah.hypervisor.hypercall import LiveRegisters
from gunyah.hypervisor.vcpu import Block
from gunyah.hypervisor.vdevice import DeviceAbort
from gunyah.hypervisor.vgic_cpu_interface import READABLE, WRITABLE
from gunyah.hypervisor.vgic_cpu_interface import REGISTERS as ICC_REGISTERS
from gunyah.machine.engine import EC, Core, Encoding, ExitHandler, Page
from gunyah.machine.engine.decode import (
    FSC_PERMISSION,
    ISV,
    WNR,
    SysregAccess,
    decode_instruction,
    fault_kind,
    store_value,
)
from gunyah.machine.engine.level_times import LevelTimes
from gunyah.machine.engine.registers import ESR_IL, NAMES
from gunyah.machine.engine.walk import Walker

if TYPE_CHECKING:
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.native_executor import NativeExecutor
    from gunyah.hypervisor.vcpu import Vcpu

__all__ = ["NativeCpu", "NativeDebugger"]

DEVICE_PAGES_MAX = 1024
"""Pages of devices that are remembered for a vCPU: the board's windows have far more, and a guest may try them all."""

_WFI = int(Block.WFI)
_ISS_RT = 31 << 5
_NZCV = 0xF000_0000


class NativeDebugger(Protocol):
    """Somebody who looks over the shoulder of native vCPUs: breakpoints, single steps (gunyah.host.gdb)."""

    def run(self, executor: NativeExecutor, deadline: int, /) -> None:
        """Run the vCPU that is on the engine, as ``core.run_until(deadline)`` would, and stop it where wanted."""

    def system_register(self, iss: int, /) -> bool:
        """Do a trapped access to a system register that the hypervisor has no value for; False if it is not theirs."""


class NativeCpu:
    """The engine, the vCPU that is on it, and the callbacks it makes."""

    __slots__ = ("_hv", "_smc_dispatch", "core", "current", "debugger", "level_times", "vcpu", "walker")

    def __init__(self, hv: Hypervisor) -> None:
        """Load the engine; raises ``gunyah.machine.engine.EngineUnavailable`` where the host cannot run it."""
        self._hv = hv
        exits = ExitHandler()
        self.core = Core(hv.memory, 0, exits, clock=hv.clock)
        self.walker = Walker(self.core)
        self.level_times = LevelTimes(self.core)
        self.current: NativeExecutor | None = None
        self.vcpu: Vcpu | None = None
        self.debugger: NativeDebugger | None = None
        self._smc_dispatch = hv.dispatcher.smc
        self.core.route(EC.HVC64, self._hvc_function(), range(HVC_BASE, HVC_BASE + CALL_NUMBER_MAX + 1))
        self.core.route(EC.SYSREG, self._sysreg_function())
        self.core.route(EC.WFX, self._wfx_function())
        exits.smc = self._smc
        exits.wfi = self._wfi
        exits.mmio_read = self._mmio_read
        exits.mmio_write = self._mmio_write
        exits.data_abort = self._data_abort
        exits.instruction_abort = self._instruction_abort
        exits.other = self._other
        exits.debug = self._other
        exits.timer = self._timer
        for name, encoding in ICC_REGISTERS.items():
            self._define_icc(name, Encoding(*encoding))
        for name in dict.fromkeys((*performance_monitor.READERS, *performance_monitor.WRITERS)):
            self._define_performance_monitor(name)
        for register in id_registers.RANDOM:
            self.core.trap_sysreg(NAMES[register], user=True)
        for register in id_registers.SVE:
            self.core.trap_sysreg(NAMES[register])
        self.core.set_constant("CLIDR_EL1", id_registers.CLIDR)

    # -- world switch --------------------------------------------------------------------------------------------------

    def switch_to(self, executor: NativeExecutor) -> None:
        """Put a vCPU's context on the engine, and take off the one before it."""
        previous = self.current
        self.core.load(executor.context)
        if previous is not None:
            previous.taken_off()
        self.current = executor
        self.vcpu = executor.vcpu

    def take_off(self, executor: NativeExecutor) -> None:
        """Forget a vCPU that goes away."""
        debug = self.core.guest_debug
        if not self.core.running and debug.has_breakpoints(executor.context):
            self.switch_to(executor)
            debug.forget_breakpoints()
        if self.current is executor:
            self.core.save()
            executor.taken_off()
            self.current = self.vcpu = None
            self.core.pages = {}

    # -- the GIC's CPU interface ---------------------------------------------------------------------------------------

    def _define_icc(self, name: str, encoding: Encoding) -> None:
        # An interrupt for this vCPU is taken by the engine itself; what concerns others goes through ``interrupt``.
        def read() -> int:
            gic = self.vcpu.gic  # type: ignore[union-attr]  # somebody is on the engine while guest code runs
            return gic.readers[name]() if gic is not None else 0

        def write(value: int) -> None:
            gic = self.vcpu.gic  # type: ignore[union-attr]  # as above
            if gic is not None:
                gic.writers[name](value)

        self.core.define_sysreg(encoding, read if name in READABLE else None, write if name in WRITABLE else None)

    def _define_performance_monitor(self, name: str) -> None:
        reader, writer = performance_monitor.READERS.get(name), performance_monitor.WRITERS.get(name)
        read = write = None
        if reader is not None:

            def read() -> int:
                return reader(self.vcpu.performance_monitor)  # type: ignore[union-attr]  # as above

        if writer is not None:

            def write(value: int) -> None:
                writer(self.vcpu.performance_monitor, value)  # type: ignore[union-attr]  # as above
                if self.vcpu.performance_monitor.interrupts:  # type: ignore[union-attr]  # as above
                    # The run is to end at the next overflow.
                    self.core.leave()

        like = "PMEVTYPER0_EL0" if "TYPER" in name else "PMEVCNTR0_EL0"
        self.core.emulate_sysreg(name, read, write, like)

    # -- calls ---------------------------------------------------------------------------------------------------------

    def _hvc_function(self) -> Callable[[int], None]:
        core, dispatcher, instruments = self.core, self._hv.dispatcher, self._hv.instruments
        general = dispatcher.hvc
        window = memoryview(core.x).cast("B")
        live = dispatcher.live(LiveRegisters(window.cast("Q"), window[:64]))
        first = EC.HVC64 << 26 | ESR_IL | HVC_BASE
        last = first + CALL_NUMBER_MAX

        def hvc(syndrome: int) -> None:
            vcpu = self.vcpu
            assert vcpu is not None
            try:
                if first <= syndrome <= last and not instruments:
                    # What the dispatcher would do, without asking it.
                    live[syndrome - first](vcpu)
                else:
                    general(vcpu, syndrome & 0xFFFF)
                if vcpu.attention:
                    core.leave()
            except BaseException as error:
                core.fail(error)

        return hvc

    def _smc(self, imm: int) -> bool:
        vcpu = self.vcpu
        assert vcpu is not None
        self._smc_dispatch(vcpu, imm)
        return not vcpu.attention

    def _wfx_function(self) -> Callable[[int], None]:
        core, wfi = self.core, self._wfi
        words, pc_at = core.registers.words, core.library.offsets.env_pc // 8

        def wfx(syndrome: int) -> None:
            try:
                words[pc_at] += 4
                # WFE is a hint.
                if not syndrome & 1 and not wfi():
                    core.leave()
            except BaseException as error:
                core.fail(error)

        return wfx

    def _wfi(self) -> bool:
        vcpu = self.vcpu
        assert vcpu is not None
        if vcpu.virq:
            return True
        if self._hv.instruments:
            self._hv.watch_trap(vcpu, "wfi", 0)
        vcpu.block(_WFI)
        return False

    def _timer(self, which: int) -> None:
        vcpu, executor = self.vcpu, self.current
        assert vcpu is not None and executor is not None
        registers = self.core.registers
        if which == 0:
            vcpu.virtual_timer.program(registers.read("CNTV_CTL_EL0"), registers.read("CNTV_CVAL_EL0"))
        else:
            vcpu.physical_timer.program(registers.read("CNTP_CTL_EL0"), registers.read("CNTP_CVAL_EL0"))
        upcoming = self._hv.timers.next()
        if upcoming is not None and upcoming < executor.deadline:
            # The end of this run was chosen before the timer was set.
            self.core.leave()

    # -- memory --------------------------------------------------------------------------------------------------------

    def look_at(self, pages: dict[int, Page]) -> None:
        """Where the vCPU that runs now has devices; instruments want to hear of every access."""
        self.core.pages = {} if self._hv.instruments else pages

    def _mmio_read(self, ipa: int, size: int) -> int | None:
        vcpu = self.vcpu
        assert vcpu is not None
        self._learn(vcpu, ipa)
        try:
            value = fault_access(self._hv, vcpu, ipa, size, False, 0)
        except (DeviceAbort, ExternalAbort, VmmioExit):
            return None
        if vcpu.attention:
            self.core.leave()
        return value

    def _mmio_write(self, ipa: int, size: int, value: int) -> bool:
        vcpu = self.vcpu
        assert vcpu is not None
        self._learn(vcpu, ipa)
        try:
            fault_access(self._hv, vcpu, ipa, size, True, value)
        except (DeviceAbort, ExternalAbort, VmmioExit):
            return False
        if vcpu.attention:
            self.core.leave()
        return True

    def _learn(self, vcpu: Vcpu, ipa: int) -> None:
        """Spare the next accesses of a page that has one device the way through here."""
        found = device_page(self._hv, vcpu, ipa) if not self._hv.instruments else None
        if found is not None:
            pages = self.core.pages
            if len(pages) >= DEVICE_PAGES_MAX:
                pages.clear()
            pages[ipa >> 12 << 4] = Page(found.read, found.write, vcpu, found.base)

    def _data_abort(self, esr: int, far: int, ipa: int) -> bool:
        vcpu, executor = self.vcpu, self.current
        assert vcpu is not None and executor is not None
        if vcpu.vmmio is not None:
            # The VMM answers; the instruction is completed when the vCPU is run again.
            executor.wait_for_vmm(esr)
            return False
        if fault_kind(esr) == FSC_PERMISSION and esr & (ISV | WNR) == ISV | WNR:
            # A write to a page that is mapped read-only: a virtual device may be watching it (virtio).
            if self._mmio_write(ipa, 1 << (esr >> 22 & 3), store_value(self.core.registers, esr)):
                self.core.registers.pc += 4
                return not vcpu.attention
        elif not esr & ISV and self._passthrough(ipa):
            return not vcpu.attention
        if self._hv.instruments:
            self._hv.watch_trap(vcpu, "external abort", ipa)
        executor.lost.abort("store" if esr & WNR else "load", self.core.registers.pc, far)
        self.core.inject_data_abort(far)
        return not vcpu.attention

    def _passthrough(self, ipa: int) -> bool:
        """Do a load or store of several registers on a device of the board, which real hardware would let through."""
        hv, vcpu, core = self._hv, self.vcpu, self.core
        assert vcpu is not None and vcpu.addrspace is not None
        fault = vcpu.addrspace.fault_at(ipa, 0)
        word = core.instruction(core.registers.pc) if core.registers.aarch64 else None
        access = decode_instruction(word) if word is not None else None
        if fault is None or fault.kind != "device" or access is None:
            return False
        base = fault.pa
        try:
            access.perform(
                core.registers, base, hv.bus.read, lambda address, size, value: hv.bus.write(address, value, size)
            )
        except LookupError:
            return False
        return True

    def _instruction_abort(self, esr: int, far: int, ipa: int) -> bool:
        vcpu, executor = self.vcpu, self.current
        assert vcpu is not None and executor is not None
        if self._hv.instruments:
            self._hv.watch_trap(vcpu, "instruction abort", ipa)
        executor.lost.abort("instruction fetch", self.core.registers.pc, far)
        self.core.inject_instruction_abort(far)
        return not vcpu.attention

    # -- other traps ---------------------------------------------------------------------------------------------------

    def _sysreg_function(self) -> Callable[[int], None]:
        core = self.core
        words = core.registers.words
        view = memoryview(words).cast("B").cast("Q")
        pc_at, first = core.library.offsets.env_pc // 8, core.library.offsets.env_xregs // 8
        # By syndrome: the word of the register that is written (-1: none) and its value, None for what is unusual.
        answers: dict[int, tuple[int, int] | None] = {}

        def learn(syndrome: int) -> tuple[int, int] | None:
            value = id_registers.trapped(SysregAccess.from_iss(syndrome & 0x1FF_FFFF & ~_ISS_RT))
            rt = syndrome >> 5 & 31
            answer = None if value is None else (first + rt if syndrome & 1 and rt != 31 else -1, value)
            answers[syndrome] = answer
            return answer

        def sysreg(syndrome: int) -> None:
            try:
                answer = answers[syndrome] if syndrome in answers else learn(syndrome)
                if answer is None:
                    self._unusual(syndrome & 0x1FF_FFFF)
                    return
                register, value = answer
                if register >= 0:
                    view[register] = value
                words[pc_at] = view[pc_at] + 4
            except BaseException as error:
                core.fail(error)

        return sysreg

    def _unusual(self, iss: int) -> None:
        """A trapped register that has no value: a random number, an SVE register, or nothing at all."""
        if self.debugger is not None and self.debugger.system_register(iss):
            return
        access, registers = SysregAccess.from_iss(iss), self.core.registers
        if access.register in id_registers.RANDOM and access.is_read:
            rt = iss >> 5 & 31
            number = self._hv.random.getrandbits(64)
            if rt != 31:
                self.core.x[rt] = number
            # NZCV 0: a number was there.
            registers.pstate &= ~_NZCV
            registers.pc += 4
        elif access.register in id_registers.SVE:
            self.core.inject(EC.SVE << 26 | ESR_IL)
        else:
            self.core.inject_undefined()

    def _other(self, esr: int) -> bool:
        self.core.inject_undefined()
        return True
