"""The VM manager of a Linux VM in Python: secondary VMs made, run, watched and taken down by RPC alone
(linux-clients.md 9, rm-behaviour.md 5).

Everything here runs inside the primary VM, in tasks that may block. ``VmManager`` stands between RM's notifications and
the machines; a ``VirtualMachine`` goes through its life as often as one likes:

    vm = manager.create(VmSettings(name="worker", image=image))
    vm.start(); vm.wait_exit(); vm.restart(); vm.stop(); vm.deallocate()

A step that RM refuses leaves nothing behind: the machine is taken back to where it was before, and the refusal goes on
to the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Final

from gunyah.abi.errors import RmError
from gunyah.abi.layout import Payload, PayloadError
from gunyah.abi.rm import (
    NOTIFICATIONS,
    AclEntry,
    ConsoleWrite,
    ExitType,
    HypResource,
    MemRights,
    ResourceType,
    SglEntry,
    VmExited,
    VmStatus,
    VmStatusNotification,
)
from gunyah.abi.types import PAGE_SIZE
from gunyah.abi.vcpu import YieldHint
from gunyah.guest.heap import Buffer, OutOfMemory
from gunyah.guest.wait import Mutex, WaitQueue
from gunyah.linux.kernel import Kernel
from gunyah.linux.printk import WARNING
from gunyah.linux.rm_client import RmClient, RmRefused, rm_calls_of
from gunyah.vmm.errors import VmError
from gunyah.vmm.loader import Placement
from gunyah.vmm.manager_vcpus import VcpuLoop
from gunyah.vmm.secondary_devices import Console, MmioBus, UartFactory
from gunyah.vmm.shared_memory import Regions
from gunyah.vmm.virtio import VirtioBackend
from gunyah.vmm.virtqueue import Window
from gunyah.vmm.vm_config import Virtio, VmSettings, configured_tree, placement_of, pool_of, tree_span, uart_address

__all__ = ["VirtualMachine", "VmError", "VmManager"]

_RW: Final = MemRights.R | MemRights.W
_RWX: Final = _RW | MemRights.X
_ALIGNMENT: Final = 0x20_0000
_PATIENCE_NS: Final = 10_000_000_000
"""How long RM may take to tell the end of a stop or a reset; it takes milliseconds."""
_CONSOLE_PIECE: Final = 4096
_CLEAN: Final = (VmStatus.LOAD, VmStatus.RESET)
"""Nothing of it exists in RM but its VMID."""


class VmManager:
    """The machines of one kernel.

    ``uart`` makes serial ports, ``explain`` gives RM's sentence for its last refusal, ``on_vmid(vmid, settings)`` hears
    which VMID stands for which VM (None: for none any more).
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        uart: UartFactory | None = None,
        explain: Callable[[], str] = lambda: "",
        on_vmid: Callable[[int, VmSettings | None], object] = lambda vmid, settings: None,
    ) -> None:
        self.kernel = kernel
        self.uart = uart
        self.on_vmid = on_vmid
        self.rm = RmClient(rm_calls_of(lambda: kernel.resource_managers), explain)
        self.vms: dict[int, VirtualMachine] = {}
        self.regions = Regions(self)
        self._machines: dict[str, VirtualMachine] = {}
        self.listeners: list[Callable[[int, Payload | bytes], None]] = []
        """Called inside the VM with each notification's id and payload; must not block."""
        self._own_vmid = 0
        self._turn = 0
        if not kernel.resource_managers:
            raise VmError("there is no connection to the Resource Manager")
        kernel.resource_managers[0].notifier_register(self._notified)

    @property
    def own_vmid(self) -> int:
        """VMID of the VM that this runs in."""
        if not self._own_vmid:
            self._own_vmid = self.rm.vm_get_vmid()
        return self._own_vmid

    def calling(self) -> bool:
        """Somebody in the VM waits for RM."""
        return any(manager.calling for manager in self.kernel.resource_managers)

    def create(self, settings: VmSettings) -> VirtualMachine:
        """A machine that does not exist for RM yet. Raises LoadError, VmError."""
        if settings.console == "uart" and self.uart is None:
            raise VmError(f"VM {settings.name}: nobody has told this VM manager how to make a UART")
        machine = self._machines[settings.name] = VirtualMachine(self, settings)
        return machine

    @property
    def spare_cores(self) -> tuple[int, ...]:
        """Physical cores for VMs that the hypervisor schedules: all but the one that this VM's own code runs on."""
        cpus = self.kernel.services.device_tree.find("/cpus")
        count = len([node for node in cpus.children if node.name.startswith("cpu@")]) if cpus is not None else 1
        return tuple(range(1, count)) or (0,)

    def give_way(self) -> None:
        """Give the rest of this VM's time to the next vCPU below it on its core, if there is one.

        Below it are its VMs that the hypervisor schedules: RM gives them a lower priority than their owner.
        """
        below = [
            entry.cap_id
            for vm in self.vms.values()
            if vm.status is VmStatus.RUNNING and not vm.settings.proxy
            for entry in vm.resources
            if entry.type == ResourceType.VIRTUAL_CPU and entry.label == 0
        ]
        if below:
            self._turn += 1
            target = below[self._turn % len(below)]
            self.kernel.hypercalls.calls.try_call("scheduler_yield", YieldHint.YIELD_TO_THREAD, target)

    def named(self, name: str) -> VirtualMachine:
        """The machine that was last created with a name; raises VmError."""
        machine = self._machines.get(name)
        if machine is None:
            known = ", ".join(self._machines) or "none"
            raise VmError(f"there is no VM {name!r} to share memory with; there are: {known}")
        return machine

    def _notified(self, message_id: int, data: bytes) -> None:
        entry = NOTIFICATIONS.get(message_id)
        payload: Payload | bytes = data
        if entry is not None:
            try:
                payload = entry.payload.unpack(data)
            except PayloadError as refused:
                sentence = f"vmm: {entry.name}: {refused}"
                self.kernel.log.ratelimited("vmm", WARNING, lambda: sentence)
        if isinstance(payload, VmStatusNotification | VmExited | ConsoleWrite):
            vm = self.vms.get(payload.vmid)
            if vm is not None:
                vm.notified(message_id, payload)
        for listener in list(self.listeners):
            listener(message_id, payload)


class VirtualMachine:
    """One secondary VM. ``vmid`` is 0 and ``status`` NONE while RM does not know it; ``exit`` is how it last ended."""

    def __init__(self, manager: VmManager, settings: VmSettings) -> None:
        if not settings.cores:
            settings = replace(settings, cores=manager.spare_cores)
        self.manager = manager
        self.settings = settings
        self.name = settings.name
        self.vmid = 0
        self.status = VmStatus.NONE
        self.exit: VmExited | None = None
        self.starts = 0
        self.console = Console()
        self.bus = MmioBus()
        self.resources: tuple[HypResource, ...] = ()
        self.vcpus: list[VcpuLoop] = []
        self.backends: list[VirtioBackend] = []
        """The owner's halves of its virtio devices, while it is started."""
        self.shared: dict[int, Buffer] = {}
        """Memory of the owner's that it shares, by label; there while the VM is."""
        self._buffers: list[Buffer] = []
        self._placement: Placement = placement_of(settings)
        self._memory: Buffer | None = None
        self._handles: list[int] = []
        services = manager.kernel.services
        self._changed = WaitQueue(services.scheduler)
        self._life = Mutex(services.scheduler)

    def __repr__(self) -> str:
        return f"<VM {self.name} {self.vmid:#x} {self.status.name}>"

    # -- what RM tells -------------------------------------------------------------------------------------------------

    def notified(self, message_id: int, payload: VmStatusNotification | VmExited | ConsoleWrite) -> None:
        """A notification about this VM."""
        if isinstance(payload, ConsoleWrite):
            self.console.receive(payload.data)
            return
        if isinstance(payload, VmStatusNotification):
            if payload.vm_status in VmStatus._value2member_map_:
                self.status = VmStatus(payload.vm_status)
        else:
            self.exit = payload
            self.status = VmStatus.EXITED
            for vcpu in self.vcpus:
                vcpu.stop()
        self._changed.wake_all()

    def _await(self, condition: Callable[[], bool], what: str, timeout_ns: int | None = _PATIENCE_NS) -> None:
        if not self._changed.wait_for(condition, timeout_ns):
            raise VmError(f"VM {self.name}: {what} has not come, it is {self.status.name}")

    # -- life ----------------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """It has been started and has not ended."""
        return self.status in (VmStatus.RUNNING, VmStatus.PAUSED)

    def start(self) -> None:
        """Allocate (the first time), load, configure and start. Raises RmRefused, VmError, OSError, LoadError."""
        with self._life:
            self._start()

    def allocate(self) -> int:
        """Its VMID, which RM gives now if it has none yet. Raises RmRefused."""
        if not self.vmid:
            self.vmid = self.manager.rm.vm_allocate()
            self.manager.vms[self.vmid] = self
            self.manager.on_vmid(self.vmid, self.settings)
            self.status = VmStatus.LOAD
        return self.vmid

    def _start(self) -> None:
        if self.status not in (VmStatus.NONE, *_CLEAN):
            raise VmError(f"VM {self.name} is {self.status.name}; it can be started when it is new or was reset")
        rm, fresh = self.manager.rm, not self.vmid
        self.allocate()
        try:
            with self._refusal_said():
                self._load()
                rm.vm_init(self.vmid)
                self.resources = rm.vm_get_hyp_resources(self.vmid)
                self._connect()
                self.exit = None
                rm.vm_start(self.vmid)
        except BaseException:
            self._undo(fresh)
            raise
        if self.exit is None:
            self.status = VmStatus.RUNNING
        self.starts += 1
        for vcpu in self.vcpus:
            vcpu.start()

    @contextmanager
    def _refusal_said(self) -> Iterator[None]:
        """What the heap and RM say, with the VM's name before it."""
        try:
            yield
        except OutOfMemory as failure:
            raise VmError(f"VM {self.name}: {failure}") from failure

    def _undo(self, fresh: bool) -> None:
        """A start has failed: back to RESET, or to nothing."""
        try:
            state = VmStatus(self.manager.rm.vm_get_state(self.vmid).vm_status)
            if state is VmStatus.LOAD:
                self._take_back()
            else:
                self.status = state
                self._reset()
            if fresh:
                self._deallocate()
        except (RmRefused, VmError, OSError) as failure:
            self.manager.kernel.log.err(f"vmm: VM {self.name} could not be taken down: {failure}")

    def _load(self) -> None:
        settings, placement = self.settings, self._placement
        services, rm = self.manager.kernel.services, self.manager.rm
        memory = self._memory = services.heap.allocate(settings.memory, _ALIGNMENT)
        tree = configured_tree(settings, placement)
        blob = tree.pack()
        start = placement.memory[0]
        for address, data in placement.chunks(settings.ramdisk, blob):
            services.cpu.write(memory.address + address - start, data)
        self._plan_devices(tree_uart=uart_address(tree))
        own = (AclEntry(self.manager.own_vmid, _RWX),) if settings.share else ()
        create = rm.mem_share if settings.share else rm.mem_lend
        handle = create((AclEntry(self.vmid, _RWX), *own), (SglEntry(memory.address, settings.memory),))
        self._handles.append(handle)
        pools = [(virtio.label, virtio.pool) for virtio in settings.virtio]
        for shared in settings.shared:
            if shared.peers:
                self.shared[shared.label] = self.manager.regions.join(self, shared).buffer
            else:
                pools.append((shared.label, shared.size))
        for label, size in pools:
            buffer = self.shared[label] = services.heap.allocate(size, PAGE_SIZE)
            self._buffers.append(buffer)
            services.cpu.write(buffer.address, bytes(size))
            acl = (AclEntry(self.vmid, _RW), AclEntry(self.manager.own_vmid, _RW))
            self._handles.append(rm.mem_share(acl, (SglEntry(buffer.address, size),), label=label))
        image = (placement.image.start + placement.base - start, placement.image.end - placement.image.start)
        rm.vm_config_image(self.vmid, handle, image=image, dtb=tree_span(blob, placement))

    # -- devices -------------------------------------------------------------------------------------------------------

    def _plan_devices(self, tree_uart: tuple[int, int, int] | None) -> None:
        self.bus = MmioBus()
        self.console.send = None
        settings, manager = self.settings, self.manager
        if settings.console == "uart" and tree_uart is not None and manager.uart is not None:
            base, size, spi = tree_uart
            device = manager.uart(self.console.receive, lambda level: self._interrupt(spi) if level else None)
            self.bus.attach(base, size, device)
            self.console.send = device.feed
        elif settings.console == "rm":
            self.console.send = self._send_to_rm

    def _interrupt(self, spi: int) -> None:
        """Ring the doorbell behind a shared interrupt of the guest."""
        bell = self.resource(ResourceType.DOORBELL_SRC, spi)
        if bell is not None:
            self.manager.kernel.hypercalls.calls.doorbell_send(bell.cap_id, 1)

    def _send_to_rm(self, data: bytes) -> int:
        piece = data[:_CONSOLE_PIECE]
        self.manager.rm.vm_console_write(self.vmid, piece)
        return len(piece)

    def resource(self, kind: ResourceType, label: int) -> HypResource | None:
        """What VM and owner share under a label."""
        return next((entry for entry in self.resources if (entry.type, entry.label) == (kind, label)), None)

    def _connect(self) -> None:
        """What the owner needs before the first instruction: the console's end, a loop for each vCPU."""
        kernel = self.manager.kernel
        if self.settings.console == "rm":
            self.manager.rm.vm_console_open(self.vmid)
        if self.settings.proxy:
            for entry in self.resources:
                if entry.type == ResourceType.VIRTUAL_CPU:
                    name = f"{self.name}/vcpu{entry.label}"
                    hyp, busy = kernel.hypercalls.calls, self.manager.calling
                    loop = VcpuLoop(kernel.services, hyp, entry, self.bus, name, busy, self.manager.give_way)
                    self.vcpus.append(loop)
        for virtio in self.settings.virtio:
            page = self.resource(ResourceType.VIRTIO_MMIO, virtio.label)
            if page is None:
                raise VmError(f"VM {self.name}: RM has made no virtio device with label {virtio.label:#x}")
            name, hyp = f"{self.name}/virtio{virtio.label:x}", kernel.hypercalls.calls
            windows = self._windows(virtio)
            self.backends.append(VirtioBackend(kernel.services, hyp, page, virtio.device, windows, name))

    def _windows(self, virtio: Virtio) -> list[Window]:
        """What a backend sees of the guest: the memory that is shared for it, and all memory if that is shared."""
        pool = pool_of(self.settings, self._placement, virtio)
        windows = [Window(pool, virtio.pool, self.shared[virtio.label].address)]
        if self.settings.share and self._memory is not None:
            windows.append(Window(*self._placement.memory, self._memory.address))
        return windows

    def _disconnect(self) -> None:
        for backend in self.backends:
            backend.end()
        self.backends.clear()
        for vcpu in self.vcpus:
            vcpu.end()
        self.vcpus.clear()
        self.resources = ()
        self.console.send = None

    # -- the other way -------------------------------------------------------------------------------------------------

    def stop(self, *, force: bool = True, reason: int = 3) -> None:
        """End a running VM and wait until RM says so; without ``force`` only ask the guest to shut down."""
        with self._life:
            if not self.running:
                raise VmError(f"VM {self.name} is {self.status.name}, it does not run")
            self._stop(force=force, reason=reason)

    def _stop(self, *, force: bool = True, reason: int = 3) -> None:
        try:
            self.manager.rm.vm_stop(self.vmid, force=force, reason=reason)
        except RmRefused as refused:
            # It ended by itself before RM read the request: the notification is on its way.
            if refused.error is not RmError.VM_STATE:
                raise
            force = True
        if force:
            self._await(lambda: self.exit is not None, "the end after VM_STOP")

    def reset(self) -> None:
        """Take the VM's objects and memory back, from whatever state; it keeps its VMID and can be started again."""
        with self._life:
            if not self.vmid:
                raise VmError(f"VM {self.name} does not exist yet")
            if self.status not in _CLEAN:
                self._reset()

    def _reset(self) -> None:
        rm = self.manager.rm
        if self.running:
            self._stop()
        if self.status is VmStatus.INIT:
            # The way to RESET leads over READY or INIT_FAILED only (rm-rpc.md 4.1).
            with suppress(RmRefused):
                rm.vm_init(self.vmid)
        if self.status not in (VmStatus.RESETTING, VmStatus.RESET):
            rm.vm_reset(self.vmid)
        self._await(lambda: self.status == VmStatus.RESET, "the end of VM_RESET")
        self._disconnect()
        self._take_back()

    def _take_back(self) -> None:
        """Reclaim every memparcel, free its memory."""
        while self._handles:
            self.manager.rm.mem_reclaim(self._handles.pop(), sanitize=self.settings.clear)
        self.manager.regions.leave(self)
        while self._buffers:
            self._buffers.pop().free()
        self.shared.clear()
        if self._memory is not None:
            self._memory.free()
            self._memory = None

    def restart(self) -> None:
        """Reset and start again, with the same VMID."""
        with self._life:
            if self.vmid and self.status not in _CLEAN:
                self._reset()
            self._start()

    def deallocate(self) -> None:
        """Take the VM down from whatever state; RM forgets it and its VMID is free."""
        with self._life:
            if not self.vmid:
                return
            holders = self.manager.regions.holders(self)
            if holders:
                # The memparcel names this VMID; the next VM that gets it would get the memory too.
                raise VmError(
                    f"VM {self.name} shares memory with {', '.join(sorted(holders))}, which must be reset before "
                    f"{self.name} is deallocated"
                )
            if self.status not in _CLEAN:
                self._reset()
            self._deallocate()

    def _deallocate(self) -> None:
        self.manager.rm.vm_deallocate(self.vmid)
        del self.manager.vms[self.vmid]
        self.manager.on_vmid(self.vmid, None)
        self.vmid = 0
        self.status = VmStatus.NONE

    def pause(self) -> None:
        """Take its vCPUs off their cores until ``resume``."""
        with self._life:
            self.manager.rm.vm_suspend(self.vmid)
            for vcpu in self.vcpus:
                vcpu.pause(True)
            self.status = VmStatus.PAUSED

    def resume(self) -> None:
        """Let a paused VM go on."""
        with self._life:
            self.manager.rm.vm_resume(self.vmid)
            for vcpu in self.vcpus:
                vcpu.pause(False)
            self.status = VmStatus.RUNNING

    def wait_exit(self, timeout_ns: int | None = None) -> VmExited | None:
        """Wait until the VM has ended; how it ended, None after the time-out."""
        self._changed.wait_for(lambda: self.exit is not None, timeout_ns)
        return self.exit

    def exit_words(self) -> str:
        """How it ended, in words: "powered off", "reset", ..."""
        if self.exit is None:
            return "has not ended"
        kind = self.exit.exit_type
        words = _EXIT_WORDS.get(kind, f"exit type {kind}")
        code = self.exit.reason[0] >> 16 & 0xFF if self.exit.reason else 0
        return f"{words}, exit code {code}" if code else words


_EXIT_WORDS: Final[dict[int, str]] = {
    ExitType.VM_EXIT: "left by VM_EXIT",
    ExitType.PLATFORM_OFF: "powered off",
    ExitType.PLATFORM_RESET: "asked for a reset",
    ExitType.PSCI_SYSTEM_RESET2: "asked for a reset (SYSTEM_RESET2)",
    ExitType.WATCHDOG_BITE: "its watchdog bit",
    ExitType.SOFTWARE_ERROR: "crashed",
    ExitType.ASYNC_HW_ERROR: "had a hardware error",
    ExitType.VM_STOP_FORCED: "was stopped",
}
