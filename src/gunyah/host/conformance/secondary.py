"""A secondary VM for recordings of its own view: the primary VM lends it memory, starts it, and runs its boot vCPU.

The VM is the one that the recorder used (``vm_image``): 2 MB at 0x8000_0000, image first, device tree at 1 MB.
"""

from __future__ import annotations

from collections.abc import Callable

from gunyah.abi.errors import RmError
from gunyah.abi.hypercalls import BY_NAME
from gunyah.abi.rm.enums import MemRights, ResourceType
from gunyah.abi.rm.memory import AclEntry, MemCreate, SglEntry
from gunyah.abi.rm.query import HypResourcesReply
from gunyah.abi.rm.vm import VmConfigImage, VmidWord
from gunyah.abi.vcpu import VcpuRunState
from gunyah.guest.cpu import Cpu
from gunyah.host.conformance.monitor import Monitor, PrimaryEnvironment
from gunyah.host.conformance.rpc import RmClient
from gunyah.host.conformance.vm_image import BASE, RECORDED_DEVICES, describe_vm

__all__ = ["BASE", "SCRATCH", "SECONDARY_VMID", "owner_program"]

VM_ALLOCATE, VM_START, VM_CONFIG_IMAGE, VM_INIT = 0x5600_0001, 0x5600_0004, 0x5600_0009, 0x5600_000B
GET_HYP_RESOURCES, MEM_LEND = 0x5600_0020, 0x5100_0012

LENT = 0x5000_0000
LENT_SIZE = 0x20_0000
TREE_OFFSET = 0x10_0000
TREE_SIZE = 0x1_0000
SECONDARY_VMID = 0x80
"""RM gives the lowest free dynamic VMID, and this VM is the first."""
SCRATCH = BASE + 0x18_0000
"""IPA of a buffer in the secondary VM that nothing else uses."""

ENDS = frozenset({VcpuRunState.POWERED_OFF, VcpuRunState.FAULT, VcpuRunState.PSCI_SYSTEM_RESET})


class NotStarted(Exception):
    """RM refused a step of the VM's life; ``str()`` names it."""


def owner_program(
    image: bytes, environment: Callable[[Monitor, int], PrimaryEnvironment], *, psci: bool
) -> Callable[[Cpu, int], None]:
    """The primary VM's program: start a VM from ``image`` and run it for ever, answering its device accesses with 0."""

    def program(cpu: Cpu, x0: int) -> None:
        monitor = Monitor(cpu)
        given = environment(monitor, x0)
        client = RmClient(monitor, given.tx, given.rx, given.scratch)
        vcpu = _start(client, cpu, image, psci)
        _run(monitor, vcpu)
        while True:
            cpu.wfi()

    return program


def _ask(client: RmClient, message: int, payload: bytes) -> bytes:
    reply = client.request(message, payload).payload
    error = int.from_bytes(reply[:4], "little")
    if error != RmError.OK:
        raise NotStarted(f"request {message:#x} was answered {error:#x}")
    return reply[4:]


def _start(client: RmClient, cpu: Cpu, image: bytes, psci: bool) -> int:
    """Everything up to VM_START; the capability id of the boot vCPU."""
    _ask(client, VM_ALLOCATE, VmidWord(0).pack())
    cpu.write(LENT, image)
    cpu.write(LENT + TREE_OFFSET, describe_vm("recorded", RECORDED_DEVICES, psci=psci).pack())
    lend = MemCreate(
        mem_type=0,
        flags=0,
        label=0,
        acl=(AclEntry(SECONDARY_VMID, int(MemRights.R | MemRights.W | MemRights.X)),),
        sgl=(SglEntry(LENT, LENT_SIZE),),
        attributes=(),
    )
    handle = int.from_bytes(_ask(client, MEM_LEND, lend.pack())[:4], "little")
    config = VmConfigImage(SECONDARY_VMID, 0, handle, 0, TREE_OFFSET, TREE_OFFSET, TREE_SIZE)
    _ask(client, VM_CONFIG_IMAGE, config.pack())
    _ask(client, VM_INIT, VmidWord(SECONDARY_VMID).pack())
    listed = HypResourcesReply.unpack(_ask(client, GET_HYP_RESOURCES, VmidWord(SECONDARY_VMID).pack()))
    _ask(client, VM_START, VmidWord(SECONDARY_VMID).pack())
    return next(r.cap_id for r in listed.resources if r.type == ResourceType.VIRTUAL_CPU and r.label == 0)


def _run(monitor: Monitor, vcpu: int) -> None:
    run, give = BY_NAME["vcpu_run"].number, BY_NAME["scheduler_yield"].number
    while True:
        x = monitor.hypercall(run, vcpu, 0, 0, 0, 0)
        if x[0] or x[1] in ENDS:
            return
        if x[1] in (VcpuRunState.EXPECTS_WAKEUP, VcpuRunState.BLOCKED):
            monitor.hypercall(give)
