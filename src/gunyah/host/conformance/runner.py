"""Runs scenarios, each on a machine of its own, and collects what came of their steps."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Callable, Sequence

from gunyah.abi.rm.messages import MessageId
from gunyah.abi.types import U64, VMID_HLOS, VMID_RM
from gunyah.guest import dts, fdt
from gunyah.guest.cpu import Cpu
from gunyah.host.conformance import secondary
from gunyah.host.conformance.calls import CallReplay
from gunyah.host.conformance.lives import died, lives, never_returned
from gunyah.host.conformance.monitor import Monitor, PrimaryEnvironment
from gunyah.host.conformance.readings import judge_environment, judge_machine
from gunyah.host.conformance.requests import RmReplay
from gunyah.host.conformance.secondary import SECONDARY_VMID, owner_program
from gunyah.host.conformance.secondary_view import Desk, SecondaryVm, describe_self
from gunyah.host.conformance.stage import Stage
from gunyah.host.conformance.vectors import CallStep, RmStep, Scenario, Step
from gunyah.host.conformance.verdict import Trouble, Verdict
from gunyah.machine import board

__all__ = ["run_scenario", "run_scenarios"]

RM_COMPATIBLE = "gunyah-resource-manager"
SCRATCH = 0x4200_0000
"""IPA of a buffer in the primary VM's memory that nothing else uses."""

PLACES = {
    "root": (VMID_RM, board.ROOT_VM.base),
    "pvm": (VMID_HLOS, board.HLOS_ENTRY),
    "svm": (SECONDARY_VMID, secondary.BASE),
}
"""VMID and IPA of the image of the VM that each role is."""

Perform = Callable[[Monitor, int, list[Verdict]], None]
Work = Callable[[Monitor, int], None]
Start = Callable[[bytes], None]


def run_scenarios(
    scenarios: Sequence[Scenario], driver: str = "auto", progress: Callable[[Scenario], None] = lambda _: None
) -> list[Verdict]:
    """Verdicts of all steps, in order; ``driver`` is what the monitor is: "python", "native" or "auto"."""
    verdicts: list[Verdict] = []
    for scenario in scenarios:
        progress(scenario)
        verdicts += run_scenario(scenario, driver)
    return verdicts


def run_scenario(scenario: Scenario, driver: str = "auto") -> list[Verdict]:
    """Boot, replay, and account for every step, also when the machine ends before them; a boot for each life."""
    native = driver == "native" or (driver == "auto" and scenario.kind == "machine" and _has_engine())
    return [verdict for life in lives(scenario) for verdict in _run_life(life, native=native)]


def _run_life(scenario: Scenario, *, native: bool) -> list[Verdict]:
    verdicts: list[Verdict] = []
    stage = Stage()
    secondary_vm, desk = describe_self(scenario.steps), Desk()
    perform = _perform(scenario, stage, secondary_vm, desk, native=native)
    try:
        start = {
            "root": stage.start_root,
            "pvm": stage.start_primary,
            "svm": _secondary_of(stage, scenario, secondary_vm, desk),
        }[scenario.role]
        run = _run_native if native else _run_python
        why = run(stage, start, scenario, lambda monitor, x0: perform(monitor, x0, verdicts))
    except Exception as error:
        # The machine under test broke, not the step: everything it did not reach fails with its sentence.
        why = f"{type(error).__name__}: {error}"
    finally:
        stage.close()
    if why:
        _account(scenario, verdicts, why)
    return verdicts


def _has_engine() -> bool:
    """A Python VM has no ID registers of its own to read; where the host has the CPU engine, that one is asked."""
    return importlib.util.find_spec("unicorn") is not None and platform.machine() == "x86_64"


def _secondary_of(stage: Stage, scenario: Scenario, secondary_vm: SecondaryVm, desk: Desk) -> Start:
    """Start an image as a secondary VM, under RM and a primary VM that owns it; with PSCI where PSCI answered."""
    psci = any(
        isinstance(step, CallStep) and step.call.startswith("PSCI") and not step.out[0].endswith("ffffffff")
        for step in scenario.steps
        if isinstance(step, CallStep) and step.out
    )

    def start(image: bytes) -> None:
        owner = owner_program(image, primary_environment, psci=psci, secondary=secondary_vm, desk=desk)
        stage.start_primary(stage.image_of(owner))

    return start


def _run_python(stage: Stage, start: Start, scenario: Scenario, work: Work) -> str:
    """The monitor is a Python VM and does the work from inside; returns why it did not finish, or nothing."""
    finished = False

    def program(cpu: Cpu, x0: int) -> None:
        nonlocal finished
        work(Monitor(cpu), x0)
        finished = True
        while True:
            cpu.wfi()

    start(stage.image_of(program))
    return "" if stage.run(lambda: finished) else stage.why_it_ended()


def _run_native(stage: Stage, start: Start, scenario: Scenario, work: Work) -> str:
    """The monitor is AArch64 code and takes its orders one by one."""
    from gunyah.host.conformance.native import IMAGE, NativeMonitorCpu, StageEnded

    start(IMAGE)
    vmid, base = PLACES[scenario.role]
    cpu = NativeMonitorCpu(stage, lambda: stage.boot_vcpu(vmid), base)
    try:
        work(Monitor(cpu), cpu.boot())
    except StageEnded as end:
        return str(end)
    return ""


def _account(scenario: Scenario, verdicts: list[Verdict], why: str) -> None:
    """Fail the step that was under way and those that were never reached."""
    trouble = Trouble.NOT_REACHED if verdicts else Trouble.BOOT
    if verdicts and _ended_itself(scenario, verdicts[-1].step):
        # That is what the request asks for; nobody is left to see an answer.
        verdicts += [Verdict(scenario.file, step) for step in scenario.steps[len(verdicts) :] if died(step)]
    elif verdicts:
        verdicts[-1].fail(Trouble.STOPPED, "an answer", "none", why)
    lost = scenario.steps[len(verdicts) :]
    verdicts += [Verdict(scenario.file, step).fail(trouble, "a run up to here", "", why) for step in lost]


def _ended_itself(scenario: Scenario, step: Step) -> bool:
    """The step is a call that did not return, or a secondary VM's VM_EXIT, which was never answered (rm-rpc.md 6)."""
    exits = scenario.role == "svm" and died(step) and isinstance(step, RmStep) and step.message == MessageId.VM_EXIT
    return exits or never_returned(step)


def _perform(scenario: Scenario, stage: Stage, secondary_vm: SecondaryVm, desk: Desk, *, native: bool) -> Perform:
    def given(monitor: Monitor, x0: int) -> PrimaryEnvironment:
        return primary_environment(monitor, x0, secondary.SCRATCH if scenario.role == "svm" else SCRATCH)

    def calls(monitor: Monitor, x0: int, verdicts: list[Verdict]) -> None:
        replay = CallReplay(scenario, stage.register, stage.pause, native=native)
        replay.verdicts = verdicts
        if scenario.role == "root":
            root = monitor.root_environment(x0)
            replay.perform(monitor, root.capabilities(), root)
        else:
            replay.perform(monitor, given(monitor, x0).capabilities(), None)

    def requests(monitor: Monitor, x0: int, verdicts: list[Verdict]) -> None:
        own_view = scenario.role == "svm"
        replay = RmReplay(scenario, stage.register, desk if own_view else None, secondary_vm.vmid)
        replay.verdicts = verdicts
        replay.perform(monitor, given(monitor, x0))

    def machine(monitor: Monitor, x0: int, verdicts: list[Verdict]) -> None:
        source = ""
        if scenario.role != "root":
            source = dts.to_dts(given(monitor, x0).tree)
        judge_machine(monitor, scenario, source, verdicts)

    def environment(monitor: Monitor, x0: int, verdicts: list[Verdict]) -> None:
        judge_environment(monitor.root_environment(x0), scenario, verdicts)

    return {"calls": calls, "rm": requests, "machine": machine, "environment": environment}[scenario.kind]


def primary_environment(monitor: Monitor, x0: int, scratch: int = SCRATCH) -> PrimaryEnvironment:
    """The queues that the device tree at IPA ``x0`` names (reference.md 2); raises ValueError when it names none."""
    tree = fdt.parse(monitor.cpu.read(x0, fdt.total_size(monitor.cpu.read(x0, 40))))
    for node in tree.find_compatible(RM_COMPATIBLE):
        words = node.u64s("reg")
        if len(words) == 2 and all(word not in (0, U64) for word in words):
            return PrimaryEnvironment(tree, words[0], words[1], scratch)
    raise ValueError(f"the device tree at {x0:#x} has no node {RM_COMPATIBLE} with two capabilities")
