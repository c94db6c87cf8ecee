"""Guests of a recorded scenario, reconstructed: a recording holds what its guests did, not their code.

What a proxy-scheduled vCPU did is in the answers of ``vcpu_run`` (objects.md 7): a store that stopped it, a load, a
wait. The guest made here does the same things in the same order, so the answers must come again; its own results are
kept for notes that tell them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gunyah.abi import smccc
from gunyah.abi.hypercalls import BY_NAME
from gunyah.abi.vcpu import RESET_TYPE_SMC64, RESET_TYPE_SYSTEM_RESET, VcpuRunState, WakeupSource
from gunyah.guest.cpu import Cpu
from gunyah.host.conformance import assembler as a
from gunyah.host.conformance.vectors import CallStep

__all__ = ["RESULTS", "Action", "GuestLog", "Mapping", "MemoryMap", "guest_code", "guest_program", "plan"]

RUN_CALLS = frozenset({"vcpu_run", "vcpu_run_check"})


RESULTS = 0x800
"""Offset in a native guest's image of its results: u64s in the order of the log's names."""


@dataclass(frozen=True)
class Action:
    """One thing the guest does: ``store``, ``load``, ``wfi``, ``suspend``, ``off`` or ``reset``."""

    kind: str
    words: tuple[int, ...] = ()


@dataclass
class GuestLog:
    """What the guest saw, under the names that notes use."""

    values: dict[str, int] = field(default_factory=lambda: {"identify.x0": 0, "vmmio read reg": 0, "psci": 0})


@dataclass(frozen=True)
class Mapping:
    addrspace: str
    extent: str
    base: int


@dataclass
class MemoryMap:
    """Which extent the steps mapped where, to find the root VM's window onto a guest's code."""

    mappings: list[Mapping] = field(default_factory=list)
    homes: dict[str, str] = field(default_factory=dict)

    def note(self, step: CallStep) -> None:
        """Follow a step that succeeded."""
        if step.call == "addrspace_map" and len(step.inputs) >= 3 and not step.inputs[2].startswith("$"):
            self.mappings.append(Mapping(step.inputs[0], step.inputs[1], int(step.inputs[2], 0)))
        elif step.call == "addrspace_attach_thread" and len(step.inputs) >= 2:
            self.homes[step.inputs[1]] = step.inputs[0]

    def window(self, vcpu: str, entry: int, root: str = "$addrspace") -> int | None:
        """Root VM's IPA of the code at ``entry`` (IPA of the VM of ``vcpu``), None when the root VM has no mapping of
        it."""
        home = self.homes.get(vcpu)
        ours = {m.extent: m.base for m in self.mappings if m.addrspace == root}
        candidates = [m for m in self.mappings if m.addrspace == home and m.base <= entry and m.extent in ours]
        if not candidates:
            return None
        nearest = max(candidates, key=lambda m: m.base)
        return ours[nearest.extent] + entry - nearest.base


def _words(step: CallStep) -> list[int]:
    return [int(word, 0) if not word.startswith("$") else 0 for word in step.out]


def plan(steps: Sequence[CallStep], start: int) -> list[Action]:
    """What the vCPU that ``steps[start]`` powers on does afterwards, read off the answers recorded for it."""
    vcpu = steps[start].inputs[0]
    grouped = any(
        step.call == "vpm_group_attach_vcpu" and step.inputs[1:2] == (vcpu,) and step.out[:1] == ("0x0",)
        for step in steps[:start]
    )
    actions: list[Action] = []
    previous: list[int] | None = None
    for step in steps[start + 1 :]:
        if not step.inputs or step.inputs[0] != vcpu:
            continue
        if step.call in ("vcpu_kill", "vcpu_poweron") and step.out[:1] == ("0x0",):
            break
        if step.call not in RUN_CALLS or step.out[:1] != ("0x0",):
            continue
        words = _words(step)
        if step.call == "vcpu_run_check" and words == previous:
            continue
        previous = words
        action = _action(words, grouped)
        if action is not None and not (actions and action == actions[-1] and action.kind in ("wfi", "suspend")):
            actions.append(action)
    return actions


def _action(words: list[int], grouped: bool) -> Action | None:
    state, data = words[1], words[2:]
    if state == VcpuRunState.ADDRSPACE_VMMIO_WRITE:
        return Action("store", (data[0], data[1], data[2]))
    if state == VcpuRunState.ADDRSPACE_VMMIO_READ:
        return Action("load", (data[0], data[1]))
    if state == VcpuRunState.EXPECTS_WAKEUP:
        # Without a group there is no PSCI, and a WFI is what shows as a suspend (objects.md 11).
        return Action("suspend", (data[0],)) if data[1] == WakeupSource.PSCI_CPU_SUSPEND and grouped else Action("wfi")
    if state == VcpuRunState.POWERED_OFF:
        return Action("off")
    if state == VcpuRunState.PSCI_SYSTEM_RESET:
        return Action("reset", (data[0], data[1]))
    return None


def guest_program(actions: Sequence[Action], log: GuestLog) -> Callable[[Cpu, int], None]:
    """A Python VM that identifies the hypervisor, does ``actions`` and then waits for good."""

    def call(cpu: Cpu, immediate: int, *arguments: int) -> int:
        for number in range(8):
            cpu.x[number] = arguments[number] if number < len(arguments) else 0
        cpu.hvc(immediate)
        return int(cpu.x[0])

    def program(cpu: Cpu, x0: int) -> None:
        log.values["identify.x0"] = call(cpu, BY_NAME["hypervisor_identify"].hvc)
        for action in actions:
            if action.kind == "store":
                cpu.store(action.words[0], action.words[2], action.words[1])
            elif action.kind == "load":
                log.values["vmmio read reg"] = cpu.load(action.words[0], action.words[1])
            elif action.kind != "wfi":
                log.values["psci"] = call(cpu, 0, *_psci(action))
            else:
                cpu.wfi()
        while True:
            cpu.wfi()

    return program


def guest_code(actions: Sequence[Action]) -> bytes:
    """The same guest as AArch64 code, one page; its results stand at RESULTS."""
    code = [a.adr(20, RESULTS)]

    def call(immediate: int, *arguments: int) -> None:
        for number, value in enumerate(arguments):
            code.extend(a.move(number, value))
        code.append(a.exception_call("hvc", immediate))

    call(BY_NAME["hypervisor_identify"].hvc)
    code.append(a.store(0, 20, 0))
    for action in actions:
        if action.kind == "store":
            address, size, value = action.words
            code += [*a.move(1, address), *a.move(2, value), a.store(2, 1, 0, size)]
        elif action.kind == "load":
            code += [*a.move(1, action.words[0]), a.load(3, 1, 0, action.words[1]), a.store(3, 20, 8)]
        elif action.kind == "wfi":
            code.append(a.wfi())
        else:
            call(0, *_psci(action))
            code.append(a.store(0, 20, 16))
    code += [a.wfi(), a.branch(-4)]
    image = struct.pack(f"<{len(code)}I", *code)
    if len(image) > RESULTS:
        raise ValueError(f"the recorded guest does {len(actions)} things, too many for one page of code")
    return image.ljust(0x1000, b"\0")


def _psci(action: Action) -> tuple[int, ...]:
    """Function id and arguments of the call that stops the vCPU in the recorded way."""
    if action.kind == "suspend":
        return smccc.PSCI_CPU_SUSPEND_64, action.words[0], 0, 0
    if action.kind == "off":
        return (smccc.PSCI_SYSTEM_OFF,)
    kind, cookie = action.words
    if kind & RESET_TYPE_SYSTEM_RESET:
        return (smccc.PSCI_SYSTEM_RESET,)
    function = smccc.PSCI_SYSTEM_RESET2_64 if kind & RESET_TYPE_SMC64 else smccc.PSCI_SYSTEM_RESET2_32
    return function, kind & 0xFFFF_FFFF, cookie
