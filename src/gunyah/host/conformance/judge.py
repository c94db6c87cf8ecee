"""Expected registers against those that came back.

Capability ids are random at every boot, so they compare by name: a word that the step saves must be a new, well-formed
id, any other ``$name`` must be the id known under it. Entropy compares by its width only. Everything else compares bit
for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gunyah.abi import smccc
from gunyah.abi.errors import Error
from gunyah.abi.types import U32, U64
from gunyah.host.conformance.names import call_of, result_word, value_word
from gunyah.host.conformance.vectors import CallStep
from gunyah.host.conformance.verdict import Trouble, Verdict

__all__ = ["judge", "new_capability_fault"]

ENTROPY_CALLS = frozenset({"prng_get_entropy"})
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


def _is_entropy(step: CallStep, inputs: Sequence[int]) -> bool:
    if step.insn is None:
        return False
    call = call_of(step.insn, inputs[0] if inputs else 0)
    if call is not None:
        return call.name in ENTROPY_CALLS
    return step.insn.immediate == 0 and bool(inputs) and inputs[0] & U32 in ENTROPY_FUNCTIONS


def judge(
    verdict: Verdict, step: CallStep, inputs: Sequence[int], got: Sequence[int], capabilities: dict[str, int]
) -> Verdict:
    """Compare ``got`` (x0..) with the step and bind its ``save`` name in ``capabilities``."""
    known = {value: name for name, value in capabilities.items()}
    verdict.values = tuple(
        step.save
        if step.save and number == 1 and got[0] == 0
        else known.get(value, f"{value:#x}")
        if number
        else f"{value:#x}"
        for number, value in enumerate(got[: max(5, len(step.out))])
    )
    if step.save is not None:
        capabilities[step.save] = got[1]
    if step.crashed_the_reference:
        return _judge_survivor(verdict, step, got)
    assert step.insn is not None
    entropy = _is_entropy(step, inputs)
    for number, word in enumerate(step.out):
        value = got[number]
        if word.startswith("$"):
            if word == step.save:
                fault = new_capability_fault(value, known)
                if fault:
                    return _mismatch(verdict, step, number, word, got, known, f"x{number} is {fault}")
            elif value != capabilities.get(word):
                return _mismatch(verdict, step, number, word, got, known, f"x{number} is not {word}")
            continue
        expected = int(word, 0)
        if value == expected or (entropy and number and expected and 0 <= value <= max(U32, _ones(expected))):
            continue
        return _mismatch(verdict, step, number, word, got, known, "")
    return verdict


def _ones(value: int) -> int:
    return (1 << value.bit_length()) - 1 if value <= U32 else U64


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
