"""The examples of the RM reference run, and every request has one."""

from __future__ import annotations

import pytest
from tools import rm_examples
from tools.rm_lab import RmLab

import gunyah
from gunyah.abi.rm import MESSAGES
from gunyah.linux.rm_client import RmClient


@pytest.mark.parametrize("name", [message.name for message in MESSAGES.values()])
def test_the_example_of_every_request_runs(name: str) -> None:
    with gunyah.System(clock="virtual", seed=1, console_loopback=False) as system:
        getattr(rm_examples, name.lower())(system.primary.rm, RmLab(system))
        assert not system.rm.log.errors()
        assert not system.primary.kernel.oopses


def test_the_client_has_a_method_for_every_request() -> None:
    assert [m.name for m in MESSAGES.values() if not callable(getattr(RmClient, m.name.lower(), None))] == []
