"""Replays one scenario of hypercalls from inside a VM, step by step."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence

from gunyah.abi import pyimage, smccc
from gunyah.abi.errors import Error
from gunyah.abi.hypercalls import BY_NAME
from gunyah.abi.types import U32
from gunyah.guest.cpu import GuestAbort, Program
from gunyah.host.conformance.guests import RESULTS as GUEST_RESULTS
from gunyah.host.conformance.guests import GuestLog, MemoryMap, guest_code, guest_program, plan
from gunyah.host.conformance.judge import CapabilityNames, judge
from gunyah.host.conformance.monitor import Monitor, RootEnvironment
from gunyah.host.conformance.names import in_native_form
from gunyah.host.conformance.observations import Bindings, Drain, observe, trigger_of
from gunyah.host.conformance.vectors import CallStep, Scenario
from gunyah.host.conformance.verdict import Trouble, Verdict
from gunyah.machine import board

__all__ = ["CallReplay"]

ROOT_SPIS = range(32, 96)
"""What the root VM's interrupt controller has (boot.md 3 step 6)."""

PRIMARY_SPIS = range(960, 962)
"""Those of the primary VM's queues to and from RM (reference.md 2)."""

ENTROPY_CALLS = 4
ENTROPY_WINDOW = 0.034
"""Calls that a vCPU may make within so many seconds (hypercalls.md 3.16)."""

SUSPENDS = frozenset(
    {
        smccc.PSCI_CPU_SUSPEND_32,
        smccc.PSCI_CPU_SUSPEND_64,
        smccc.PSCI_CPU_DEFAULT_SUSPEND_32,
        smccc.PSCI_CPU_DEFAULT_SUSPEND_64,
    }
)

ASK_VMID = bytes.fromhex("2101010024000056")
ASK_NOTHING = bytes.fromhex("21010100ff0f0056")
"""Requests without payload: GET_VMID, and one that RM does not know (rm-rpc.md 2)."""
VMID_ANSWER, ERROR_ANSWER = 16, 12
"""Sizes of RM's answers to them."""
MESSAGE_SIZES = range(8, 241)
BOARD_RAM = range(board.RAM.base, board.RAM.base + board.RAM.size)

RESULTS = re.compile(r"guest results \[([^\]]*)\]: \[([^\]]*)\]")
HARDWARE = re.compile(r"valid hwirq numbers: \[([^\]]*)\]")

Register = Callable[[str, Program], int]


def _answered(step: CallStep, error: Error) -> bool:
    return step.out[:1] == (f"{error:#x}",)


def _succeeded(step: CallStep) -> bool:
    return _answered(step, Error.OK)


def _counts(step: CallStep) -> bool:
    """A request for entropy that is well-formed: the others are refused before anybody looks at the ration."""
    return _succeeded(step) or _answered(step, Error.BUSY)


class CallReplay:
    """``verdicts`` grows by one with each step; the last one is the step that is under way."""

    def __init__(
        self, scenario: Scenario, register: Register, pause: Callable[[float], None], *, native: bool = False
    ) -> None:
        self._steps: Sequence[CallStep] = [step for step in scenario.steps if isinstance(step, CallStep)]
        self._plain = [in_native_form(step) for step in self._steps]
        self._scenario = scenario
        self._register = register
        self._pause = pause
        self._native = native
        self._window: int | None = None
        self._memory = MemoryMap()
        self._bindings = Bindings()
        notes = [step.note for step in self._steps if step.insn is None]
        named = {"edge": True, "level": False}
        self._edge = next((named[word] for word in named if word in scenario.name), trigger_of(notes))
        self._drain = Drain.of(notes, edge=self._edge is True)
        self._log = GuestLog()
        self._entropy_calls = 0
        self.verdicts: list[Verdict] = []
        self.capabilities = CapabilityNames({})

    def perform(self, monitor: Monitor, given: dict[str, int], environment: RootEnvironment | None) -> None:
        """Run every step; ``given`` are the capabilities and buffers the VM booted with."""
        self.capabilities = CapabilityNames(dict(given))
        if any(step.call == "observe" for step in self._steps):
            spis = ROOT_SPIS if environment is not None else PRIMARY_SPIS
            monitor.enable_interrupts(spis, edge=self._edge)
        self._prepare_messages(monitor)
        for index, step in enumerate(self._steps):
            verdict = Verdict(self._scenario.file, step)
            self.verdicts.append(verdict)
            try:
                if step.insn is not None:
                    self._call(monitor, index, step, verdict)
                elif step.call == "HYP_FAILURE":
                    self._still_alive(monitor, verdict)
                else:
                    self._observe(monitor, step, verdict, environment)
            except GuestAbort as abort:
                verdict.fail(Trouble.STOPPED, "an answer", f"abort esr={abort.esr:#x} at {abort.far:#x}", str(abort))
            except ValueError as error:
                verdict.fail(Trouble.NOT_READABLE, step.note or step.call, "", str(error))

    # -- hypercalls ----------------------------------------------------------------------------------------------------

    def _call(self, monitor: Monitor, index: int, step: CallStep, verdict: Verdict) -> None:
        assert step.insn is not None
        inputs = []
        for word in step.inputs:
            if not word.startswith("$"):
                inputs.append(int(word, 0))
            elif word in self.capabilities.ids:
                inputs.append(self.capabilities.ids[word])
            else:
                verdict.fail(Trouble.NAME_UNKNOWN, word, "no such name", f"no earlier step saved {word}")
                return
        plain = self._plain[index]
        if plain.call == "vcpu_poweron" and plain.inputs and _succeeded(step):
            self._place_guest(monitor, index, plain)
        elif plain.call == "prng_get_entropy" and _succeeded(step):
            self._keep_pace(index)
        elif plain.call == "msgqueue_send" and _succeeded(step):
            self._compose(monitor, index, plain)
        # Whoever came back from a suspend had something to wake up for.
        woken = step.insn.immediate == 0 and inputs[:1] and inputs[0] & U32 & ~smccc.HINT_SVE in SUSPENDS and step.out
        if woken:
            monitor.set_alarm(True)
        got = monitor.execute(step.insn, inputs)
        if woken:
            monitor.set_alarm(False)
        judge(verdict, step, inputs, got, self.capabilities)
        if got[0] == 0:
            self.capabilities.note(plain)
            self._memory.note(plain)
            self._note_binding(plain)

        # The recorder took its orders over a serial line: between two steps everybody else had time to run.
        monitor.hypercall(BY_NAME["scheduler_yield"].number)

    def _keep_pace(self, index: int) -> None:
        """Entropy is rationed by time, which a recording does not hold: wait where the recorder must have waited."""
        answers = [
            _succeeded(step) for step in self._plain[index:] if step.call == "prng_get_entropy" and _counts(step)
        ]
        # Whoever was refused had his whole ration within one window.
        refused = answers.index(False) if False in answers else 0
        if self._entropy_calls >= ENTROPY_CALLS or (self._entropy_calls and refused == ENTROPY_CALLS):
            self._pause(ENTROPY_WINDOW)
            self._entropy_calls = 0
        self._entropy_calls += 1

    def _note_binding(self, step: CallStep) -> None:
        call = BY_NAME.get(step.call)
        if call is None or (not step.call.endswith("bind_virq") and "_bind_" not in step.call):
            return
        for argument, word in zip(call.arguments, step.inputs, strict=False):
            if argument.name == "virq" and not word.startswith("$"):
                self._bindings.note(step.call, int(word, 0))

    def _place_guest(self, monitor: Monitor, index: int, step: CallStep) -> None:
        vcpu, entry = (*step.inputs, "0", "0")[:2]
        window = self._window = self._memory.window(vcpu, int(entry, 0) if not entry.startswith("$") else 0)
        if window is None:
            return
        actions = plan(self._plain, index)
        if self._native:
            monitor.cpu.write(window, guest_code(actions))
        else:
            program = guest_program(actions, self._log)
            monitor.cpu.write(window, pyimage.pack(self._register("recorded guest", program)))

    def _guest_results(self, monitor: Monitor) -> dict[str, int]:
        if not self._native or self._window is None:
            return self._log.values
        names = list(self._log.values)
        words = struct.unpack(f"<{len(names)}Q", monitor.cpu.read(self._window + GUEST_RESULTS, 8 * len(names)))
        return dict(zip(names, words, strict=True))

    def _prepare_messages(self, monitor: Monitor) -> None:
        """A recording that starts by receiving had a message waiting: ask RM for one."""
        rx = self.capabilities.ids.get("$rm_rx")
        first = next((s for s in self._plain if s.inputs[:1] in (("$rm_rx",), ("$rm_tx",))), None)
        waiting = first is not None and first.call == "msgqueue_receive" and not _answered(first, Error.MSGQUEUE_EMPTY)
        if rx is None or not waiting:
            return
        scratch = self.capabilities.ids["$scratch"]
        monitor.cpu.write(scratch, ASK_VMID)
        monitor.hypercall(BY_NAME["msgqueue_send"].number, self.capabilities.ids["$rm_tx"], 8, scratch, 1, 0)
        self._let_rm_answer(monitor)

    def _compose(self, monitor: Monitor, index: int, step: CallStep) -> None:
        """Put a message where the recorder must have had one: RM's answer to it is received later."""
        queue, size, buffer = (*step.inputs, "0", "0")[:3]
        if queue != "$rm_tx" or size.startswith("$") or int(size, 0) not in MESSAGE_SIZES:
            return
        later = (s for s in self._plain[index + 1 :] if s.inputs[:1] in (("$rm_rx",), ("$rm_tx",)))
        answer = next((s for s in later if _succeeded(s) and s.call in ("msgqueue_send", "msgqueue_receive")), None)
        if answer is None or answer.call == "msgqueue_send" or len(answer.out) < 2 or answer.out[1].startswith("$"):
            return
        asked = {VMID_ANSWER: ASK_VMID, ERROR_ANSWER: ASK_NOTHING}.get(int(answer.out[1], 0))
        where = self.capabilities.ids.get(buffer, 0) if buffer.startswith("$") else int(buffer, 0)
        if asked is not None and where in BOARD_RAM:
            monitor.cpu.write(where, asked.ljust(int(size, 0), b"\0"))

    def _let_rm_answer(self, monitor: Monitor) -> None:
        for _ in range(64):
            monitor.hypercall(BY_NAME["scheduler_yield"].number)

    def _still_alive(self, monitor: Monitor, verdict: Verdict) -> None:
        call = BY_NAME["hypervisor_identify"]
        got = monitor.hypercall(call.number)[0]
        if got >> 56 == 0 or got & 0x3FFF == 0:
            verdict.fail(Trouble.CRASHED, "an answer afterwards", f"x0 = {got:#x}")

    # -- observations --------------------------------------------------------------------------------------------------

    def _observe(self, monitor: Monitor, step: CallStep, verdict: Verdict, environment: RootEnvironment | None) -> None:
        if match := RESULTS.search(step.note):
            names = [name.strip() for name in match[1].split(",")]
            expected = [word.strip(" '\"") for word in match[2].split(",")]
            values = self._guest_results(monitor)
            got = [f"{values[name]:#x}" if name in values else "?" for name in names]
            if got != expected:
                verdict.fail(Trouble.WRONG_VALUE, ", ".join(expected), ", ".join(got), f"of {match[1]}")
            return
        if match := HARDWARE.search(step.note):
            wanted = [int(word) for word in match[1].split(",") if word.strip()]
            have = environment.hardware_interrupts() if environment is not None else []
            if have != wanted:
                missing = sorted(set(wanted) - set(have))
                extra = sorted(set(have) - set(wanted))
                verdict.fail(Trouble.WRONG_VALUE, f"{len(wanted)} interrupts", f"without {missing}, with {extra}")
            return
        findings = observe(monitor, step.note, self._bindings, self._drain)
        if not findings:
            verdict.fail(Trouble.NOT_READABLE, step.note, "", "the note states nothing that can be checked")
            return
        wrong = [finding for finding in findings if not finding.same]
        if wrong:
            expected_words = "; ".join(f"{f.what} = {f.expected}" for f in wrong)
            verdict.fail(Trouble.WRONG_VALUE, expected_words, "; ".join(f"{f.what} = {f.got}" for f in wrong))
