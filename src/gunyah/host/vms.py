"""The secondary VMs of a SYSTEM.toml in a hosted system: made, started, watched, restarted, each with its terminal.

Whatever happens to a VM happens through the VM manager in the primary VM; here stand names, policy and reports.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from gunyah.abi.rm import ExitType, VmExited, VmStatus
from gunyah.abi.types import PAGE_SIZE
from gunyah.guest.fdt import FdtError
from gunyah.host.control import Answer
from gunyah.host.disk import FileStorage
from gunyah.host.errors import HostError
from gunyah.host.lint import Finding
from gunyah.host.system_file import SystemFile, VmDescription
from gunyah.host.vm_console import VmConsole
from gunyah.linux.rm_client import RmRefused
from gunyah.rm.vmconfig import Policy
from gunyah.rm.vmconfig import check as check_vm_config
from gunyah.vmm.images import ImageError
from gunyah.vmm.loader import LoadError, read_image, read_ramdisk, read_tree
from gunyah.vmm.manager import VirtualMachine, VmError
from gunyah.vmm.virtio_devices import SECTOR, BlockDevice, MemoryStorage
from gunyah.vmm.vm_config import (
    Doorbell,
    QueuePair,
    SharedMemory,
    Virtio,
    VmSettings,
    configured_tree,
    placement_of,
)

if TYPE_CHECKING:
    from gunyah.host.hosted import HostedSystem

__all__ = ["ACTIONS", "HostedVm", "HostedVms", "check_vms", "settings_of"]

ACTIONS: Final = ("start", "stop", "reset", "restart", "pause", "resume")
DISK_LABEL: Final = 0x6469_7300
"""Label of the first disk's device and memory ("dis", 0)."""
REFUSALS: Final = (RmRefused, VmError, LoadError, ImageError, OSError)


def pair_label(one: str, other: str) -> int:
    """Label of the message-queue pair between two VMs: the same from either side."""
    return crc32("\0".join(sorted((one, other))).encode()) & 0x7FFF_FFFF or 1


def _no_disks(vm: VmDescription) -> list[BlockDevice]:
    """Stand-ins for a description that is only checked."""
    return [BlockDevice(MemoryStorage(bytes(SECTOR))) for _ in vm.disks]


def settings_of(vm: VmDescription, system: SystemFile, disks: Sequence[BlockDevice] = ()) -> VmSettings:
    """A described VM with its files read and ``disks`` behind its disks; raises LoadError, ImageError."""
    assert vm.image is not None
    named_by = [other.name for other in system.vms if vm.name in other.peers]
    peers = sorted({*vm.peers, *named_by})
    queues = [QueuePair(pair_label(vm.name, peer), peer) for peer in peers]
    bells: list[int | Doorbell] = list(vm.doorbells)
    sources: list[int | Doorbell] = list(vm.doorbell_sources)
    shared = [SharedMemory(int(label), size) for label, size in vm.shared.items()]
    for link in system.links:
        others = tuple(name for name in link.vms if name != vm.name)
        if len(others) == len(link.vms):
            continue
        if link.kind == "queue":
            queues.append(QueuePair(link.label, others[0], link.message_size, link.depth))
        elif link.kind == "doorbell":
            (sources if link.vms[0] == vm.name else bells).append(Doorbell(link.label, others[0]))
        else:
            shared.append(SharedMemory(link.label, link.size, peers=others))
    bootargs = vm.cmdline or ("console=ttyAMA0" if vm.console == "uart" else "")
    return VmSettings(
        name=vm.name,
        image=read_image(vm.image),
        ramdisk=read_ramdisk(vm.initrd) if vm.initrd is not None else None,
        tree=read_tree(vm.dtb) if vm.dtb is not None else None,
        bootargs=bootargs,
        memory=vm.memory,
        vcpus=vm.vcpus,
        console=vm.console,
        affinity=vm.affinity,
        cores=vm.cores or tuple(range(1, system.cores)) or (0,),
        share=vm.share,
        profile=vm.profile,
        queues=(*queues, *(QueuePair(label) for label in vm.queues)),
        doorbells=tuple(bells),
        doorbell_sources=tuple(sources),
        shared=tuple(shared),
        virtio=tuple(
            Virtio(DISK_LABEL + index, disk, pool=PAGE_SIZE) for index, disk in enumerate(disks or _no_disks(vm))
        ),
        seed=f"{system.seed}/{vm.name}".encode().ljust(64, b"\0"),
    )


def check_vms(system: SystemFile) -> list[Finding]:
    """What loader or RM would refuse about the VMs of a file that is right in itself."""
    findings: list[Finding] = []
    for vm in system.vms:
        where = f"vm.{vm.name}"
        try:
            settings = settings_of(vm, system)
            tree = configured_tree(settings, placement_of(settings))
        except ImageError as error:
            findings.append(Finding(where, "image", str(error)))
            continue
        except (LoadError, FdtError) as error:
            findings.append(Finding(where, "", str(error)))
            continue
        checked = check_vm_config(tree, Policy(cores=8, usable_cores=(1 << system.cores) - 1))
        findings += [Finding(where, "", str(refusal)) for refusal in checked.refusals]
    return findings


class HostedVm:
    """One VM of the system."""

    def __init__(self, hub: HostedVms, description: VmDescription, machine: VirtualMachine, console: VmConsole) -> None:
        self.hub = hub
        self.description = description
        self.machine = machine
        self.console = console
        self.failure = ""
        """Why it could not be started or restarted, the last time."""
        self.reported: VmExited | None = None

    @property
    def name(self) -> str:
        """Its name."""
        return self.description.name

    def words(self) -> str:
        """Its state in words, as ``gunyah ps`` has it."""
        machine = self.machine
        if machine.status is VmStatus.EXITED:
            return f"exited ({machine.exit_words()})"
        if machine.status in (VmStatus.NONE, VmStatus.LOAD):
            return f"not started ({self.failure})" if self.failure else "not started"
        return machine.status.name.lower().replace("_", " ")


class HostedVms:
    """All secondary VMs. ``say`` gets one line for each thing that happens."""

    def __init__(self, hosted: HostedSystem, system: SystemFile, say: Callable[[str], object] = lambda line: None):
        self._hosted = hosted
        self.say = say
        self.by_name: dict[str, HostedVm] = {}
        primary = hosted.system.primary
        self._disks: list[FileStorage] = []
        for description in system.vms:
            try:
                disks = [BlockDevice(self._open(path), path.name[:20]) for path in description.disks]
                machine = primary.manager.create(settings_of(description, system, disks))
                console = VmConsole(hosted.loop, hosted.directory, primary.kernel, hosted.post, machine)
            except REFUSALS as error:
                raise HostError(f"vm.{description.name}: {error}") from error
            self.by_name[description.name] = HostedVm(self, description, machine, console)
        primary.manager.listeners.append(self._notified)

    def _open(self, path: Path) -> FileStorage:
        disk = FileStorage(path)
        self._disks.append(disk)
        return disk

    @property
    def consoles(self) -> Sequence[VmConsole]:
        """Their terminals."""
        return [vm.console for vm in self.by_name.values()]

    def find(self, words: str) -> HostedVm:
        """The VM with that name or VMID; raises HostError."""
        for vm in self.by_name.values():
            if words == vm.name or (vm.machine.vmid and words in (str(vm.machine.vmid), hex(vm.machine.vmid))):
                return vm
        known = ", ".join(self.by_name) or "none"
        raise HostError(f"there is no secondary VM {words!r}; there are: {known}")

    def name_of(self, vmid: int) -> str | None:
        """Name of the VM with a VMID."""
        return next((vm.name for vm in self.by_name.values() if vm.machine.vmid == vmid), None)

    # -- doing ---------------------------------------------------------------------------------------------------------

    def start_all(self) -> None:
        """Start those that start at boot; raises HostError with the first refusal."""
        for vm in self.by_name.values():
            if not vm.description.start:
                continue
            try:
                self._hosted.system.primary.call(vm.machine.start)
            except REFUSALS as error:
                raise HostError(f"vm.{vm.name}: {error}") from error

    def act(self, name: str, action: str, *, graceful: bool = False) -> Answer:
        """One of ACTIONS, by a process in the primary VM; the answer comes when it is done."""
        vm = self.find(name)
        machine = vm.machine
        doing: Callable[[], object] = getattr(machine, action)
        if action == "start" and machine.status is VmStatus.EXITED:
            doing = machine.restart
        elif action == "stop":
            doing = partial(machine.stop, force=not graceful)
        return self.process(doing, lambda result: {"vm": vm.name, "vmid": machine.vmid, "state": vm.words()})

    def process(self, function: Callable[[], Any], result: Callable[[Any], object]) -> Answer:
        """Run ``function`` as a process of the primary VM and answer with ``result`` of what it returned."""
        answer = Answer()
        kernel = self._hosted.kernel
        submission = kernel.submit(function)

        def done() -> None:
            try:
                value = submission.result()
            except REFUSALS as error:
                words = str(error.strerror or error) if isinstance(error, OSError) else str(error)
                self._hosted.loop.post(partial(answer.fail, words))
                return
            except Exception as error:
                self._hosted.loop.post(partial(answer.fail, f"{type(error).__name__}: {error}"))
                return
            self._hosted.loop.post(lambda: answer.done(result(value)))

        submission.on_done = done
        self._hosted.post(lambda: None)
        return answer

    # -- watching ------------------------------------------------------------------------------------------------------

    def _notified(self, message_id: int, payload: object) -> None:
        if not isinstance(payload, VmExited):
            return
        for vm in self.by_name.values():
            if vm.machine.vmid == payload.vmid:
                self._hosted.loop.post(partial(self._exited, vm, payload))

    def _exited(self, vm: HostedVm, end: VmExited) -> None:
        policy = vm.description.restart
        again = policy == "always" and end.exit_type != ExitType.VM_STOP_FORCED
        if policy == "reset" and end.exit_type in (ExitType.PLATFORM_RESET, ExitType.PSCI_SYSTEM_RESET2):
            again = True
        self.say(f"{vm.name}  {vm.machine.exit_words()}{', starting again' if again else ''}")
        if again:
            self._hosted.kernel.submit(self._restart, vm)
            self._hosted.post(lambda: None)
        else:
            vm.reported = end

    def _restart(self, vm: HostedVm) -> None:
        try:
            vm.machine.restart()
        except REFUSALS as error:
            vm.failure = str(error)
            self._hosted.loop.post(lambda: self.say(f"{vm.name}  cannot start again: {vm.failure}"))

    @property
    def over(self) -> bool:
        """Every VM that was started at boot has ended for good."""
        return all(
            vm.machine.exit is not None and vm.reported is vm.machine.exit
            for vm in self.by_name.values()
            if vm.description.start
        )

    def close(self) -> None:
        """Hang up the terminals."""
        for vm in self.by_name.values():
            vm.console.close()
        for disk in self._disks:
            disk.close()
