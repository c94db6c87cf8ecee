"""Runs the demonstration guest: native AArch64 code that meets Gunyah, asks RM who it is, and powers off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from gunyah.machine.clock import NS_PER_TICK
from gunyah.machine.engine import EngineUnavailable
from gunyah.native import NativePrimary
from gunyah.system import System, SystemFailure
from gunyah.vmm.guests import guest_image

__all__ = ["DemoGuest", "run", "run_guest"]

SECONDS: Final = 30.0
"""The guest needs a few hundredths of a second, most of which it sleeps."""
MEMORY: Final = 64 << 20
_SLEPT_AT_LEAST_MS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoGuest:
    """What the guest found out, as it printed it, and how it ended."""

    output: str
    uid: str = ""
    api: int = 0
    """Word 0 of hypervisor_identify."""
    vmid: int | None = None
    """RM's answer to GET_VMID."""
    rm_error: int | None = None
    slept_ms: float = 0.0
    """How long its timer interrupt took to come, of 10 ms."""
    powered_off: bool = False

    @property
    def variant(self) -> int:
        """Variant in the identification."""
        return self.api >> 56

    @property
    def version(self) -> int:
        """API version in the identification."""
        return self.api & 0x3FFF

    @property
    def ok(self) -> bool:
        """It identified Gunyah, RM knew it, its timer woke it, and it powered off."""
        known = self.version == 1 and self.rm_error == 0 and self.vmid is not None
        return known and self.slept_ms >= _SLEPT_AT_LEAST_MS and self.powered_off


def _parse(output: str, powered_off: bool) -> DemoGuest:
    words = dict(line.split(": ", 1) for line in output.splitlines() if ": " in line)
    return DemoGuest(
        output=output,
        uid=words.get("uid", ""),
        api=int(words.get("api", "0"), 16),
        vmid=int(words["vmid"]) if "vmid" in words else None,
        rm_error=int(words["error"], 16) if "error" in words else None,
        slept_ms=int(words.get("slept", "0")) * NS_PER_TICK / 1e6,
        powered_off=powered_off,
    )


def run_guest(*, profile: str = "2023", clock: str = "real", seed: int | None = None) -> DemoGuest:
    """Boot it as the primary VM of a system of its own; raises SystemFailure and EngineUnavailable."""
    primary = NativePrimary(kernel=guest_image("demo"))
    with System(primary, profile=profile, clock=clock, seed=seed, memory=MEMORY) as system:
        system.run(until=lambda: system.stopped is not None, timeout=SECONDS)
        return _parse(primary.output.decode("ascii", "replace"), system.stopped == "off")


def run(profile: str = "2023") -> dict[str, Any]:
    """As ``run_guest``, for a report: ``ok`` and what it said, or ``ok`` False with the reason."""
    try:
        guest = run_guest(profile=profile)
    except (SystemFailure, EngineUnavailable) as error:
        return {"ok": False, "reason": str(error)}
    found: dict[str, Any] = {
        "ok": guest.ok,
        "uid": guest.uid,
        "api": guest.version,
        "variant": guest.variant,
        "vmid": guest.vmid,
        "slept_ms": round(guest.slept_ms, 2),
    }
    if not guest.ok:
        found["reason"] = f"it ended with {guest.output.strip().splitlines()[-1:] or 'no output'}"
    return found
