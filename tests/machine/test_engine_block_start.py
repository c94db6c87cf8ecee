"""Blocks look at the stop flags by themselves: runs still end between blocks, and what is not as expected stays."""

from __future__ import annotations

import struct
import time

import pytest

from gunyah.machine.clock import VirtualClock
from gunyah.machine.engine import Context, Core, ExitHandler, Stop, block_start, near
from gunyah.machine.engine import unicorn_private as private
from gunyah.machine.memory import PhysicalMemory

from .rig import CODE, DATA, FINISHED, RAM, Rig

MILLISECOND = 1_000_000

# Two blocks that are chained to each other and one that is found by an indirect branch: each adds to both registers
LOOP = (
    0x91000400,  # add x0, x0, #1
    0x91000421,  # add x1, x1, #1
    0x14000001,  # b .+4
    0x91000400,  # add x0, x0, #1
    0x91000421,  # add x1, x1, #1
    0xF9000041,  # str x1, [x2]
    0xD61F0060,  # br x3
)


def test_blocks_are_rewritten_as_they_are_translated() -> None:
    rig = Rig()
    before = block_start.rewritten()
    rig.run((0xD2800020, 0x14000001, 0x91000400, 0xD4001FE2))
    assert rig.x[0] == 2
    assert block_start.rewritten() >= before + 1


def test_guest_with_much_memory_has_its_code_near_the_library_too() -> None:
    memory = PhysicalMemory([(RAM, 5 << 29)])
    core = Core(memory, 0, ExitHandler(), buffer_size=16 << 20)
    memory.write(CODE, struct.pack("<3I", 0x91000400, 0x14000001, 0xD4001FE2))
    vcpu = Context()
    vcpu.reset(CODE, 1)
    core.exits.hvc = lambda immediate: False
    core.load(vcpu)
    before = block_start.rewritten()
    core.run(time.monotonic_ns() + 60_000 * MILLISECOND)
    assert core.x[0] == 2
    assert block_start.rewritten() >= before + 1


def test_host_without_room_near_the_library_has_it_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "_map_near", lambda address, size, protection: 0)
    monkeypatch.setattr(block_start, "_tried", [])
    rig = Rig()
    assert not rig.core.shortcuts.present["starts of blocks"]
    rig.run((0xD2800020, 0x14000001, 0x91000400, 0xD4001FE2))
    assert rig.x[0] == 2


def test_endless_chained_blocks_stop_at_the_deadline_and_only_between_blocks() -> None:
    rig = Rig()
    rig.start(LOOP, 0, 0, DATA, CODE)
    for _ in range(50):
        before = rig.x[0]
        assert rig.core.run(time.monotonic_ns() + MILLISECOND // 2) is Stop.DEADLINE
        assert rig.x[0] == rig.x[1] > before
        assert rig.registers.pc in (CODE, CODE + 12)


def test_handler_that_leaves_is_the_last_thing_of_a_run() -> None:
    rig = Rig()
    program = (
        0xD4000022,  # hvc #1
        0x91000400,  # add x0, x0, #1
        0xD4001FE2,  # hvc #0xff
    )

    def hypercall(immediate: int) -> bool:
        return False

    rig.exits.hvc = hypercall
    assert rig.run(program) is Stop.HANDLER
    assert rig.registers.pc == CODE + 4
    assert rig.x[0] == 0


def test_interrupt_reaches_chained_blocks() -> None:
    rig = Rig()
    vectors = CODE + 0x10_0000
    rig.place((0xD4001FE2,), vectors + 0x280)
    rig.start((0xD50342FF, *LOOP), 0, 0, DATA, CODE + 4)
    rig.registers.write("VBAR_EL1", vectors)
    assert rig.core.run(time.monotonic_ns() + 20 * MILLISECOND) is Stop.DEADLINE
    assert rig.x[0] > 1000
    rig.core.set_virq(True)
    assert rig.go_on() is Stop.HANDLER
    assert rig.x[0] == rig.x[1]
    assert rig.calls[-1][0] == FINISHED


def test_blocks_that_begin_with_a_count_stay_as_they_are() -> None:
    rig = Rig(VirtualClock())
    before = block_start.rewritten()
    rig.start(LOOP, 0, 0, DATA, CODE)
    rig.core.run_until(1000)
    assert rig.x[0] == rig.x[1] > 0
    assert block_start.rewritten() == before


@pytest.mark.parametrize("symbol", ["tcg_tb_insert_aarch64", "helper_check_exit_request_aarch64"])
def test_other_code_in_the_library_is_left_alone(monkeypatch: pytest.MonkeyPatch, symbol: str) -> None:
    rig = Rig()
    original = private.Library.text

    def text(self: private.Library, name: str, size: int) -> bytes:
        return bytes(size) if name == symbol else original(self, name, size)

    monkeypatch.setattr(private.Library, "text", text)
    monkeypatch.setattr(block_start, "_tried", [])
    assert not block_start.shorten_block_starts(rig.core)
