"""Recordings of RM with more than one side to them: deaths of the reference, guests that end, a VM's own view."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from gunyah.host.conformance import main

from .steps import request

OWN = 0x80
LEND, ACCEPT, RELEASE, RECLAIM = 0x5100_0012, 0x5100_0011, 0x5100_0014, 0x5100_0015
ALLOCATE, DEALLOCATE, START, RESET, CONFIG, INIT = (0x5600_0000 | n for n in (1, 2, 4, 6, 9, 0xB))
GET_STATE, GET_ID, GET_VMID, GET_OWNER, RESOURCES = (0x5600_0000 | n for n in (0x17, 0x10, 0x24, 0x15, 0x20))
OPEN, WRITE, EXIT, MILESTONE, IRQ_LEND = 0x5600_0081, 0x5600_0083, 0x5600_0085, 0x5100_0020, 0x5600_0051


def words(*values: int) -> str:
    return struct.pack(f"<{len(values)}I", *values).hex()


def notification(message: int, payload: str) -> dict[str, Any]:
    return {"kind": "notification", "id": f"{message:#x}", "payload": payload}


def status(state: int) -> dict[str, Any]:
    return notification(0x5610_0008, struct.pack("<HHBBH", OWN, 0, state, 0, 0).hex())


@pytest.fixture
def replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(**data: list[dict[str, Any]]) -> dict[str, Any]:
        path = tmp_path / "recording.json"
        path.write_text(json.dumps(data))
        main([path], json=True)
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return run


def test_after_a_step_that_killed_the_references_rm_the_stack_boots_anew(replay: Any) -> None:
    steps = [
        request(MILESTONE, "", words(0)),
        request(MILESTONE, "", words(3)),
        request(IRQ_LEND, "", None),
        request(MILESTONE, "00", words(4)),
        request(ALLOCATE, words(0), words(0, OWN)),
        request(DEALLOCATE, words(45), None),
        request(ALLOCATE, words(0), words(0, OWN)),
    ]
    result = replay(rm_rpc_deaths=steps)
    assert result["failures"] == []
    assert result["scenarios"] == {"rm_rpc_deaths": {"passed": 7, "failed": 0, "deviations": 0}}


def test_a_well_formed_request_that_killed_the_reference_may_succeed(replay: Any) -> None:
    configured = struct.pack("<HHIQQQQ", OWN, 0, 9, 0, 0, 0, 0).hex()
    steps = [request(ALLOCATE, words(0), words(0, OWN)), status(8), request(CONFIG, configured, words(0xA))]
    assert replay(rm_rpc_reset=[*steps, request(RESET, words(OWN), None)])["failures"] == []


def life(end: list[dict[str, Any]], base: int = 0x5000_0000) -> list[dict[str, Any]]:
    lend = struct.pack("<BBBBIHHHBBHHQQI", 0, 0, 0, 0, 0, 1, 0, OWN, 7, 0, 1, 0, base, 0x20_0000, 0).hex()
    configured = struct.pack("<HHIQQQQ", OWN, 0, 0, 0, 0x10_0000, 0x10_0000, 0x1_0000).hex()
    return [
        request(ALLOCATE, words(0), words(0, OWN)),
        request(LEND, lend, words(0, 0)),
        status(1),
        request(CONFIG, configured, words(0)),
        status(2),
        request(INIT, words(OWN), words(0)),
        status(3),
        request(START, words(OWN), words(0)),
        request(GET_STATE, words(OWN), words(0, 3)),
        *end,
    ]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (0, (0x1_0001,)),
        (1, (0,)),
        (2, (0,)),
        (3, (0x8000, 0x8000_0001, 0x5566_7788, 0x1122_3344)),
        (3, (0, 0x8000_0001, 0x5566_7788, 0)),
    ],
)
def test_a_recorded_vm_ends_as_it_did(replay: Any, kind: int, reason: tuple[int, ...]) -> None:
    exited = struct.pack("<HHI", OWN, kind, 4 * len(reason)).hex() + words(*reason)
    end = [
        status(9),
        notification(0x5610_0001, exited),
        request(GET_STATE, words(OWN), words(0, 9)),
        status(0xA),
        notification(0x5110_0012, words(0, OWN, 0)),
        status(0xB),
        request(RESET, words(OWN), words(0)),
        request(RECLAIM, words(0, 0), words(0)),
        request(DEALLOCATE, words(OWN), words(0)),
    ]
    assert replay(svm_lifecycle_end=life(end))["failures"] == []


def test_a_next_life_that_nobody_was_told_of_is_a_deviation(replay: Any) -> None:
    """VM_RESET removes the links to peers (rm-behaviour.md 11); here the owner is linked again."""
    exited = notification(0x5610_0001, struct.pack("<HHII", OWN, 1, 4, 0).hex())
    first = life([status(9), exited, request(GET_STATE, words(OWN), words(0, 9)), status(0xA)])
    released = [status(0xB), request(RESET, words(OWN), words(0)), request(RECLAIM, words(0, 0), words(0))]
    again = [step for step in life([exited])[1:] if step["kind"] != "notification" or step is exited]
    lend, configured = again[0], again[1]
    lend["reply"] = words(0, 1)
    configured["payload"] = configured["payload"][:8] + words(1) + configured["payload"][16:]
    ends = [
        request(GET_STATE, words(OWN), words(0, 9)),
        notification(0x5110_0012, words(1, OWN, 0)),
        request(RESET, words(OWN), words(0)),
        request(RECLAIM, words(1, 0), words(0)),
        request(DEALLOCATE, words(OWN), words(0)),
        request(ALLOCATE, words(0), words(0, OWN)),
        status(8),
        request(CONFIG, configured["payload"], words(0xA)),
    ]
    result = replay(
        rm_rpc_again=[*first, notification(0x5110_0012, words(0, OWN, 0)), *released, *again, *ends],
    )
    assert result["failures"] == []
    assert [step["call"] for step in result["deviation_steps"]] == ["VM_EXITED", "MEM_RELEASED"]
    assert result["unused_rules"] == []


def test_a_vm_whose_device_tree_was_not_found_finds_none_here(replay: Any) -> None:
    steps = life([])[:4] + [status(8), request(INIT, words(OWN), words(0xA))]
    assert replay(rm_rpc_no_tree=steps)["failures"] == []


def test_what_lies_nowhere_is_not_written(replay: Any) -> None:
    far = struct.pack("<HHIQQQQ", OWN, 0, 0, 0, 0, (1 << 64) - 1, 8).hex()
    steps = [*life([])[:2], status(8), request(CONFIG, far, words(6))]
    assert replay(rm_rpc_far=steps)["failures"] == []


def identity(name: bytes) -> str:
    entries = (
        struct.pack("<BBH16s", 0, 0, 16, b"") + struct.pack("<BBH", 2, 0, len(name)) + name + bytes(-len(name) % 4)
    )
    return words(0, 3) + entries.hex() + "030003004e2f4100"


def test_a_secondary_vm_is_made_as_it_says_of_itself(replay: Any) -> None:
    entries = ((1, 0x51, 962), (0, 0x52, 0), (2, 0x53, 963), (3, 0x53, 964))
    listed = b"".join(struct.pack("<BxHIIQIIQQ", kind, 3, 0, label, 77, 0, virq, 0, 0) for kind, label, virq in entries)
    steps = [
        request(GET_VMID, "", words(0, 20)),
        request(GET_OWNER, "", words(0, 3)),
        request(GET_ID, words(0), identity(b"of its own")),
        request(RESOURCES, words(3), words(0, 4) + listed.hex()),
        request(ALLOCATE, words(0), words(3)),
        request(OPEN, words(20), words(3)),
    ]
    assert replay(rm_rpc_own=steps)["failures"] == []


def test_the_owner_does_what_a_secondary_vms_recording_presupposes(replay: Any) -> None:
    def accept(handle: int, trans: int) -> str:
        return struct.pack("<IBBBBIIII", handle, 0, trans, 0x80, 0, 7, 0, 0, 0).hex()

    shared = struct.pack("<IBBBBHHII", 7, 0, 2, 0, 0, 3, 0, 9, 0x1234)
    shared += struct.pack("<HHHBBHBBHHQI", 2, 0, OWN, 7, 0, 3, 7, 0, 1, 0, 0x3000, 0)
    steps = [
        request(OPEN, words(0), words(0)),
        notification(0x5610_0080, struct.pack("<HH5s", 0, 5, b"hello").hex()),
        request(WRITE, struct.pack("<HH2s", 0, 2, b"ok").hex(), words(0)),
        notification(0x5110_0011, shared.hex()),
        request(ACCEPT, accept(7, 2), words(0) + struct.pack("<HHQQ", 1, 0, 0x4000_1000, 0x3000).hex()),
        request(RELEASE, words(7, 0), words(0)),
        request(ACCEPT, accept(8, 1), words(0) + struct.pack("<HHQQ", 1, 0, 0x4020_0000, 0x20_0000).hex()),
        notification(0x5110_0014, words(7, 0x1234)),
        notification(0x5610_0002, words(0x55)),
        request(GET_STATE, words(0), words(0, 3)),
        request(EXIT, words(0), None),
    ]
    result = replay(rm_rpc_from_inside=steps)
    assert result["failures"] == []
    assert result["passed"] == 11


def test_what_the_public_rm_lacks_is_a_deviation(replay: Any) -> None:
    steps = [request(number, words(OWN), "ffffffff") for number in (0x5600_0007, 0x5600_0008, 0x5600_0031)]
    result = replay(rm_rpc_later=steps)
    assert (result["failed"], result["deviations"]) == (0, 3)
    assert all("rm-rpc.md" in step["reason"] for step in result["deviation_steps"])


def test_owner_and_secondary_vm_speak_in_turns(replay: Any) -> None:
    """No field says who asks: VMIDs, consoles and what came before do."""
    chars, mine = 0x5610_0080, ((1, 0x42, 962), (0, 0x43, 0), (2, 0x44, 963), (3, 0x44, 964))
    listed = b"".join(struct.pack("<BxHIIQIIQQ", kind, 3, 0, label, 77, 0, virq, 0, 0) for kind, label, virq in mine)
    exited = struct.pack("<HHI", OWN, 0, 4).hex() + words(0)
    talk = [
        request(GET_VMID, "", words(0, OWN)),
        request(GET_STATE, words(0), words(0, 3)),
        request(RESOURCES, words(3), words(0, 4) + listed.hex()),
        request(OPEN, words(0), words(0)),
        request(WRITE, struct.pack("<HH2s", 0, 2, b"no").hex(), words(0)),
        request(OPEN, words(OWN), words(0), "owner: OPEN"),
        notification(chars, struct.pack("<HH2s", 0, 2, b"ho").hex()),
        request(WRITE, struct.pack("<HH2s", OWN, 2, b"ho").hex(), words(0)),
        notification(chars, struct.pack("<HH2s", OWN, 2, b"hi").hex()),
        request(WRITE, struct.pack("<HH2s", 0, 2, b"hi").hex(), words(0), "svm: WRITE"),
        request(OPEN, words(OWN), words(3), "svm: OPEN"),
        request(GET_VMID, "", words(0, 3)),
        request(GET_VMID, "", words(0, OWN)),
        request(EXIT, words(0), None),
        status(9),
        notification(0x5610_0001, exited),
        request(GET_STATE, words(OWN), words(0, 9)),
        status(0xA),
        notification(0x5110_0012, words(0, OWN, 0)),
        status(0xB),
        request(RESET, words(OWN), words(0)),
        request(RECLAIM, words(0, 0), words(0)),
        request(DEALLOCATE, words(OWN), words(0)),
    ]
    result = replay(rm_rpc_both=life(talk))
    assert result["failures"] == []
    assert result["passed"] == len(life(talk))
