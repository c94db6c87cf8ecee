"""Runs of hostile VMs one after the other in a process of their own: what ends that process is a finding too."""

from __future__ import annotations

import faulthandler
import gc
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.fuzz.attack import Attack
from tools.fuzz.checked_attack import CheckedAttack
from tools.fuzz.native_attack import NativeCallsAttack, NativePairAttack, NativePrimaryAttack, NativeSmpAttack
from tools.fuzz.primary_attack import PrimaryAttack
from tools.fuzz.remap_attack import RemapAttack
from tools.fuzz.root_attack import RootAttack

__all__ = ["KINDS", "Run", "apart", "attempt", "resident_kib", "run_apart", "series", "split_acts"]

KINDS: dict[str, type[Attack]] = {
    "primary": PrimaryAttack,
    "root": RootAttack,
    "checked": CheckedAttack,
    "native": NativePrimaryAttack,
    "pair": NativePairAttack,
    "calls": NativeCallsAttack,
    "smp": NativeSmpAttack,
    "remap": RemapAttack,
}
"""Hostile Python VMs: the primary VM; the root VM with VMs of its own, alone and against the specification. Native:
the primary VM; one of two; the primary VM with nothing but calls, with two vCPUs, and with memory that comes and goes.
"""
WATCHDOG_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Run:
    """What became of one run."""

    kind: str
    seed: int
    performed: int
    """Acts that were done."""
    calls: int
    findings: tuple[str, ...]
    memory: int
    """KiB of the process that are resident after it."""


def resident_kib() -> int:
    """Memory of this process that is in RAM, KiB; 0 where the host does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmRSS"))


def split_acts(kind: str, data: bytes) -> list[bytes]:
    """The acts in a file; a short last one counts."""
    unit = KINDS[kind].unit
    return [data[at : at + unit] for at in range(0, len(data), unit)]


def attempt(kind: str, acts: Sequence[bytes], seed: int) -> list[str]:
    """Findings of one run in this process."""
    return KINDS[kind](acts, seed=seed).run()


def _one(kind: str, seed: int, count: int) -> Run:
    faulthandler.dump_traceback_later(WATCHDOG_SECONDS, exit=True, file=sys.__stderr__ or sys.stderr)
    attack = KINDS[kind](KINDS[kind].stream(seed, count), seed=seed)
    findings = attack.run()
    faulthandler.cancel_dump_traceback_later()
    performed, calls = attack.performed, attack.calls
    del attack
    gc.collect()
    return Run(kind, seed, performed, calls, tuple(findings), resident_kib())


def series(kinds: Sequence[str], first: int, count: int, seconds: float) -> Iterator[Run]:
    """Runs of ``count`` acts, each kind with each seed from ``first`` on, for ``seconds``.

    When the process of the runs ends by a signal or the watchdog, that is a finding of its run, and another process
    goes on with the next one.
    """
    end = time.monotonic() + seconds
    tasks = ((kind, seed) for seed in itertools.count(first) for kind in kinds)
    task = next(tasks)
    while time.monotonic() < end:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _work(writer, itertools.chain([task], tasks), count, end)
        os.close(writer)
        over = False
        try:
            with os.fdopen(reader) as lines:
                for line in lines:
                    fields = json.loads(line)
                    yield Run(**{**fields, "findings": tuple(fields["findings"])})
                    task = next(tasks)
            over = True
        finally:
            if not over:
                # Whoever asked for runs wants no more.
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        if status:
            yield Run(*task, count, 0, (_how(status),), 0)
            task = next(tasks)


def _work(writer: int, tasks: Iterator[tuple[str, int]], count: int, end: float) -> None:
    """The child: runs until the time is over; never returns."""
    status = 1
    try:
        with os.fdopen(writer, "w") as lines:
            for kind, seed in tasks:
                run = _one(kind, seed, count)
                fields = {name: getattr(run, name) for name in Run.__slots__}
                print(json.dumps(fields), file=lines, flush=True)
                if time.monotonic() >= end:
                    break
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def run_apart(kind: str, acts: Sequence[bytes], seed: int) -> list[str]:
    """As ``attempt``, in a process of its own, whose end by a signal is a finding."""
    return apart(lambda: attempt(kind, acts, seed))


def apart(judge: Callable[[], list[str]]) -> list[str]:
    """Call ``judge`` in a fork of this process, machines and all, and give its findings."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        status = 1
        try:
            faulthandler.dump_traceback_later(WATCHDOG_SECONDS, exit=True, file=sys.__stderr__ or sys.stderr)
            with os.fdopen(writer, "w") as out:
                json.dump(judge(), out)
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    if status:
        return [_how(status)]
    found: list[str] = json.loads(text)
    return found


def _how(status: int) -> str:
    how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {os.WEXITSTATUS(status)}"
    return f"the process of the machine ended with {how}"
