"""Words for what instruments see: vCPUs, hypercall arguments and results as people and trace viewers read them.

Names, kinds and meanings of registers come from the hypercall table; a call that is not in it (PSCI, SMCCC services)
shows its registers as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gunyah.abi.errors import Error
from gunyah.abi.hypercalls import Hypercall
from gunyah.hypervisor.instruments import NamedCall, NamedVcpu

__all__ = ["NS_PER_TICK", "argument_words", "error_name", "result_words", "vcpu_name", "vm_name"]

NS_PER_TICK: Final = 16
"""Of the 62.5 MHz system counter."""

_VM_NAMES: Final = {0: "no VM", 3: "primary VM", 255: "RM"}
_DECIMAL_MEANINGS: Final = frozenset({"bytes", "count", "index", "ns", "ticks", "virq", "depth", "priority"})


def vm_name(vmid: int) -> str:
    """``RM``, ``primary VM`` or ``VM 128``."""
    return _VM_NAMES.get(vmid) or f"VM {vmid}"


def vcpu_name(vcpu: NamedVcpu | None) -> str:
    """``RM vcpu0``, ``primary VM vcpu1``, ``idle`` for none: the vCPU's own name behind that of its VM."""
    if vcpu is None:
        return "idle"
    return f"{vm_name(vcpu.vmid)} {str(vcpu).removeprefix(f'vm{vcpu.vmid}.')}"


def error_name(value: int) -> str:
    """The name of an error register: int32, sign-extended or not (errors-and-types.md 1)."""
    low = value & 0xFFFF_FFFF
    number = low - (1 << 32) if low >> 31 else low
    try:
        return Error(number).name
    except ValueError:
        return f"{value:#x}"


def _number(value: int, kind: str, meaning: str) -> int | str | bool:
    if kind == "bool":
        return bool(value & 0xFF)
    if meaning in _DECIMAL_MEANINGS or (not meaning and kind != "capid" and value < 10):
        return value
    return f"{value:#x}"


def argument_words(call: NamedCall, args: Sequence[int]) -> dict[str, int | str | bool]:
    """Named arguments without the reserved ones; ``x1``.. where the table does not know the call."""
    if not isinstance(call, Hypercall):
        return {f"x{index}": f"{value:#x}" for index, value in enumerate(args, 1)}
    words: dict[str, int | str | bool] = {}
    for argument, value, mask in zip(call.arguments, args, call.masks, strict=False):
        if argument.kind not in ("res0", "res1"):
            words[argument.name] = _number(value & mask, argument.kind, argument.meaning)
    return words


def result_words(call: NamedCall, values: Sequence[int]) -> dict[str, int | str | bool]:
    """``error`` (its name) and, when that is OK, the named results; ``x0``.. where the table does not know the call."""
    if not isinstance(call, Hypercall):
        return {f"x{index}": f"{value:#x}" for index, value in enumerate(values)}
    words: dict[str, int | str | bool] = {}
    rest = values
    if call.has_error and values:
        words["error"] = error_name(values[0])
        if words["error"] != "OK":
            return words
        rest = values[1:]
    for result, value in zip(call.results, rest, strict=False):
        words[result.name] = _number(value, result.kind, result.meaning)
    return words
