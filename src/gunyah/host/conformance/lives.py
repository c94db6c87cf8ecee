"""Where the reference's RM died in a recording, or a call ended the machine, its recorder booted anew and went on.

So a list of RM steps may hold several lives of the stack: state carries over inside one, never from one to the next.
"""

from __future__ import annotations

from dataclasses import replace

from gunyah.abi import smccc
from gunyah.abi.errors import RmError
from gunyah.abi.rm.messages import MessageId
from gunyah.abi.types import U32
from gunyah.host.conformance.askers import PRIMARY, SECONDARY
from gunyah.host.conformance.vectors import CallStep, RmStep, Scenario, Step

__all__ = ["died", "lives", "never_returned"]

ENDS = frozenset(
    {
        smccc.PSCI_CPU_OFF,
        smccc.PSCI_SYSTEM_OFF,
        smccc.PSCI_SYSTEM_RESET,
        smccc.PSCI_SYSTEM_RESET2_32,
        smccc.PSCI_SYSTEM_RESET2_64,
    }
)


def died(step: Step) -> bool:
    """The reference's RM never answered this request."""
    return (
        isinstance(step, RmStep)
        and step.kind == "request"
        and step.reply is None
        and step.err not in RmError.__members__
    )


def never_returned(step: Step) -> bool:
    """PSCI's ends of a vCPU or a VM: nothing could be recorded of such a call."""
    if not isinstance(step, CallStep) or step.insn is None or step.insn.immediate or step.out or not step.inputs:
        return False
    return not step.inputs[0].startswith("$") and int(step.inputs[0], 0) & U32 & ~smccc.HINT_SVE in ENDS


def _left(scenario: Scenario, step: Step) -> bool:
    """A secondary VM ended itself, which is not answered; the primary VM that replays goes on."""
    return (
        scenario.role == PRIMARY
        and isinstance(step, RmStep)
        and step.vm == SECONDARY
        and step.message == MessageId.VM_EXIT
    )


def lives(scenario: Scenario) -> list[Scenario]:
    """``scenario`` cut behind each step that RM or the machine did not survive, as far as later steps were answered."""
    parts: list[list[Step]] = [[]]
    dead = False
    for step in scenario.steps:
        if dead and not died(step):
            parts.append([])
        dead = (died(step) and not _left(scenario, step)) or never_returned(step)
        parts[-1].append(step)
    return [replace(scenario, steps=tuple(part)) for part in parts]
