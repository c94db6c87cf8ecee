"""``python -m tools.fuzz``: hostile VMs against the hypervisor for a number of minutes (``make fuzz MINUTES=N``).

Runs alternate between a hostile primary VM beside the Resource Manager and a hostile root VM, each on a fresh machine
with the next seed. A run with a finding is shrunk and kept in the corpus folder, as acts that ``--replay`` and
tests/hostile do again. Exit status 1 if anything was found.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tools.fuzz.attack import Attack
from tools.fuzz.choices import records, split
from tools.fuzz.primary_attack import PrimaryAttack
from tools.fuzz.root_attack import RootAttack
from tools.fuzz.shrink import shrink

KINDS: dict[str, type[Attack]] = {"primary": PrimaryAttack, "root": RootAttack}
WATCHDOG_SECONDS = 300
SHRINK_SECONDS = 240.0


def resident_kib() -> int:
    """Memory of this process that is in RAM, KiB; 0 where the host does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmRSS"))


def attempt(kind: str, acts: Sequence[bytes], seed: int) -> list[str]:
    """Findings of one run."""
    return KINDS[kind](acts, seed=seed).run()  # type: ignore[call-arg]


def keep(corpus: Path, kind: str, seed: int, acts: Sequence[bytes], findings: Sequence[str]) -> Path:
    """Shrink a failing run and write it down."""
    headline = findings[0].strip().splitlines()[-1][:60]

    def fails(fewer: Sequence[bytes]) -> bool:
        again = attempt(kind, fewer, seed)
        return bool(again) and again[0].strip().splitlines()[-1][:60].split(":")[0] == headline.split(":")[0]

    fewer = shrink(acts, fails, SHRINK_SECONDS)
    corpus.mkdir(parents=True, exist_ok=True)
    path = corpus / f"{kind}-{seed}.acts"
    path.write_bytes(b"".join(fewer))
    path.with_suffix(".txt").write_text("\n\n".join(findings) + "\n")
    print(f"  kept {len(fewer)} acts in {path}")
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description="Hostile VMs against the hypervisor.")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long")
    parser.add_argument("--acts", type=int, default=30_000, help="acts of one run")
    parser.add_argument("--seed", type=int, default=1, help="seed of the first run")
    parser.add_argument("--kind", choices=sorted(KINDS), help="only this kind of attacker")
    parser.add_argument("--corpus", type=Path, default=Path("fuzz-corpus"), help="where failing runs are kept")
    parser.add_argument("--replay", type=Path, help="do the acts of this file again, and nothing else")
    options = parser.parse_args(arguments)
    if options.replay is not None:
        kind, _, seed = options.replay.stem.partition("-")
        findings = attempt(kind, split(options.replay.read_bytes()), int(seed))
        print("\n".join(findings) or "nothing found")
        return int(bool(findings))
    kinds = [options.kind] if options.kind else sorted(KINDS)
    end = time.monotonic() + 60 * options.minutes
    total = runs = found = 0
    first_memory = 0
    started = time.monotonic()
    for seed in itertools.count(options.seed):
        for kind in kinds:
            faulthandler.dump_traceback_later(WATCHDOG_SECONDS, exit=True)
            attack = KINDS[kind](records(seed, options.acts), seed=seed)  # type: ignore[call-arg]
            findings = attack.run()
            faulthandler.cancel_dump_traceback_later()
            total += attack.calls
            runs += 1
            if findings:
                found += 1
                print(f"{kind} seed {seed}, after {attack.performed} acts: {findings[0].strip()[-2000:]}")
                acts = list(itertools.islice(records(seed, options.acts), attack.performed))
                del attack
                keep(options.corpus, kind, seed, acts, findings)
        gc.collect()
        memory = resident_kib()
        first_memory = first_memory or memory
        if runs % (10 * len(kinds)) == 0 or time.monotonic() >= end:
            rate = total / (time.monotonic() - started)
            print(
                f"{runs} runs, {total} calls, {rate:.0f}/s, {found} with findings, "
                f"{memory // 1024} MiB resident ({(memory - first_memory) // 1024:+d})",
                flush=True,
            )
        if time.monotonic() >= end:
            break
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
