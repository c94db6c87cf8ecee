"""A hostile native guest, at EL1 on the CPU engine, breaks nothing: as the primary VM, and as one of two VMs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.fuzz import __main__ as command
from tools.fuzz import native_guest as guest
from tools.fuzz.native_attack import (
    NativeAttack,
    NativeCallsAttack,
    NativePairAttack,
    NativePrimaryAttack,
    NativeSmpAttack,
)
from tools.fuzz.native_guest import STEP, Field, Op, describe, step
from tools.fuzz.native_steps import CAPABILITIES, PHRASES, number, steps
from tools.fuzz.native_words import COUNT, words
from tools.fuzz.remap_attack import RemapAttack
from tools.fuzz.series import KINDS, apart, attempt, series, split_acts

from gunyah.abi.hypercalls import BY_NAME
from gunyah.abi.objects import ObjectType
from gunyah.hypervisor.native_executor import NativeExecutor
from gunyah.machine.engine import Core

T = TypeVar("T")
COUNT_OF_STEPS = 4_000
ECHO = number(7, 0x1234)


@pytest.mark.parametrize("seed", [31, 32])
def test_a_hostile_native_primary_vm_harms_nobody_and_the_resource_manager_still_answers(seed: int) -> None:
    attack = NativePrimaryAttack(steps(seed, COUNT_OF_STEPS), seed=seed)
    assert attack.run() == []
    assert attack.performed == COUNT_OF_STEPS
    assert attack.calls > COUNT_OF_STEPS // 10


@pytest.mark.parametrize("seed", [41, 42])
def test_a_hostile_native_vm_harms_no_other_and_leaves_nothing_behind(seed: int) -> None:
    # An odd seed makes it a VM that the primary VM runs itself, with a UART, an even one a VM of the scheduler's.
    attack = NativePairAttack(steps(seed, COUNT_OF_STEPS), seed=seed)
    assert attack.run() == []
    assert attack.performed == COUNT_OF_STEPS
    assert attack.calls > COUNT_OF_STEPS // 10


def test_the_same_calls_in_a_native_vm_again_and_again_harm_nobody() -> None:
    attack = NativeCallsAttack(NativeCallsAttack.stream(51, 2000), seed=51)
    assert attack.run() == []
    assert attack.calls > 2000


def test_a_native_vm_with_two_vcpus_that_share_their_memory_harms_nobody() -> None:
    attack = NativeSmpAttack(steps(61, 2000), seed=61)
    assert attack.run() == []
    assert attack.performed == 2000


def test_what_a_native_guest_reaches_is_what_stage_2_says_at_once() -> None:
    attack = RemapAttack(RemapAttack.stream(81, 8000), seed=81)
    assert attack.run() == []
    assert attack.performed == 1000


def test_the_same_steps_give_the_same_run() -> None:
    def trace() -> tuple[object, ...]:
        attack = NativePrimaryAttack(steps(5, 1500), seed=5)
        assert attack.run() == []
        return attack.calls, attack.guest.exceptions, attack.guest.rescues, attack.hv.clock.ticks(), attack.guest.x

    assert trace() == trace()


class FromHypothesis:
    """Decisions of Hypothesis, for phrases."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def pick(self, items: Sequence[T], /) -> T:
        return items[self.below(len(items))]

    def below(self, limit: int, /) -> int:
        return self._draw(st.integers(0, limit - 1))


@st.composite
def phrases(draw: st.DrawFn) -> bytes:
    return draw(st.sampled_from(list(PHRASES)))(FromHypothesis(draw))


class TestAnySteps:
    """Each example runs in a fork of a machine that has booted."""

    machine: NativeAttack

    @pytest.fixture(autouse=True, scope="class", params=[NativePrimaryAttack, NativePairAttack])
    @classmethod
    def booted(cls, request: pytest.FixtureRequest) -> None:
        cls.machine = request.param(iter(()), seed=7)

    @settings(max_examples=12, deadline=None)
    @given(st.lists(phrases(), min_size=1, max_size=25))
    def test_no_phrases_break_anything(self, given: list[bytes]) -> None:
        self.holds(b"".join(given))

    @settings(max_examples=12, deadline=None)
    @given(st.binary(min_size=STEP, max_size=100 * STEP))
    def test_no_bytes_break_anything(self, data: bytes) -> None:
        self.holds(data)

    def holds(self, data: bytes) -> None:
        machine = self.machine

        def judge() -> list[str]:
            machine.proceed(split_acts("native", data))
            return machine.finish()

        assert apart(judge) == []


@pytest.fixture(scope="module")
def machine() -> NativePrimaryAttack:
    return NativePrimaryAttack(iter(()), seed=3)


class TestTheGuest:
    """What the steps of the guest do."""

    def run(self, machine: NativePrimaryAttack, *program: bytes) -> guest.NativeGuest:
        hostile = machine.guest
        hostile.rescue()
        hostile.load(b"".join(program))
        hostile.wake()
        assert machine._wait(62_500_000)
        assert hostile.get(Field.IDLE) == 1
        return hostile

    def test_numbers_moves_and_lists_fill_registers(self, machine: NativePrimaryAttack) -> None:
        program = [number(4, 0x1_2345_0000_0000), number(5, -2), step(Op.MOVE, 6, 5, 3), step(Op.LIST, 7, 17)]
        x = self.run(machine, *program, step(Op.QUAD, 2, 0, 0x1110_1211)).x
        assert x[4] == 0x1_2345_0000_0000 and x[5] == (1 << 64) - 2 and x[6] == 1
        assert x[8:12] == (2, 3, 1, 2) and x[7] == 2

    @given(value=st.integers(0, (1 << 64) - 1) | st.sampled_from([1 << 63, 0xC400_0003, 0xFFFF_FFFF_7FFF_FFFF]))
    @settings(max_examples=40, deadline=None)
    def test_any_number_gets_into_a_register(self, machine: NativePrimaryAttack, value: int) -> None:
        assert self.run(machine, number(9, value)).x[9] == value

    def test_a_call_is_made_and_its_results_are_kept(self, machine: NativePrimaryAttack) -> None:
        hostile = self.run(machine, step(Op.CALL, BY_NAME["hypervisor_identify"].number))
        assert hostile.x[:2] == (0x5100_0000_0000_8001, 0x1000_0EFF)
        assert hostile.get(Field.CALLS) == 1 and hostile.get(Field.EXCEPTIONS) == 0

    def test_any_instruction_is_executed_and_an_exception_ends_its_step_only(
        self, machine: NativePrimaryAttack
    ) -> None:
        add_x0_x1_x2, undefined = 0x8B02_0020, 0
        program = [number(1, 40), number(2, 2), step(Op.RAW, 0, 0, undefined), step(Op.RAW, 0, 0, add_x0_x1_x2)]
        hostile = self.run(machine, *program)
        assert hostile.x[0] == 42
        assert hostile.get(Field.EXCEPTIONS) == 1 and hostile.get(Field.LAST_ESR) >> 26 == 0

    def test_a_page_of_another_owner_is_out_of_its_reach(self, machine: NativePrimaryAttack) -> None:
        load_x0 = 0xF940_0020
        hostile = self.run(machine, number(1, machine.canaries.pages[0]), step(Op.RAW, 0, 0, load_x0))
        assert hostile.get(Field.LAST_ESR) == 0x9600_0010
        assert hostile.get(Field.LAST_FAR) == machine.canaries.pages[0]

    def test_jumps_come_back_from_code_and_by_an_exception_from_anywhere_else(
        self, machine: NativePrimaryAttack
    ) -> None:
        own = machine.guest.entry
        program = [number(3, own + 0x1800 + 8 * 0x77), step(Op.JUMP, 3), number(3, 0), step(Op.JUMP, 3), ECHO]
        hostile = self.run(machine, *program)
        assert hostile.get(Field.EXCEPTIONS) == 1 and hostile.x[7] == 0x1234

    def test_el0_comes_back_by_an_exception_in_both_states(self, machine: NativePrimaryAttack) -> None:
        own = machine.guest.entry
        program = [number(3, own + 0x1800), step(Op.DROP, 3), step(Op.DROP, 3, 0, 0x10), ECHO]
        hostile = self.run(machine, *program)
        assert hostile.get(Field.EXCEPTIONS) == 2 and hostile.x[7] == 0x1234

    def test_the_mmu_is_on_when_it_is_told_and_unmapped_pages_abort(self, machine: NativePrimaryAttack) -> None:
        own, load_x0, spare = machine.guest.entry, 0xF940_0020, 0x1F_0000
        entry = 0x400 + (own + spare >> 12 & 0x1FF)
        program = [step(Op.REGIME, 0, 0, 1), number(1, own + spare), step(Op.RAW, 0, 0, load_x0), number(2, 0)]
        assert self.run(machine, *program).get(Field.EXCEPTIONS) == 0
        hostile = self.run(machine, *program, step(Op.TABLE, 2, entry, 1), step(Op.RAW, 0, 0, load_x0), step(Op.REGIME))
        assert hostile.get(Field.EXCEPTIONS) == 1 and hostile.get(Field.LAST_ESR) == 0x9600_0007

    def test_a_guest_that_has_shot_itself_goes_on_with_its_next_step(self, machine: NativePrimaryAttack) -> None:
        own, branch_to_itself, store_x0 = machine.guest.entry, 0x1400_0000, 0xF900_0020
        rescues = machine.guest.rescues
        program = [step(Op.RAW, 0, 0, branch_to_itself), number(1, own + 0x4C), number(0, 0)]
        hostile = self.run(machine, *program, step(Op.RAW, 0, 0, store_x0), ECHO)
        assert hostile.x[7] == 0x1234 and hostile.rescues == rescues + 3

    def test_a_vcpu_that_was_in_aarch32_when_it_was_switched_off_starts_in_aarch64(
        self, machine: NativePrimaryAttack
    ) -> None:
        hostile, branch_to_itself = machine.guest, 0xEAFF_FFFE
        code = hostile.entry + guest.DATA
        hostile.put(0, branch_to_itself.to_bytes(4, "little"))
        assert self.run(machine, number(3, code), step(Op.DROP, 3, 0, 0x10), ECHO).x[7] == 0x1234

    def test_steps_are_told_in_words(self) -> None:
        assert describe(step(Op.CALL, 0x1B)) == "call 0x1b (msgqueue_send)"
        assert describe(step(Op.LIST, 0x83, 7, 0xFF)) == "X3 = values[7], 0xff behind"
        assert all(describe(act) for act in islice(steps(1, 500), 500))
        assert len(words(1)) == 4 * COUNT


class TestTheJudge:
    """The judge of these runs sees what it is there to see."""

    def test_a_page_that_can_be_read_is_found_by_whoever_reads_it(self) -> None:
        load_x0 = 0xF940_0020
        attack = NativePrimaryAttack([], seed=1)
        address = attack.guest.entry + 0x10_0000
        attack.hv.memory.write_u64(address, attack.canaries.secret)
        assert not attack.proceed([number(1, address), step(Op.RAW, 0, 0, load_x0), number(0, 0)])
        assert any("the guest read a page of another owner" in finding for finding in attack.finish())

    def test_a_page_that_was_written_and_a_word_in_the_guest_s_memory_are_findings(self) -> None:
        attack = NativePrimaryAttack([], seed=1)
        attack.hv.memory.write_u8(attack.canaries.pages[0] + 5, 0)
        attack.hv.memory.write_u64(attack.guest.entry + 0x10_0000, attack.canaries.secret)
        found = attack.run()
        assert any("was written" in finding for finding in found) and any("was read" in finding for finding in found)

    def test_a_hypervisor_that_reads_buffers_past_stage_2_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        original = NativeExecutor.copy_in

        def past(self: NativeExecutor, address: int, size: int) -> bytes:
            memory = self._hv.memory
            return memory.read(address, size) if memory.contains(address, size) else original(self, address, size)

        monkeypatch.setattr(NativeExecutor, "copy_in", past)
        found = NativePrimaryAttack(steps(2, 5000), seed=2).run()
        assert any("the hypervisor read a page of another owner" in finding for finding in found)

    def test_a_hypervisor_that_writes_results_past_stage_2_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        original = NativeExecutor.copy_out

        def past(self: NativeExecutor, address: int, data: bytes) -> None:
            memory = self._hv.memory
            if memory.contains(address, len(data)):
                memory.write(address, data)
            else:
                original(self, address, data)

        monkeypatch.setattr(NativeExecutor, "copy_out", past)
        found = NativePrimaryAttack(steps(2, 5000), seed=2).run()
        assert any("of another owner was written" in finding for finding in found)

    def test_what_is_found_is_shrunk_kept_told_in_words_and_done_again(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(NativeExecutor, "copy_in", lambda self, address, size: self._hv.memory.read(address, size))
        monkeypatch.setattr(command, "SHRINK_SECONDS", 120.0)
        page = NativePrimaryAttack([], seed=1).canaries.pages[0]
        queue = CAPABILITIES.start + 8 * list(ObjectType).index(ObjectType.MSGQUEUE)
        send = [step(Op.LIST, 0, queue + which) for which in (0, 1)]
        rest = number(1, 8) + number(2, page) + number(3, 0) + number(4, 0) + step(Op.CALL, 0x1B)
        acts = split_acts("native", send[0] + rest + send[1] + rest + ECHO)
        findings = attempt("native", acts, 1)
        path = command.keep(tmp_path, "native", 1, acts, findings)
        kept = path.read_bytes()
        assert len(kept) // STEP <= 5
        told = capsys.readouterr().out
        assert "call 0x1b (msgqueue_send)" in told and kept[:STEP].hex() in told
        assert command.replay(path) == 1
        assert "the hypervisor read a page of another owner" in capsys.readouterr().out

    def test_translations_that_outlive_a_change_of_stage_2_are_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(NativeExecutor, "_stage2_changed", lambda self, ipa, size: None)
        found = RemapAttack(RemapAttack.stream(1, 8000), seed=1).run()
        assert found and "is mapped" in found[0]

    def test_code_that_outlives_a_change_of_its_page_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Core, "invalidate", lambda self, pa, size: None)
        found = RemapAttack(RemapAttack.stream(1, 8000), seed=1).run()
        assert found and found[0].startswith("jump at")

    def test_a_changed_register_of_the_steady_vm_is_a_finding(self) -> None:
        attack = NativePairAttack([], seed=2)
        attack.steady._vcpu.x[22] = 0
        assert any("steady VM changed" in finding for finding in attack.run())

    def test_an_object_that_a_vm_leaves_behind_is_a_finding(self) -> None:
        attack = NativePairAttack([], seed=2)
        assert attack.guest_vcpu.cspace is not None
        attack.guest_vcpu.cspace.get()
        assert any("leaked" in finding for finding in attack.run())

    def test_an_exception_inside_the_hypervisor_is_a_finding(self) -> None:
        attack = NativePrimaryAttack(steps(1, 100), seed=1)

        def broken(*arguments: object) -> None:
            raise KeyError("a defect")

        attack.hv.dispatcher.native[:] = [broken] * len(attack.hv.dispatcher.native)
        assert any("a defect" in finding for finding in attack.run())

    def test_the_end_of_a_machine_s_process_is_a_finding(self) -> None:
        def crash() -> list[str]:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGKILL)
            return []

        assert apart(crash) == ["the process of the machine ended with signal 9"]
        assert apart(lambda: ["found"]) == ["found"]

    def test_a_series_shares_its_time_among_all_attackers(self) -> None:
        runs = list(islice(series(list(KINDS), 1, 50, 60.0), len(KINDS)))
        assert [run.kind for run in runs] == list(KINDS)
        assert all(run.performed > 0 and run.findings == () for run in runs)
