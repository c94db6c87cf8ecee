"""One physical core: an engine that runs a vCPU's AArch64 code at EL1 and EL0 and brings every exit to EL2 to Python.

Exceptions that the guest's own EL1 takes (system calls, its page faults, undefined instructions) never reach Python: a
few machine instructions in the exit hook hand them to the library's exception entry (engine.md 5). Virtual interrupts
are taken by the engine itself. All cores of a process run on one thread, one at a time (engine.md 1.3.4).
"""

from __future__ import annotations

import ctypes
import time
import weakref
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from ..clock import NS_PER_TICK, Clock, RealClock, VirtualClock
from ..memory import PhysicalMemory
from . import unicorn_private as private
from .count import UNLIMITED, Count
from .decode import decode_instruction, effective_address
from .dispatch import ExitHook, Plain, abort_function, enter_function, exchange_function, exit_function
from .exits import ExitHandler, Page, Stop
from .guest_debug import GuestDebug
from .intercept import Intercepts
from .kicker import kicker
from .near import near_code
from .registers import EC, ESR_IL, SYSTEM_REGISTERS, Encoding
from .shortcuts import Shortcuts
from .spin import SpinWatch
from .state import NO_EXCLUSIVE, Context, Registers
from .unicorn_private import library

_TICK_NS: Final = 10_000_000
"""How often a run without deadline comes up for signals and kicks."""

READ: Final = 0
WRITE: Final = 1
EXECUTE: Final = 2
"""Kinds of access for `Core.physical`."""

FAULT_TYPE: Final = 4
FAULT_FLAGS: Final = 7
"""Words of a walk's results: the kind of fault (then the IPA and the level), and whether stage 2 refused."""

_FAULT_KINDS: Final = {1: "access flag", 5: "permission", 6: "translation", 7: "address size", 9: "external"}


class Fault(NamedTuple):
    """Why an address does not translate."""

    stage: int
    kind: str
    """"translation", "permission", "access flag", "address size", "external" (a table is not in memory) or "other"."""
    level: int
    ipa: int | None
    """The IPA that stage 2 refused."""


class EngineError(RuntimeError):
    """The engine stopped for a reason that is not the guest's; the sentence says which."""


_siblings: weakref.WeakKeyDictionary[PhysicalMemory, weakref.WeakSet[Core]] = weakref.WeakKeyDictionary()


class Core:
    """An engine over `memory` that runs one `Context` at a time and reports to `exits`.

    A machine needs one core, whatever the number of processors it models: contexts are cheap, and cores do not share
    translated code. Several cores over one memory are kept coherent (instruction cache maintenance, TLBs).
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        index: int,
        exits: ExitHandler,
        *,
        clock: Clock | None = None,
        buffer_size: int = 256 << 20,
        native_entry: bool = True,
    ) -> None:
        """Create the engine; raises `EngineUnavailable` where the host cannot.

        `buffer_size` bounds translated code, in bytes; full, it is emptied and translation starts over.
        `native_entry=False` takes the guest's own exceptions through Python, to measure what that costs.
        """
        self.memory = memory
        self.index = index
        self.exits = exits
        self.clock: Clock = clock if clock is not None else RealClock()
        self.library = lib = library()
        self.code = private.ExecutableMemory()
        offsets = lib.offsets
        with near_code(lib, buffer_size):
            self._uc: Any = lib.open(buffer_size=buffer_size)
        self.handle: int = self._uc._uch.value
        self.cpu_state: int = private.u64_at(self.handle + offsets.uc_cpu).value
        env = self.cpu_state + offsets.cpu_env
        stop_request = self.handle + offsets.uc_stop_request
        exit_request = self.cpu_state + offsets.cpu_exit_request
        icount_high = private.u64_at(self.cpu_state + offsets.cpu_icount_decr).value + 2
        self._stop_flags = (stop_request, exit_request, icount_high)
        # Storing through a memory view takes half the time.
        self._stop_request = memoryview(private.u8_at(stop_request)).cast("B")
        self._exit_request = memoryview(private.u8_at(exit_request)).cast("B")
        self._icount_high = memoryview(private.u16_at(icount_high)).cast("B").cast("H")
        self._interrupt_request = private.u32_at(self.cpu_state + offsets.cpu_interrupt_request)
        self._halted = memoryview(private.u32_at(self.cpu_state + offsets.cpu_halted)).cast("B").cast("I")
        self._exception_index = private.u32_at(self.cpu_state + offsets.cpu_exception_index)
        self._syndrome = private.u32_at(env + offsets.env_syndrome)
        self._target_el = private.u32_at(env + offsets.env_target_el)
        self._vaddress = private.u64_at(env + offsets.env_vaddress)
        self._env = env
        self._env_size = offsets.env_size
        # Before anything is translated: stops only between blocks, never in the middle (engine.md 1.3.1).
        private.u8_at(self.handle + offsets.uc_no_exit_request).value = 1

        self.registers = Registers(env, offsets)
        self.x = self.registers.x
        self._enter_guest = enter_function(self)
        self._exchange = exchange_function(self)
        self._exclusive = private.u64_at(env + offsets.env_exclusive_addr)
        self.context: Context | None = None
        self.running = False
        self._leave = False
        self._flush_code = False
        self._kicked = False
        self._started = False
        self._error: BaseException | None = None
        # Results of a native table walk: PA, attributes, protection, page size, fault (4 words), cacheability
        self._walk = (ctypes.c_uint64 * 9)()
        first = ctypes.addressof(self._walk)
        self._walk_addresses = tuple(first + 8 * n for n in (0, 1, 2, 3, FAULT_TYPE, 8))

        self.ram: list[tuple[int, int, int]] = []
        for base, size in memory.regions:
            host = memory.host_address(base)
            self.check(
                lib.mem_map_ptr(self.handle, base, size, 7, host), f"RAM {base:#x}+{size:#x} cannot be mapped"
            )
            self.ram.append((base, base + size, lib.ram_address(self.handle, host) - base))
        self.shortcuts = Shortcuts(self, [(*region, memory.host_address(region[0])) for region in memory.regions])
        self._plain = Plain(self)
        self.pages: dict[int, Page] = {}
        """Devices of the loaded context by HPFAR_EL2; may be replaced at any time."""
        self._hook = ExitHook(self, exit_function(self, exits), native=native_entry)
        self._hook.route(EC.DATA_ABORT_LOWER, abort_function(self, exits, self._plain))
        self._spin = SpinWatch(self, self._stop_flags)
        self._count = Count(self, self._stop_flags) if isinstance(self.clock, VirtualClock) else None
        self._intercepts = Intercepts(self)
        self._intercepts.timers()
        self.guest_debug = GuestDebug(self, self._intercepts)
        if len(self.ram) == 1:
            self._intercepts.cache_maintenance(self._plain.maintenance, self._instruction_cache_all)
        else:
            self._share_cache_maintenance()
        memory.listeners.append(_listener(weakref.ref(self)))
        self._shared = _siblings.setdefault(memory, weakref.WeakSet())
        self._shared.add(self)
        self._several = False
        if len(self._shared) > 1:
            for core in self._shared:
                core._several = True
                core._share_cache_maintenance()

    def check(self, error: int, what: str) -> None:
        """Raise `EngineError` for an error number of the library."""
        if error:
            reason = self.library.strerror(error)
            raise EngineError(f"{what}: {reason.decode() if reason else error}")

    # World switch

    def load(self, context: Context) -> None:
        """Make `context` the one that runs: registers, traps, stage 2, interrupt lines; saves the one before it.

        The exclusive monitor is cleared and all cached translations are dropped.
        """
        if self.context is context:
            return
        if context.core is not None:
            context.core.save()
        previous = self.context
        if previous is not None:
            self._exchange(previous.address, context.address)
            previous.saved()
        else:
            ctypes.memmove(self._env, context.buffer, self._env_size)
        self._exclusive.value = NO_EXCLUSIVE
        if context.stale:
            self.library.rebuild_hflags(self._env)
            context.stale = False
        self.library.tlb_flush(self.cpu_state)
        self._interrupt_request.value = (private.CPU_INTERRUPT_VIRQ if context.virq else 0) | (
            private.CPU_INTERRUPT_VFIQ if context.vfiq else 0
        )
        self._plain.forget()
        self.context = context
        context.loaded(self, self.registers)

    def save(self) -> None:
        """Put the loaded context back into its own buffer; the core is empty afterwards."""
        context = self.context
        if context is not None:
            ctypes.memmove(context.buffer, self._env, self._env_size)
            self.context = None
            context.saved()

    def resync(self) -> None:
        """Derive everything from the registers again, after the host has written some: level, regime, TLB."""
        self.library.rebuild_hflags(self._env)
        self.library.tlb_flush(self.cpu_state)

    def set_stage2(self, vttbr: int, vtcr: int, hcr: int) -> None:
        """Set VTTBR_EL2, VTCR_EL2 and HCR_EL2 of the loaded context (part of it, as all its EL2 registers are)."""
        registers = self.registers
        registers.write("VTTBR_EL2", vttbr)
        registers.write("VTCR_EL2", vtcr)
        registers.write("HCR_EL2", hcr)
        self.resync()

    def flush_tlb(self) -> None:
        """Drop all cached translations; needed after stage-2 tables changed for a context that is loaded."""
        self.library.tlb_flush(self.cpu_state)

    # Running

    def run(self, deadline_ns: int | None = None) -> Stop:
        """Run the loaded context until a handler wants to leave, `kick`, or the deadline.

        `deadline_ns` is a moment of `time.monotonic_ns()`. Raises what a handler raised, and `EngineError`. A core
        with a virtual clock is better run by `run_until`, which is repeatable.
        """
        return self._run(deadline_ns, UNLIMITED)

    def run_until(self, ticks: int) -> Stop:
        """Run as `run` does, with a moment of the core's own clock, in ticks, as the deadline.

        With a virtual clock that is a number of instructions, so the same program stops at the same place every time.
        """
        if self._count is None:
            return self._run(ticks * NS_PER_TICK, UNLIMITED)
        return self._run(None, ticks - self.clock.ticks())

    def _run(self, deadline_ns: int | None, budget: int) -> Stop:
        if self.context is None:
            raise EngineError(f"core {self.index} has no context to run")
        if self.running:
            raise EngineError(f"core {self.index} is running already; a handler must not call run()")
        timer = kicker()
        enter, halted = self._enter_guest, self._halted
        count, spin = self._count, self._spin
        if self._several:
            # Another core may have run TLB maintenance for this one meanwhile.
            self.library.tlb_flush(self.cpu_state)
        self._started = True
        self.running = True
        if timer.target is not self._stop_flags:
            timer.aim(self._stop_flags)
        if count is not None:
            count.begin(budget)
        try:
            while True:
                if self._flush_code:
                    self._flush_code = False
                    self.library.tb_flush(self.cpu_state)
                if self._kicked:
                    self._kicked = False
                    return Stop.KICK
                if count is not None and count.exhausted:
                    return Stop.DEADLINE
                now = time.monotonic_ns()
                if deadline_ns is None:
                    if count is None or count.watched:
                        timer.arm(now, now + _TICK_NS)
                elif now < deadline_ns:
                    timer.arm(now, deadline_ns)
                else:
                    return Stop.DEADLINE
                spin.begin()
                code = enter()
                if self._error is not None:
                    error, self._error = self._error, None
                    self._leave = False
                    raise error
                if self._leave:
                    self._leave = False
                    return Stop.HANDLER
                if code:
                    self._bus_error(code)
                elif spin.spun:
                    return Stop.SPIN
                elif halted[0]:
                    halted[0] = 0
                    if self.exits.wfi is None:
                        return Stop.WFI
                    if not self.exits.wfi():
                        return Stop.HANDLER
        finally:
            timer.disarm()
            self.running = False
            if count is not None:
                count.end()

    @property
    def counts(self) -> bool:
        """Whether the clock is a virtual one, which instructions and exceptions drive."""
        return self._count is not None

    @property
    def budget(self) -> Count | None:
        """What counts instructions on a virtual clock."""
        return self._count

    def charge_exception(self) -> None:
        """Let a virtual clock advance by what an exception takes, for one that the engine does not announce."""
        if self._count is not None:
            self._count.charge_exception()
            if self._count.exhausted:
                self._stop()

    def _bus_error(self, code: int) -> None:
        """Stage 2 led to a physical address without memory: the bus answers with an external abort."""
        self.charge_exception()
        if code == private.UC_ERR_FETCH_UNMAPPED:
            self.inject_instruction_abort(self.registers.pc)
        elif code in (private.UC_ERR_READ_UNMAPPED, private.UC_ERR_WRITE_UNMAPPED):
            word = self.instruction(self.registers.pc)
            self.inject_data_abort(effective_address(word, self.registers) if word is not None else 0)
        else:
            self.check(code, f"the engine stopped at {self.registers.pc:#x} for a reason of its own")

    def _stop(self) -> None:
        self._stop_request[0] = 1
        self._exit_request[0] = 1
        self._icount_high[0] = 0xFFFF

    def leave(self) -> None:
        """Make `run` come back with `Stop.HANDLER` as soon as the present instruction is done; for use in handlers."""
        self._leave = True
        self._stop()

    def kick(self) -> None:
        """Make `run` come back with `Stop.KICK`, now or when next called; from a handler, any thread, a signal."""
        self._kicked = True
        self._stop()

    def halt(self) -> None:
        """Come back from `run` with `Stop.WFI`; what a WFI does that nobody handles."""
        self._halted[0] = 1
        self._stop()

    def fail(self, error: BaseException) -> None:
        """Keep an exception from a handler until the engine's C code is left; `run` raises it."""
        if self._error is None:
            self._error = error
        self.leave()

    # Interrupt lines

    def _line(self, bit: int, level: bool) -> None:
        if level:
            self._interrupt_request.value |= bit
            self._icount_high[0] = 0xFFFF
        else:
            self._interrupt_request.value &= ~bit

    def set_virq(self, level: bool) -> None:
        """Drive the loaded context's virtual IRQ line."""
        self._line(private.CPU_INTERRUPT_VIRQ, level)
        if self.context is not None:
            self.context.virq = level

    def set_vfiq(self, level: bool) -> None:
        """Drive the loaded context's virtual FIQ line."""
        self._line(private.CPU_INTERRUPT_VFIQ, level)
        if self.context is not None:
            self.context.vfiq = level

    # The exit being handled

    @property
    def syndrome(self) -> int:
        """ESR of the last exception."""
        value: int = self._syndrome.value
        return value

    @property
    def target_el(self) -> int:
        """Exception level that the last exception was for; 3 for an SMC that HCR_EL2.TSC does not trap."""
        value: int = self._target_el.value
        return value

    @property
    def faulting_ipa(self) -> int:
        """IPA of the last stage-2 fault, from HPFAR_EL2 and the VA."""
        page = self.registers.read("HPFAR_EL2") << 8
        ipa: int = page | self._vaddress.value & 0xFFF
        return ipa

    @property
    def native_entries(self) -> int:
        """Exceptions that the guest's own EL1 has taken so far, interrupts not counted."""
        return self._hook.native_entries

    def route(self, kind: int, function: Callable[[int], None], corrupting: range = range(0)) -> None:
        """Let exits of one exception class go to `function(syndrome)` with nothing in between.

        It has to call `leave` itself, and to give exceptions to `fail`. Before, HVC with an immediate of `corrupting`
        puts its return address into X9 and zeros into X10 to X17.
        """
        self._hook.route(kind, function, corrupting)

    # Memory as the vCPU sees it

    def physical(self, va: int, access: int = READ, *, el: int | None = None) -> int | None:
        """Translate a VA of the loaded context through both stages, as the vCPU's own access would be.

        `access` is READ, WRITE or EXECUTE, `el` its present exception level by default. None if the access faults:
        `fault` then says how. Nothing is cached and nothing changes for the vCPU.
        """
        index = self.library.mmu_index(self._env, self.registers.current_el if el is None else el)
        walk = self._walk
        walk[FAULT_TYPE] = walk[FAULT_FLAGS] = 0
        if self.library.get_phys_addr(self._env, va, access, index, *self._walk_addresses):
            return None
        return walk[0]

    @property
    def fault(self) -> Fault:
        """How the last `physical` failed."""
        walk = self._walk
        stage2 = bool(walk[FAULT_FLAGS] & 0xFF)
        kind = _FAULT_KINDS.get(walk[FAULT_TYPE] & 0xFFFF_FFFF, "other")
        return Fault(2 if stage2 else 1, kind, walk[FAULT_TYPE + 2] & 3, walk[FAULT_TYPE + 1] if stage2 else None)

    def instruction(self, va: int) -> int | None:
        """Give the instruction word at a virtual address of the loaded context; None if it cannot be read."""
        pa = self.physical(va, EXECUTE)
        return self.memory.read_u32(pa) if pa is not None and self.memory.contains(pa, 4) else None

    def emulate(self, far: int, ipa: int) -> bool:
        """Do a device access whose syndrome does not say what it is: LDP, STP, exclusives, vectors.

        For `data_abort`, with its FAR and IPA. Each register goes through `exits.mmio_read` or `mmio_write` on its own.
        Gives False, with the vCPU unchanged, if the instruction is no load or store, leaves the page, or a device
        refuses (a store's earlier registers have been written then).
        """
        word = self.instruction(self.registers.pc) if self.registers.aarch64 else None
        access = decode_instruction(word) if word is not None else None
        if word is None or access is None or effective_address(word, self.registers) != far:
            return False
        if (ipa & 0xFFF) + access.size > 0x1000:
            return False
        values: dict[int, int] = {}
        for transfer in access.transfers if access.is_load else ():
            for start in range(transfer.offset, transfer.offset + transfer.size, 8):
                size = min(8, transfer.offset + transfer.size - start)
                answer = self.exits.mmio_read(ipa + start, size)
                if answer is None:
                    return False
                values[start] = answer & (1 << 8 * size) - 1

        def write(address: int, size: int, value: int) -> None:
            if not self.exits.mmio_write(address, size, value):
                raise LookupError(address)

        try:
            access.perform(self.registers, ipa, lambda address, size: values[address - ipa], write)
        except LookupError:
            return False
        return True

    def invalidate(self, pa: int, size: int) -> None:
        """Drop translated code of [pa, pa+size): somebody else than this core has written there.

        Writes through `PhysicalMemory` are announced by it; only writes past it need this call.
        """
        if self._started:
            for base, end, delta in self.ram:
                if base <= pa < end:
                    self.library.tb_invalidate(self.handle, pa + delta, pa + size + delta)
            self._plain.written(pa, size)

    def _share_cache_maintenance(self) -> None:
        """Other engines hold translations of the same memory: maintenance has to reach them (engine.md 1.3.4)."""
        self._intercepts.cache_maintenance_in_python(self._instruction_cache_line, self._instruction_cache_all)

    def _instruction_cache_line(self, va: int) -> None:
        self._plain.forget()
        pa = self.physical(va)
        if pa is not None:
            for core in self._shared:
                core.invalidate(pa & ~63, 64)

    def _instruction_cache_all(self, value: int) -> None:
        # Translated code cannot go while some of it runs, so the run is interrupted.
        self._plain.forget()
        for core in self._shared:
            core._flush_code = True
        self._stop()

    # What EL2 does to the guest

    def _enter(self, number: int, syndrome: int, far: int) -> None:
        self._syndrome.value = syndrome
        self._vaddress.value = far
        self._target_el.value = 1
        self._exception_index.value = number
        self.library.do_interrupt(self.cpu_state)

    def inject_undefined(self) -> None:
        """Make the loaded vCPU take an undefined instruction exception at its PC.

        HVC and SMC handlers step PC back by 4 first. Not for handlers of `define_sysreg` and `timer`.
        """
        self._enter(private.EXCP_UDEF, EC.UNKNOWN << 26 | ESR_IL, 0)

    def inject_data_abort(self, far: int, iss: int = 0x10) -> None:
        """Make the loaded vCPU take a data abort for `far` (a VA); a synchronous external abort by default."""
        kind = EC.DATA_ABORT_SAME if self.registers.current_el else EC.DATA_ABORT_LOWER
        self._enter(private.EXCP_DATA_ABORT, kind << 26 | ESR_IL | iss, far)

    def inject_instruction_abort(self, far: int, iss: int = 0x10) -> None:
        """Make the loaded vCPU take an instruction abort for `far` (a VA); a synchronous external abort by default."""
        kind = EC.INSTRUCTION_ABORT_SAME if self.registers.current_el else EC.INSTRUCTION_ABORT_LOWER
        self._enter(private.EXCP_PREFETCH_ABORT, kind << 26 | ESR_IL | iss, far)

    def inject(self, syndrome: int) -> None:
        """Make the loaded vCPU take a synchronous exception with this ESR and no address (BRK, step, ...)."""
        self._enter(private.EXCP_UDEF, syndrome, self.registers.read("FAR_EL1"))

    # System registers

    def define_sysreg(
        self, register: str | Encoding, read: Callable[[], int] | None, write: Callable[[int], object] | None
    ) -> None:
        """Give the guest's EL1 a system register that `read()` and `write(value)` implement; None makes that undefined.

        Has to happen before guest code that uses it has run. The callables run in the middle of a block of code:
        registers other than PC are current; `set_virq` and `leave` work, and take effect right after an MSR.
        """
        self._intercepts.define(SYSTEM_REGISTERS[register] if isinstance(register, str) else register, read, write)

    def trap_sysreg(self, register: str, *, user: bool = False) -> None:
        """Bring accesses to a register that the engine lacks to `exits.sysreg`; those of EL0 too with ``user``.

        Has to happen before guest code that uses it has run.
        """
        self._intercepts.trap(SYSTEM_REGISTERS[register], user=user)

    def emulate_sysreg(
        self, register: str, read: Callable[[], int] | None, write: Callable[[int], object] | None, like: str
    ) -> None:
        """As `define_sysreg`, at the levels that the engine lets access the register, or `like` if it lacks it."""
        self._intercepts.emulate(SYSTEM_REGISTERS[register], read, write, SYSTEM_REGISTERS[like])

    def set_constant(self, register: str, value: int) -> None:
        """Let a register that never changes read ``value``, before guest code that reads it has run."""
        self._intercepts.constant(register, value)

    def description(self, register: Encoding) -> int:
        """Host address of the library's description of a register, 0 if it has none."""
        return private.find_register(
            self.library, self.cpu_state, self.library.offsets.cpu_cp_regs, register
        )

    def _coprocessor(self, register: str | Encoding) -> tuple[int, tuple[int, ...]]:
        encoding = SYSTEM_REGISTERS[register] if isinstance(register, str) else register
        if not self.description(encoding):
            raise EngineError(f"the engine has no register {encoding}")
        op0, op1, crn, crm, op2 = encoding
        return self.library.unicorn.arm64_const.UC_ARM64_REG_CP_REG, (crn, crm, op0, op1, op2)

    def read_sysreg(self, register: str | Encoding) -> int:
        """Read any system register the engine knows, as the loaded vCPU would untrapped; slow.

        Raises `KeyError` for an unknown name, `EngineError` for a register the engine does not have.
        """
        number, fields = self._coprocessor(register)
        value: int = self._uc.reg_read(number, fields)
        return value

    def write_sysreg(self, register: str | Encoding, value: int) -> None:
        """Write any system register the engine knows, with its side effects; slow. Raises as `read_sysreg`."""
        number, fields = self._coprocessor(register)
        self._uc.reg_write(number, (*fields, value))


def _listener(core: weakref.ref[Core]) -> Callable[[int, int], None]:
    """Announce host writes to a core, as long as there is one."""

    def written(pa: int, size: int) -> None:
        alive = core()
        if alive is not None:
            alive.invalidate(pa, size)

    return written
