"""Recordings that nobody here has seen: scenarios of the primary VM, calls through SMCCC, rationed and random answers,
notes about interrupts of any source (vectors/README.md)."""

from __future__ import annotations

from typing import Any

import pytest
from tests.conformance.steps import Script

from gunyah.host.conformance.judge import _random_bits
from gunyah.host.conformance.names import in_native_form
from gunyah.host.conformance.observations import Bindings, trigger_of
from gunyah.host.conformance.vectors import CallStep, Instruction

ALL_ONES = (1 << 64) - 1
RND_32, RND_64 = 0x8400_0053, 0xC400_0053


def step(insn: Instruction, *inputs: str, call: str = "call") -> CallStep:
    return CallStep("root/x", 0, call, insn, inputs, ("0x0",), "OK", None, "")


class TestPrimaryVm:
    """Messages of a recording are what its answers show they were."""

    @pytest.mark.parametrize("buffer", ["$scratch", "0x48000000"])
    @pytest.mark.parametrize(("size", "answer"), [(8, 16), (8, 12), (12, 12)])
    def test_what_was_sent_is_what_got_the_recorded_answer(
        self, replay: Any, buffer: str, size: int, answer: int
    ) -> None:
        script = Script("pvm/caps")
        for _ in range(2):
            script.call("msgqueue_receive", "$rm_rx", buffer, 0xF0, 0, out=(0x3C,))
            script.call("msgqueue_send", "$rm_tx", size, buffer, 1, 0, out=(0, 1))
            script.call("msgqueue_receive", "$rm_rx", buffer, 0xF0, 0, out=(0, answer))
        status, result = replay({"hypercalls": script.steps})
        assert status == 0, result["failures"]

    def test_what_got_no_answer_stays_as_it_is(self, replay: Any) -> None:
        script = Script("pvm/caps").call("msgqueue_send", "$rm_tx", 8, "0x48000000", 1, 0, out=(0, 1))
        script.call("msgqueue_receive", "$rm_rx", "0x48000000", 0xF0, 0, out=(0x3C,))
        status, result = replay({"hypercalls": script.steps})
        assert status == 0, result["failures"]

    @pytest.mark.parametrize("function", [0x8400_0008, 0x8400_0009, 0x8400_0002])
    def test_a_call_that_did_not_return_ends_one_life(self, replay: Any, function: int) -> None:
        version = (0x1_0001, 0, 0, 0, 0)
        script = Script("pvm/smccc").smccc("PSCI_VERSION", 0x8400_0000, out=version)
        script.smccc("PSCI", function, out=()).smccc("PSCI_VERSION", 0x8400_0000, out=version)
        status, result = replay({"hypercalls": script.steps})
        assert (status, result["passed"]) == (0, 3), result["failures"]

    @pytest.mark.parametrize("function", [0x8400_0001, 0xC400_0001, 0x8400_000C, 0xC400_000C])
    @pytest.mark.parametrize("state", [0, 0x1_0000, 0x4000_0003])
    def test_who_came_back_from_a_suspend_was_woken(self, replay: Any, function: int, state: int) -> None:
        script = Script("pvm/smccc").smccc("PSCI", function, state, 0, 0, 0, out=(0, state, 0, 0, 0), insn="smc #0")
        script.smccc("PSCI_VERSION", 0x8400_0000, out=(0x1_0001, 0, 0, 0, 0)).observe("irqs=[]")
        status, result = replay({"hypercalls": script.steps})
        assert status == 0, result["failures"]

    def test_steps_without_answers_yet_share_their_boot(self, replay: Any) -> None:
        script = Script("root/new").create("doorbell", "$db").call("object_activate", "$db", 0, out=(0,))
        for step in script.steps:
            step["out"] = []
        script.call("doorbell_send", "$db", 1, 0)
        status, result = replay({"hypercalls": script.steps})
        assert status == 0, result["failures"]

    def test_its_queues_interrupt_it(self, replay: Any) -> None:
        script = Script("pvm/irq_edge").observe("initial pending irqs: []")
        script.call("msgqueue_send", "$rm_tx", 8, "0x48000000", 1, 0, out=(0, 1))
        script.observe("after send: irqs=[961]")
        script.call("msgqueue_receive", "$rm_rx", "0x48000000", 0xF0, 0, out=(0, 16))
        script.observe("after receive: irqs=[]")
        status, result = replay({"hypercalls": script.steps})
        assert status == 0, result["failures"]


class TestEntropy:
    """hypercalls.md 3.16: four calls in a window; objects.md 13: the lowest bits in the last register."""

    def test_who_was_refused_had_his_ration_before(self, replay: Any) -> None:
        words = (0, 0x1234_5678)
        script = Script("root/prng").call("prng_get_entropy", 4, 0, out=words)
        script.smccc("prng", 0xC600_8057, 4, 0, 0, 0, out=(*words, 0, 0, 0))
        script.call("prng_get_entropy", 0, 0, out=(2,))
        for _ in range(2):
            for _ in range(4):
                script.call("prng_get_entropy", 4, 0, out=words)
            script.call("prng_get_entropy", 4, 0, out=(31,))
            script.call("prng_get_entropy", 4, 0, out=(31,))
        status, result = replay({"hypercalls": script.steps})
        assert status == 0, result["failures"]

    @pytest.mark.parametrize("bits", [1, 2, 3, 31, 32, 33, 64, 96])
    def test_random_words_compare_by_what_was_asked_for(self, replay: Any, bits: int) -> None:
        low, middle, high = (min(max(bits - 32 * i, 0), 32) for i in range(3))
        script = Script("pvm/smccc")
        for value in (0, ALL_ONES):
            words = [value & (1 << width) - 1 for width in (high, middle, low)]
            script.smccc("TRNG_RND", RND_32, bits, out=(0, *words, 0))
        status, result = replay({"hypercalls": script.steps})
        assert status == 0, result["failures"]

    @pytest.mark.parametrize(
        ("inputs", "random"),
        [
            ((RND_64, 65), (0, 0, 1, ALL_ONES, 0)),
            ((RND_64, 192), (0, ALL_ONES, ALL_ONES, ALL_ONES, 0)),
            ((RND_32 | 1 << 16, 33), (0, 0, 1, 0xFFFF_FFFF, 0)),
            ((0xC600_8057, 8), (0, 0xFFFF_FFFF, 0xFFFF_FFFF, 0, 0)),
            ((RND_64,), (0, 0, 0, 0, 0)),
            ((0x8400_0050, 5), (0, 0, 0, 0, 0)),
            ((), (0, 0, 0, 0, 0)),
        ],
    )
    def test_which_bits_are_random(self, inputs: tuple[int, ...], random: tuple[int, ...]) -> None:
        made = step(Instruction("smc", 0))
        assert tuple(_random_bits(made, inputs, number) for number in range(5)) == random

    def test_a_random_word_that_is_too_wide_is_wrong(self, replay: Any) -> None:
        script = Script("pvm/smccc").smccc("TRNG_RND", RND_32, 4, out=(0, 0, 0, 0x10, 0))
        status, _ = replay({"hypercalls": script.steps})
        assert status == 1


class TestNames:
    """A recording may call its steps what it likes: the instruction says what they are."""

    def test_a_call_through_smccc_is_the_call_with_its_arguments_shifted(self) -> None:
        plain = in_native_form(step(Instruction("smc", 0), "0xc6008038", "$vcpu", "0x1000", "0x0", "0x3"))
        assert (plain.call, plain.inputs) == ("vcpu_poweron", ("$vcpu", "0x1000", "0x0", "0x3"))
        plain = in_native_form(step(Instruction("hvc", 0x6012), "$db", "0x1", call="ring"))
        assert (plain.call, plain.inputs) == ("doorbell_send", ("$db", "0x1"))

    @pytest.mark.parametrize(
        ("insn", "inputs"),
        [
            (Instruction("hvc", 0), ("0x84000000",)),
            (Instruction("hvc", 0), ("$db",)),
            (Instruction("hvc", 0), ()),
            (Instruction("hvc", 0x6008), ()),
            (Instruction("smc", 0x6000), ()),
        ],
    )
    def test_what_is_no_hypercall_stays_what_it_is(self, insn: Instruction, inputs: tuple[str, ...]) -> None:
        assert in_native_form(step(insn, *inputs)).call == "call"

    def test_interrupts_of_every_source_have_an_owner(self) -> None:
        bindings = Bindings()
        calls = ("doorbell_bind_virq", "msgqueue_bind_send_virq", "msgqueue_bind_receive_virq", "vcpu_bind_virq")
        more = ("virtio_mmio_backend_bind_virq", "virtio_mmio_frontend_bind_virq", "vpm_group_bind_virq")
        for virq, call in enumerate((*calls, *more, "hwirq_bind_virq"), 40):
            bindings.note(call, virq)
        owners = ("doorbell", "send", "receive", "vcpu", "backend", "frontend", "vpm", "hwirq")
        assert [bindings.of(owner) for owner in owners] == [*range(40, 48)]
        assert bindings.named_in("frontend after assert: pend=1") == "frontend"
        assert bindings.named_in("after send(1): pend=1") == "doorbell"
        assert bindings.of("something") == 47

    @pytest.mark.parametrize(
        ("notes", "edge"),
        [
            ((), None),
            (("irqs=[40]",), None),
            (("doorbell ICFGR after bind 2 pend 0", "mq ICFGR send 0 recv 0"), True),
            (("irqs=[]", "doorbell ICFGR after bind 0 pend 1"), False),
            (("mq ICFGR send 2 recv 2; irqs after bind: []",), True),
        ],
    )
    def test_the_first_note_about_triggers_tells_how_they_were_set(
        self, notes: tuple[str, ...], edge: bool | None
    ) -> None:
        assert trigger_of(notes) is edge

    def test_a_call_recorded_without_its_arguments_is_made_without_them(self, replay: Any) -> None:
        script = Script("root/short").call("vcpu_poweron").call("vcpu_poweron", "$vcpu", out=(31,))
        script.call("prng_get_entropy", out=(2,)).smccc("TRNG_RND", RND_64, out=(ALL_ONES - 1, 0, 0, 0))
        status, result = replay({"hypercalls": script.steps})
        assert (status, result["passed"]) == (1, 3)
        (failure,) = result["failures"]
        assert (failure["expected"], failure["got"]) == ("OK", "ARGUMENT_INVALID")
