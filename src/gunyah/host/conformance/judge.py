"""Expected registers against those that came back.

Capability ids are random at every boot, so they compare by name: a word that the step saves must be a new, well-formed
id, any other ``$name`` must be the id known under it. Entropy compares by its width only. Everything else compares bit
for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gunyah.abi import smccc
from gunyah.abi.errors import Error
from gunyah.abi.types import U32, U64
from gunyah.host.conformance.names import call_of, result_word, value_word
from gunyah.host.conformance.vectors import CallStep
from gunyah.host.conformance.verdict import Trouble, Verdict

__all__ = ["CapabilityNames", "judge", "new_capability_fault"]

ENTROPY_CALL = "prng_get_entropy"
ENTROPY_FUNCTIONS = frozenset({smccc.TRNG_RND_32, smccc.TRNG_RND_64})
"""Calls whose results after X0 are random (objects.md 13)."""


def new_capability_fault(value: int, known: Mapping[int, str]) -> str:
    """Why ``value`` cannot be a freshly issued capability id (errors-and-types.md 2), or an empty string."""
    if value == U64:
        return "no capability (~0)"
    if value == 0:
        return "0"
    if value >> 32 == U32:
        return f"{value:#x}, whose top half is never issued"
    if value in known:
        return f"the id of {known[value]} again"
    return ""


@dataclass
class CapabilityNames:
    """What each ``$name`` stands for in this boot, and which ids are in use: a deleted one may be issued again."""

    ids: dict[str, int]
    deleted: set[str] = field(default_factory=set)

    @property
    def names(self) -> dict[int, str]:
        """Id -> name of the capabilities that are still there."""
        return {value: name for name, value in self.ids.items() if name not in self.deleted}

    def bind(self, name: str, value: int) -> None:
        self.ids[name] = value
        self.deleted.discard(name)

    def note(self, step: CallStep) -> None:
        """Follow a step that succeeded."""
        if step.call == "cspace_delete_cap_from" and step.inputs[:1] == ("$cspace",):
            self.deleted.update(step.inputs[1:2])


def _random_bits(step: CallStep, inputs: Sequence[int], number: int) -> int:
    """The bits of result ``number`` that are random in this call when it succeeds."""
    if step.insn is None or not number:
        return 0
    inputs = [*inputs, 0, 0]
    call = call_of(step.insn, inputs[0])
    if call is not None:
        size = inputs[0 if step.insn.immediate else 1] if call.name == ENTROPY_CALL else 0
        return U32 if 4 * (number - 1) < size & U32 else 0
    if step.insn.immediate or inputs[0] & U32 & ~smccc.HINT_SVE not in ENTROPY_FUNCTIONS or number > 3:
        return 0
    # The last register has the lowest bits.
    width = 64 if smccc.is_64bit(inputs[0]) else 32
    return ((1 << min(inputs[1], 3 * width)) - 1) >> width * (3 - number) & (1 << width) - 1


def judge(
    verdict: Verdict, step: CallStep, inputs: Sequence[int], got: Sequence[int], capabilities: CapabilityNames
) -> Verdict:
    """Compare ``got`` (x0..) with the step and bind its ``save`` name."""
    known = capabilities.names
    verdict.values = tuple(
        f"{value:#x}" if not number else known.get(value, f"{value:#x}") for number, value in enumerate(got)
    )
    if step.save is not None:
        capabilities.bind(step.save, got[1])
        if got[0] == Error.OK:
            verdict.values = (verdict.values[0], step.save, *verdict.values[2:])
    if step.crashed_the_reference:
        return _judge_survivor(verdict, step, got)
    assert step.insn is not None
    given = step.out[:1] == ("0x0",)
    for number, word in enumerate(step.out):
        value = got[number]
        if word.startswith("$"):
            if word == step.save:
                fault = new_capability_fault(value, known)
                if fault:
                    return _mismatch(verdict, step, number, word, got, known, f"x{number} is {fault}")
            elif value != capabilities.ids.get(word):
                return _mismatch(verdict, step, number, word, got, known, f"x{number} is not {word}")
            continue
        expected = int(word, 0)
        if expected not in (0, U64) and _is_new_capability(step, inputs, number):
            # An id that no later step uses, so the recording names none.
            fault = new_capability_fault(value, known)
            if fault:
                return _mismatch(verdict, step, number, word, got, known, f"x{number} is {fault}")
            continue
        if value == expected:
            continue
        random = _random_bits(step, inputs, number) if given else 0
        if random and not (value | expected) & ~random:
            continue
        return _mismatch(verdict, step, number, word, got, known, "")
    return verdict


def _is_new_capability(step: CallStep, inputs: Sequence[int], number: int) -> bool:
    call = call_of(step.insn, inputs[0] if inputs else 0) if step.insn is not None else None
    return call is not None and 1 <= number <= len(call.results) and call.results[number - 1].kind == "capid"


def _mismatch(
    verdict: Verdict, step: CallStep, number: int, word: str, got: Sequence[int], known: Mapping[int, str], why: str
) -> Verdict:
    first = int(step.out[0], 0) if not step.out[0].startswith("$") else got[0]
    if got[0] != first:
        call = (
            call_of(step.insn, int(step.inputs[0], 0) if step.inputs and step.inputs[0][0] != "$" else 0)
            if step.insn
            else None
        )
        here = got[0] in (U32, U64) and first not in (U32, U64)
        trouble = (
            Trouble.UNIMPLEMENTED
            if here
            else Trouble.WRONG_ERROR
            if call is None or call.has_error
            else Trouble.WRONG_VALUE
        )
        return verdict.fail(trouble, result_word(step, first, known), result_word(step, got[0], known), why)
    expected = word if word.startswith("$") else value_word(int(word, 0), known)
    return verdict.fail(
        Trouble.WRONG_VALUE, f"x{number} = {expected}", f"x{number} = {value_word(got[number], known)}", why
    )


def _judge_survivor(verdict: Verdict, step: CallStep, got: Sequence[int]) -> Verdict:
    if got[0] == Error.OK:
        return verdict.fail(
            Trouble.CRASHED, "an error", "OK", "the reference died here; an error is the only right answer"
        )
    return verdict
