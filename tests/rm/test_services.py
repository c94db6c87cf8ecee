"""Interrupt lending, addresses, firmware, clocks, boot registers, injected faults, and many clients at once."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.rm.rig import Client, GuestClient, Refused, Rig
from tests.rm.trees import vdevice, vm_tree
from tests.rm.workers import PAGE, POOL, Worker, with_workers

from gunyah.abi.errors import RmError
from gunyah.abi.rm import (
    FwSetVmFirmware,
    GetIdReply,
    HandleReply,
    IpaAllocateReply,
    IrqAccept,
    IrqAcceptReply,
    IrqHandle,
    IrqLend,
    IrqLent,
    IrqNotifyRequest,
    LookupReply,
    LookupText,
    MemTrans,
    MessageId,
    NotificationId,
    PeersReply,
    SetBootContext,
    SetDemandPaging,
    SetFirmwareMem,
    SetTimeBase,
    SglEntry,
    VmidWord,
    VmSetStatus,
    VmStatus,
)
from gunyah.guest.cpu import Cpu
from gunyah.guest.hypercall import Hypercalls

M = MessageId
SPI = 40
FUZZ = settings(
    max_examples=25, deadline=None, database=None, phases=(Phase.generate,), suppress_health_check=list(HealthCheck)
)


# -- interrupts --------------------------------------------------------------------------------------------------------


def test_an_interrupt_travels_to_a_borrower_and_back() -> None:
    def scenario(client: Client, workers: list[Worker]) -> None:
        worker, other = workers
        handle = HandleReply.unpack(client.call(M.VM_IRQ_LEND, IrqLend(worker.vmid, SPI, 7).pack())).handle
        word = IrqHandle(handle).pack()
        again = IrqLend(other.vmid, SPI, 7).pack()
        assert client.refused(M.VM_IRQ_LEND, again) == RmError.IRQ_INUSE
        client.call(M.VM_IRQ_NOTIFY, IrqNotifyRequest(handle, 1, (worker.vmid,)).pack())
        lent = IrqLent.unpack(worker.does(client, lambda g: g.await_notification(NotificationId.VM_IRQ_LENT)))
        assert (lent.owner_vmid, lent.handle, lent.label) == (3, handle, 7)
        with pytest.raises(Refused, match="HANDLE_INVALID"):
            other.does(client, lambda g: g.call(M.VM_IRQ_ACCEPT, IrqAccept(handle).pack()))
        with pytest.raises(Refused, match="IN_USE"):
            worker.does(client, lambda g: g.call(M.VM_IRQ_RELEASE, word))
        got = worker.does(client, lambda g: g.call(M.VM_IRQ_ACCEPT, IrqAccept(handle).pack()))
        assert IrqAcceptReply.unpack(got).irq == SPI
        assert client.refused(M.VM_IRQ_RECLAIM, word) == RmError.IN_USE
        worker.does(client, lambda g: g.call(M.VM_IRQ_NOTIFY, IrqNotifyRequest(handle, 4).pack()[:8]))
        assert client.await_notification(NotificationId.VM_IRQ_ACCEPTED) == word
        worker.does(client, lambda g: g.call(M.VM_IRQ_RELEASE, word))
        client.call(M.VM_IRQ_RECLAIM, word)
        assert client.refused(M.VM_IRQ_RECLAIM, word) == RmError.HANDLE_INVALID
        client.call(M.VM_IRQ_LEND, IrqLend(worker.vmid, SPI, 7).pack())

    with_workers(2, scenario)


def test_the_borrower_may_choose_another_number_and_its_reset_gives_the_interrupt_back() -> None:
    def scenario(client: Client, workers: list[Worker]) -> None:
        (worker,) = workers
        handle = HandleReply.unpack(client.call(M.VM_IRQ_LEND, IrqLend(worker.vmid, SPI, 7).pack())).handle
        got = worker.does(client, lambda g: g.call(M.VM_IRQ_ACCEPT, IrqAccept(handle, 100).pack()))
        assert IrqAcceptReply.unpack(got).irq == 100
        client.stop(worker.vmid)
        client.destroy(worker.vmid, worker.handle)
        client.call(M.VM_IRQ_RECLAIM, IrqHandle(handle).pack())

    with_workers(1, scenario)


def test_what_is_no_hardware_interrupt_of_the_caller_cannot_be_lent() -> None:
    def scenario(client: Client) -> None:
        for irq in (0, 27, 960, 5000):
            assert client.refused(M.VM_IRQ_LEND, IrqLend(0x80, irq, 0).pack()) == RmError.IRQ_INVALID

    Rig().run(scenario)


# -- addresses, clocks, firmware, registers ----------------------------------------------------------------------------


def test_a_vm_reserves_addresses_and_is_told_where() -> None:
    head = struct.pack("<BBHII", 1, 0, 0, 4, 0)
    entry = struct.pack("<HHQQQQ", 1, 0, 0x1_0000_0000, 0x1_0000_0000, 0x10_0000, 0x20_0000)
    fixed = struct.pack("<BBHIIHHQQ", 0, 0, 0, 4, 0, 1, 0, 0x1_8000_0000, 0x1000)

    def scenario(client: Client, workers: list[Worker]) -> None:
        (worker,) = workers
        reply = worker.does(client, lambda g: g.call(M.IPA_RESERVE, head + entry))
        assert IpaAllocateReply.unpack(reply).bases == (0x1_0000_0000,)
        again = worker.does(client, lambda g: g.call(M.IPA_RESERVE, head + entry))
        assert IpaAllocateReply.unpack(again).bases == (0x1_0020_0000,)
        worker.does(client, lambda g: g.call(M.IPA_RESERVE, fixed))
        with pytest.raises(Refused, match="DENIED"):
            worker.does(client, lambda g: g.call(M.IPA_RESERVE, fixed))
        assert client.refused(M.IPA_RESERVE, fixed) == RmError.DENIED
        with pytest.raises(Refused, match="ARGUMENT_INVALID"):
            worker.does(client, lambda g: g.call(M.IPA_RESERVE, struct.pack("<BBHII", 1, 0, 0, 8, 0) + entry))

    with_workers(1, scenario)


def test_a_time_base_is_refused_with_the_hypervisors_error_behind_it() -> None:
    def scenario(client: Client) -> None:
        vmid = client.allocate()
        assert client.raw(M.VM_SET_TIME_BASE, SetTimeBase(vmid, 1, 2).pack()) == (RmError.VM_STATE, b"\x01\0\0\0")
        client.load(vmid, b"", vm_tree())
        refused = client.raw(M.VM_SET_TIME_BASE, SetTimeBase(vmid, 1, 2).pack())
        assert refused == (RmError.ARGUMENT_INVALID, struct.pack("<I", 30))
        assert client.raw(M.VM_SET_TIME_BASE, b"") == (RmError.MSG_INVALID, b"\x01\0\0\0")

    Rig().run(scenario)


def test_firmware_is_registered_once_and_starts_android_vms() -> None:
    rig = Rig()
    seen: list[tuple[int, ...]] = []

    def firmware(cpu: Cpu, x0: int) -> None:
        seen.append((x0, cpu.x[1], cpu.x[2]))
        while True:
            cpu.wfi()

    image = rig.image("firmware", firmware)
    tree = vm_tree()
    tree.node("/gunyah-vm-config/memory").set_u64s("firmware-address", 0xA000_0000)

    def scenario(client: Client) -> None:
        client.cpu.write(POOL, image)
        handle = client.lend(255, [(POOL, PAGE)], message=M.MEM_DONATE)
        request = FwSetVmFirmware(2, handle, 0, PAGE)
        wrong = FwSetVmFirmware(1, handle, 0, PAGE)
        assert client.refused(M.FW_SET_VM_FIRMWARE, wrong.pack()) == RmError.ARGUMENT_INVALID
        client.call(M.FW_SET_VM_FIRMWARE, request.pack())
        assert client.refused(M.FW_SET_VM_FIRMWARE, request.pack()) == RmError.BUSY
        client.call(M.FW_MILESTONE)
        assert client.refused(M.FW_MILESTONE) == RmError.DENIED
        vmid = client.allocate()
        base = 0x5000_0000
        client.cpu.write(base + 0x1_0000, tree.pack())
        memory = client.lend(vmid, [(base, 0x20_0000)])
        client.configure(vmid, memory, 0x1_0000, 0x1_0000, auth=2, size=0x8000)
        room = client.lend(vmid, [(POOL + 0x10_0000, 0x2000)], label=3)
        client.call(M.VM_SET_FIRMWARE_MEM, SetFirmwareMem(vmid, room, 0, 0x2000).pack())
        client.word(M.VM_INIT, vmid)
        client.start(vmid)
        while not seen:
            client.state(vmid)
        assert seen == [(0x8001_0000, 0x8000_0000, 0x8000)]
        client.stop(vmid)
        client.word(M.VM_RESET, vmid)
        client.await_state(vmid, VmStatus.RESET)
        client.reclaim(room)
        assert client.cpu.read(POOL + 0x10_0000, 16) == bytes(16)

    rig.run(scenario)


def test_boot_registers_of_a_later_host_are_set_at_start() -> None:
    rig = Rig()
    seen: list[tuple[int, int]] = []

    def guest(cpu: Cpu, x0: int) -> None:
        seen.append((x0, cpu.x[5]))
        while True:
            cpu.wfi()

    image = rig.image("guest", guest)

    def scenario(client: Client) -> None:
        vmid, handle = client.create(image, vm_tree())
        for register_set, index, value in ((0, 0, 0x1111), (0, 5, 0x5555), (1, 0, 0x8000_0000)):
            client.call(M.VM_SET_CONTEXT, SetBootContext(vmid, register_set, index, value).pack())
        wrong = SetBootContext(vmid, 0, 31, 0).pack()
        assert client.refused(M.VM_SET_CONTEXT, wrong) == RmError.ARGUMENT_INVALID
        client.call(M.VM_SET_DEMAND_PAGING, SetDemandPaging(vmid, ()).pack())
        client.start(vmid)
        while not seen:
            client.state(vmid)
        assert seen == [(0x1111, 0x5555)]
        client.stop(vmid)
        client.destroy(vmid, handle)

    rig.run(scenario)


def test_a_suspended_vm_stands_still_until_it_is_resumed() -> None:
    rig = Rig()
    beats = [0]

    def guest(cpu: Cpu, x0: int) -> None:
        hyp = Hypercalls(cpu)
        while True:
            beats[0] += 1
            hyp.scheduler_yield()

    image = rig.image("guest", guest)

    def scenario(client: Client) -> None:
        vmid, handle = client.create(image, vm_tree())
        assert client.refused(M.VM_SUSPEND, VmidWord(vmid).pack()) == RmError.VM_STATE
        client.start(vmid)
        client.word(M.VM_SUSPEND, vmid)
        assert client.state(vmid) == VmStatus.PAUSED
        client.state(vmid)
        still = beats[0]
        for _ in range(20):
            client.state(vmid)
        assert beats[0] == still
        client.word(M.VM_RESUME, vmid)
        for _ in range(20):
            client.state(vmid)
        assert beats[0] > still
        client.word(M.VM_SUSPEND, vmid)
        client.stop(vmid)
        client.destroy(vmid, handle)

    rig.run(scenario)


def test_identity_queries_tell_of_a_vm_what_its_configuration_says() -> None:
    rig = Rig()
    told: list[bytes] = []

    def guest(cpu: Cpu, x0: int) -> None:
        client = GuestClient(rig, cpu, x0)
        told.append(client.call(M.VM_GET_VMID, bytes(4)))
        client.call(M.VM_SET_STATUS, VmSetStatus(0, 4, 77).pack())
        while True:
            cpu.wfi()

    image = rig.image("guest", guest)
    tree = vm_tree("named")
    config = tree.node("/gunyah-vm-config")
    config.set_strings("vm-uri", "urn:test:vm")
    config.set_strings("vm-guid", "00112233-4455-6677-8899-aabbccddeeff")
    config.set_strings("abi-profile", "v4")

    def scenario(client: Client) -> None:
        vmid, handle = client.create(image, tree, vmid=20)
        identities = GetIdReply.unpack(client.word(M.VM_GET_ID, vmid)).identities
        assert [data for _, data in identities] == [
            bytes.fromhex("00112233445566778899aabbccddeeff"),
            b"named",
            b"urn:test:vm",
            b"N/A",
        ]
        for message, text in ((M.VM_LOOKUP_NAME, b"named"), (M.VM_LOOKUP_URI, b"urn:test:vm")):
            assert LookupReply.unpack(client.call(message, LookupText(text).pack())).vmids == (20,)
        assert PeersReply.unpack(client.call(M.VM_GET_PEERS)).vmids == (20,)
        client.start(vmid)
        client.notifications.clear()
        status = client.await_notification(NotificationId.VM_STATUS)
        assert status == struct.pack("<HHBBH", 20, 0, VmStatus.RUNNING, 4, 77)
        assert told == [struct.pack("<H", 20)]
        client.stop(vmid)
        client.destroy(vmid, handle)

    rig.run(scenario)


def test_shared_memory_of_the_configuration_is_in_the_guests_tree() -> None:
    rig = Rig()
    found: list[bytes] = []

    def guest(cpu: Cpu, x0: int) -> None:
        tree = GuestClient(rig, cpu, x0).tree
        shm = next(tree.find_compatible("qcom,shared-memory"))
        buffer = tree.by_phandle(shm.u32("memory-region"))
        assert buffer is not None
        ((base, size),) = buffer.reg()
        assert buffer.u32("qcom,label") == 0x33
        found.append(cpu.read(base, 6) + bytes([size >> 12]))
        while True:
            cpu.wfi()

    image = rig.image("guest", guest)
    tree = vm_tree()
    memory = vdevice(tree, "shm", "shm", label=0x33, generate="/hypervisor/shm").add("memory")
    memory.set_cells("label", 0x33)
    memory.set_flag("allocate-base")

    def scenario(client: Client) -> None:
        client.cpu.write(POOL, b"shared")
        vmid, handle = client.create(image, tree)
        memory = client.lend(
            vmid, [(POOL, PAGE), (POOL + 8 * PAGE, PAGE)], rights=6, message=M.MEM_SHARE, own=6, label=0x33
        )
        client.start(vmid)
        while not found:
            client.state(vmid)
        assert found == [b"shared\x02"]
        client.stop(vmid)
        client.destroy(vmid, handle)
        client.reclaim(memory)

    rig.run(scenario)


# -- faults ------------------------------------------------------------------------------------------------------------


def test_injected_faults_hold_inside_their_block_only() -> None:
    rig = Rig()
    faults = rig.rm.faults

    def scenario(client: Client) -> None:
        with faults.deny("VM_GET_VMID", code=RmError.BUSY, times=1) as rule:
            assert client.refused(M.VM_GET_VMID) == RmError.BUSY
            client.call(M.VM_GET_VMID)
        assert rule.used == 1
        with faults.drop("VM_GET_OWNER"):
            lost = client.send(M.VM_GET_OWNER)
            client.call(M.VM_GET_VMID)
            with pytest.raises(AssertionError, match="no reply"):
                client.receive(lost, turns=50)
        with faults.duplicate("VM_GET_OWNER"):
            sequence = client.send(M.VM_GET_OWNER)
            assert client.receive(sequence) == client.receive(sequence)
        with faults.delay("VM_GET_OWNER", nanoseconds=50_000_000):
            before = client.cpu.ticks()
            client.call(M.VM_GET_OWNER)
            assert client.cpu.ticks() - before >= 50_000_000 // 16
        client.call(M.VM_GET_OWNER)

    rig.run(scenario)


@pytest.mark.parametrize("operation", ["map", "donate", "create"])
@pytest.mark.parametrize("number", [1, 2, 3, 5, 8])
def test_a_vm_whose_creation_runs_out_of_memory_can_be_reset_and_made_again(operation: str, number: int) -> None:
    rig = Rig()
    image = rig.image("guest", lambda cpu, x0: cpu.wfi())
    faults = rig.rm.faults

    def scenario(client: Client) -> None:
        objects = len(list(rig.hypervisor.objects()))
        vmid = client.allocate()
        handle = None
        with faults.nomem(**{operation: number}):
            try:
                handle = client.load(vmid, image, vm_tree())
                client.start(vmid)
            except Refused as refused:
                assert refused.code in (RmError.NOMEM, RmError.NORESOURCE, RmError.MEM_INVALID, RmError.MAP_FAILED)
        if client.state(vmid) == VmStatus.RUNNING:
            client.stop(vmid)
        if client.state(vmid) != VmStatus.LOAD:
            client.word(M.VM_RESET, vmid)
            client.await_state(vmid, VmStatus.RESET)
        for parcel in list(rig.rm.parcels.owned_by(3)):
            client.reclaim(parcel.handle)
        client.word(M.VM_DEALLOCATE, vmid)
        assert handle is None or len(list(rig.hypervisor.objects())) == objects
        vmid, handle = client.create(image, vm_tree())
        client.start(vmid)
        client.stop(vmid)
        client.destroy(vmid, handle)
        assert len(list(rig.hypervisor.objects())) == objects

    rig.run(scenario)


# -- hostility ---------------------------------------------------------------------------------------------------------


def test_a_vm_that_is_reset_before_it_ran_leaves_nothing_behind() -> None:
    rig = Rig()
    image = rig.image("guest", lambda cpu, x0: cpu.wfi())

    def scenario(client: Client) -> None:
        counts = []
        for _ in range(4):
            vmid, handle = client.create(image, vm_tree(vcpus=2))
            client.destroy(vmid, handle)
            counts.append(len(list(rig.hypervisor.objects())))
        assert counts[0] == counts[-1]

    rig.run(scenario)


def test_eight_clients_that_all_talk_at_once_get_their_own_answers() -> None:
    rig = Rig()
    done: list[int] = []

    def guest(cpu: Cpu, x0: int) -> None:
        client = GuestClient(rig, cpu, x0)
        own = int.from_bytes(client.call(M.VM_GET_VMID), "little")
        choose = random.Random(own)
        for _ in range(60):
            kind = choose.randrange(5)
            if kind == 0:
                assert client.call(M.VM_GET_VMID) == struct.pack("<I", own)
            elif kind == 1:
                assert client.call(M.VM_GET_OWNER) == struct.pack("<I", 3)
            elif kind == 2:
                message = bytes(choose.randrange(256) for _ in range(4 * choose.randrange(1, 48)))
                client.call(M.VM_SET_CRASH_MSG, struct.pack("<HH", len(message), 0) + message)
            elif kind == 3:
                refused = client.refused(choose.randrange(1 << 32), bytes(choose.randrange(600)))
                assert refused != RmError.OK
            else:
                assert client.refused(M.VM_GET_STATE, VmidWord((own ^ 1) | 0x80).pack()) == RmError.DENIED
        done.append(own)
        while True:
            cpu.wfi()

    image = rig.image("guest", guest)

    def scenario(client: Client) -> None:
        vms = [
            client.create(image, vm_tree(f"vm-{i}", core=1 + i % 7), base=0x5000_0000 + i * 0x20_0000) for i in range(8)
        ]
        for vmid, _ in vms:
            client.start(vmid)
        while len(done) < 8:
            client.call(M.VM_GET_PEERS)
        for vmid, handle in vms:
            client.stop(vmid)
            client.destroy(vmid, handle)

    rig.run(scenario)


def test_no_device_tree_stops_rm_or_leaks() -> None:
    rig = Rig()
    image = rig.image("guest", lambda cpu, x0: cpu.wfi())

    def scenario(client: Client) -> None:
        client.destroy(*client.create(image, vm_tree()))
        objects = len(list(rig.hypervisor.objects()))

        @settings(
            max_examples=25,
            deadline=None,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        @given(st.data())
        def attempt(data: st.DataObject) -> None:
            tree = vm_tree()
            pair = vdevice(tree, "pair", "message-queue-pair", label=5)
            pair.set_cells("interrupts", 0, 8, 1, 0, 9, 1)
            memory = vdevice(tree, "shm", "shm-doorbell", label=3).add("memory")
            memory.set_cells("label", 3)
            memory.set_flag("allocate-base")
            memory.set_flag("optional")
            nodes = [node for node in tree.root.walk() if node.properties]
            for _ in range(data.draw(st.integers(0, 3))):
                node = data.draw(st.sampled_from(nodes))
                name = data.draw(st.sampled_from(sorted(node.properties)))
                if data.draw(st.booleans()):
                    node.properties[name] = data.draw(st.binary(max_size=16))
                elif len(node.properties[name]) % 4 == 0:
                    node.set_cells(name, *data.draw(st.lists(st.integers(0, 2**32 - 1), max_size=6)))
            vmid = client.allocate()
            try:
                client.load(vmid, image, tree)
                client.start(vmid)
                client.stop(vmid)
            except Refused:
                pass
            client.word(M.VM_RESET, vmid)
            client.await_state(vmid, VmStatus.RESET)
            for parcel in list(rig.rm.parcels.owned_by(3)):
                client.reclaim(parcel.handle)
            client.word(M.VM_DEALLOCATE, vmid)
            client.notifications.clear()
            assert len(list(rig.hypervisor.objects())) == objects
            assert not rig.rm.log.errors()

        attempt()

    rig.run(scenario)


def test_the_acceptor_may_not_take_addresses_it_uses_already() -> None:
    def scenario(client: Client, workers: list[Worker]) -> None:
        (worker,) = workers
        handle = client.lend(worker.vmid, [(POOL, PAGE)], label=1)
        for address in (0x8000_0000, 1 << 36):
            with pytest.raises(Refused, match="NORESOURCE"):
                worker.accept(client, handle, MemTrans.LEND, sgl=(SglEntry(address, PAGE),))
        client.reclaim(handle)

    with_workers(1, scenario)
