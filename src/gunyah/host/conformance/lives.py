"""Where the reference's RM died in a recording, or a call ended the machine, its recorder booted anew and went on.

So a list of RM steps may hold several lives of the stack: state carries over inside one, never from one to the next.
"""

from __future__ import annotations

from dataclasses import replace

from gunyah.abi.errors import RmError
from gunyah.abi.rm.messages import MessageId
from gunyah.host.conformance.askers import PRIMARY, SECONDARY
from gunyah.host.conformance.vectors import CallStep, RmStep, Scenario, Step

__all__ = ["died", "lives", "never_returned"]


def died(step: Step) -> bool:
    """The reference's RM never answered this request."""
    return (
        isinstance(step, RmStep)
        and step.kind == "request"
        and step.reply is None
        and step.err not in RmError.__members__
    )


def never_returned(step: Step) -> bool:
    """A call that ended its caller or the machine, such as PSCI's SYSTEM_OFF: nothing could be recorded of it."""
    return isinstance(step, CallStep) and step.insn is not None and not step.out and not step.crashed_the_reference


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
