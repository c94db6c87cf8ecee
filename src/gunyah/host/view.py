"""Plain tables of what lives in a hypervisor: VMs with their vCPUs, who owns which memory, which objects exist.

Rows are dictionaries of JSON values, in an order that does not change while nothing happens. Looking changes nothing.
"""

from __future__ import annotations

from typing import Any

from gunyah.host.trace_words import vm_name
from gunyah.hypervisor.hypervisor import Hypervisor
from gunyah.hypervisor.ledger import ledger_of
from gunyah.hypervisor.vcpu import Block, ThreadState, Vcpu

__all__ = ["Row", "ledger", "vcpu_state", "virtual_machines"]

Row = dict[str, Any]

_STATES = (
    (Block.PAUSED, "paused"),
    (Block.FAULT, "fault"),
    (Block.POWERED_OFF, "off"),
    (Block.SUSPENDED, "suspended"),
    (Block.WFI, "idle"),
    (Block.PROXY, "waits for its scheduler VM"),
    (Block.VMMIO, "waits for a device of another VM"),
)


def vcpu_state(vcpu: Vcpu) -> str:
    """``running``, ``idle`` (waits for an interrupt), ``off``, ``suspended``, ``paused``, ``fault``, ``gone``."""
    if vcpu.thread_state in (ThreadState.KILLED, ThreadState.EXITED):
        return "gone"
    for block, word in _STATES:
        if vcpu.blocks & block:
            return word
    return "blocked" if vcpu.blocks else "running"


def virtual_machines(hypervisor: Hypervisor) -> list[Row]:
    """One row per VMID that has a vCPU: vmid, name, state, vcpus (name, state, nanoseconds run)."""
    by_vmid: dict[int, list[Vcpu]] = {}
    for vcpu in hypervisor.vcpus.values():
        by_vmid.setdefault(vcpu.vmid, []).append(vcpu)
    rows: list[Row] = []
    for vmid, vcpus in sorted(by_vmid.items()):
        states = [vcpu_state(vcpu) for vcpu in vcpus]
        rows.append(
            {
                "vmid": vmid,
                "name": vm_name(vmid),
                "state": next((state for state in ("fault", "running", "idle") if state in states), states[0]),
                "vcpus": [
                    {
                        "name": str(vcpu).removeprefix(f"vm{vmid}."),
                        "state": state,
                        "ns": vcpu.run_ticks * 1_000_000_000 // hypervisor.clock.frequency,
                    }
                    for vcpu, state in zip(vcpus, states, strict=True)
                ],
            }
        )
    return rows


def ledger(hypervisor: Hypervisor) -> dict[str, list[Row]]:
    """``memory``: every range of RAM with its owner; ``heaps``: bytes in use; ``objects``: all, with their holders."""
    partitions = (hypervisor.private_partition, hypervisor.root_partition)
    return {
        "memory": [
            {"from": f"{start:#x}", "bytes": size, "owner": str(owner)}
            for start, size, owner in hypervisor.root_partition.system.database.ranges()
            if owner.holder is not None
        ],
        "heaps": [
            {"partition": str(partition), "bytes": partition.heap.size, "used": partition.heap.used}
            for partition in partitions
        ],
        "objects": [
            {
                "object": entry.name,
                "state": entry.state.name.lower(),
                "heap": entry.heap,
                "references": entry.references,
                "holders": [f"cspace #{holding.cspace}: {holding.rights}" for holding in entry.holders],
            }
            for entry in ledger_of(hypervisor).entries
        ],
    }
