"""Runs a vCPU whose code is a Python function: the provider side of ``gunyah.guest.cpu`` (two kinds of VM, one
hypervisor).

The function runs on a greenlet of its own; a hypercall is a plain call into the dispatcher on that greenlet, and only
when the vCPU has to stop does it switch to the hypervisor's loop. Whatever greenlet of the guest left is the one that
goes on later, so guests may have tasks of their own. The guest gets this object as its ``Cpu``: registers, memory
through its own stage 2, and nothing else.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, MutableSequence
from typing import TYPE_CHECKING, Any, NoReturn

from greenlet import GreenletExit, getcurrent, greenlet

from gunyah.abi import pyimage
from gunyah.hypervisor.emulation import ExternalAbort, VmmioExit, device_access
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.stage2 import Stage2Fault
from gunyah.hypervisor.system_registers import UndefinedRegister, read_register, write_register
from gunyah.hypervisor.vcpu import Block, ThreadState
from gunyah.machine.clock import VirtualClock

if TYPE_CHECKING:
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.vcpu import Vcpu

__all__ = ["Program", "PythonExecutor"]

# A hypercall costs this much virtual time: without it a guest that only makes calls would stop the clock (62 ticks = 1
# us).
CALL_TICKS = 62
# Calls between two looks at the clock.
BUDGET = 64

_WFI = int(Block.WFI)
_THREAD_READY = int(ThreadState.READY)

_READ = 4
_WRITE = 2


class Program:
    """A Python program as the hypervisor keeps it: the function, and the exceptions that deliver aborts to it.

    ``abort(esr, far, sentence)`` and ``undefined(sentence)`` make the exceptions that stand for the EL1 vectors; they
    belong to the guest's side, which this room may not import.
    """

    __slots__ = ("abort", "function", "name", "undefined")

    def __init__(
        self,
        name: str,
        function: Callable[[Any, int], None],
        abort: Callable[[int, int, str], Exception],
        undefined: Callable[[str], Exception],
    ) -> None:
        self.name = name
        self.function = function
        self.abort = abort
        self.undefined = undefined


class PythonExecutor:
    """One Python vCPU; implements both ``Executor`` (for the scheduler) and ``Cpu`` (for the guest)."""

    def __init__(self, hv: Hypervisor, vcpu: Vcpu, program: Program) -> None:
        self._hv = hv
        self._vcpu = vcpu
        self._program = program
        # The ways into the hypervisor: closed together when the guest is to unwind.
        self._hvc: Callable[..., Any] = hv.dispatcher.hvc
        self._smc: Callable[..., Any] = hv.dispatcher.smc
        self._read_register: Callable[..., int] = read_register
        self._write_register: Callable[..., Any] = write_register
        self._access: Callable[..., int] = device_access
        assert vcpu.addrspace is not None
        self._addrspace = vcpu.addrspace
        self._guest: greenlet | None = None
        self._resume: greenlet | None = None
        self._hub: greenlet | None = None
        self._deadline = 0
        self._budget = BUDGET
        self._masked = True
        self._vector: Callable[[], None] | None = None
        self._nudged = False
        self._preempted = False
        self._entry_context = 0

    # -- Executor ------------------------------------------------------------------------------------------------------

    def power_on(self, entry: int, context: int) -> None:
        """Start the program with ``context`` as its x0; interrupts masked, no vector. Once: then a new executor."""
        self._entry_context = context
        self._guest = self._resume = greenlet(self._main)

    def run(self, deadline: int) -> None:
        """Let the guest go on until it blocks or the scheduler is wanted."""
        resume = self._resume
        if resume is None:
            return
        self._hub = getcurrent()
        self._deadline = deadline
        self._budget = BUDGET
        self._preempted = False
        guest = self._guest
        if guest is not None:
            guest.parent = self._hub
        resume.switch()
        clock = self._hv.clock
        if isinstance(clock, VirtualClock):
            clock.advance((BUDGET - self._budget + 1) * CALL_TICKS)

    def interrupt(self) -> None:
        """Leave after the call that is being made: ``attention`` is looked at after every one."""
        self._preempted = True
        self._vcpu.attention = True

    def set_virq(self, level: bool) -> None:
        """A pending interrupt is taken after the call that is being made."""
        if level and not self._masked:
            self._vcpu.attention = True

    def kill(self) -> None:
        """Unwind the guest's greenlets. What they still call while they unwind does not reach the hypervisor."""
        guest, self._guest, self._resume = self._guest, None, None
        self._hvc = self._smc = self._read_register = self._write_register = self._access = _gone
        if guest is not None and not guest.dead and guest is not getcurrent():
            guest.parent = getcurrent()
            guest.throw(GreenletExit)

    def copy_in(self, address: int, size: int) -> bytes:
        """Stage 1 is off: a VA is an IPA."""
        return self._addrspace.read(address, size)

    def copy_out(self, address: int, data: bytes) -> None:
        """Stage 1 is off: a VA is an IPA."""
        self._addrspace.write(address, data)

    def _main(self) -> None:
        vcpu = self._vcpu
        try:
            self._program.function(self, self._entry_context)
            sentence = f"{vcpu}: the program {self._program.name} returned"
            self._hv.remark(vcpu, sentence)
            if vcpu.thread_state == ThreadState.READY:
                vcpu.power_off()
        except GreenletExit:
            pass
        except (Exception, SystemExit) as error:
            self._hv.keep_report(vcpu, traceback.format_exc())
            vcpu.fault(f"{vcpu}: the program {self._program.name} raised {type(error).__name__}: {error}")
        self._resume = None

    # -- leaving and coming back ---------------------------------------------------------------------------------------

    def _leave(self) -> None:
        """Switch to the hypervisor's loop; returns when the scheduler runs this vCPU again."""
        if self._guest is None:
            raise GreenletExit
        self._resume = getcurrent()
        hub = self._hub
        assert hub is not None
        hub.switch()

    def _attend(self) -> None:
        """After a call: leave when blocked or preempted, then take a pending interrupt."""
        vcpu = self._vcpu
        hv = self._hv
        while True:
            vcpu.attention = False
            if self._budget < 0:
                clock = hv.clock
                if isinstance(clock, VirtualClock):
                    clock.advance((BUDGET - self._budget) * CALL_TICKS)
                self._budget = BUDGET
                if clock.ticks() >= self._deadline or hv.due():
                    self._leave()
                    continue
            if self._preempted or vcpu.blocks or vcpu.yield_target is not None or vcpu.thread_state != _THREAD_READY:
                self._leave()
            elif vcpu.virq and not self._masked and self._vector is not None:
                self._take_interrupt(self._vector)
            else:
                return

    def _take_interrupt(self, vector: Callable[[], None]) -> None:
        self._masked = True
        try:
            vector()
        finally:
            self._masked = False

    def _crash(self, error: Exception) -> None:
        """EL2 itself failed in a call of this vCPU: its VM stops, whatever the guest would do about an exception."""
        vcpu = self._vcpu
        self._hv.keep_report(vcpu, traceback.format_exc())
        vcpu.fault(f"{vcpu}: a call to the hypervisor raised {type(error).__name__}: {error}")
        self._attend()

    # -- Cpu -----------------------------------------------------------------------------------------------------------

    @property
    def x(self) -> MutableSequence[int]:
        """X0..X30."""
        return self._vcpu.x

    @property
    def irq_masked(self) -> bool:
        """PSTATE.I."""
        return self._masked

    @irq_masked.setter
    def irq_masked(self, masked: bool) -> None:
        self._masked = masked
        if not masked and self._vcpu.virq:
            self._attend()

    def set_vector(self, handler: Callable[[], None]) -> None:
        """VBAR_EL1 + 0x280."""
        self._vector = handler

    def hvc(self, imm: int = 0) -> None:
        """HVC #imm."""
        self._budget -= 1
        vcpu = self._vcpu
        try:
            self._hvc(vcpu, imm)
        except Exception as error:
            self._crash(error)
        if vcpu.attention or self._budget < 0:
            self._attend()

    def smc(self, imm: int = 0) -> None:
        """SMC #imm, trapped."""
        self._budget -= 1
        vcpu = self._vcpu
        try:
            self._smc(vcpu, imm)
        except Exception as error:
            self._crash(error)
        if vcpu.attention or self._budget < 0:
            self._attend()

    def wfi(self) -> None:
        """Trapped WFI: blocks the vCPU until an interrupt is pending."""
        vcpu = self._vcpu
        if self._guest is None:
            raise GreenletExit
        if self._nudged:
            self._nudged = False
        elif not vcpu.virq:
            if self._hv.instruments:
                self._hv.watch_trap(vcpu, "wfi", 0)
            vcpu.block(_WFI)
            self._attend()
            self._nudged = False
            return
        self._budget -= 1
        self._attend()

    def nudge(self) -> None:
        """Make a waiting ``wfi`` return, or the next one: for a host that has left work for the guest."""
        self._nudged = True
        self._vcpu.unblock(_WFI)

    def read(self, address: int, size: int) -> bytes:
        """Normal memory through stage 2."""
        try:
            return self._addrspace.read(address, size)
        except Stage2Fault as fault:
            raise self._abort(address, False, str(fault)) from None

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Normal memory through stage 2."""
        try:
            self._addrspace.write(address, data)
        except Stage2Fault as fault:
            raise self._abort(address, True, str(fault)) from None

    def load(self, address: int, width: int) -> int:
        """One load of ``width`` bytes, of memory or of an emulated device."""
        if address % width:
            raise self._abort(address, False, f"load of {width} bytes at {address:#x} is not aligned")
        try:
            return int.from_bytes(self._addrspace.read(address, width), "little")
        except Stage2Fault as fault:
            return self._device(fault, address, width, False, 0)

    def store(self, address: int, value: int, width: int) -> None:
        """One store of ``width`` bytes, to memory or to an emulated device."""
        if address % width:
            raise self._abort(address, True, f"store of {width} bytes at {address:#x} is not aligned")
        data = (value & (1 << 8 * width) - 1).to_bytes(width, "little")
        try:
            self._addrspace.write(address, data)
        except Stage2Fault as fault:
            self._device(fault, address, width, True, int.from_bytes(data, "little"))

    def _device(self, fault: Stage2Fault, address: int, width: int, write: bool, value: int) -> int:
        vcpu = self._vcpu
        self._budget -= 1
        try:
            value = self._access(self._hv, vcpu, fault, address, width, write, value)
        except ExternalAbort as abort:
            raise self._abort(address, write, str(abort)) from None
        except VmmioExit:
            self._attend()
            value = vcpu.vmmio_answer & (1 << 8 * width) - 1
        except Exception as error:
            self._crash(error)
        if vcpu.attention or self._budget < 0:
            self._attend()
        return value

    def _abort(self, address: int, write: bool, sentence: str) -> Exception:
        return self._program.abort(0x9600_0010, address, sentence)

    def mrs(self, register: str) -> int:
        """A system register by name."""
        self._budget -= 1
        try:
            value = self._read_register(self._hv, self._vcpu, register)
        except UndefinedRegister as undefined:
            raise self._program.undefined(str(undefined)) from None
        except Exception as error:
            self._crash(error)
            raise
        if self._vcpu.attention or self._budget < 0:
            self._attend()
        return value

    def msr(self, register: str, value: int) -> None:
        """A system register by name."""
        self._budget -= 1
        try:
            self._write_register(self._hv, self._vcpu, register, value & (1 << 64) - 1)
        except UndefinedRegister as undefined:
            raise self._program.undefined(str(undefined)) from None
        except Exception as error:
            self._crash(error)
        if self._vcpu.attention or self._budget < 0:
            self._attend()

    def ticks(self) -> int:
        """CNTVCT_EL0."""
        return self._hv.clock.sample()


def _gone(*arguments: object) -> NoReturn:
    """What a call of a guest that is being unwound comes to."""
    raise GreenletExit


def program_at_entry(hv: Hypervisor, vcpu: Vcpu, entry: int) -> Program | None:
    """The Python program whose image lies at ``entry`` (IPA) in the vCPU's memory, None if it is native code."""
    assert vcpu.addrspace is not None
    try:
        number = pyimage.program_id(vcpu.addrspace.read(entry, pyimage.SIZE))
    except (Stage2Fault, HypervisorError):
        return None
    return hv.programs.get(number) if number is not None else None
