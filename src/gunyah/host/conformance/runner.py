"""Runs scenarios, each on a machine of its own, and collects what came of their steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gunyah.abi.types import U64
from gunyah.guest import dts, fdt
from gunyah.guest.cpu import Cpu
from gunyah.host.conformance.calls import CallReplay
from gunyah.host.conformance.monitor import Monitor, PrimaryEnvironment
from gunyah.host.conformance.readings import judge_environment, judge_machine
from gunyah.host.conformance.requests import RmReplay
from gunyah.host.conformance.stage import Stage
from gunyah.host.conformance.vectors import Scenario
from gunyah.host.conformance.verdict import Trouble, Verdict

__all__ = ["run_scenario", "run_scenarios"]

RM_COMPATIBLE = "gunyah-resource-manager"
SCRATCH = 0x4200_0000
"""IPA of a buffer in the primary VM's memory that nothing else uses."""

Perform = Callable[[Monitor, int, list[Verdict]], None]


def run_scenarios(
    scenarios: Sequence[Scenario], progress: Callable[[Scenario], None] = lambda _: None
) -> list[Verdict]:
    """Verdicts of all steps, in order."""
    verdicts: list[Verdict] = []
    for scenario in scenarios:
        progress(scenario)
        verdicts += run_scenario(scenario)
    return verdicts


def run_scenario(scenario: Scenario) -> list[Verdict]:
    """Boot, replay, and account for every step, also when the machine ends before them."""
    verdicts: list[Verdict] = []
    finished = False
    stage = Stage()
    perform = _perform(scenario, stage)

    def monitor_program(cpu: Cpu, x0: int) -> None:
        nonlocal finished
        perform(Monitor(cpu), x0, verdicts)
        finished = True
        while True:
            cpu.wfi()

    try:
        if scenario.role == "svm":
            raise ValueError("no recording of a secondary VM's own view can be replayed yet")
        (stage.start_root if scenario.role == "root" else stage.start_primary)(monitor_program)
        complete = stage.run(lambda: finished)
        why = "" if complete else stage.why_it_ended()
    except Exception as error:
        # The machine under test broke, not the step: everything it did not reach fails with its sentence.
        why = f"{type(error).__name__}: {error}"
        complete = False
    finally:
        stage.close()
    if not complete:
        _account(scenario, verdicts, why)
    return verdicts


def _account(scenario: Scenario, verdicts: list[Verdict], why: str) -> None:
    """Fail the step that was under way and those that were never reached."""
    trouble = Trouble.NOT_REACHED if verdicts else Trouble.BOOT
    if verdicts:
        verdicts[-1].fail(Trouble.STOPPED, "an answer", "none", why)
    lost = scenario.steps[len(verdicts) :]
    verdicts += [Verdict(scenario.file, step).fail(trouble, "a run up to here", "", why) for step in lost]


def _perform(scenario: Scenario, stage: Stage) -> Perform:
    def calls(monitor: Monitor, x0: int, verdicts: list[Verdict]) -> None:
        replay = CallReplay(scenario, stage.register, stage.pause)
        replay.verdicts = verdicts
        if scenario.role == "root":
            root = monitor.root_environment(x0)
            replay.perform(monitor, root.capabilities(), root)
        else:
            replay.perform(monitor, primary_environment(monitor, x0).capabilities(), None)

    def requests(monitor: Monitor, x0: int, verdicts: list[Verdict]) -> None:
        replay = RmReplay(scenario, stage.register)
        replay.verdicts = verdicts
        replay.perform(monitor, primary_environment(monitor, x0))

    def machine(monitor: Monitor, x0: int, verdicts: list[Verdict]) -> None:
        source = ""
        if scenario.role != "root":
            source = dts.to_dts(primary_environment(monitor, x0).tree)
        judge_machine(monitor, scenario, source, verdicts)

    def environment(monitor: Monitor, x0: int, verdicts: list[Verdict]) -> None:
        judge_environment(monitor.root_environment(x0), scenario, verdicts)

    return {"calls": calls, "rm": requests, "machine": machine, "environment": environment}[scenario.kind]


def primary_environment(monitor: Monitor, x0: int) -> PrimaryEnvironment:
    """The queues that the device tree at IPA ``x0`` names (reference.md 2); raises ValueError when it names none."""
    tree = fdt.parse(monitor.cpu.read(x0, fdt.total_size(monitor.cpu.read(x0, 40))))
    for node in tree.find_compatible(RM_COMPATIBLE):
        words = node.u64s("reg")
        if len(words) == 2 and all(word not in (0, U64) for word in words):
            return PrimaryEnvironment(tree, words[0], words[1], SCRATCH)
    raise ValueError(f"the device tree at {x0:#x} has no node {RM_COMPATIBLE} with two capabilities")
