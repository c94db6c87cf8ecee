"""Recordings are loaded whole or refused with one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gunyah.host.conformance import main
from gunyah.host.conformance.vectors import CallStep, Reading, RmStep, VectorError, load

STEP = {
    "ctx": "root/create",
    "step": 0,
    "call": "partition_create_doorbell",
    "insn": "hvc #0x6006",
    "in": ["$partition", "$cspace", "0x0"],
    "out": ["0x0", "$db", "0x0", "0x0", "0x0"],
    "err": "OK",
    "save": "$db",
}
REQUEST = {"kind": "request", "id": "0x56000024", "payload": "", "note": "GET_VMID", "reply": "0000000003000000"}


def write(tmp_path: Path, data: object) -> Path:
    path = tmp_path / "recording.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_steps_are_grouped_by_scenario_in_order(tmp_path: Path) -> None:
    steps = [STEP, {**STEP, "ctx": "pvm/caps"}, {**STEP, "step": 1}]
    file = load(write(tmp_path, {"hypercalls": steps}))
    assert [(s.name, s.role, [step.number for step in s.steps]) for s in file.scenarios] == [
        ("root/create", "root", [0, 1]),
        ("pvm/caps", "pvm", [0]),
    ]
    step = file.scenarios[0].steps[0]
    assert isinstance(step, CallStep)
    assert (str(step.insn), step.inputs[0], step.save) == ("hvc #0x6006", "$partition", "$db")


def test_every_form_of_recording_is_recognised(tmp_path: Path) -> None:
    data = {
        "format": {"rm_rpc": "..."},
        "stack": {"hyp": "some"},
        "rm_rpc_anything": [REQUEST, {"kind": "notification", "id": "0x56100008", "payload": "8000000001000000"}],
        "svm_lifecycle_two": [REQUEST],
        "pvm_machine": {"GICD_CTLR": "0x50"},
        "svm_machine": {"GICD_CTLR": "0x50"},
        "rootvm_env": {"boot_core": 0},
    }
    kinds = {(s.name, s.kind, s.role) for s in load(write(tmp_path, data)).scenarios}
    assert kinds == {
        ("rm_rpc_anything", "rm", "pvm"),
        ("svm_lifecycle_two", "rm", "pvm"),
        ("pvm_machine", "machine", "pvm"),
        ("svm_machine", "machine", "svm"),
        ("rootvm_env", "environment", "root"),
    }


def test_a_request_that_killed_the_reference_has_no_reply(tmp_path: Path) -> None:
    crasher = {"note": "VM_EXIT", "id": "0x56000085", "payload": "00000000", "err": "None", "alive_after": "None"}
    step = load(write(tmp_path, {"rm_rpc_crashers": [crasher]})).scenarios[0].steps[0]
    assert isinstance(step, RmStep)
    assert step.reply is None
    assert step.kind == "request"


def test_readings_keep_their_names(tmp_path: Path) -> None:
    steps = load(write(tmp_path, {"pvm_machine": {"mrs CurrentEL": "0x4"}})).scenarios[0].steps
    assert isinstance(steps[0], Reading)
    assert (steps[0].call, steps[0].expected) == ("mrs CurrentEL", "0x4")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "not JSON"),
        ("[]", "one JSON object"),
        ({}, "holds no steps"),
        ({"hypercalls": 3}, "must be a list"),
        ({"hypercalls": [7]}, "must be an object"),
        ({"hypercalls": [{**STEP, "ctx": None}]}, "ctx must be a string"),
        ({"hypercalls": [{**STEP, "ctx": "moon/create"}]}, "expected root/, pvm/ or svm/"),
        ({"hypercalls": [{**STEP, "insn": "svc #0"}]}, "is not 'hvc #imm'"),
        ({"hypercalls": [{**STEP, "insn": "hvc #0x10000"}]}, "is not 'hvc #imm'"),
        ({"hypercalls": [{**STEP, "in": ["partition"]}]}, "neither a 64-bit number nor a $name"),
        ({"hypercalls": [{**STEP, "out": ["0x10000000000000000"]}]}, "neither a 64-bit number nor a $name"),
        ({"hypercalls": [{**STEP, "in": ["0x0"] * 9}]}, "at most 8 registers"),
        ({"hypercalls": [{**STEP, "save": "db"}]}, "save must be a $name"),
        ({"rm_rpc_x": [{**REQUEST, "payload": "0g"}]}, "not hexadecimal"),
        ({"rm_rpc_x": [{**REQUEST, "id": "GET_VMID"}]}, "not a 32-bit number"),
        ({"rm_rpc_x": [{**REQUEST, "kind": "reply"}]}, "neither request nor notification"),
        ({"something": "else"}, "holds no steps that can be replayed"),
    ],
)
def test_a_malformed_file_is_refused_with_one_sentence(
    tmp_path: Path, content: object, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, content)
    with pytest.raises(VectorError, match=sentence.replace("$", r"\$")):
        load(path)
    assert main([path]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.splitlines()) == 1
    assert str(path) in output.err


def test_a_missing_file_is_refused_with_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["/nowhere/at/all.json"]) == 1
    assert "/nowhere/at/all.json: cannot be read: No such file or directory" in capsys.readouterr().err
