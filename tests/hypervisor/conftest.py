"""What the tests of memory share beyond `extents`: a root partition whose books are looked at afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gunyah.hypervisor.partition import Partition

from .extents import make_root


@pytest.fixture
def root() -> Iterator[Partition]:
    partition = make_root()
    yield partition
    partition.system.database.check()
