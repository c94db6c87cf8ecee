"""The benchmark suite runs and writes what it promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from .tree import ROOT


def test_a_benchmark_run_prints_a_table_and_writes_figures_with_their_ratio(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    names = ["hypercall", "message_queue", "rm_rpc"]
    command = [sys.executable, "-m", "bench", *names, "--rounds", "1", "--output", str(output)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    data = json.loads(output.read_text())
    assert list(data["results"]) == names
    for name in names:
        result = data["results"][name]
        assert result["value"] > 0
        assert result["ratio"] > 0
        assert name in run.stdout
    assert data["environment"]["calibration"] > 0
    assert f"CPU engine: {data['environment']['engine']}" in run.stdout


def test_an_unknown_benchmark_is_named() -> None:
    run = subprocess.run([sys.executable, "-m", "bench", "speed"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode != 0
    assert "there is no benchmark 'speed'" in run.stderr
