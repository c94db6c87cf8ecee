"""The Linux that tests/native boots is debugged here too."""

from __future__ import annotations

from tests.native.conftest import linux, pytest_collection_modifyitems, pytest_configure

__all__ = ["linux", "pytest_collection_modifyitems", "pytest_configure"]
