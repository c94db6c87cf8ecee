"""What ``gunyah top`` shows: vCPU time, exits and calls, message queues, who owns the memory, of one moment.

A ``Watch`` is an instrument: it counts from its first look on. Looking changes nothing in the machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from gunyah.host.view import Row, virtual_machines
from gunyah.hypervisor.hypervisor import Hypervisor
from gunyah.hypervisor.instruments import Instrument, NamedCall, NamedObject, NamedVcpu
from gunyah.hypervisor.msgqueue import MsgQueue

__all__ = ["Watch"]


class Watch(Instrument):
    """Counts traps, calls and messages of one hypervisor."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self.calls: Counter[int] = Counter()
        self.exits: Counter[tuple[int, str]] = Counter()
        self.messages: Counter[int] = Counter()
        self.interrupts: Counter[int] = Counter()
        hypervisor.instruments.append(self)

    def hypercall_enter(self, vcpu: NamedVcpu, call: NamedCall, args: Sequence[int], ticks: int) -> None:
        """Count per VM."""
        self.calls[vcpu.vmid] += 1

    def trap(self, vcpu: NamedVcpu, reason: str, value: int, ticks: int) -> None:
        """Count per VM and reason."""
        self.exits[vcpu.vmid, reason] += 1

    def message_send(self, queue: NamedObject, vcpu: NamedVcpu, data: bytes, flow: int, ticks: int) -> None:
        """Count per queue."""
        self.messages[queue.serial] += 1

    def interrupt_acknowledge(self, vcpu: NamedVcpu, virq: int, ticks: int) -> None:
        """Count per VM."""
        self.interrupts[vcpu.vmid] += 1

    def close(self) -> None:
        """Stop counting."""
        if self in self._hypervisor.instruments:
            self._hypervisor.instruments.remove(self)

    def snapshot(self) -> dict[str, Any]:
        """All of it as JSON values."""
        hypervisor = self._hypervisor
        vms = virtual_machines(hypervisor)
        for row in vms:
            vmid = row["vmid"]
            row["ns"] = sum(vcpu["ns"] for vcpu in row["vcpus"])
            row["calls"] = self.calls[vmid]
            row["interrupts"] = self.interrupts[vmid]
            row["exits"] = {reason: count for (who, reason), count in sorted(self.exits.items()) if who == vmid}
        owners: Counter[str] = Counter()
        for start, size, owner in hypervisor.root_partition.system.database.ranges():
            del start
            if owner.holder is not None:
                owners[str(owner)] += size
        queues: list[Row] = [
            {
                "queue": str(obj),
                "waiting": len(obj.messages),
                "depth": obj.depth,
                "messages": self.messages[obj.serial],
            }
            for obj in hypervisor.objects()
            if isinstance(obj, MsgQueue)
        ]
        return {
            "ticks": hypervisor.clock.ticks(),
            "frequency": hypervisor.clock.frequency,
            "vms": vms,
            "queues": queues,
            "memory": [{"owner": owner, "bytes": size} for owner, size in owners.most_common()],
        }
