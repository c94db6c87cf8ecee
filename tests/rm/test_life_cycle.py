"""The life of VMs under any sequence of requests: the table of rm-rpc.md 4.1 is the oracle, and nothing is left behind.

Three VMs at most, every request of a VM's life in every state, guests that end in every way, and strangers that try.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.rm.rig import Client, GuestClient, Rig
from tests.rm.trees import vdevice, vm_tree

from gunyah.abi.devicetree import ConfigProperty
from gunyah.abi.errors import RmError
from gunyah.abi.rm import (
    VM_TRANSITIONS,
    ExitType,
    MemRelease,
    MessageId,
    NotificationId,
    VmAuthImage,
    VmConfigImage,
    VmExit,
    VmExited,
    VmidWord,
    VmStatus,
    VmStatusNotification,
    VmStop,
)
from gunyah.abi.rm.vm import CrashMessage
from gunyah.guest.cpu import Cpu
from gunyah.hypervisor.ledger import ledger_of

S, M, E = VmStatus, MessageId, RmError
MEMORY, SIZE = 0x5000_0000, 0x20_0000
TREE, TREE_ROOM = 0x1_0000, 0x1_0000
UNKNOWN = 0x9A
SLOTS = 3
SYSTEM_OFF, SYSTEM_RESET, SYSTEM_RESET2 = 0x8400_0008, 0x8400_0009, 0xC400_0012
TREES = ("good", "good", "good", "devices", "proxy", "no-shutdown", "nonsense", "no-name", "hypervisor", "no-room")


@dataclass
class Vm:
    """What the requests so far must have made of a VM."""

    slot: int
    state: VmStatus = S.LOAD
    tree: str = "good"
    written: bool = False
    """RM has put its nodes into the tree that is in the memory."""
    image: int | None = None
    """The memparcel that VM_CONFIG_IMAGE named."""
    no_shutdown: bool = False
    alive: bool = False
    """Its guest executes."""


@dataclass
class Guests:
    """What runs in the VMs: jobs by VMID, and what became of them."""

    jobs: dict[int, list[Callable[[GuestClient], object]]] = field(default_factory=dict)
    results: list[object] = field(default_factory=list)
    rig: Rig | None = None

    def program(self, cpu: Cpu, x0: int) -> None:
        assert self.rig is not None
        guest = GuestClient(self.rig, cpu, x0)
        vmid = guest.tree.node("/hypervisor/qcom,gunyah-vm").u32("qcom,vmid")
        jobs = self.jobs.setdefault(vmid, [])
        while True:
            while jobs:
                self.results.append(jobs.pop(0)(guest))
            guest.hyp.scheduler_yield()


def tree_of(kind: str, slot: int) -> bytes:
    if kind == "nonsense":
        return b"\xd0\x0d\xfe\xed" + b"\x13" * 200
    tree = vm_tree(f"vm{slot}", affinity="proxy" if kind == "proxy" else "static", vcpus=1 + slot % 2)
    config = tree.node("/gunyah-vm-config")
    if kind == "no-name":
        del config.properties[ConfigProperty.IMAGE_NAME]
    elif kind == "no-shutdown":
        config.set_strings(ConfigProperty.VM_ATTRS, "no-shutdown")
    elif kind == "hypervisor":
        tree.root.add("hypervisor")
    elif kind == "devices":
        vdevice(tree, "bell", "doorbell", label=3)
        vdevice(tree, "pair", "message-queue-pair", label=4)
        vdevice(tree, "sibling", "message-queue-pair", label=5, peer=f"vm-name:vm{(slot + 1) % SLOTS}")
        vdevice(tree, "nephew", "message-queue-pair", label=5, peer=f"vm-name:vm{(slot - 1) % SLOTS}")
    elif kind == "no-room":
        # Memory that nobody lends: VM_START fails when it looks for it.
        shm = vdevice(tree, "shm", "shm", label=6)
        memory = shm.add("memory")
        memory.set_cells("qcom,label", 0x66)
        memory.set_flag("allocate-base")
    return tree.pack()


class LifeMachine(RuleBasedStateMachine):
    client: ClassVar[Client]
    guests: ClassVar[Guests]

    def __init__(self) -> None:
        super().__init__()
        self.vms: dict[int, Vm] = {}
        self.parcels: dict[int, int] = {}
        """Handle to slot."""
        self.accepted: dict[int, int] = {}
        """Handle to the VM that has accepted it."""
        self.told: dict[int, VmStatus] = {}
        self.client.notifications.clear()
        self.before = ledger_of(self.client.rig.hypervisor)

    # -- helpers -------------------------------------------------------------------------------------------------------

    def pick(self, data: st.DataObject) -> int:
        known = sorted(self.vms)
        return int(data.draw(st.sampled_from([*known * 4, UNKNOWN]), label="vmid"))

    def ask(self, message: MessageId, payload: bytes, *expected: RmError) -> RmError:
        error, _ = self.client.raw(message, payload)
        rm = self.client.rig.rm
        said = f"{rm.explain(3)[-1:]}, {rm.log.errors()[-1:]}"
        assert error in expected, f"{message.name} → {error.name}, not {[e.name for e in expected]}: {said}"
        return error

    def expect_state(self, vmid: int) -> None:
        if vmid in self.vms:
            assert self.client.state(vmid) == self.vms[vmid].state

    def gone(self, vm: Vm, state: VmStatus) -> None:
        vm.state, vm.alive = state, False

    # -- requests ------------------------------------------------------------------------------------------------------

    @rule(wanted=st.sampled_from([0, 0, 4, 31, 3, 32, 0x80, 0xFFFF]))
    def allocate(self, wanted: int) -> None:
        free = [slot for slot in range(SLOTS) if slot not in {vm.slot for vm in self.vms.values()}]
        if wanted not in (0, 4, 31) or wanted in self.vms:
            self.ask(M.VM_ALLOCATE, VmidWord(wanted).pack(), E.NORESOURCE)
        elif free:
            vmid = self.client.allocate(wanted)
            expected = wanted or next(number for number in range(0x80, 0xBF) if number not in self.vms)
            assert vmid == expected
            self.vms[vmid] = Vm(free[0])
            self.told[vmid] = S.LOAD

    @initialize(kinds=st.lists(st.sampled_from(TREES), min_size=1, max_size=SLOTS))
    def some_vms(self, kinds: list[str]) -> None:
        for kind in kinds:
            self.allocate(0)
            self.lend(max(self.vms), kind)

    @precondition(lambda self: self.vms)
    @rule(data=st.data(), kind=st.sampled_from(TREES), auth=st.sampled_from([0, 0, 1]))
    def the_next_step(self, data: st.DataObject, kind: str, auth: int) -> None:
        """What a loader would do now, so that every state is reached."""
        vmid = data.draw(st.sampled_from(sorted(self.vms)), label="vmid")
        state = self.vms[vmid].state
        if state in (S.LOAD, S.RESET):
            self.lend(vmid, kind)
            self.config(vmid, auth, "")
        elif state in (S.EXITED, S.INIT_FAILED):
            self.reset(vmid, False)
        elif state is S.PAUSED:
            self.suspend_or_resume(vmid, True)
        elif state in (S.AUTH, S.INIT, S.READY):
            {S.AUTH: self.auth, S.INIT: self.init, S.READY: self.start}[state](vmid)

    @rule(data=st.data(), kind=st.sampled_from(TREES))
    def lend_any(self, data: st.DataObject, kind: str) -> None:
        self.lend(self.pick(data), kind)

    def lend(self, vmid: int, kind: str) -> None:
        if vmid in self.vms and self.vms[vmid].slot not in self.parcels.values():
            slot = self.vms[vmid].slot
            base = MEMORY + slot * SIZE
            self.client.cpu.write(base, self.image)
            self.client.cpu.write(base + TREE, tree_of(kind, slot))
            handle = self.client.lend(vmid, [(base, SIZE)])
            self.parcels[handle] = slot
            self.vms[vmid].tree, self.vms[vmid].written = kind, False

    image: ClassVar[bytes]

    @rule(data=st.data(), auth=st.sampled_from([0, 0, 0, 1, 9]), wrong=st.sampled_from(["", "", "", "handle", "size"]))
    def config_any(self, data: st.DataObject, auth: int, wrong: str) -> None:
        self.config(self.pick(data), auth, wrong)

    def config(self, vmid: int, auth: int, wrong: str) -> None:
        vm = self.vms.get(vmid)
        own = [handle for handle, slot in self.parcels.items() if vm is not None and slot == vm.slot]
        handle = 0xABCD if wrong == "handle" or not own else own[0]
        size = TREE_ROOM if wrong != "size" else SIZE
        payload = VmConfigImage(vmid, auth, handle, 0, 0x1000, TREE, size).pack()
        if vm is None:
            self.ask(M.VM_CONFIG_IMAGE, payload, E.VMID_INVALID)
        elif vm.state not in (S.LOAD, S.RESET):
            self.ask(M.VM_CONFIG_IMAGE, payload, E.VM_STATE)
        elif handle == 0xABCD:
            self.ask(M.VM_CONFIG_IMAGE, payload, E.MEM_INVALID)
            vm.state = S.INIT_FAILED
        elif wrong == "size" or auth == 9:
            self.ask(M.VM_CONFIG_IMAGE, payload, E.ARGUMENT_INVALID)
            vm.state = S.INIT_FAILED
        else:
            self.ask(M.VM_CONFIG_IMAGE, payload, E.OK)
            vm.state, vm.image = (S.AUTH if auth == 1 else S.INIT), handle
        self.expect_state(vmid)

    @rule(data=st.data())
    def auth_any(self, data: st.DataObject) -> None:
        self.auth(self.pick(data))

    def auth(self, vmid: int) -> None:
        vm = self.vms.get(vmid)
        payload = VmAuthImage(vmid, ()).pack()
        if vm is None or vm.state is not S.AUTH:
            self.ask(M.VM_AUTH_IMAGE, payload, E.VM_STATE if vm else E.VMID_INVALID)
        else:
            self.ask(M.VM_AUTH_IMAGE, payload, E.OK)
            vm.state = S.INIT
        self.expect_state(vmid)

    @rule(data=st.data())
    def init_any(self, data: st.DataObject) -> None:
        self.init(self.pick(data))

    def init(self, vmid: int) -> None:
        vm = self.vms.get(vmid)
        payload = VmidWord(vmid).pack()
        if vm is None or vm.state is not S.INIT:
            self.ask(M.VM_INIT, payload, E.VM_STATE if vm else E.VMID_INVALID)
        elif vm.image not in self.parcels:
            self.ask(M.VM_INIT, payload, E.MEM_INVALID)
            vm.state = S.INIT_FAILED
        elif vm.tree in ("nonsense", "no-name"):
            self.ask(M.VM_INIT, payload, E.MEM_INVALID, E.ARGUMENT_INVALID)
            vm.state = S.INIT_FAILED
        else:
            self.ask(M.VM_INIT, payload, E.OK)
            vm.state, vm.no_shutdown = S.READY, vm.tree == "no-shutdown"
        self.expect_state(vmid)

    @rule(data=st.data())
    def start_any(self, data: st.DataObject) -> None:
        self.start(self.pick(data))

    def start(self, vmid: int) -> None:
        vm = self.vms.get(vmid)
        payload = VmidWord(vmid).pack()
        if vm is None or vm.state is not S.READY:
            self.ask(M.VM_START, payload, E.VM_STATE if vm else E.VMID_INVALID)
        elif vm.image not in self.parcels or vm.tree in ("hypervisor", "no-room") or vm.written:
            self.ask(M.VM_START, payload, E.NORESOURCE)
            vm.state = S.INIT_FAILED
            if vm.image in self.parcels:
                # It was accepted before the start failed, and stays so until the reset.
                self.accepted[vm.image] = vmid
        else:
            self.guests.jobs.pop(vmid, None)
            self.ask(M.VM_START, payload, E.OK)
            vm.state, vm.alive, vm.written = S.RUNNING, vm.tree != "proxy", True
            assert vm.image is not None
            self.accepted[vm.image] = vmid
        self.expect_state(vmid)

    @rule(data=st.data(), force=st.booleans())
    def stop(self, data: st.DataObject, force: bool) -> None:
        vmid = self.pick(data)
        vm = self.vms.get(vmid)
        payload = VmStop(vmid, int(force), 7).pack()
        if vm is None or vm.state not in (S.RUNNING, S.PAUSED) or vm.no_shutdown:
            self.ask(M.VM_STOP, payload, E.VM_STATE if vm else E.VMID_INVALID)
        else:
            self.ask(M.VM_STOP, payload, E.OK)
            if force:
                self.gone(vm, S.EXITED)
                self.ended(vmid, ExitType.VM_STOP_FORCED)
        self.expect_state(vmid)

    @rule(data=st.data(), resume=st.booleans())
    def suspend_or_resume_any(self, data: st.DataObject, resume: bool) -> None:
        self.suspend_or_resume(self.pick(data), resume)

    def suspend_or_resume(self, vmid: int, resume: bool) -> None:
        vm = self.vms.get(vmid)
        message = M.VM_RESUME if resume else M.VM_SUSPEND
        possible = vm is not None and vm.state is (S.PAUSED if resume else S.RUNNING) and not vm.no_shutdown
        if vm is None or not possible:
            self.ask(message, VmidWord(vmid).pack(), E.VM_STATE if vm else E.VMID_INVALID)
        else:
            self.ask(message, VmidWord(vmid).pack(), E.OK)
            vm.state, vm.alive = (S.RUNNING, vm.tree != "proxy") if resume else (S.PAUSED, False)
        self.expect_state(vmid)

    @rule(data=st.data(), impatient=st.booleans())
    def reset_any(self, data: st.DataObject, impatient: bool) -> None:
        self.reset(self.pick(data), impatient)

    def reset(self, vmid: int, impatient: bool) -> None:
        vm = self.vms.get(vmid)
        payload = VmidWord(vmid).pack()
        if vm is None or vm.state not in (S.EXITED, S.READY, S.INIT_FAILED):
            self.ask(M.VM_RESET, payload, E.VM_STATE if vm else E.VMID_INVALID)
            self.expect_state(vmid)
            return
        self.ask(M.VM_RESET, payload, E.OK)
        if impatient:
            # It may be over by then.
            for message in (M.VM_RESET, M.VM_INIT, M.VM_START):
                self.ask(message, payload, E.VM_STATE)
        self.client.await_state(vmid, S.RESET)
        self.gone(vm, S.RESET)
        vm.no_shutdown, vm.image = False, None
        self.accepted = {handle: holder for handle, holder in self.accepted.items() if holder != vmid}

    @rule(data=st.data())
    def deallocate(self, data: st.DataObject) -> None:
        vmid = self.pick(data)
        vm = self.vms.get(vmid)
        if vm is None or vm.state not in (S.LOAD, S.RESET):
            self.ask(M.VM_DEALLOCATE, VmidWord(vmid).pack(), E.VM_STATE if vm else E.VMID_INVALID)
            return
        self.take_back(vm.slot)
        self.ask(M.VM_DEALLOCATE, VmidWord(vmid).pack(), E.OK)
        self.ask(M.VM_GET_STATE, VmidWord(vmid).pack(), E.NORESOURCE)
        self.statuses()
        del self.vms[vmid], self.told[vmid]

    @rule(data=st.data())
    def reclaim(self, data: st.DataObject) -> None:
        handle = data.draw(st.sampled_from([*sorted(self.parcels), 0x7777]), label="handle")
        payload = MemRelease(handle).pack()
        if handle not in self.parcels:
            self.ask(M.MEM_RECLAIM, payload, E.HANDLE_INVALID)
        elif handle in self.accepted:
            self.ask(M.MEM_RECLAIM, payload, E.MEM_INUSE)
        else:
            self.ask(M.MEM_RECLAIM, payload, E.OK)
            del self.parcels[handle]

    def take_back(self, slot: int) -> None:
        for handle in [handle for handle, place in self.parcels.items() if place == slot]:
            self.ask(M.MEM_RECLAIM, MemRelease(handle).pack(), E.OK)
            del self.parcels[handle]

    # -- guests --------------------------------------------------------------------------------------------------------

    def running(self) -> list[int]:
        return sorted(vmid for vmid, vm in self.vms.items() if vm.alive)

    def does(self, vmid: int, job: Callable[[GuestClient], object]) -> None:
        self.guests.jobs.setdefault(vmid, []).append(job)

    @precondition(lambda self: self.running())
    @rule(data=st.data(), how=st.sampled_from(["off", "reset", "reset2", "crash", "fault", "exit", "last words"]))
    def a_guest_ends(self, data: st.DataObject, how: str) -> None:
        vmid = data.draw(st.sampled_from(self.running()), label="guest")
        vm = self.vms[vmid]
        if vm.no_shutdown and how != "exit":
            # A VM that may not be shut down stays RUNNING, whatever its vCPUs do; nobody could take it down.
            return

        def psci(function: int, x1: int = 0, x2: int = 0) -> Callable[[GuestClient], object]:
            def job(guest: GuestClient) -> None:
                guest.cpu.x[0:3] = [function, x1, x2]
                guest.cpu.hvc(0)

            return job

        def crash(guest: GuestClient) -> None:
            raise RuntimeError("a guest that crashes")

        def words(guest: GuestClient) -> None:
            guest.call(M.VM_SET_CRASH_MSG, CrashMessage(b"bye").pack())
            psci(SYSTEM_OFF)(guest)

        def leave(guest: GuestClient) -> None:
            guest.send(M.VM_EXIT, VmExit(1, 1).pack())

        ways: dict[str, tuple[Callable[[GuestClient], object], ExitType]] = {
            "off": (psci(SYSTEM_OFF), ExitType.PLATFORM_OFF),
            "reset": (psci(SYSTEM_RESET), ExitType.PLATFORM_RESET),
            "reset2": (psci(SYSTEM_RESET2, 0x8000_0001, 5), ExitType.PSCI_SYSTEM_RESET2),
            "crash": (crash, ExitType.SOFTWARE_ERROR),
            "fault": (lambda guest: guest.cpu.load(0x9_0000_0000, 4), ExitType.SOFTWARE_ERROR),
            "exit": (leave, ExitType.VM_EXIT),
            "last words": (words, ExitType.PLATFORM_OFF),
        }
        job, kind = ways[how]
        self.does(vmid, job)
        self.ended(vmid, kind)
        self.gone(vm, S.EXITED)
        self.expect_state(vmid)
        if how == "last words":
            assert b"bye" in self.client.word(M.VM_GET_CRASH_MSG, vmid)

    def ended(self, vmid: int, kind: ExitType) -> None:
        report = VmExited.unpack(self.client.await_notification(NotificationId.VM_EXITED))
        assert (report.vmid, report.exit_type) == (vmid, kind)

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def a_stranger_is_refused(self, data: st.DataObject) -> None:
        vmid = data.draw(st.sampled_from(self.running()), label="stranger")
        target = self.pick(data)
        word = VmidWord(target).pack()
        wanted: list[tuple[MessageId, bytes]] = [
            (M.VM_ALLOCATE, VmidWord(0).pack()),
            (M.VM_DEALLOCATE, word),
            (M.VM_START, word),
            (M.VM_STOP, VmStop(target, 1, 0).pack()),
            (M.VM_RESET, word),
            (M.VM_INIT, word),
            (M.VM_SUSPEND, word),
            (M.VM_CONFIG_IMAGE, VmConfigImage(target, 0, 0, 0, 0, 0, 0).pack()),
            (M.MEM_RECLAIM, MemRelease(next(iter(self.parcels), 0)).pack()),
        ]
        count = len(self.guests.results)
        self.does(vmid, lambda guest: [guest.raw(message, payload)[0] for message, payload in wanted])
        for _ in range(20_000):
            if len(self.guests.results) > count:
                break
            self.client.poll()
            self.client.hyp.scheduler_yield()
        answers: Any = self.guests.results[-1]
        assert len(answers) == len(wanted)
        assert set(answers) <= {E.DENIED, E.VMID_INVALID, E.HANDLE_INVALID}, answers

    # -- what always holds ---------------------------------------------------------------------------------------------

    def statuses(self) -> None:
        """Every change that was told is one that the table allows."""
        self.client.poll()
        left = []
        for message, payload in self.client.notifications:
            if message == NotificationId.VM_STATUS:
                status = VmStatusNotification.unpack(payload)
                new, old = VmStatus(status.vm_status), self.told[status.vmid]
                assert old in VM_TRANSITIONS[new] or new is old, f"VM {status.vmid}: {old.name} → {new.name}"
                self.told[status.vmid] = new
            elif message == NotificationId.VM_EXITED:
                left.append((message, payload))
        self.client.notifications[:] = left

    @invariant()
    def states_are_the_models_and_every_change_was_allowed(self) -> None:
        for vmid in self.vms:
            self.expect_state(vmid)
        self.statuses()
        for vmid, vm in self.vms.items():
            assert self.told[vmid] is vm.state
        assert not self.client.notifications

    def teardown(self) -> None:
        for vmid, vm in list(self.vms.items()):
            if vm.no_shutdown and vm.state is S.PAUSED:
                raise AssertionError("a VM that refuses to be stopped was paused")
            if vm.no_shutdown and vm.state is S.RUNNING:
                self.does(vmid, lambda guest: guest.send(M.VM_EXIT, VmExit(0, 0).pack()))
                self.ended(vmid, ExitType.VM_EXIT)
                vm.state = S.EXITED
            if vm.state in (S.RUNNING, S.PAUSED):
                self.client.stop(vmid)
                self.ended(vmid, ExitType.VM_STOP_FORCED)
            if vm.state in (S.AUTH, S.INIT):
                if vm.state is S.AUTH:
                    self.ask(M.VM_AUTH_IMAGE, VmAuthImage(vmid, ()).pack(), E.OK)
                self.client.raw(M.VM_INIT, VmidWord(vmid).pack())
            if vm.state not in (S.LOAD, S.RESET):
                self.client.word(M.VM_RESET, vmid)
                self.client.await_state(vmid, S.RESET)
            self.take_back(vm.slot)
            self.client.word(M.VM_DEALLOCATE, vmid)
            del self.vms[vmid]
        for handle in list(self.parcels):
            self.client.reclaim(handle)
        rm = self.client.rig.rm
        assert not ledger_of(self.client.rig.hypervisor).since(self.before)
        assert not len(rm.parcels) and set(rm.links) == {3} and len(rm.vms) == 2
        assert rm.memory.windows.taken == 0
        assert rm.own_virqs.taken == self.interrupts and rm.vms.lookup(3).objects.virqs.taken == self.owners

    interrupts: ClassVar[set[int]]
    owners: ClassVar[set[int]]


def test_no_sequence_of_requests_makes_an_illegal_change_or_leaves_anything_behind() -> None:
    rig = Rig()
    guests = Guests(rig=rig)
    image = rig.image("guest", guests.program)

    def scenario(client: Client) -> None:
        objects = rig.rm.vms.lookup(3).objects
        assert objects is not None
        attributes = {
            "client": client,
            "guests": guests,
            "image": image,
            "interrupts": set(rig.rm.own_virqs.taken),
            "owners": set(objects.virqs.taken),
        }
        run_state_machine_as_test(
            type("Machine", (LifeMachine,), attributes),
            settings=settings(
                max_examples=12,
                stateful_step_count=30,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )

    rig.run(scenario)
