"""What all tests share.

Hypothesis draws the same examples for the same tree, so that a verdict can be repeated; HYPOTHESIS_PROFILE=explore
draws others each time, which is what finds something new.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(autouse=True, scope="module")
def machines_of_a_module_go_with_it() -> Iterator[None]:
    """A machine is a cycle of objects around two gigabytes of address space: do not leave it to chance when it goes."""
    yield
    gc.collect()
