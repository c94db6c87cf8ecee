"""The report: for people a table by call and by kind of failure, for programs one JSON object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gunyah.host.conformance.deviations import Rule
from gunyah.host.conformance.names import name_of_function
from gunyah.host.conformance.vectors import CallStep, Step
from gunyah.host.conformance.verdict import Outcome, Trouble, Verdict

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["as_json", "closing_line", "print_report"]

EXAMPLES = 3


def counts(verdicts: Sequence[Verdict]) -> Counter[Outcome]:
    return Counter(verdict.outcome for verdict in verdicts)


def closing_line(verdicts: Sequence[Verdict]) -> str:
    """``N passed, N failed, N deviations``."""
    total = counts(verdicts)
    return f"{total[Outcome.PASSED]} passed, {total[Outcome.FAILED]} failed, {total[Outcome.DEVIATION]} deviations"


def _call_name(step: Step) -> str:
    return name_of_function(step) if isinstance(step, CallStep) else step.call


def unused(rules: Sequence[Rule], verdicts: Sequence[Verdict]) -> list[Rule]:
    """Rules about steps that ran, which explained nothing there."""
    # A rule about any call at all speaks of a rare event, not of calls that were made.
    named = [rule for rule in rules if not rule.matched and rule.call != "*"]
    return [rule for rule in named if any(rule.concerns(verdict.step) for verdict in verdicts)]


def as_json(verdicts: Sequence[Verdict], rules: Sequence[Rule]) -> dict[str, Any]:
    """The whole result: totals, per scenario, every failure and deviation with words."""
    total = counts(verdicts)
    scenarios: dict[str, dict[str, int]] = {}
    for verdict in verdicts:
        entry = scenarios.setdefault(verdict.step.ctx, {"passed": 0, "failed": 0, "deviations": 0})
        entry["deviations" if verdict.outcome is Outcome.DEVIATION else verdict.outcome.value] += 1
    return {
        "passed": total[Outcome.PASSED],
        "failed": total[Outcome.FAILED],
        "deviations": total[Outcome.DEVIATION],
        "scenarios": scenarios,
        "failures": [_entry(v) for v in verdicts if v.outcome is Outcome.FAILED],
        "deviation_steps": [_entry(v) for v in verdicts if v.outcome is Outcome.DEVIATION],
        "unused_rules": [f"{r.scenario} {r.call}: {r.reason}" for r in unused(rules, verdicts)],
    }


def _entry(verdict: Verdict) -> dict[str, Any]:
    step = verdict.step
    entry: dict[str, Any] = {
        "file": verdict.file,
        "scenario": step.ctx,
        "step": step.number,
        "call": _call_name(step),
        "kind": verdict.trouble.value if verdict.trouble else "",
        "expected": verdict.expected,
        "got": verdict.got,
    }
    if isinstance(step, CallStep):
        entry["in"] = list(step.inputs)
    words = {"why": verdict.why, "note": step.note, "reason": verdict.reason}
    return entry | {key: value for key, value in words.items() if value}


def print_report(console: Console, verdicts: Sequence[Verdict], rules: Sequence[Rule]) -> None:
    """Tables on ``console``; the last line is the closing line."""
    _print_scenarios(console, verdicts)
    failed = [verdict for verdict in verdicts if verdict.outcome is Outcome.FAILED]
    if failed:
        _print_failures(console, failed)
    _print_deviations(console, verdicts)
    for rule in unused(rules, verdicts):
        console.print(
            f"Unused deviation rule: {rule.scenario} {rule.call}: {rule.reason}", markup=False, style="yellow"
        )
    console.print(closing_line(verdicts), markup=False, highlight=False)


def _print_scenarios(console: Console, verdicts: Sequence[Verdict]) -> None:
    from rich.table import Table

    table = Table("scenario", title="Recorded behaviour of the reference, replayed", title_justify="left")
    for column in ("passed", "failed", "deviations"):
        table.add_column(column, justify="right")
    names = dict.fromkeys(verdict.step.ctx for verdict in verdicts)
    for name in names:
        total = counts([verdict for verdict in verdicts if verdict.step.ctx == name])
        style = "red" if total[Outcome.FAILED] else "green"
        cells = [str(total[outcome]) for outcome in (Outcome.PASSED, Outcome.FAILED, Outcome.DEVIATION)]
        table.add_row(name, *cells, style=style)
    console.print(table)


def _print_failures(console: Console, failed: Sequence[Verdict]) -> None:
    from rich.markup import escape
    from rich.table import Table

    groups: dict[tuple[str, Trouble | None], list[Verdict]] = {}
    for verdict in failed:
        # What was never reached is one matter of its scenario, not one of each call.
        lost = verdict.trouble in (Trouble.NOT_REACHED, Trouble.BOOT)
        name = f"(all of {verdict.step.ctx})" if lost else _call_name(verdict.step)
        groups.setdefault((name, verdict.trouble), []).append(verdict)
    order = list(Trouble)
    table = Table("call", "kind", title="Failures by call and kind", title_justify="left")
    table.add_column("steps", justify="right")
    table.add_column("for instance", overflow="fold")
    for (call, trouble), group in sorted(groups.items(), key=lambda g: (order.index(g[0][1] or order[-1]), -len(g[1]))):
        lines = []
        shown = group[: 1 if trouble in (Trouble.NOT_REACHED, Trouble.BOOT) else EXAMPLES]
        for verdict in shown:
            step = verdict.step
            words = f"{step.ctx} {step.number}"
            words += f" ({step.note})" if step.note and len(step.note) < 60 else ""
            words += f": expected {verdict.expected}, got {verdict.got}" if verdict.got else f": {verdict.expected}"
            words += f" [{verdict.why}]" if verdict.why else ""
            lines.append(escape(words))
        more = len(group) - len(shown)
        lines += [f"and {more} more"] if more > 0 else []
        table.add_row(escape(call), trouble.value if trouble else "", str(len(group)), "\n".join(lines))
    console.print(table)


def _print_deviations(console: Console, verdicts: Sequence[Verdict]) -> None:
    from rich.markup import escape
    from rich.table import Table

    reasons = Counter(verdict.reason for verdict in verdicts if verdict.outcome is Outcome.DEVIATION)
    if not reasons:
        return
    table = Table(title="Deliberate deviations", title_justify="left")
    table.add_column("steps", justify="right")
    table.add_column("reason", overflow="fold")
    for reason, number in reasons.most_common():
        table.add_row(str(number), escape(reason))
    console.print(table)
