"""Deliberate differences from the reference, listed in one file with their reasons (``deviations.toml`` beside this
module)."""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gunyah.host.conformance.vectors import CallStep, RmStep, Step, VectorError
from gunyah.host.conformance.verdict import Outcome, Verdict

__all__ = ["DEFAULT_FILE", "Rule", "apply", "load_rules"]

DEFAULT_FILE = Path(__file__).with_name("deviations.toml")
FIELDS = {"scenario", "call", "note", "expected", "got", "payload", "reason", "source"}


@dataclass
class Rule:
    """One rule. ``scenario``, ``call``, ``note``, ``expected``, ``got`` and ``payload`` (of a request to RM, in
    hexadecimal) are shell patterns; all must match the failed step."""

    scenario: str
    call: str
    note: str
    expected: str
    got: str
    payload: str
    reason: str
    source: str
    matched: int = 0

    def matches(self, verdict: Verdict) -> bool:
        pairs = ((verdict.expected, self.expected), (verdict.got, self.got))
        return self.concerns(verdict.step) and all(fnmatch.fnmatchcase(value, pattern) for value, pattern in pairs)

    def concerns(self, step: Step) -> bool:
        """Whether the rule speaks of a step like this one."""
        pairs = (
            (step.ctx, self.scenario),
            (step.call, self.call),
            (step.note, self.note),
            (step.payload.hex() if isinstance(step, RmStep) else "", self.payload),
        )
        return all(fnmatch.fnmatchcase(value, pattern) for value, pattern in pairs)


def load_rules(path: Path = DEFAULT_FILE) -> list[Rule]:
    """Rules of ``path``; raises VectorError with one sentence when the file is not as it must be."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise VectorError(f"{path}: {error}") from None
    return [_rule(path, index, entry) for index, entry in enumerate(data.get("deviation", []))]


def _rule(path: Path, index: int, entry: dict[str, Any]) -> Rule:
    unknown = sorted(set(entry) - FIELDS)
    if unknown:
        raise VectorError(f"{path}: deviation {index} has the unknown key {unknown[0]!r}")
    for needed in ("scenario", "call", "reason", "source"):
        if not isinstance(entry.get(needed), str) or not entry[needed].strip():
            raise VectorError(f"{path}: deviation {index} has no {needed}")
    note, expected, got, payload = (str(entry.get(name, "*")) for name in ("note", "expected", "got", "payload"))
    reason = " ".join(entry["reason"].split())
    return Rule(entry["scenario"], entry["call"], note, expected, got, payload, reason, entry["source"])


def apply(rules: Sequence[Rule], verdicts: Sequence[Verdict]) -> None:
    """Turn failures that a rule explains into deviations. A step that crashed the reference is never excused."""
    for verdict in verdicts:
        if verdict.outcome is not Outcome.FAILED:
            continue
        if isinstance(verdict.step, CallStep) and verdict.step.crashed_the_reference:
            continue
        for rule in rules:
            if rule.matches(verdict):
                rule.matched += 1
                verdict.outcome = Outcome.DEVIATION
                verdict.reason = f"{rule.reason} ({rule.source})"
                break
