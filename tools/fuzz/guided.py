"""``python -m tools.fuzz.guided``: the acts of a hostile root VM, led by which code of the hypervisor they reach.

Needs atheris (``pip install atheris``), which keeps the records that reach something new in ``fuzz-corpus/guided`` and
changes them further. What fails is written to ``fuzz-corpus/guided-crash-...``; ``python -m tools.fuzz --replay`` does
it again when the file is renamed to ``root-1.acts``.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.fuzz.choices import RECORD, split

ACTS = 96
"""Records of one input at most: a machine is made for each."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; atheris ends the process when the time is over."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz.guided", description="Coverage-guided hostile VMs.")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long")
    parser.add_argument("--corpus", type=Path, default=Path("fuzz-corpus"), help="where inputs are kept")
    options = parser.parse_args(arguments)
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        print("coverage-guided fuzzing needs atheris: pip install atheris")
        return 1
    with atheris.instrument_imports(include=["gunyah.hypervisor"]):
        attacks = importlib.import_module("tools.fuzz.root_attack")

    def one_input(data: bytes) -> None:
        findings = attacks.RootAttack(split(data)[:ACTS], seed=1).run()
        if findings:
            raise RuntimeError("\n".join(findings))

    kept = options.corpus / "guided"
    kept.mkdir(parents=True, exist_ok=True)
    flags = [
        f"-max_total_time={int(60 * options.minutes)}",
        f"-max_len={ACTS * RECORD}",
        f"-artifact_prefix={options.corpus}/guided-",
        "-rss_limit_mb=4096",
        "-timeout=60",
    ]
    atheris.Setup([sys.argv[0], *flags, str(kept)], one_input)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
