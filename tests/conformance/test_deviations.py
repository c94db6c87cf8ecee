"""Deliberate differences are listed with reasons, and a list that has become untrue is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from gunyah.host.conformance.deviations import DEFAULT_FILE, apply, load_rules
from gunyah.host.conformance.report import as_json, unused
from gunyah.host.conformance.vectors import CallStep, Instruction, VectorError
from gunyah.host.conformance.verdict import Outcome, Trouble, Verdict

RULE = """
[[deviation]]
scenario = "root/*"
call = "doorbell_send"
expected = "OK"
got = "BUSY"
reason = "a reason
  over two lines"
source = "objects.md 9 [quirk]"
""".replace("a reason\n  over", "a reason over")


def failed(ctx: str = "root/doorbell", err: str = "OK", got: str = "BUSY") -> Verdict:
    step = CallStep(ctx, 3, "doorbell_send", Instruction("hvc", 0x6012), (), ("0x0",), err, None, "")
    return Verdict("file", step).fail(Trouble.WRONG_ERROR, "OK", got)


def rules(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "rules.toml"
    path.write_text(text)
    return path


def test_a_rule_turns_what_it_describes_into_a_deviation_with_its_reason(tmp_path: Path) -> None:
    found = load_rules(rules(tmp_path, RULE))
    verdicts = [failed(), failed(got="IDLE"), failed(ctx="pvm/doorbell")]
    apply(found, verdicts)
    assert [verdict.outcome for verdict in verdicts] == [Outcome.DEVIATION, Outcome.FAILED, Outcome.FAILED]
    assert verdicts[0].reason == "a reason over two lines (objects.md 9 [quirk])"
    result = as_json(verdicts, found)
    assert (result["failed"], result["deviations"], result["unused_rules"]) == (2, 1, [])


def test_what_crashed_the_reference_is_never_excused(tmp_path: Path) -> None:
    verdicts = [failed(err="HYPERVISOR_PANIC")]
    apply(load_rules(rules(tmp_path, RULE)), verdicts)
    assert verdicts[0].outcome is Outcome.FAILED


def test_a_rule_that_explains_nothing_is_reported(tmp_path: Path) -> None:
    found = load_rules(rules(tmp_path, RULE))
    apply(found, [failed(got="IDLE")])
    assert unused(found, [failed(got="IDLE")]) == found
    assert unused(found, [failed(ctx="pvm/other")]) == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (RULE.replace('reason = "a reason over two lines"', ""), "has no reason"),
        (RULE.replace('source = "objects.md 9 [quirk]"', 'source = " "'), "has no source"),
        (RULE + 'becuase = "x"\n', "unknown key 'becuase'"),
        ("[[deviation", "rules.toml"),
    ],
)
def test_a_rule_needs_a_reason_and_a_source(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(VectorError, match=sentence):
        load_rules(rules(tmp_path, text))


def test_the_list_itself_is_well_formed_and_short() -> None:
    assert len(load_rules(DEFAULT_FILE)) <= 40
