"""A hostile VM breaks nothing: no failure inside EL2, nothing of another VM changes, all it had comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools.fuzz.choices import Choices, records, split
from tools.fuzz.primary_attack import PrimaryAttack
from tools.fuzz.root_attack import RootAttack
from tools.fuzz.series import attempt, split_acts
from tools.fuzz.shrink import shrink

ACTS = 30_000
CRASHERS = sorted(Path(__file__).parent.glob("crashers/*.acts"))


@pytest.mark.parametrize("seed", [11, 12])
def test_a_hostile_primary_vm_harms_nobody_and_the_resource_manager_still_answers(seed: int) -> None:
    attack = PrimaryAttack(records(seed, ACTS), seed=seed)
    assert attack.run() == []
    assert attack.performed == ACTS
    assert attack.calls > ACTS // 2


@pytest.mark.parametrize("seed", [21, 22])
def test_a_hostile_root_vm_and_the_vms_it_makes_harm_nobody_and_leave_nothing_behind(seed: int) -> None:
    attack = RootAttack(records(seed, ACTS), seed=seed)
    assert attack.run() == []
    assert attack.performed == ACTS
    assert attack.calls > ACTS // 2


def test_what_once_broke_it_does_not_any_more() -> None:
    for path in CRASHERS:
        kind, _, seed = path.stem.rpartition("-")
        assert attempt(kind, split_acts(kind, path.read_bytes()), int(seed)) == [], path


def test_the_same_acts_give_the_same_run() -> None:
    def trace() -> tuple[object, ...]:
        attack = RootAttack(records(5, 3000), seed=5)
        assert attack.run() == []
        return attack.calls, attack.hv.clock.ticks(), attack.bystander.beats, list(attack.hv.remarks)

    assert trace() == trace()


class TestTheJudge:
    """The judge of these runs sees what it is there to see."""

    def test_a_leaked_object_is_named(self) -> None:
        attack = RootAttack(records(1, 50), seed=1)
        attack._run()
        leaked = attack.root.cspace.lookup(attack.root.capabilities["vic"], attack.root.vic.type, 0)
        leaked.get()
        attack.bury()
        assert [finding for finding in attack.findings if str(leaked) in finding and "references" in finding]

    def test_a_changed_byte_of_another_vm_is_a_finding(self) -> None:
        attack = RootAttack(records(1, 50), seed=1)
        attack.hv.memory.write_u8(0xA000_1234, 0xFF)
        assert any("memory" in finding for finding in attack.run())

    def test_an_exception_inside_the_hypervisor_is_a_finding_whatever_the_guest_catches(self) -> None:
        attack = RootAttack(records(1, 500), seed=1)

        def broken(*arguments: object) -> None:
            raise KeyError("a defect")

        attack.hv.dispatcher.native[:] = [broken] * len(attack.hv.dispatcher.native)
        assert any("a defect" in finding for finding in attack.run())


class TestChoices:
    """Records decide everything, and any bytes are records."""

    def test_draws_after_the_end_are_zero(self) -> None:
        choices = Choices(b"\x01\x02")
        assert (choices.byte(), choices.byte(), choices.byte(), choices.half()) == (1, 2, 0, 0)

    def test_a_seed_gives_the_same_records_however_many_are_taken(self) -> None:
        assert list(records(7, 600))[:100] == list(records(7, 1000))[:100]
        assert split(b"".join(records(7, 40))) == list(records(7, 512))[:40]

    def test_shrinking_leaves_what_matters(self) -> None:
        acts = [bytes([number]) for number in range(100)]
        assert shrink(acts, lambda left: bytes([17]) in left and bytes([80]) in left, 10.0) == [
            bytes([17]),
            bytes([80]),
        ]
