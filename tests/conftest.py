"""What all tests share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def machines_of_a_module_go_with_it() -> Iterator[None]:
    """A machine is a cycle of objects around two gigabytes of address space: do not leave it to chance when it goes."""
    yield
    gc.collect()
