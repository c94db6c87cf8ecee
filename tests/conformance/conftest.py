"""What tests of the replay share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gunyah.host.conformance import main


@pytest.fixture(params=["python", "native"])
def replay(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Replay a recording given as data, by both drivers; returns exit status and the JSON result."""

    def run(data: dict[str, Any], record: Path | None = None) -> tuple[int, dict[str, Any]]:
        path = tmp_path / "recording.json"
        path.write_text(json.dumps(data))
        status = main([path], json=True, record=record, driver=request.param)
        output = capsys.readouterr()
        assert output.err == ""
        return status, json.loads(output.out)

    return run
