"""Writes what this implementation answered, in the format of the vector files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gunyah._version import __version__
from gunyah.host.conformance.names import reference_word, rm_error_word
from gunyah.host.conformance.vectors import CallStep, RmStep, VectorError
from gunyah.host.conformance.verdict import Verdict

__all__ = ["record"]

FORMAT = {
    "hypercalls": "steps; ctx = boot/scenario, each from a fresh boot; in = x0.. (others 0), out = x0..x4; $name = a "
    "capability returned by an earlier step (save) or given at boot; err = name of out[0]",
    "x0_note": "errors are 32-bit values zero-extended; an undefined call number gives 64-bit -1",
    "rm_rpc": "requests of the primary VM to the Resource Manager: id, payload hex, reply payload hex",
}


def record(path: Path, verdicts: Sequence[Verdict]) -> int:
    """Write the steps with the answers they got here; returns how many. Raises VectorError when ``path`` cannot be
    written."""
    data: dict[str, Any] = {"format": FORMAT, "stack": {"hyp": f"gunyah {__version__}"}}
    written = 0
    for verdict in verdicts:
        step = verdict.step
        if isinstance(step, CallStep):
            data.setdefault("hypercalls", []).append(_call(step, verdict))
        elif isinstance(step, RmStep):
            data.setdefault(step.ctx, []).append(_request(step, verdict))
        else:
            continue
        written += 1
    try:
        path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise VectorError(f"{path}: cannot be written: {error.strerror}") from None
    return written


def _call(step: CallStep, verdict: Verdict) -> dict[str, Any]:
    entry: dict[str, Any] = {"ctx": step.ctx, "step": step.number, "call": step.call}
    if step.insn is not None:
        entry["insn"] = str(step.insn)
        entry["in"] = list(step.inputs)
        entry["out"] = list(verdict.values[:5])
        first = verdict.values[0] if verdict.values else ""
        error = reference_word(int(first, 0)) if first.startswith("0x") else ""
        entry["err"] = error
    if step.save:
        entry["save"] = step.save
    if step.note:
        entry["note"] = step.note
    return entry


def _request(step: RmStep, verdict: Verdict) -> dict[str, Any]:
    entry: dict[str, Any] = {"kind": step.kind, "id": f"{step.message:#010x}", "payload": step.payload.hex()}
    answer = verdict.values[0] if verdict.values else ""
    if step.kind == "notification":
        return entry | {"payload": answer}
    error = rm_error_word(int.from_bytes(bytes.fromhex(answer[:8]), "little")) if len(answer) >= 8 else "NO-REPLY"
    return entry | {"note": step.note, "reply": answer, "err": error}
