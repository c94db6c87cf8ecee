"""A pytest plugin for mutation testing: few examples, the same each time, and an end for mutants that never stop.

A mutant is dead with its first failure: Hypothesis need not make that short, and chance has no place in the figure.
"""

from __future__ import annotations

import os
import resource
from time import process_time

import pytest
from hypothesis import Phase, settings

MAX_EXAMPLES = 12
CPU_SECONDS = 20
"""What all the tests together need less than a third of."""
SLOW = (
    "test_a_chain_of_spaces_longer_than_any_stack_is_destroyed_at_once",
    "test_a_hostile_root_vm_and_its_vms_stay_within_the_specification",
    "test_the_resource_manager_and_linux_stay_within_the_specification",
)
"""Long ways through much code, which other tests reach on short ones."""


def _quick(given: settings) -> settings:
    return settings(
        given,
        max_examples=min(given.max_examples, MAX_EXAMPLES),
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),
    )


def pytest_configure(config: pytest.Config) -> None:
    """Limit the CPU time of the process that runs one mutant; mutmut's own limit is one of the clock."""
    if "__mutmut_" in os.environ.get("MUTANT_UNDER_TEST", ""):
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(process_time()) + CPU_SECONDS, hard))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the slow tests, and replace the settings of every property and state machine."""
    items[:] = [item for item in items if getattr(item, "originalname", item.name) not in SLOW]
    for item in items:
        owner = getattr(item, "cls", None)
        if isinstance(getattr(owner, "settings", None), settings):
            owner.settings = _quick(owner.settings)
        function = getattr(item, "obj", None)
        given = getattr(function, "_hypothesis_internal_use_settings", None)
        if isinstance(given, settings):
            target = getattr(function, "__func__", function)
            target._hypothesis_internal_use_settings = _quick(given)
