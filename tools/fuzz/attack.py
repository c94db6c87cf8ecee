"""Hostile VMs at work in a machine, and the judgement of what became of it.

A finding is a sentence. There is none when no call failed in a way that no guest may cause, the machine runs, a
bystander has everything as it left it, the ownership database is whole, and after the end of the hostile VMs every
object and every byte of heap is back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from gunyah.abi.hypercalls import Hypercall
from gunyah.hypervisor.cspace import CSpace
from gunyah.hypervisor.hypervisor import Hypervisor
from gunyah.hypervisor.ledger import Ledger, ledger_of
from gunyah.hypervisor.vcpu import Vcpu
from tools.fuzz.bystander import Bystander
from tools.fuzz.choices import RECORD, records
from tools.fuzz.hostile import Objects

__all__ = ["Attack"]

SECOND = 62_500_000
NAP = SECOND // 500
"""How long attackers sleep that armed nothing to wake them."""
PATIENCE = 500
"""So many naps without an act mean that the attackers are stuck."""


class Attack(ABC):
    """One machine under attack. Subclasses build it and set ``hv`` and ``bystander``."""

    hv: Hypervisor
    bystander: Bystander
    unit: int = RECORD
    """Bytes of an act."""

    def __init__(self, acts: Iterable[bytes], *, seed: int = 1) -> None:
        self._acts: Iterator[bytes] = iter(acts)
        self.done = False
        self.performed = 0
        self.last: bytes = b""
        self.findings: list[str] = []
        self.minds: list[Any] = []
        self.before: Ledger | None = None

    @staticmethod
    def stream(seed: int, count: int) -> Iterator[bytes]:
        """``count`` acts of a seed."""
        return records(seed, count)

    # -- the stream of acts --------------------------------------------------------------------------------------------

    def next_act(self) -> bytes | None:
        """The next record, None when there is no more."""
        record = next(self._acts, None)
        if record is None:
            self.done = True
            return None
        self.performed += 1
        self.last = record
        return record

    @property
    def calls(self) -> int:
        """Hypercalls and other calls made so far."""
        return sum(mind.calls for mind in self.minds)

    # -- running -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def attackers(self) -> Iterable[Vcpu]:
        """vCPUs to wake up when nothing in the machine will ever happen by itself."""

    def run(self) -> list[str]:
        """Let the acts happen, then judge; the findings."""
        try:
            self._run()
        except BaseException:
            self.close()
            raise
        return self.finish()

    def proceed(self, acts: Iterable[bytes]) -> bool:
        """Let some acts happen, and others later; False when the machine is not to be used any more."""
        self._acts = iter(acts)
        self.done = False
        self._run()
        return not self.findings and not self.hv.reports and self.hv.stopped is None

    def finish(self) -> list[str]:
        """Judge; the findings."""
        try:
            self._judge()
            if not self.findings:
                self.bury()
        finally:
            self.close()
        return self.findings

    def close(self) -> None:
        """Unwind all guests: a suspended one would keep its machine in memory."""
        self.hv.stop("closed", "the run is over")
        for vcpu in list(self.hv.vcpus.values()):
            if vcpu.executor is not None:
                vcpu.executor.kill()
                vcpu.executor = None

    def _run(self) -> None:
        hv = self.hv
        idle = 0
        while not self.done and hv.stopped is None and not hv.reports:
            before = self.performed
            if hv.run(lambda: self.done or bool(hv.reports), hv.clock.ticks() + NAP):
                continue
            for vcpu in self.attackers():
                # It may sleep and have armed nothing that could wake it: a miracle does.
                vcpu.wake()
            idle = idle + 1 if self.performed == before else 0
            if idle > PATIENCE:
                self.findings.append(f"the attackers are stuck after {before} acts")
                return

    def _judge(self) -> None:
        hv = self.hv
        self.findings += list(hv.reports)
        if hv.stopped is not None:
            self.findings.append(f"the machine stopped ({hv.stopped}): {list(hv.remarks)[-1:]}")
            return
        self.findings += self.bystander.check()
        beats = self.bystander.beats
        hv.run(lambda: self.bystander.beats >= beats + 3, hv.clock.ticks() + SECOND)
        if self.bystander.beats < beats + 3:
            self.findings.append(f"the bystander's code stands still after {beats} beats")
        self.findings += list(hv.reports)
        try:
            hv.root_partition.system.database.check()
        except AssertionError as broken:
            self.findings.append(f"ownership database: {broken}")

    # -- the end -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def bury(self) -> None:
        """End the hostile VMs and see that nothing of them is left."""

    def _kill(self, vcpus: Sequence[Vcpu]) -> None:
        hv = self.hv
        for vcpu in vcpus:
            vcpu.kill()
            vcpu.proxied = False
            vcpu.blocks = 0
            vcpu.affinity = 0
            hv.scheduler.update(vcpu)
        living = {vcpu.serial for vcpu in vcpus}
        hv.run(lambda: not living & hv.vcpus.keys(), hv.clock.ticks() + SECOND)
        for serial in living & hv.vcpus.keys():
            self.findings.append(f"{hv.vcpus[serial]} was killed and does not exit")

    def _compare(self) -> None:
        before = self.before
        assert before is not None
        after = ledger_of(self.hv)
        for entry in after.since(before):
            holders = ", ".join(f"#{holding.cspace}:{holding.rights}" for holding in entry.holders) or "nobody"
            self.findings.append(
                f"leaked: {entry.name} ({entry.state.name}, {entry.references} references, {entry.heap} bytes), "
                f"held by {holders}"
            )
        known = {entry.serial: entry for entry in before.entries}
        for entry in after.entries:
            earlier = known.get(entry.serial)
            if earlier is not None and (entry.heap, entry.references) != (earlier.heap, earlier.references):
                self.findings.append(
                    f"{entry.name}: heap {earlier.heap} -> {entry.heap} bytes, "
                    f"references {earlier.references} -> {entry.references}"
                )
        for entry in before.entries:
            if entry.serial not in after.serials:
                self.findings.append(f"{entry.name} is gone")
        if after.heap_used != before.heap_used:
            self.findings.append(f"heap: {before.heap_used} bytes in use before, {after.heap_used} after")
        if after.free_memory != before.free_memory:
            self.findings.append(f"free memory: {before.free_memory} before, {after.free_memory} after")

    @staticmethod
    def empty(space: CSpace, keep: frozenset[int] = frozenset()) -> None:
        """Delete all capabilities of a space but those in ``keep``."""
        for capability in space.capabilities_held:
            # The one before may have been the last to the space itself.
            if capability.id not in keep and capability.id in space._valid:
                space.delete(capability.id)
        for capid in list(space._revoked):
            space.delete(capid)


def never(call: Hypercall, objects: Objects, values: Sequence[int]) -> bool:
    """A guard that lets everything pass."""
    return True
