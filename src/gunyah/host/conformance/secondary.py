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
from gunyah.abi.rm.vm import VmConfigImage, VmidReply, VmidWord
from gunyah.abi.vcpu import VcpuRunState
from gunyah.guest.cpu import Cpu
from gunyah.host.conformance.monitor import Monitor, PrimaryEnvironment
from gunyah.host.conformance.rpc import RmClient
from gunyah.host.conformance.secondary_view import Desk, SecondaryVm
from gunyah.host.conformance.vm_image import BASE, describe_vm

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
    image: bytes,
    environment: Callable[[Monitor, int], PrimaryEnvironment],
    *,
    psci: bool,
    secondary: SecondaryVm,
    desk: Desk,
) -> Callable[[Cpu, int], None]:
    """The primary VM's program: start ``secondary`` from ``image`` and run it for ever, answering its device accesses
    with 0; between two runs it does what lies on the ``desk``."""

    def program(cpu: Cpu, x0: int) -> None:
        monitor = Monitor(cpu)
        given = environment(monitor, x0)
        client = RmClient(monitor, given.tx, given.rx, given.scratch)
        vcpu = _start(client, cpu, image, psci, secondary)
        _run(monitor, vcpu, lambda: desk.serve(client))
        while True:
            cpu.wfi()

    return program


def _ask(client: RmClient, message: int, payload: bytes) -> bytes:
    reply = client.request(message, payload).payload
    error = int.from_bytes(reply[:4], "little")
    if error != RmError.OK:
        raise NotStarted(f"request {message:#x} was answered {error:#x}")
    return reply[4:]


def _allocate(client: RmClient, vmid: int) -> None:
    """A record with this VMID: a fixed one is asked for by number, dynamic ones come lowest first."""
    if vmid < SECONDARY_VMID:
        _ask(client, VM_ALLOCATE, VmidWord(vmid).pack())
        return
    while VmidReply.unpack(_ask(client, VM_ALLOCATE, VmidWord(0).pack())).vmid < vmid:
        continue


def _start(client: RmClient, cpu: Cpu, image: bytes, psci: bool, secondary: SecondaryVm) -> int:
    """Everything up to VM_START; the capability id of the boot vCPU."""
    vmid = secondary.vmid
    _allocate(client, vmid)
    cpu.write(LENT, image)
    tree = describe_vm(secondary.name, secondary.resources, psci=psci, uri=secondary.uri, guid=secondary.guid)
    cpu.write(LENT + TREE_OFFSET, tree.pack())
    lend = MemCreate(
        mem_type=0,
        flags=0,
        label=0,
        acl=(AclEntry(vmid, int(MemRights.R | MemRights.W | MemRights.X)),),
        sgl=(SglEntry(LENT, LENT_SIZE),),
        attributes=(),
    )
    handle = int.from_bytes(_ask(client, MEM_LEND, lend.pack())[:4], "little")
    config = VmConfigImage(vmid, 0, handle, 0, TREE_OFFSET, TREE_OFFSET, TREE_SIZE)
    _ask(client, VM_CONFIG_IMAGE, config.pack())
    _ask(client, VM_INIT, VmidWord(vmid).pack())
    listed = HypResourcesReply.unpack(_ask(client, GET_HYP_RESOURCES, VmidWord(vmid).pack()))
    _ask(client, VM_START, VmidWord(vmid).pack())
    return next(r.cap_id for r in listed.resources if r.type == ResourceType.VIRTUAL_CPU and r.label == 0)


def _run(monitor: Monitor, vcpu: int, between: Callable[[], None]) -> None:
    run, give = BY_NAME["vcpu_run"].number, BY_NAME["scheduler_yield"].number
    while True:
        between()
        x = monitor.hypercall(run, vcpu, 0, 0, 0, 0)
        if x[0] or x[1] in ENDS:
            return
        if x[1] in (VcpuRunState.EXPECTS_WAKEUP, VcpuRunState.BLOCKED):
            monitor.hypercall(give)
