"""What a VM reads from its machine, by the names that recordings give the places.

A name is a GIC register (``GICR7_TYPER_lo``), an address with a comment (``0x80000000 hyp``), one of a few known
places, or ``mrs`` and a system register with or without its exception level. ``dts`` is the device tree that the VM was
handed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gunyah.abi.types import U64
from gunyah.host.conformance.judge import new_capability_fault
from gunyah.host.conformance.monitor import GICD, GICR, GICR_STRIDE, Monitor, RootEnvironment
from gunyah.host.conformance.observations import OFFSETS, read_word, register_word
from gunyah.host.conformance.vectors import Reading, Scenario
from gunyah.host.conformance.verdict import Trouble, Verdict

__all__ = ["judge_environment", "judge_machine"]

PLACES: Mapping[str, int] = {
    "flash": 0x0,
    "gpio": 0x0903_0FE0,
    "pci ecam": 0x3F00_0000,
    "pci mmio": 0x1000_0000,
    "GICD+64K": GICD + 0x1_0000,
    "unaligned": GICD + 5,
}
"""IPAs of places that recordings name without a number (the board follows QEMU's virt map)."""

LEVELS: Mapping[str, str] = {
    "PMCR": "EL0", "PMCEID0": "EL0", "PMCEID1": "EL0", "CNTV_CTL": "EL0", "CNTP_CTL": "EL0", "AMCR": "EL0",
    "DCZID": "EL0", "ICH_VTR": "EL2",
}  # fmt: skip
"""Exception level that belongs to a system register named without one; the others are EL1's."""

BARE = frozenset({"CurrentEL", "RNDR", "RNDRRS", "NZCV", "DAIF"})
SPELLED = {"TRCIDR": "TRCIDR0"}

BY_FORM: Mapping[str, str] = {
    "rtc": "the time of day",
    "mrs RNDR": "random",
    "mrs VBAR": "where the recorder's own vectors were",
}
"""Readings whose value is nobody's promise: here only that they can be read is compared."""

CAPABILITY_KEYS = re.compile(r"vic|\w+_capid")
LISTS_OF_CAPABILITIES = frozenset({"vic_hwirq", "vic_msi_source"})


def _register_name(name: str) -> str:
    name = SPELLED.get(name, name)
    if name in BARE or re.search(r"_EL[0-3]$", name):
        return name
    return f"{name}_{LEVELS.get(name, 'EL1')}"


def locate(name: str) -> tuple[int, int] | None:
    """IPA and width in bytes of the place ``name``, None when it is not known."""
    width = 4
    for word, size in (("byte ", 1), ("16bit ", 2), ("64bit ", 8)):
        if name.startswith(word):
            name, width = name.removeprefix(word), size
    if match := re.search(r"0x([0-9a-fA-F]{5,})", name):
        return int(match[0], 0), width
    if match := re.fullmatch(r"GICD_(\w+)", name):
        return _offset("GICD", GICD, match[1], width)
    if match := re.fullmatch(r"GICR(\d*)_(\w+)", name):
        return _offset("GICR", GICR + int(match[1] or 0) * GICR_STRIDE, match[2], width)
    for place, address in PLACES.items():
        if name.startswith(place):
            return address, width
    return None


def _offset(frame: str, base: int, register: str, width: int) -> tuple[int, int] | None:
    if match := re.fullmatch(r"IROUTER(\d+)", register):
        return base + 0x6000 + 8 * int(match[1]), width
    if match := re.fullmatch(r"(IGROUPR|ISENABLER|ICENABLER|ISPENDR|ICPENDR|ISACTIVER|ICACTIVER)(\d+)", register):
        first = {"IGROUPR": 0x80, "ISENABLER": 0x100, "ICENABLER": 0x180, "ISPENDR": 0x200, "ICPENDR": 0x280}
        start = first.get(match[1], 0x300 if match[1] == "ISACTIVER" else 0x380)
        frame_base = 0x1_0000 if frame == "GICR" else 0
        return base + frame_base + start + 4 * int(match[2]), width
    offset = OFFSETS[frame].get(register)
    return None if offset is None else (base + offset, width)


def judge_machine(monitor: Monitor, scenario: Scenario, tree: str, verdicts: list[Verdict]) -> None:
    """Read every place of ``scenario``; ``tree`` is the source of the VM's /hypervisor node."""
    for step in scenario.steps:
        assert isinstance(step, Reading)
        verdict = Verdict(scenario.file, step)
        verdicts.append(verdict)
        expected = str(step.expected)
        if step.call == "dts":
            _judge_tree(verdict, expected, tree)
            continue
        if step.call.startswith("mrs "):
            got = register_word(monitor, _register_name(step.call.removeprefix("mrs ")))
        else:
            place = locate(step.call)
            if place is None:
                verdict.fail(Trouble.NOT_READABLE, step.call, "", f"no place of the machine is called {step.call!r}")
                continue
            got = read_word(monitor, *place)
        by_form = any(step.call.startswith(name) for name in BY_FORM)
        same = got == expected or (by_form and got.startswith("0x") and expected.startswith("0x"))
        if not same:
            verdict.fail(Trouble.WRONG_VALUE, expected, got)


def _hypervisor_node(source: str) -> str:
    """The /hypervisor node of a tree's source, indentation and random ids removed, lines of each node sorted."""
    match = re.search(r"^\thypervisor \{\n(.*?)^\t\};", source, re.MULTILINE | re.DOTALL)
    if match is None:
        return ""
    body = re.sub(r"@[0-9a-f]{8,16}", "@capability", match[1])
    body = re.sub(r"0x0*(?=[0-9a-f])", "0x", body).replace("\\0", '", "')
    body = re.sub(r"reg = <0x\w+ 0x\w+ 0x\w+ 0x\w+>", "reg = <tx rx>", body)
    body = re.sub(r"reg = <0x\w+ 0x\w+>", "reg = <capability>", body)
    # Properties first: recordings and trees list them in any order.
    lines = [line.strip() for line in body.splitlines() if line.strip()]
    return "\n".join(sorted(lines))


def _judge_tree(verdict: Verdict, expected: str, got: str) -> None:
    wanted, have = _hypervisor_node(expected), _hypervisor_node(got)
    if wanted == have:
        return
    missing = [line for line in wanted.splitlines() if line not in have.splitlines()]
    extra = [line for line in have.splitlines() if line not in wanted.splitlines()]
    verdict.fail(Trouble.WRONG_VALUE, "; ".join(missing) or "no more", "; ".join(extra) or "not there", "/hypervisor")


def judge_environment(environment: RootEnvironment, scenario: Scenario, verdicts: list[Verdict]) -> None:
    """Compare the root VM's boot environment with the recorded one."""
    for step in scenario.steps:
        assert isinstance(step, Reading)
        verdict = Verdict(scenario.file, step)
        verdicts.append(verdict)
        if step.call not in environment.values:
            verdict.fail(Trouble.WRONG_VALUE, str(step.expected), "no such key")
            continue
        _judge_key(verdict, step, environment.values[step.call])


def _judge_key(verdict: Verdict, step: Reading, got: Any) -> None:
    if step.call in LISTS_OF_CAPABILITIES:
        wanted = [number for number, value in enumerate(step.expected) if value != U64]
        have = [number for number, value in enumerate(got) if value != U64]
        if wanted != have:
            missing, extra = sorted(set(wanted) - set(have)), sorted(set(have) - set(wanted))
            verdict.fail(Trouble.WRONG_VALUE, f"{len(wanted)} of them", f"without {missing}, with {extra}")
    elif CAPABILITY_KEYS.fullmatch(step.call):
        fault = new_capability_fault(int(got), {})
        if fault:
            verdict.fail(Trouble.WRONG_VALUE, "a capability", fault)
    else:
        plain = (
            [list(item) if isinstance(item, list | tuple) else item for item in got] if isinstance(got, list) else got
        )
        if plain != step.expected:
            verdict.fail(Trouble.WRONG_VALUE, _short(step.expected), _short(plain))


def _short(value: Any) -> str:
    text = f"{value:#x}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
