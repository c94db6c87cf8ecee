"""Replaying: what is the same passes, what is not fails with names, and nothing is passed over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gunyah.host.conformance import main

from .steps import Script
from .steps import request as rm_request

ALL_ONES = "0xffffffffffffffff"


def doorbell(ctx: str = "root/doorbell") -> Script:
    return Script(ctx).create("doorbell", "$db").call("object_activate", "$db", 0)


def test_the_root_vm_makes_the_recorded_calls_with_its_own_capabilities(replay: Any) -> None:
    script = doorbell()
    script.call("doorbell_send", "$db", 0x5, 0).call("doorbell_send", "$db", 0x2, 0, out=(0, 5))
    script.call("doorbell_receive", "$db", ALL_ONES, 0, out=(0, 7)).call("doorbell_send", "$partition", 1, 0, out=(52,))
    status, result = replay({"hypercalls": script.steps})
    assert status == 0
    assert (result["passed"], result["failed"], result["deviations"]) == (6, 0, 0)
    assert result["scenarios"] == {"root/doorbell": {"passed": 6, "failed": 0, "deviations": 0}}


def test_each_scenario_starts_from_a_fresh_boot(replay: Any) -> None:
    first = doorbell("root/one").call("doorbell_send", "$db", 1, 0)
    second = Script("root/two").call("doorbell_send", "$db", 1, 0)
    status, result = replay({"hypercalls": first.steps + second.steps})
    assert status == 1
    (failure,) = result["failures"]
    assert (failure["scenario"], failure["kind"], failure["expected"]) == ("root/two", "unknown $name", "$db")


def test_a_difference_is_told_with_names(replay: Any) -> None:
    script = doorbell().call("doorbell_send", "$db", 1, 0, out=(61,), note="wrong on purpose")
    script.call("doorbell_receive", "$db", ALL_ONES, 0, out=(0, "$db"))
    status, result = replay({"hypercalls": script.steps})
    assert status == 1
    first, second = result["failures"]
    assert (first["expected"], first["got"], first["kind"]) == ("MSGQUEUE_FULL", "OK", "another result code")
    assert first["note"] == "wrong on purpose"
    assert (second["expected"], second["got"]) == ("x1 = $db", "x1 = 1")


def test_capabilities_compare_by_validity_and_deleted_ids_may_come_again(replay: Any) -> None:
    script = Script("root/caps")
    for name in ("$a", "$b"):
        script.create("doorbell", name).call("cspace_delete_cap_from", "$cspace", name, 0)
    script.call("doorbell_send", "$b", 1, 0, out=(50,))
    # A literal id in the recording stands for one that nothing uses later.
    script.call("partition_create_doorbell", "$partition", "$cspace", 0, out=(0, 0x1234_5678_9ABC))
    script.call("partition_create_doorbell", "$cspace", "$cspace", 0, out=(52, ALL_ONES))
    status, result = replay({"hypercalls": script.steps})
    assert status == 1
    assert result["passed"] == 6
    (failure,) = result["failures"]
    assert failure["expected"] == "x1 = ~0"


def test_both_encodings_and_both_instructions_are_replayed(replay: Any) -> None:
    words = ("0x5100000000008001", "0x10000eff", 0, 0, 0)
    script = Script("root/identify").call("hypervisor_identify", out=words)
    script.smccc("hypervisor_identify", 0xC600_8000, out=words)
    script.smccc("hypervisor_identify", 0xC600_8000, out=words, insn="smc #0")
    script.smccc("undefined", 0x1234, out=(ALL_ONES,), insn="smc #0x7")
    status, result = replay({"hypercalls": script.steps})
    assert (status, result["passed"]) == (0, 4)


def test_entropy_compares_by_its_width(replay: Any) -> None:
    script = Script("root/prng").call("prng_get_entropy", 8, 0, out=(0, 0x1234_5678, 0x9ABC_DEF0))
    script.call("prng_get_entropy", 5, 0, out=(3,))
    status, _ = replay({"hypercalls": script.steps})
    assert status == 0


@pytest.mark.parametrize(("trigger", "taken"), [("edge", "[40]"), ("level", "[40]")])
def test_interrupts_are_observed_as_the_recorder_saw_them(replay: Any, trigger: str, taken: str) -> None:
    script = doorbell(f"root/irq_{trigger}").call("doorbell_bind_virq", "$db", "$vic", 40, 0)
    script.observe(f"doorbell ICFGR after bind {2 if trigger == 'edge' else 0} pend 0")
    script.call("doorbell_send", "$db", 1, 0).observe("after send(1): pend=1")
    script.call("doorbell_receive", "$db", ALL_ONES, 0, out=(0, 1))
    script.observe(f"send then receive before ack: irqs={taken}")
    script.observe("GICD TYPER @0x4 = 0x349001f")
    script.observe("byte GICD_TYPER read: val=0x8000005 exc=1 esr=0x96000010")
    status, result = replay({"hypercalls": script.steps})
    assert status == 0, result["failures"]


def test_a_note_that_says_nothing_readable_fails_its_step(replay: Any) -> None:
    status, result = replay({"hypercalls": Script("root/notes").observe("the weather was fine").steps})
    assert status == 1
    assert result["failures"][0]["kind"] == "note not understood"


def test_where_the_reference_crashed_only_an_error_will_do(replay: Any) -> None:
    script = Script("root/panic").create("thread", "$t").panic("vcpu_set_affinity", "$t", 8, ALL_ONES)
    script.panic("scheduler_yield", 0, 0, 0)
    script.steps.append({"ctx": "root/panic", "step": 3, "call": "HYP_FAILURE", "note": "TimeoutError"})
    status, result = replay({"hypercalls": script.steps})
    assert status == 1
    (failure,) = result["failures"]
    assert (failure["call"], failure["got"]) == ("scheduler_yield", "OK")
    assert result["passed"] == 3


def test_a_recorded_guest_is_made_again_from_what_it_did(replay: Any) -> None:
    script = Script("root/vcpu").create("memextent", "$code")
    script.call("memextent_configure", "$code", 0x4080_0000, 0x20_0000, 7, 0).call("object_activate", "$code", 0)
    script.create("addrspace", "$as").call("addrspace_configure", "$as", 0x21, 0)
    script.call("addrspace_configure_vmmio", "$as", 0, 0x1000_0000, 0, 0).call("object_activate", "$as", 0)
    script.call("addrspace_map", "$addrspace", "$code", 0xF_F000_0000, 0xF_0066, 0, 0, 0)
    script.call("addrspace_map", "$as", "$code", 0x8000_0000, 0xF_0077, 0, 0, 0)
    script.create("cspace", "$cs").call("cspace_configure", "$cs", 16, 0).call("object_activate", "$cs", 0)
    script.create("vic", "$v").call("vic_configure", "$v", 1, 64, 0, 0).call("object_activate", "$v", 0)
    script.create("thread", "$t").call("vcpu_configure", "$t", 0x200, 0).call("cspace_attach_thread", "$cs", "$t", 0)
    script.call("addrspace_attach_thread", "$as", "$t", 0).call("vic_attach_vcpu", "$v", "$t", 0, 0)
    script.call("object_activate", "$t", 0).call("vcpu_poweron", "$t", 0x8000_0000, 0x7777, 0)
    script.call("vcpu_run", "$t", 0, 0, 0, 0, out=(0, 5, 0x1008, 4, 0xABCD))
    script.call("vcpu_run", "$t", 0, 0, 0, 0, out=(0, 4, 0x1010, 4))
    script.call("vcpu_run", "$t", 0x42, 0, 0, 0, out=(0, 1, 0x1_0001, 2))
    script.observe("guest results [identify.x0, vmmio read reg]: ['0x5100000000008001', '0x42']", call="memory")
    status, result = replay({"hypercalls": script.steps})
    assert status == 0, result["failures"]


def test_the_primary_vm_asks_the_real_resource_manager(replay: Any) -> None:
    steps = [
        rm_request(0x5600_0024, "", "0000000003000000", "GET_VMID"),
        rm_request(0x5600_0017, "03000000", "0000000003000000", "GET_STATE"),
        rm_request(0x1234_5678, "", "ffffffff", "unknown"),
        rm_request(0x5600_0010, "00000000", "04000000", "wrong on purpose"),
    ]
    status, result = replay({"rm_rpc_some": steps})
    assert status == 1
    assert result["passed"] == 3
    (failure,) = result["failures"]
    assert (failure["call"], failure["expected"], failure["got"]) == ("VM_GET_ID", "MSG_INVALID", "OK")


def test_requests_longer_than_a_packet_are_fragmented(replay: Any) -> None:
    status, result = replay({"rm_rpc_long": [rm_request(0x5600_0024, "00" * 1000, "04000000", "GET_VMID len=1000")]})
    assert (status, result["passed"]) == (0, 1)


def test_a_request_that_killed_the_reference_gets_an_error_and_life_goes_on(replay: Any) -> None:
    steps = [rm_request(0x5600_0083, "", None, "CONSOLE_WRITE len 0"), rm_request(0x5600_0024, "", "0000000003000000")]
    status, result = replay({"rm_rpc_crashers": steps})
    assert (status, result["passed"]) == (0, 2)


def test_a_notification_that_never_comes_is_a_failure_not_a_hang(replay: Any) -> None:
    steps = [{"kind": "notification", "id": "0x56100008", "payload": "8000000001000000"}]
    status, result = replay({"rm_rpc_quiet": steps})
    assert status == 1
    assert result["failures"][0]["kind"] == "no answer"


def test_readings_of_the_primary_vm_and_the_root_environment_are_compared(replay: Any) -> None:
    data = {
        "pvm_machine": {"GICD_TYPER": "0x349001f", "mrs ICC_SRE": "0x7", "0x80480000 RM": "ABORT(esr=0x96000010)"},
        "rootvm_env": {"boot_core": 0, "usable_cores": 255, "vic": 11289907724727512035, "no_such_key": 1},
    }
    status, result = replay(data)
    assert status == 1
    assert [failure["call"] for failure in result["failures"]] == ["no_such_key"]
    assert result["passed"] == 6


def test_what_was_recorded_here_replays_without_a_failure(replay: Any, tmp_path: Path) -> None:
    script = doorbell().call("doorbell_send", "$db", 9, 0, out=(61, 61)).create("msgqueue", "$q")
    script.call("msgqueue_configure", "$q", 0x10_0004, 0).call("msgqueue_send", "$q", 8, "$scratch", 0, 0, out=(9,))
    steps = [rm_request(0x5600_0024, "", "06000000")]
    ours = tmp_path / "ours.json"
    status, _ = replay({"hypercalls": script.steps, "rm_rpc_ours": steps}, record=ours)
    assert status == 1
    again = json.loads(ours.read_text())
    assert again["hypercalls"][2]["out"] == ["0x0", "0x0", "0x0", "0x0", "0x0"]
    assert again["hypercalls"][3]["out"][1] == "$q"
    assert again["hypercalls"][5]["err"] == "OBJECT_STATE"
    assert again["rm_rpc_ours"][0]["reply"] == "0000000003000000"
    status, result = replay(again)
    assert (status, result["failed"]) == (0, 0)


def test_a_guest_that_ends_fails_its_step_and_the_rest_is_not_reached(replay: Any) -> None:
    script = Script("pvm/off").smccc("PSCI_SYSTEM_OFF", 0x8400_0008, out=(0,))
    script.call("hypervisor_identify", out=("0x5100000000008001", "0x10000eff"))
    status, result = replay({"hypercalls": script.steps})
    assert status == 1
    assert [failure["kind"] for failure in result["failures"]] == ["the guest stopped", "not reached"]


def test_the_report_for_people_ends_with_the_closing_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recording.json"
    script = doorbell().call("doorbell_send", "$db", 1, 0, out=(61,))
    path.write_text(json.dumps({"hypercalls": script.steps}))
    assert main([path]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "2 passed, 1 failed, 0 deviations"
    assert any("doorbell_send" in line and "expected MSGQUEUE_FULL, got OK" in line for line in lines)


def test_a_secondary_vms_own_view_is_replayed_from_inside_such_a_vm(replay: Any) -> None:
    script = Script("svm/id").call("hypervisor_identify", out=("0x5100000000008001", "0x10000eff"))
    script.smccc("PSCI_VERSION", 0x8400_0000, out=(0x1_0001, 0, 0, 0))
    data = {
        "hypercalls": script.steps,
        "rm_rpc_own_view": [
            rm_request(0x5600_0024, "", "0000000080000000", "GET_VMID"),
            rm_request(0x5600_0015, "", "0000000003000000", "GET_OWNER"),
        ],
        "svm_machine": {"GICD_TYPER": "0x349001f", "mrs MIDR": "0xf0480"},
    }
    status, result = replay(data)
    assert status == 0, result["failures"]
    assert result["passed"] == 6
