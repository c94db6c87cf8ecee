"""``python -m tools.fuzz``: hostile VMs against the hypervisor for a number of minutes (``make fuzz MINUTES=N``).

The time is shared by all attackers: hostile Python VMs and native ones, each run on a fresh machine with the next seed,
and, where atheris is installed, a fifth of it by runs that are led by what code of the hypervisor they reach. A run
with a finding is shrunk and kept in the corpus folder, as acts that ``--replay`` and tests/hostile do again. Exit
status 1 if anything was found.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tools.fuzz.native_guest import STEP, describe
from tools.fuzz.series import KINDS, Run, attempt, run_apart, series, split_acts
from tools.fuzz.shrink import shrink

SHRINK_SECONDS = 240.0
GROWTH_MAX_KIB = 256 << 10
"""By so much may the memory of the process grow from its first runs to its last."""
GUIDED_KINDS = ("root", "native")
GUIDED_SHARE = 0.2


def headline(findings: Sequence[str]) -> str:
    """What two findings of one cause have in common."""
    return findings[0].strip().splitlines()[-1][:60].split(":")[0]


def keep(corpus: Path, kind: str, seed: int, acts: Sequence[bytes], findings: Sequence[str]) -> Path:
    """Shrink a failing run, write it down, and print it as a regression test."""
    wanted = headline(findings)

    def fails(fewer: Sequence[bytes]) -> bool:
        again = run_apart(kind, fewer, seed)
        return bool(again) and headline(again) == wanted

    fewer = shrink(acts, fails, SHRINK_SECONDS)
    corpus.mkdir(parents=True, exist_ok=True)
    path = corpus / f"{kind}-{seed}.acts"
    path.write_bytes(b"".join(fewer))
    path.with_suffix(".txt").write_text("\n\n".join(findings) + "\n")
    print(f"  kept {len(fewer)} acts in {path}; tests/hostile does them again when they lie in its folder crashers/:")
    for act in fewer[:40]:
        print(f"    {act.hex()}{'  ' + describe(act) if KINDS[kind].unit == STEP else ''}")
    return path


def replay(path: Path) -> int:
    """Do the acts of a kept file again."""
    kind, _, seed = path.stem.rpartition("-")
    findings = attempt(kind, split_acts(kind, path.read_bytes()), int(seed))
    print("\n".join(findings) or "nothing found")
    return int(bool(findings))


def guided(kinds: Sequence[str], minutes: float, corpus: Path) -> int:
    """Runs led by coverage, each kind in a process of its own; how many of them found something."""
    found = 0
    for kind in kinds:
        command = [sys.executable, "-m", "tools.fuzz.guided", "--kind", kind, "--corpus", str(corpus)]
        print(f"led by coverage: {kind}, {minutes / len(kinds):.1f} minutes", flush=True)
        result = subprocess.run([*command, "--minutes", str(minutes / len(kinds))], capture_output=True, text=True)
        lines = [line for line in (result.stdout + result.stderr).splitlines() if line.strip()]
        print("\n".join(f"  {line}" for line in lines[-(40 if result.returncode else 3) :]), flush=True)
        if result.returncode:
            found += 1
            for crash in sorted(corpus.glob(f"guided-{kind}-crash-*")):
                acts = split_acts(kind, crash.read_bytes())
                findings = run_apart(kind, acts, 1)
                crash.unlink()
                if findings:
                    keep(corpus, kind, 1, acts, findings)
                    break
    return found


class Tally:
    """Sums over all runs."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self.acts: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.found = 0
        self.first_memory = self.memory = 0
        self._started = time.monotonic()

    def add(self, run: Run, kinds: int) -> None:
        """Count one run; memory is first looked at when all kinds have run twice."""
        self.runs[run.kind] += 1
        self.acts[run.kind] += run.performed
        self.calls[run.kind] += run.calls
        self.found += bool(run.findings)
        self.memory = run.memory or self.memory
        if self.runs.total() == 2 * kinds:
            self.first_memory = self.memory

    def line(self) -> str:
        """One line of figures."""
        calls = self.calls.total()
        rate = calls / max(1e-9, time.monotonic() - self._started)
        growth = f" ({(self.memory - self.first_memory) // 1024:+d})" if self.first_memory else ""
        return (
            f"{self.runs.total()} runs, {self.acts.total()} acts, {calls} calls, {rate:.0f}/s, {self.found} with "
            f"findings, {self.memory // 1024} MiB resident{growth}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description="Hostile VMs against the hypervisor.")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long")
    parser.add_argument("--acts", type=int, default=30_000, help="acts of one run")
    parser.add_argument("--seed", type=int, default=1, help="seed of the first run")
    parser.add_argument("--kind", choices=sorted(KINDS), help="only this kind of attacker")
    parser.add_argument("--unguided", action="store_true", help="no runs led by coverage")
    parser.add_argument("--corpus", type=Path, default=Path("fuzz-corpus"), help="where failing runs are kept")
    parser.add_argument("--replay", type=Path, help="do the acts of this file again, and nothing else")
    options = parser.parse_args(arguments)
    if options.replay is not None:
        return replay(options.replay)
    kinds = [options.kind] if options.kind else list(KINDS)
    led = [kind for kind in GUIDED_KINDS if kind in kinds]
    if options.unguided or importlib.util.find_spec("atheris") is None:
        led = []
    seconds = 60 * options.minutes * (1 - GUIDED_SHARE * bool(led))
    tally = Tally()
    for run in series(kinds, options.seed, options.acts, seconds):
        tally.add(run, len(kinds))
        if run.findings:
            print(f"{run.kind} seed {run.seed}, after {run.performed} acts: {run.findings[0].strip()[-2000:]}")
            acts = list(itertools.islice(KINDS[run.kind].stream(run.seed, options.acts), run.performed))
            keep(options.corpus, run.kind, run.seed, acts, run.findings)
        if tally.runs.total() % (5 * len(kinds)) == 0:
            print(tally.line(), flush=True)
    print(tally.line(), flush=True)
    for kind in kinds:
        print(f"  {kind}: {tally.runs[kind]} runs, {tally.acts[kind]} acts, {tally.calls[kind]} calls", flush=True)
    grown = bool(tally.first_memory) and tally.memory - tally.first_memory > GROWTH_MAX_KIB
    if grown:
        print(f"memory has grown by {(tally.memory - tally.first_memory) // 1024} MiB")
    found = guided(led, options.minutes * GUIDED_SHARE, options.corpus) if led else 0
    return int(bool(tally.found or grown or found))


if __name__ == "__main__":
    sys.exit(main())
