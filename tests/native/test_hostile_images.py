"""Native guests that go wrong or mean harm: at worst such a VM spins, one sentence says so, all else goes on."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.native.code import UART, Code, guest
from tests.rm.rig import Client, Rig
from tests.rm.trees import vm_tree

from gunyah.abi.rm import NotificationId, VmStatus
from gunyah.hypervisor.native_cpu import DEVICE_PAGES_MAX
from gunyah.machine import board
from gunyah.machine.engine.dispatch import KNOWN_MAX
from gunyah.native import NativePrimary
from gunyah.system import System

UNMAPPED = 0x7000_0000
GICD = board.GICD.base
ISB, UDF, BRK, SVC = 0xD503_3FDF, 0x0000_0000, 0xD420_0000, 0xD400_0001
MOV_SP_X0, LDR_X0_SP = 0x9100_001F, 0xF940_03E0

GARBAGE = bytes((31 * index * index + 7 * index) & 0xFF for index in range(4096))


def garbage() -> Code:
    return Code().word(*(int.from_bytes(GARBAGE[at : at + 4], "little") for at in range(0, len(GARBAGE), 4)))


def with_vector(first: int) -> Code:
    """Everything goes to a vector that begins with ``first``."""
    code = Code().adr(0, "vector").msr("VBAR_EL1", 0).word(UDF).align(2048).label("vector")
    return code.word(*[first] * 512)


def with_mmu_and_no_tables() -> Code:
    return Code().mrs(0, "SCTLR_EL1").addi(0, 0, 1).msr("SCTLR_EL1", 0).word(ISB).label("here").b("here")


LOST = {
    "jumps to unmapped memory": (Code().mov(0, UNMAPPED).br(0), "refused instruction fetch of 0x70000000"),
    "jumps to the hypervisor": (Code().mov(0, board.HYPERVISOR_IMAGE).br(0), "instruction fetch of 0x80000000"),
    "jumps to a device": (Code().mov(0, UART).br(0), "instruction fetch of 0x9000000"),
    "jumps to an odd address": (Code().mov(0, board.HLOS_ENTRY + 1).br(0), "instruction abort at 0x200"),
    "jumps out of the address space": (Code().mov(0, 1 << 50).br(0), "instruction abort at 0x200"),
    "executes garbage": (garbage(), "is lost"),
    "executes zeros": (Code().word(UDF), "instruction abort at 0x200"),
    "has its vector in unmapped memory": (Code().mov(0, UNMAPPED).msr("VBAR_EL1", 0).word(UDF), "at 0x70000200"),
    "has a vector of undefined instructions": (with_vector(UDF), "undefined instruction at 0x"),
    "has a vector of breakpoints": (with_vector(BRK), "BRK at 0x"),
    "has a vector of calls": (with_vector(SVC), "SVC at 0x"),
    "has a stack nowhere": (Code().mov(0, 8).word(MOV_SP_X0, LDR_X0_SP), "is lost"),
    "turns the MMU on without tables": (with_mmu_and_no_tables(), "is lost"),
    "returns to nowhere": (Code().mov(0, UNMAPPED).msr("ELR_EL1", 0).eret(), "is lost"),
    "loads from unmapped memory": (Code().mov(0, UNMAPPED).load(1, 0), "refused load of 0x70000000"),
    "stores to the hypervisor": (Code().mov(0, board.ROOT_VM.base).store(1, 0), "refused store of 0x80480000"),
    "loads a device register askew": (Code().mov(0, GICD + 2).load(1, 0, 4), "refused load of 0x8000002"),
    "loads a device register too wide": (Code().mov(0, GICD).load(1, 0, 8), "refused load of 0x8000000"),
}
"""What a guest does, and words of the one report about it."""

QUIET = {
    "loops with interrupts off": Code().daifset().label("here").b("here"),
    "sleeps with interrupts off": Code().daifset().label("here").wfi().b("here"),
    "calls for ever": Code().label("here").mov(0, 0x8400_0000).hvc().b("here"),
    "makes hypercalls that there are not": Code().label("here").hvc(0x60FF).smc(7).hvc(0xFFFF).b("here"),
    "arms its timer for ever": (
        Code().mov(1, 1).label("here").msr("CNTV_TVAL_EL0", 1).msr("CNTV_CTL_EL0", 1).b("here")
    ),
    "acknowledges interrupts that it has not": (
        Code().label("here").mrs(0, "ICC_IAR1_EL1").msr("ICC_EOIR1_EL1", 0).b("here")
    ),
}
"""What a guest does that is its own business: it takes its time and nobody else's."""


def as_primary(code: Code) -> list[str]:
    """Run a guest for 8 ms of virtual time; what was reported. The machine has to come through."""
    told: list[str] = []
    with System(NativePrimary(kernel=guest(code)), clock="virtual", seed=1, memory=64 << 20) as system:
        system.hypervisor.reporter = told.append
        before = system.clock.ticks()
        assert not system.run(timeout=0.008)
        assert system.stopped is None, system.last_words()
        assert system.clock.ticks() - before >= 0.008 * board.COUNTER_FREQUENCY
        assert not system.hypervisor.reports
    return told


@pytest.mark.parametrize("name", LOST)
def test_a_lost_guest_spins_until_its_time_is_over_and_one_sentence_says_why(name: str) -> None:
    code, words = LOST[name]
    told = as_primary(code)
    assert len(told) == 1, told
    assert "vm3.vcpu0 is lost" in told[0] and words in told[0], told[0]
    assert "\n" not in told[0]


@pytest.mark.parametrize("name", QUIET)
def test_what_is_a_guest_s_own_business_is_not_reported(name: str) -> None:
    assert as_primary(QUIET[name]) == []


@pytest.mark.parametrize(
    "name",
    [
        "jumps to unmapped memory",
        "executes garbage",
        "has a vector of calls",
        "loops with interrupts off",
        "calls for ever",
        "arms its timer for ever",
    ],
)
def test_a_hostile_vm_takes_nothing_from_the_others_and_can_be_stopped(name: str) -> None:
    rig = Rig()
    image = (LOST[name][0] if name in LOST else QUIET[name]).pack()
    good = Code().power_off().pack()

    def scenario(client: Client) -> None:
        hostile, hostile_parcel = client.create(image, vm_tree())
        client.start(hostile)
        for _ in range(4):
            assert client.state(hostile) == VmStatus.RUNNING
        # On the same core, in memory beside it.
        other, parcel = client.create(good, vm_tree(), base=0x5020_0000)
        client.start(other)
        client.await_notification(NotificationId.VM_EXITED)
        assert client.state(other) == VmStatus.EXITED
        assert client.state(hostile) == VmStatus.RUNNING
        client.stop(hostile)
        client.await_notification(NotificationId.VM_EXITED)
        client.destroy(hostile, hostile_parcel)
        client.destroy(other, parcel)
        # Its memory is good for another VM.
        again, parcel = client.create(good, vm_tree())
        client.start(again)
        client.await_notification(NotificationId.VM_EXITED)
        client.destroy(again, parcel)

    rig.run(scenario)
    assert rig.hypervisor.stopped is None
    assert not rig.hypervisor.reports


def test_a_guest_that_touches_ever_more_of_the_board_fills_no_memory_of_the_host() -> None:
    code = Code().mov(0, board.PCIE_MMIO.base).mov(2, 4096).mov(3, board.PCIE_MMIO.base + 2 * DEVICE_PAGES_MAX * 4096)
    code.label("page").load(1, 0).add(0, 0, 2).cmp(0, 3).bc("lo", "page")
    # As many places in code as there are words.
    for _ in range(KNOWN_MAX + 1000):
        code.load(1, 0)
    primary = NativePrimary(kernel=guest(code.power_off()))
    with System(primary, clock="virtual", seed=1, memory=64 << 20) as system:
        system.run(timeout=10)
        assert system.stopped == "off", system.last_words()
        native = system.hypervisor.native_cpu
        assert native is not None
        assert 0 < len(native.core._plain.known) <= KNOWN_MAX
        assert native.current is not None and 0 < len(native.current.pages) <= DEVICE_PAGES_MAX


def test_a_guest_that_floods_a_console_nobody_reads_ends_with_its_time_out(tmp_path: Path) -> None:
    kernel = tmp_path / "flood"
    kernel.write_bytes(Code().mov(0, UART).mov(1, 0x2E).label("here").store(1, 0, 1).b("here").pack())
    command = [sys.executable, "-m", "gunyah.cli.main", "run", "--kernel", str(kernel), "--timeout", "3"]
    started = time.monotonic()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.wait(60) == 4
        assert process.stdout is not None and process.stderr is not None
        assert b"ended after 3 s" in process.stderr.read()
        assert set(process.stdout.read()) == {0x2E}
    assert time.monotonic() - started < 60


def test_gunyah_run_tells_of_a_lost_guest_at_once_in_one_line(tmp_path: Path) -> None:
    kernel = tmp_path / "wild"
    kernel.write_bytes(LOST["jumps to unmapped memory"][0].pack())
    command = [sys.executable, "-m", "gunyah.cli.main", "run", "--kernel", str(kernel), "--timeout", "100"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert b"leave with Ctrl-A x" in process.stderr.readline()
        told = process.stderr.readline().decode()
        process.terminate()
        rest = process.stderr.read()
    assert "is lost" in told and "refused instruction fetch of 0x70000000" in told
    assert rest == b"gunyah: ended by SIGTERM\n"
