"""What a native primary VM finds on the board beside its console."""

from __future__ import annotations

from tests.native.code import Code, guest

from gunyah.machine import board
from gunyah.native import NativePrimary
from gunyah.system import System

RTC, GICD = board.RTC.base, board.GICD.base


def outcome(code: Code) -> str:
    primary = NativePrimary(kernel=guest(code))
    with System(primary, clock="virtual", seed=1, memory=64 << 20) as system:
        system.run(timeout=30)
        assert system.stopped == "off", system.last_words()
        return primary.output.decode()


def store(code: Code, address: int, value: int, size: int = 4) -> None:
    code.mov(2, address).mov(3, value).store(3, 2, size)


def listen_to_the_clock() -> Code:
    """GIC and PL031 with the alarm's interrupt enabled; PSTATE.I stays set, so that WFI just goes on."""
    code = Code()
    word, bit = board.INTID_RTC // 32 * 4, 1 << board.INTID_RTC % 32
    store(code, GICD, 2)
    store(code, GICD + 0x80 + word, bit)
    store(code, GICD + 0x400 + board.INTID_RTC, 0x80, 1)
    store(code, GICD + 0x100 + word, bit)
    code.mov(3, 0xF0).msr("ICC_PMR_EL1", 3).mov(3, 1).msr("ICC_IGRPEN1_EL1", 3)
    store(code, RTC + 0x10, 1)
    return code


def test_the_clocks_alarm_wakes_a_sleeping_vm_at_its_second() -> None:
    code = listen_to_the_clock()
    code.mov(2, RTC).load(4, 2, 4).addi(4, 4, 3).addi(2, 2, 4).store(4, 2, 4)
    code.wfi().mrs(5, "ICC_IAR1_EL1").mov(6, board.INTID_RTC).cmp(5, 6).bc("ne", "wrong")
    code.mov(2, RTC).load(7, 2, 4).cmp(7, 4).bc("ne", "wrong")
    # The level goes with the status bit, so the interrupt does not come again.
    store(code, RTC + 0x1C, 1)
    code.msr("ICC_EOIR1_EL1", 5).mrs(5, "ICC_IAR1_EL1").mov(6, 1023).cmp(5, 6).bc("ne", "wrong")
    code.say("rang").b("end").label("wrong").say("wrong").label("end").power_off()

    assert outcome(code) == "rang"


def test_an_alarm_that_is_set_again_rings_at_the_later_second() -> None:
    code = listen_to_the_clock()
    code.mov(2, RTC).load(4, 2, 4).addi(3, 2, 4)
    code.addi(5, 4, 2).store(5, 3, 4).addi(5, 4, 4).store(5, 3, 4)
    code.wfi().load(7, 2, 4).cmp(7, 5).bc("ne", "wrong").say("rang").power_off()
    code.label("wrong").say("wrong").power_off()

    assert outcome(code) == "rang"


def test_an_empty_virtio_slot_answers_that_it_is_empty() -> None:
    code = Code()
    code.mov(2, board.VIRTIO_MMIO.base + 31 * board.VIRTIO_MMIO_STRIDE)
    code.load(3, 2, 4).mov(4, int.from_bytes(b"virt", "little")).cmp(3, 4).bc("ne", "wrong")
    code.addi(2, 2, 8).load(3, 2, 4).cbnz(3, "wrong").say("empty").power_off()
    code.label("wrong").say("wrong").power_off()

    assert outcome(code) == "empty"
