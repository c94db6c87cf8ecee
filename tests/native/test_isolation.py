"""No native VM reaches a page that is not its own: guests try the whole physical map, by loads, stores and jumps."""

from __future__ import annotations

import struct

from tests.native.code import Code, guest
from tests.rm.rig import Client, Rig
from tests.rm.trees import BASE, vm_tree

from gunyah.abi.rm import NotificationId, VmStatus
from gunyah.machine import board
from gunyah.native import NativePrimary
from gunyah.system import System

MIB = 1 << 20
READ, WRITE, EXECUTE = 1, 2, 4
RET = 0xD65F_03C0
SIZE = 2 * MIB
"""Of each of the two VMs."""
FOUND, FOUND_MAX = 0x8_0000, 64
"""Where a guest writes down what it could reach (from its start), and how much at most."""
SECRETS = 0x10_0000
CONTROL = 0x1F_F000
"""A page of its own that the guest takes for another's: to show that it would see one."""

Ranges = list[tuple[int, int, int, int]]


def probe(own: int, ranges: Ranges, secret: int) -> Code:
    """A guest that touches all pages of ``ranges`` (start, end, step, kinds) but its own, and powers off.

    Its own start at ``own`` and end at CONTROL. What it stores elsewhere is a return, so that a jump there would
    come back without an exception. X19 address, X21 whether an exception came, X23 where to write down.
    """
    code = Code().adr(0, "vectors").msr("VBAR_EL1", 0)
    code.mov(15, own).mov(16, own + CONTROL).mov(23, own + FOUND).mov(17, own + FOUND + 8 * FOUND_MAX)
    # Secrets in the upper half of its own memory.
    code.mov(1, own + SECRETS).mov(2, secret).mov(3, 4096)
    code.label("fill").store(2, 1).add(1, 1, 3).cmp(1, 16).bc("lo", "fill")
    code.mov(24, RET << 32 | RET).adr(10, "ranges")
    code.label("range").load(19, 10).addi(11, 10, 8).load(12, 11).addi(11, 10, 16).load(13, 11)
    code.addi(11, 10, 24).load(14, 11).addi(10, 10, 32).cbz(13, "end")
    code.label("page").cmp(19, 12).bc("hs", "range")
    code.cmp(19, 15).bc("lo", "try").cmp(19, 16).bc("lo", "next")
    code.label("try").tbz(14, 0, "no read")
    code.mov(21, 0).adr(25, "read").load(1, 19).label("read").mov(2, READ).cbnz(21, "no read").bl("found")
    code.label("no read").tbz(14, 1, "no write")
    code.mov(21, 0).adr(25, "written").store(24, 19).label("written").mov(2, WRITE).cbnz(21, "no write").bl("found")
    code.label("no write").tbz(14, 2, "next")
    code.mov(21, 0).adr(25, "back").adr(30, "back").br(19)
    code.label("back").mov(2, EXECUTE).cbnz(21, "next").bl("found")
    code.label("next").add(19, 19, 13).b("page")
    code.label("found").cmp(23, 17).bc("hs", "full").add(2, 2, 19).store(2, 23).addi(23, 23, 8).label("full").ret()
    # A word that cannot be an entry shows that the guest came through.
    code.label("end").mov(2, own + FOUND).mov(1, len(ranges) << 3).store(1, 17).power_off()
    # Only aborts are what is wanted: a fetched instruction that is undefined has been fetched.
    code.label("aborted").mrs(26, "ESR_EL1").lsri(26, 26, 26).cmpi(26, 0x21).bc("eq", "good")
    code.cmpi(26, 0x25).bc("ne", "bad").label("good").mov(21, 1)
    code.label("bad").msr("ELR_EL1", 25).eret()
    code.align(8).label("ranges")
    for entry in ranges:
        code.data(*entry)
    code.data(0, 0, 0, 0).align(2048).label("vectors")
    for _ in range(16):
        code.b("aborted").align(128)
    return code


def found(memory: bytes, ranges: Ranges) -> list[tuple[int, int]]:
    """(address, kind) of what a guest reached; it must have come through all ranges."""
    words = struct.unpack(f"<{FOUND_MAX + 1}Q", memory[FOUND : FOUND + 8 * (FOUND_MAX + 1)])
    assert words[FOUND_MAX] == len(ranges) << 3, "the guest has not come to its end"
    return [(word & ~7, word & 7) for word in words[:FOUND_MAX] if word]


def reached(address: int) -> list[tuple[int, int]]:
    return [(address, kind) for kind in (READ, WRITE, EXECUTE)]


def test_two_native_vms_reach_none_of_each_other_s_pages_nor_anybody_else_s() -> None:
    rig = Rig()
    lent = {1: 0x5000_0000, 2: 0x5000_0000 + SIZE}
    everything = READ | WRITE | EXECUTE
    # The GIC of the VM answers in its window, as a device; no instruction comes from there.
    ranges: Ranges = [
        (0, board.GICD.base, 2 * MIB, everything),
        (board.GICD.base, board.GICR.end, 0x1_0000, EXECUTE),
        (board.GICR.end, 1 << 32, 2 * MIB, everything),
        # Where the board has nothing, one kind of access each is enough.
        (1 << 32, 1 << board.IPA_BITS, 2 * MIB, READ),
        (0x5000_0000, 0x5000_0000 + 2 * SIZE, 4096, everything),
        (BASE - MIB, BASE + SIZE + MIB, 4096, everything),
        (board.ROOT_PARTITION_HEAP.base, board.ROOT_PARTITION_HEAP.base + MIB, 4096, everything),
        (1 << board.IPA_BITS, 1 << 40, 1 << 36, everything),
        (1 << 40, 1 << 48, 1 << 44, everything),
    ]
    secrets = {1: 0x1111_2222_3333_4444, 2: 0x5555_6666_7777_8888}

    def scenario(client: Client) -> None:
        vms = {}
        for number, base in lent.items():
            image = probe(BASE, ranges, secrets[number]).pack()
            assert len(image) < 0x1_0000
            vms[number], _ = client.create(image, vm_tree(f"vm{number}"), base=base)
        for vm in vms.values():
            client.start(vm)
        for _ in vms:
            client.await_notification(NotificationId.VM_EXITED, turns=200_000)
        assert [client.state(vm) for vm in vms.values()] == [VmStatus.EXITED] * 2

    rig.run(scenario)

    for number, base in lent.items():
        memory = rig.memory.read(base, SIZE)
        assert found(memory, ranges) == reached(BASE + CONTROL)
        for page in range(SECRETS, CONTROL, 4096):
            assert memory[page : page + 4096] == struct.pack("<Q", secrets[number]) + bytes(4088)
    assert not rig.hypervisor.reports


def test_a_native_primary_vm_reaches_neither_the_hypervisor_nor_rm_nor_memory_it_was_not_given() -> None:
    own, size = board.HLOS_ENTRY, 64 * MIB
    everything = READ | WRITE | EXECUTE
    ranges: Ranges = [
        # Devices answer, but nothing can be executed there.
        (0, board.DEVICES.end, 2 * MIB, EXECUTE),
        (board.HLOS.base + size, 1 << 32, 2 * MIB, everything),
        (1 << 32, 1 << board.IPA_BITS, 2 * MIB, READ),
        (board.HYPERVISOR_IMAGE, board.HYPERVISOR_IMAGE + 6 * MIB, 4096, everything),
        (board.HYPERVISOR_EXTRA_HEAP.base, board.ROOT_PARTITION_HEAP.base + 2 * MIB, 4096, everything),
        (own + CONTROL, own + CONTROL + 4096, 4096, everything),
    ]
    primary = NativePrimary(kernel=guest(probe(own, ranges, 1)))
    with System(primary, clock="virtual", seed=1, memory=size) as system:
        system.run(timeout=60)
        assert system.stopped == "off", system.last_words()
        assert found(system.memory.read(own, SIZE), ranges) == reached(own + CONTROL)
