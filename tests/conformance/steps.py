"""Words to write small recordings with."""

from __future__ import annotations

from typing import Any

from gunyah.abi.hypercalls import BY_NAME


class Script:
    """Builds the ``hypercalls`` list of one scenario."""

    def __init__(self, ctx: str) -> None:
        self.ctx = ctx
        self.steps: list[dict[str, Any]] = []

    def call(
        self, name: str, *inputs: str | int, out: tuple[str | int, ...] = (0,), save: str = "", note: str = ""
    ) -> Script:
        """One native hypercall; numbers are written as recordings write them."""
        words = [*out, *[0] * (5 - len(out))]
        entry: dict[str, Any] = {
            "ctx": self.ctx,
            "step": len(self.steps),
            "call": name,
            "insn": f"hvc #{BY_NAME[name].hvc:#x}",
            "in": [word if isinstance(word, str) else f"{word:#x}" for word in inputs],
            "out": [word if isinstance(word, str) else f"{word:#x}" for word in words],
            "err": "OK" if words[0] == 0 else f"{words[0]}",
        }
        return self._add(entry, save, note)

    def smccc(self, name: str, *inputs: str | int, out: tuple[str | int, ...], insn: str = "hvc #0x0") -> Script:
        words = [word if isinstance(word, str) else f"{word:#x}" for word in inputs]
        results = [word if isinstance(word, str) else f"{word:#x}" for word in out]
        entry = {"ctx": self.ctx, "step": len(self.steps), "call": name, "insn": insn, "in": words, "out": results}
        return self._add(entry, "", "")

    def create(self, kind: str, name: str) -> Script:
        """``partition_create_<kind>`` in the root VM, saved as ``name``."""
        return self.call(f"partition_create_{kind}", "$partition", "$cspace", 0, out=(0, name), save=name)

    def observe(self, note: str, call: str = "observe") -> Script:
        entry = {"ctx": self.ctx, "step": len(self.steps), "call": call, "in": [], "out": [], "err": ""}
        return self._add(entry, "", note)

    def panic(self, name: str, *inputs: str | int) -> Script:
        self.call(name, *inputs)
        self.steps[-1] |= {"out": [], "err": "HYPERVISOR_PANIC"}
        return self

    def _add(self, entry: dict[str, Any], save: str, note: str) -> Script:
        if save:
            entry["save"] = save
        if note:
            entry["note"] = note
        self.steps.append(entry)
        return self


def request(message: int, payload: str, reply: str | None, note: str = "") -> dict[str, Any]:
    entry: dict[str, Any] = {"kind": "request", "id": f"{message:#x}", "payload": payload, "note": note}
    return entry | ({"reply": reply} if reply is not None else {"err": "NO-REPLY"})
