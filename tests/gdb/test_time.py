"""A VM that a debugger stops as a whole does not see the time pass; the others do."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from gunyah.machine.clock import VirtualClock

from .rig import AT, PC, ROOT, V0, Client, Machine

SECONDS = 62_500_000
"""Ticks of the system counter."""
MRS_X1_CNTVCT, MRS_X2_CNTVCT = 0xD53B_E041, 0xD53B_E042
MRS_X3_CNTPCT = 0xD53B_E023
MSR_CNTV_TVAL_X4, MRS_X5_CNTV_TVAL = 0xD51B_E304, 0xD53B_E305
MSR_CNTV_CTL_X6, MRS_X7_CNTV_CTL = 0xD51B_E326, 0xD53B_E327
FPSR, FPCR = V0 + 32, V0 + 33


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as machine:
        yield machine


@pytest.fixture
def gdb(machine: Machine) -> Client:
    return Client(machine)


def place(gdb: Client, *words: int) -> None:
    """Instructions that the current thread executes next."""
    code = struct.pack(f"<{len(words)}I", *words)
    assert gdb.ask(f"M{AT['finish']:x},{len(code):x}:{code.hex()}") == "OK"
    assert gdb.set_register(PC, AT["finish"]) == "OK"


def pass_time(machine: Machine, seconds: int) -> None:
    assert isinstance(machine.system.clock, VirtualClock)
    machine.system.clock.advance(seconds * SECONDS)


def test_the_virtual_counter_stands_still_while_its_vm_does(machine: Machine, gdb: Client) -> None:
    place(gdb, MRS_X1_CNTVCT, MRS_X3_CNTPCT, MRS_X2_CNTVCT)
    gdb.step()
    pass_time(machine, 100)
    gdb.step()
    gdb.step()
    assert 0 < gdb.register(2) - gdb.register(1) < SECONDS // 1000
    assert gdb.register(3) - gdb.register(1) >= 100 * SECONDS
    # Other VMs have the time that everybody has.
    assert machine.vcpu(0, ROOT).virtual_timer.offset == 0
    assert {machine.vcpu(index).virtual_timer.offset // SECONDS for index in (0, 1)} == {100}


def test_a_timer_expires_as_much_later_as_its_vm_was_stopped(machine: Machine, gdb: Client) -> None:
    place(gdb, MSR_CNTV_TVAL_X4, MSR_CNTV_CTL_X6, MRS_X5_CNTV_TVAL, MRS_X7_CNTV_CTL)
    gdb.set_register(4, SECONDS)
    gdb.set_register(6, 1)
    gdb.step()
    gdb.step()
    pass_time(machine, 100)
    gdb.step()
    gdb.step()
    assert SECONDS * 99 // 100 < gdb.register(5) <= SECONDS
    assert gdb.register(7) == 1
    timer = machine.vcpu().virtual_timer
    assert not timer.control & 4
    # Nobody waits for it meanwhile.
    assert machine.hv.timers.next() is None


def test_a_vm_of_which_one_vcpu_runs_keeps_its_time(machine: Machine, gdb: Client) -> None:
    # Given two vCPUs that have been powered on, both stopped,
    gdb.ask(f"Z0,{AT['second']:x},4")
    assert "p3.2" in gdb.go()
    gdb.ask(f"z0,{AT['second']:x},4")
    offset = machine.vcpu().virtual_timer.offset
    # when the second one steps and stops again, while the first one is held for 100 s,
    gdb.step("p3.2")
    pass_time(machine, 100)
    gdb.step("p3.2")
    # then the VM has lost these 100 s and no more,
    assert 100 <= (machine.vcpu().virtual_timer.offset - offset) / SECONDS < 101
    # and both have the same time.
    assert machine.vcpu(0).virtual_timer.offset == machine.vcpu(1).virtual_timer.offset


def test_time_goes_on_from_where_it_was_when_the_debugger_leaves(machine: Machine, gdb: Client) -> None:
    place(gdb, MRS_X1_CNTVCT, MRS_X2_CNTVCT, 0x1400_0000)
    gdb.step()
    before = gdb.register(1)
    pass_time(machine, 50)
    gdb.ask("D")
    machine.run(lambda: machine.executor().context.registers.x[2] != 0)
    assert machine.executor().context.registers.x[2] - before < SECONDS


@pytest.mark.parametrize(("number", "value"), [(FPSR, 0x0800_001F), (FPCR, 0x03C0_0000), (FPCR, 0), (FPSR, 0)])
def test_floating_point_status_and_control_are_written_apart(gdb: Client, number: int, value: int) -> None:
    other = FPSR + FPCR - number
    assert gdb.set_register(other, 0x0040_0000 if other == FPCR else 2, 4) == "OK"
    assert gdb.set_register(number, value, 4) == "OK"
    assert gdb.register(number) == value
    assert gdb.register(other) == (0x0040_0000 if other == FPCR else 2)
    # The guest reads the same.
    place(gdb, 0xD53B_4401, 0xD53B_4422)  # mrs x1, fpcr; mrs x2, fpsr
    gdb.step()
    gdb.step()
    assert gdb.register(1 if number == FPCR else 2) == value
