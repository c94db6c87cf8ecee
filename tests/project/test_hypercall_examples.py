"""The examples of the reference pages do what they say, on the real hypervisor; every call that works has one."""

from __future__ import annotations

import inspect

import pytest
from tools import hypercall_examples
from tools.lab import Lab

from gunyah.abi.hypercalls import HYPERCALLS, Status
from gunyah.guest.cpu import Cpu
from gunyah.host.conformance.stage import Stage

EXAMPLES = {
    name: function
    for name, function in inspect.getmembers(hypercall_examples, inspect.isfunction)
    if function.__module__ == hypercall_examples.__name__
}


def test_every_provided_call_has_an_example() -> None:
    provided = {call.name for call in HYPERCALLS.values() if call.status is Status.PROVIDED}
    assert set(EXAMPLES) == provided


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_the_example_holds(name: str) -> None:
    finished = False

    def program(cpu: Cpu, x0: int) -> None:
        nonlocal finished
        EXAMPLES[name](Lab(cpu, x0))
        finished = True
        while True:
            cpu.wfi()

    stage = Stage()
    stage.start_root(stage.image_of(program))
    assert stage.run(lambda: finished), stage.why_it_ended()
    stage.close()
