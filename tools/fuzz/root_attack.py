"""A hostile root VM with the master capabilities to all there is, and hostile VMs that it makes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from gunyah.abi import pyimage, smccc
from gunyah.abi.errors import Error
from gunyah.abi.hypercalls import BY_NAME, Hypercall
from gunyah.abi.objects import ObjectType
from gunyah.abi.types import CAP_INVALID
from gunyah.guest.cpu import Cpu, GuestAbort, GuestUndefined
from gunyah.hypervisor.boot import RootVm, start_root_vm
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.hypervisor import Hypervisor
from gunyah.hypervisor.ledger import ledger_of
from gunyah.hypervisor.memextent import MemExtent
from gunyah.hypervisor.memextent_mapping import unmap_all
from gunyah.hypervisor.python_executor import Program, program_at_entry
from gunyah.hypervisor.vcpu import Executor, Vcpu
from gunyah.machine import board
from gunyah.machine.clock import VirtualClock
from gunyah.machine.memory import PhysicalMemory
from tools.fuzz.attack import Attack
from tools.fuzz.bystander import Bystander
from tools.fuzz.choices import Choices
from tools.fuzz.hostile import Hostile, Objects
from tools.fuzz.vocabulary import CLAY, CLAY_IPA, CLAY_PAGES, VIRTIO_IPA

__all__ = ["PythonOnly", "RootAttack"]

PAGE = 4096
HELD_MAX = 180
"""Capabilities above which the root VM deletes some."""
CHILD_ACTS = 24
"""Acts of a made VM before it switches itself off."""
STAMP = 512
"""Records between two times that the images are put back into the clay."""
_SUSPENDS = (
    smccc.PSCI_CPU_SUSPEND_32,
    smccc.PSCI_CPU_SUSPEND_64,
    smccc.PSCI_CPU_DEFAULT_SUSPEND_32,
    smccc.PSCI_CPU_DEFAULT_SUSPEND_64,
)
ELSEWHERE = 0x2_0000_0000
"""IPAs from here up are free in the root VM."""
_CRITICAL = 1 << 63 | 1 << 8


class PythonOnly(Hypervisor):
    """A host without a CPU engine: what is not a Python image is refused, so that a run repeats exactly."""

    def executor_for(self, vcpu: Vcpu, entry: int) -> Executor:
        """As the base class, FAILURE for native code."""
        if program_at_entry(self, vcpu, entry) is None:
            raise HypervisorError(Error.FAILURE, f"{vcpu}: native code at {entry:#x}, and no engine to run it")
        return super().executor_for(vcpu, entry)


class RootAttack(Attack):
    """``acts`` are shared by the root VM and all VMs it makes: whoever runs takes the next one."""

    def __init__(self, acts: Iterable[bytes], *, seed: int = 1) -> None:
        super().__init__(acts)
        memory = PhysicalMemory([(board.RAM.base, board.RAM.size)])
        self.hv = PythonOnly(memory, VirtualClock(), seed=seed)
        self._image = self._load("hostile", self._child)
        root_image = self._load("root", self._root_main)
        self.bystander = Bystander(self.hv)
        self.root: RootVm = start_root_vm(self.hv, root_image)
        self._baseline = frozenset(capability.id for capability in self.root.cspace.capabilities_held)
        self._own_memory, self._devices = self._extent("me_capid"), self._extent("device_me_capid")
        self._known = {vcpu.serial for vcpu in self.hv.vcpus.values()}
        self._mind = Hostile(self.root.cspace, self._root_guard)
        self._mind.special = self._forge
        self.minds.append(self._mind)
        self._dead_calls = 0
        self._stamp()
        # The bystander makes its tables and fills its queue before anything is counted.
        self.hv.run(lambda: self.bystander.beats > 1, self.hv.clock.ticks() + 62_500_000)
        self.before = ledger_of(self.hv)

    def _load(self, name: str, function: object) -> bytes:
        program = Program(name, function, lambda esr, far, text: GuestAbort(esr, far, text), GuestUndefined)  # type: ignore[arg-type]
        return pyimage.pack(self.hv.register_program(program))

    def _extent(self, name: str) -> MemExtent:
        extent = self.root.cspace.capability(self.root.capabilities[name]).object
        assert isinstance(extent, MemExtent)
        return extent

    def _stamp(self) -> None:
        for page in range(CLAY_PAGES):
            self.hv.memory.write(CLAY + PAGE * page, self._image)

    @property
    def calls(self) -> int:
        return self._mind.calls + self._dead_calls

    def attackers(self) -> Iterable[Vcpu]:
        return [vcpu for vcpu in list(self.hv.vcpus.values()) if vcpu is not self.bystander.vcpu]

    # -- what they run -------------------------------------------------------------------------------------------------

    def _root_main(self, cpu: Cpu, x0: int) -> None:
        if self.before is None:
            # The machine is being built.
            cpu.wfi()
        mind = self._mind
        cpu.set_vector(lambda: mind.serve(cpu))
        space = self.root.cspace
        while True:
            while (record := self.next_act()) is not None:
                if space.occupied > HELD_MAX + len(self._baseline):
                    self._reap(cpu, record)
                if self.performed % STAMP == 0:
                    self._stamp()
                mind.act(cpu, record)
            # There may be more later.
            cpu.wfi()

    def _child(self, cpu: Cpu, x0: int) -> None:
        vcpu: Vcpu = cpu._vcpu  # type: ignore[attr-defined]
        assert vcpu.cspace is not None
        mind = Hostile(vcpu.cspace, self._guard)
        cpu.set_vector(lambda: mind.serve(cpu))
        for _ in range(CHILD_ACTS):
            record = self.next_act()
            if record is None:
                break
            before = mind.calls
            try:
                mind.act(cpu, record)
            finally:
                self._dead_calls += mind.calls - before

    def _root_guard(self, call: Hypercall, objects: Objects, values: Sequence[int]) -> bool:
        """What the root VM itself must not do: suspend into an entry point that is not its own."""
        return values[0] not in _SUSPENDS if call.number < 0 else self._guard(call, objects, values)

    def _guard(self, call: Hypercall, objects: Objects, values: Sequence[int]) -> bool:
        """No call by which the root VM ends itself, blinds itself, or makes a VM on whose end the machine ends."""
        root = self.root
        name = call.name
        if call.number < 0:
            return values[0] not in (smccc.PSCI_SYSTEM_OFF, smccc.PSCI_SYSTEM_RESET)
        if name in ("vcpu_kill", "vcpu_poweroff"):
            return objects.get("vcpu") is not root.vcpu
        if name == "vcpu_set_affinity":
            return objects.get("vcpu") is not root.vcpu
        if name == "vcpu_configure":
            return not values[1] & _CRITICAL
        if name == "cspace_delete_cap_from":
            return objects.get("cspace") is not root.cspace or values[1] not in self._baseline
        touched = [
            objects.get(argument) for argument in ("memextent", "parent_memextent", "from", "to", "info_area_me")
        ]
        if self._own_memory in touched:
            return name == "addrspace_lookup"
        if name == "memextent_donate":
            # The board's devices would become free memory of the partition, for good.
            return self._devices not in touched
        if name == "addrspace_map" and objects.get("addrspace") is root.addrspace:
            # Mapped over its own memory, whole extents would replace it.
            return values[2] >= ELSEWHERE
        return True

    # -- acts of several calls -----------------------------------------------------------------------------------------

    @staticmethod
    def _call(cpu: Cpu, name: str, *values: int) -> tuple[bool, int]:
        call = BY_NAME[name]
        x = cpu.x
        x[0:8] = [0] * 8
        x[: len(values)] = values
        cpu.hvc(call.hvc)
        return x[0] & 0xFFFF_FFFF == 0, x[1]

    def _reap(self, cpu: Cpu, record: bytes) -> None:
        """Delete a third of what the root VM holds, threads killed first."""
        own = self.root.capabilities["cspace_capid"]
        for at, capability in enumerate(self.root.cspace.capabilities_held):
            if capability.id in self._baseline or (at + record[0]) % 3:
                continue
            if capability.object.type is ObjectType.THREAD and capability.object is not self.root.vcpu:
                self._mind.calls += 1
                self._call(cpu, "vcpu_kill", capability.id)
            self._mind.calls += 1
            self._call(cpu, "cspace_delete_cap_from", own, capability.id)
        for capid in list(self.root.cspace._revoked):
            self._call(cpu, "cspace_delete_cap_from", own, capid)

    def _forge(self, cpu: Cpu, choices: Choices) -> None:
        """Make a VM with one to three vCPUs out of clay and switch it on, as far as the calls succeed."""
        capabilities = self.root.capabilities
        partition, own = capabilities["partition_capid"], capabilities["cspace_capid"]

        def make(kind: str, *configure: int) -> int:
            self._mind.calls += 3
            created, capid = self._call(cpu, f"partition_create_{kind}", partition, own)
            if created and configure:
                self._call(cpu, f"{kind}_configure", capid, *configure)
            if created and kind != "thread":
                self._call(cpu, "object_activate", capid)
            return capid if created else CAP_INVALID

        shape = choices.byte()
        page = choices.half() % CLAY_PAGES
        pages = min(1 + choices.byte() % 16, CLAY_PAGES - page)
        space = make("cspace", 64)
        addrspace = make("addrspace", 1 + choices.byte() % 250)
        extent = make("memextent", CLAY + PAGE * page, PAGE * pages, 0x1_0007 if shape & 1 else 7)
        if shape & 1:
            self._call(cpu, "memextent_donate", 0, partition, extent, 0, PAGE * pages)
        entry = CLAY_IPA + PAGE * page
        self._call(cpu, "addrspace_map", addrspace, extent, entry, 0xF_0077, 0, 0, 0)
        if shape & 2:
            self._call(cpu, "addrspace_configure_vmmio", addrspace, 0x1000_0000, 0x10_0000, 0)
        count = 1 + choices.byte() % 3
        vic = make("vic", count, 16, 0)
        group = make("vpm_group") if shape & 4 else CAP_INVALID
        doorbell, queue = make("doorbell"), make("msgqueue", 64 << 16 | 4)
        for capid in (doorbell, queue, space, addrspace, extent):
            self._call(cpu, "cspace_copy_cap_from", own, capid, space, 0xFFFF_FFFF)
        self._call(cpu, "doorbell_bind_virq", doorbell, vic, 32)
        self._call(cpu, "msgqueue_bind_receive_virq", queue, vic, 33)
        if shape & 8:
            registers = make("memextent", CLAY + PAGE * (CLAY_PAGES + page), PAGE, 7)
            kind = choices.byte() & 1
            device = make("virtio_mmio", registers, 4, kind << 6, 18)
            self._call(cpu, "addrspace_map", addrspace, registers, VIRTIO_IPA, 0xF_0044, 0, 0, 0)
            self._call(cpu, "virtio_mmio_frontend_bind_virq", device, vic, 34)
            self._call(cpu, "virtio_mmio_backend_bind_virq", device, vic, 35)
            self._call(cpu, "virtio_input_configure", device, 0x1234, 3, 4, 4)
            self._call(cpu, "cspace_copy_cap_from", own, device, space, 0xFFFF_FFFF)
        for index in range(count):
            self._call(cpu, "vcpu_run_check", self._thread(cpu, choices, (space, addrspace, vic, group), index, entry))

    def _thread(self, cpu: Cpu, choices: Choices, holders: tuple[int, int, int, int], index: int, entry: int) -> int:
        capabilities = self.root.capabilities
        space, addrspace, vic, group = holders
        shape = choices.byte()
        own = capabilities["cspace_capid"]
        _, thread = self._call(cpu, "partition_create_thread", capabilities["partition_capid"], own)
        self._call(cpu, "cspace_attach_thread", space, thread)
        self._call(cpu, "addrspace_attach_thread", addrspace, thread)
        self._call(cpu, "vic_attach_vcpu", vic, thread, index)
        if group != CAP_INVALID:
            self._call(cpu, "vpm_group_attach_vcpu", group, thread, index)
        self._call(cpu, "vcpu_set_affinity", thread, 0xFFFF if shape & 7 == 7 else shape & 7, (1 << 64) - 1)
        self._call(cpu, "vcpu_set_priority", thread, 16 + (shape >> 3 & 3) * 10)
        if shape & 0x60 == 0x60:
            self._call(cpu, "vcpu_configure", thread, 0x200)
        self._call(cpu, "object_activate", thread)
        self._call(cpu, "cspace_copy_cap_from", own, thread, space, 0xFFFF_FFFF)
        self._call(cpu, "vcpu_poweron", thread, entry, shape, 0)
        self._mind.calls += 9
        return thread

    # -- the end -------------------------------------------------------------------------------------------------------

    def bury(self) -> None:
        hv = self.hv
        self._kill([vcpu for vcpu in hv.vcpus.values() if vcpu.serial not in self._known])
        for hwirq in self.root.hwirqs.values():
            with suppress(HypervisorError):
                hwirq.unbind()
        for extent in (self._devices, self._extent("uart_me_capid")):
            unmap_all(extent)
        for obj in list(hv.objects()):
            if obj.type is ObjectType.CSPACE and obj not in (self.root.cspace, self.bystander.space):
                # A space may hold a capability to itself, or two to each other: nobody else could open such a knot.
                self.empty(obj)  # type: ignore[arg-type]
        self.empty(self.root.cspace, self._baseline)
        self._compare()
