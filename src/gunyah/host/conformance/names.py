"""Names instead of numbers: what a person reads in a report for a register, a function or an error code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from gunyah.abi import smccc
from gunyah.abi.errors import Error, PsciError, RmError, TrngError
from gunyah.abi.hypercalls import BY_NAME, CALL_NUMBER_MAX, HVC_BASE, HYPERCALLS, SMCCC_BASE, Hypercall, Status
from gunyah.abi.types import U32, U64
from gunyah.host.conformance.vectors import CallStep, Instruction

__all__ = [
    "call_of",
    "error_word",
    "in_native_form",
    "name_of_function",
    "reference_word",
    "result_word",
    "rm_error_word",
    "value_word",
]


def call_of(insn: Instruction, x0: int) -> Hypercall | None:
    """The hypercall behind an instruction with ``x0`` (uint64_t), None for other functions and undefined numbers."""
    if insn.name == "hvc" and HVC_BASE <= insn.immediate <= HVC_BASE + CALL_NUMBER_MAX:
        call = HYPERCALLS[insn.immediate - HVC_BASE]
        return None if call.status is Status.RESERVED else call
    function = x0 & U32 & ~smccc.HINT_SVE
    if insn.immediate == 0 and SMCCC_BASE <= function <= SMCCC_BASE + CALL_NUMBER_MAX:
        call = HYPERCALLS[function - SMCCC_BASE]
        return None if call.status is Status.RESERVED else call
    return None


def in_native_form(step: CallStep) -> CallStep:
    """The hypercall that ``step`` makes under the hypercall's own name and with its own arguments first, whatever the
    recording called it and whichever instruction made it; other steps as they are.
    """
    first = step.inputs[0] if step.inputs else "0"
    if step.insn is None:
        return step
    call = call_of(step.insn, int(first, 0) if not first.startswith("$") else 0)
    if call is None:
        return step
    return replace(step, call=call.name, inputs=step.inputs if step.insn.immediate else step.inputs[1:])


def name_of_function(step: CallStep) -> str:
    """The name under which a report groups the step: that of the recording, or the function's where it says less."""
    if step.call in BY_NAME or step.insn is None or step.insn.immediate != 0 or not step.inputs:
        return step.call
    try:
        return smccc.function_name(int(step.inputs[0], 0) & U32)
    except ValueError:
        return step.call


def _negative(value: int) -> int | None:
    """``value`` read as -1..-4095 in 32 or 64 bits, None otherwise."""
    for width in (U32, U64):
        if width - 4095 < value <= width:
            return value - width - 1
    return None


def error_word(value: int) -> str:
    """X0 of a hypercall: ``MSGQUEUE_FULL``; an all-ones word of 64 bits means that there is no such call."""
    if value == U64:
        return "UNIMPLEMENTED (64-bit -1)"
    negative = _negative(value)
    code = negative if negative is not None else value
    return Error(code).name if code in Error._value2member_map_ else f"{value:#x}"


def reference_word(value: int) -> str:
    """``err`` as recordings write it: an error's name, UNIMPLEMENTED for all ones of 64 bits, else the number."""
    if value == U64:
        return Error.UNIMPLEMENTED.name
    return Error(value).name if value in Error._value2member_map_ else f"{value:#x}"


def rm_error_word(value: int) -> str:
    """The error word of an RM reply."""
    return RmError(value).name if value in RmError._value2member_map_ else f"{value:#x}"


def result_word(step: CallStep, value: int, capabilities: Mapping[int, str]) -> str:
    """X0 of ``step`` in words: a hypercall's error, a PSCI or TRNG result, or the plain value."""
    if step.insn is None:
        return value_word(value, capabilities)
    x0 = int(step.inputs[0], 0) if step.inputs and not step.inputs[0].startswith("$") else 0
    call = call_of(step.insn, x0)
    if call is not None:
        return error_word(value) if call.has_error else value_word(value, capabilities)
    if step.insn.immediate == 0:
        negative = _negative(value)
        function = x0 & U32
        kind = (
            TrngError if function & 0xFF50 == 0x50 and smccc.owner_of(function) == smccc.OWNER_STANDARD else PsciError
        )
        if negative is not None and negative in kind._value2member_map_:
            width = 32 if value <= U32 else 64
            return f"{kind(negative).name} ({width}-bit {negative})"
    elif value == U64:
        return "no such call (-1)"
    return value_word(value, capabilities)


def value_word(value: int, capabilities: Mapping[int, str]) -> str:
    """A register in words: the capability it is, ``~0`` for all ones, small numbers as they are, else hexadecimal."""
    if value in capabilities:
        return capabilities[value]
    if value == U64:
        return "~0"
    return str(value) if value < 10 else f"{value:#x}"


HANDLE = re.compile(r"\$hwirq(\d+)")
