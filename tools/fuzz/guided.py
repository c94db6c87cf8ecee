"""``python -m tools.fuzz.guided``: hostile VMs led by which code of the hypervisor they reach.

Needs atheris (``pip install 'gunyah[fuzz]'``), which keeps the inputs that reach something new in
``fuzz-corpus/guided-KIND`` and changes them further. An input is acts of a hostile root VM, or steps of a native guest
as the primary VM, whatever their bytes say. What fails is written to ``fuzz-corpus/guided-KIND-crash-...``;
``python -m tools.fuzz --replay`` does it again when the file is renamed to ``KIND-1.acts``.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tools.fuzz.attack import Attack

__all__ = ["main"]

ACTS = {"root": 96, "native": 256}
"""Acts of one input at most."""
LIFE = 20_000
"""Acts after which a machine is judged as a whole, and replaced."""
SEEDED = 24
"""Inputs to begin with, when the corpus is empty."""


class Life:
    """Machines, each of which takes many inputs before it is judged and replaced; ``history`` is what the present one
    has done.
    """

    def __init__(self, runs: ModuleType, kind: str) -> None:
        self._runs = runs
        self._kind = kind
        self._attack: Attack | None = None
        self.history: list[bytes] = []

    def go_on(self, acts: list[bytes]) -> list[str]:
        """Do some more; findings."""
        if self._attack is None:
            self._attack = self._runs.KINDS[self._kind]([], seed=1)
            self.history = []
        self.history += acts
        if self._attack.proceed(acts) and len(self.history) < LIFE:
            return []
        attack, self._attack = self._attack, None
        return attack.finish()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; atheris ends the process when the time is over."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz.guided", description="Coverage-guided hostile VMs.")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long")
    parser.add_argument("--kind", choices=sorted(ACTS), default="root", help="which attacker")
    parser.add_argument("--corpus", type=Path, default=Path("fuzz-corpus"), help="where inputs are kept")
    options = parser.parse_args(arguments)
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        print("coverage-guided fuzzing needs atheris: pip install atheris")
        return 1
    with atheris.instrument_imports(include=["gunyah.hypervisor"]):
        runs = importlib.import_module("tools.fuzz.series")
    kind, acts = options.kind, ACTS[options.kind]
    unit = runs.KINDS[kind].unit
    life = Life(runs, kind)

    def one_input(data: bytes) -> None:
        findings = life.go_on(runs.split_acts(kind, data)[:acts])
        if findings:
            # What led there may have begun many inputs ago.
            (options.corpus / f"guided-{kind}-crash-life").write_bytes(b"".join(life.history))
            raise RuntimeError("\n".join(findings))

    kept = options.corpus / f"guided-{kind}"
    kept.mkdir(parents=True, exist_ok=True)
    if not any(kept.iterdir()):
        for seed in range(SEEDED):
            (kept / f"seed-{seed}").write_bytes(b"".join(islice(runs.KINDS[kind].stream(seed, acts), acts)))
    flags = [
        f"-max_total_time={int(60 * options.minutes)}",
        f"-max_len={acts * unit}",
        f"-artifact_prefix={options.corpus}/guided-{kind}-",
        "-rss_limit_mb=4096",
        "-timeout=60",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *flags, str(kept)], one_input)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
