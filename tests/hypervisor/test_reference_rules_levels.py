"""Interrupts configured level: how often they come, when they stop, and who comes first (objects.md 8.2, 9, 10.2 and
10.6, reference.md 5)."""

from __future__ import annotations

import pytest
from tests.hypervisor.gic_guest import GICD_CTLR, GROUP1, ICENABLER, ISPENDR, GicGuest
from tests.hypervisor.root_rig import SCRATCH, RootRig
from tests.hypervisor.test_vgic_cpu_interface import raise_spi

from gunyah.abi.errors import Error
from gunyah.abi.types import U64
from gunyah.hypervisor.vgic_cpu_interface import CpuInterface

BELL, SEND, RECEIVE = 40, 41, 42
ROUNDS = 4


class Levels(RootRig):
    """The root VM with all its interrupts level-triggered, enabled and of one priority."""

    def __init__(self) -> None:
        super().__init__()
        delivery = self.root.vic.delivery
        delivery.set_groups(3)
        for intid in range(32, 96):
            irq = delivery.spi(intid)
            delivery.set_group(irq, 1)
            delivery.set_enabled(irq, True)
        gic = self.vcpu.gic
        assert gic is not None
        self.gic: CpuInterface = gic
        gic.write("ICC_PMR_EL1", 0xFF)
        gic.write("ICC_IGRPEN1_EL1", 1)

    def ok(self, name: str, *inputs: int) -> tuple[int, ...]:
        answer = self.call(name, *inputs)
        assert answer.ok, (name, answer)
        return answer.results

    def taken(self) -> list[int]:
        """What is taken and ended in a row, at most ROUNDS of them."""
        numbers: list[int] = []
        while len(numbers) < ROUNDS and (intid := self.gic.acknowledge()) < 1020:
            numbers.append(intid)
            self.gic.end(intid)
        return numbers

    def pending(self, intid: int) -> bool:
        return self.root.vic.delivery.spi(intid).pending


class TestDoorbell:
    """A doorbell that is a level."""

    @pytest.fixture
    def rig(self) -> Levels:
        rig = Levels()
        self.bell = rig.active("doorbell")
        rig.ok("doorbell_bind_virq", self.bell, rig.vic, BELL)
        return rig

    def test_it_comes_again_until_the_flags_are_taken_and_once_more(self, rig: Levels) -> None:
        assert not rig.pending(BELL)
        rig.ok("doorbell_send", self.bell, 1)
        for _ in range(2):
            assert rig.pending(BELL)
            assert rig.taken() == [BELL] * ROUNDS
        assert rig.ok("doorbell_send", self.bell, 2) == (1,)
        assert rig.ok("doorbell_receive", self.bell, U64) == (3,)
        assert rig.pending(BELL), "the level is looked at when the guest ends the interrupt, not before"
        assert rig.taken() == [BELL]
        assert not rig.pending(BELL)
        assert rig.taken() == []

    def test_flags_that_are_not_enabled_are_no_level(self, rig: Levels) -> None:
        rig.ok("doorbell_mask", self.bell, 0, 0)
        rig.ok("doorbell_send", self.bell, 1)
        assert not rig.pending(BELL)
        assert rig.taken() == []
        rig.ok("doorbell_mask", self.bell, 1, 0)
        assert rig.taken() == [BELL] * ROUNDS
        rig.ok("doorbell_mask", self.bell, 2, 0)
        assert rig.taken() == []

    def test_acknowledged_flags_come_once(self, rig: Levels) -> None:
        rig.ok("doorbell_mask", self.bell, U64, U64)
        assert rig.ok("doorbell_send", self.bell, 1) == (0,)
        assert rig.ok("doorbell_send", self.bell, 2) == (0,)
        assert rig.taken() == [BELL]

    def test_reset_and_unbinding_take_it_back(self, rig: Levels) -> None:
        for call, arguments in (("doorbell_reset", ()), ("doorbell_unbind_virq", ())):
            rig.ok("doorbell_send", self.bell, 1)
            rig.ok(call, self.bell, *arguments)
            assert not rig.pending(BELL)
            assert rig.taken() == []
        rig.ok("doorbell_bind_virq", self.bell, rig.vic, BELL)
        assert rig.taken() == [], "a flag that was set before the binding is not told"

    def test_an_assertion_while_it_is_handled_is_delivered_once_more(self, rig: Levels) -> None:
        rig.ok("doorbell_send", self.bell, 1)
        assert rig.gic.acknowledge() == BELL
        rig.ok("doorbell_send", self.bell, 2)
        rig.ok("doorbell_receive", self.bell, U64)
        rig.gic.end(BELL)
        assert rig.taken() == [BELL]


class TestMessageQueue:
    """Both ends of a queue of depth 4 at one VIC."""

    @pytest.fixture
    def rig(self) -> Levels:
        rig = Levels()
        self.queue = rig.active("msgqueue", 0x10_0004)
        rig.ok("msgqueue_bind_send_virq", self.queue, rig.vic, SEND)
        rig.ok("msgqueue_bind_receive_virq", self.queue, rig.vic, RECEIVE)
        assert rig.taken() == []
        return rig

    def _send(self, rig: Levels, flags: int = 0) -> int:
        return rig.call("msgqueue_send", self.queue, 8, SCRATCH, flags).error

    def _receive(self, rig: Levels) -> int:
        return rig.call("msgqueue_receive", self.queue, SCRATCH, 16).error

    def test_the_receiver_is_told_while_the_count_is_at_the_threshold_or_above(self, rig: Levels) -> None:
        for _ in range(4):
            assert self._send(rig) == 0
            assert rig.taken() == [RECEIVE] * ROUNDS
        assert self._send(rig) == Error.MSGQUEUE_FULL
        assert rig.taken() == [RECEIVE] * ROUNDS

    def test_a_level_keeps_its_register_and_with_it_its_turn(self, rig: Levels) -> None:
        for _ in range(4):
            self._send(rig)
        for left in (3, 2, 1):
            assert self._receive(rig) == 0
            assert rig.pending(SEND), left
            assert rig.taken() == [RECEIVE] * ROUNDS, "it was listed first, and its level stands"
        assert self._receive(rig) == 0
        assert rig.taken() == [RECEIVE] + [SEND] * (ROUNDS - 1)
        assert self._receive(rig) == Error.MSGQUEUE_EMPTY
        assert rig.taken() == [SEND] * ROUNDS

    def test_a_push_below_the_threshold_comes_once(self, rig: Levels) -> None:
        rig.ok("msgqueue_configure_send", self.queue, 0, U64)
        rig.taken()
        rig.ok("msgqueue_configure_receive", self.queue, 4, U64)
        self._send(rig)
        assert self._send(rig, 1) == 0
        assert rig.taken() == [SEND, RECEIVE], "the sender's level ended with the first message, unnoticed so far"
        assert rig.taken() == []

    def test_thresholds_that_are_set_are_looked_at_at_once(self, rig: Levels) -> None:
        rig.ok("msgqueue_configure_send", self.queue, 1, U64)
        assert rig.taken() == [SEND] * ROUNDS
        self._send(rig)
        self._send(rig)
        rig.ok("msgqueue_configure_send", self.queue, 0, U64)
        assert not rig.pending(SEND)
        assert rig.taken() == [RECEIVE] * ROUNDS
        rig.ok("msgqueue_configure_receive", self.queue, 3, U64)
        assert rig.taken() == []
        rig.ok("msgqueue_configure_receive", self.queue, 2, U64)
        assert rig.taken() == [RECEIVE] * ROUNDS
        rig.ok("msgqueue_configure_receive", self.queue, 0xFFFF_FFFE, U64)
        assert rig.taken() == [RECEIVE], "the maximum is only stored"

    def test_flushing_tells_the_sender_and_calls_the_receiver_back(self, rig: Levels) -> None:
        for _ in range(4):
            self._send(rig)
        rig.ok("msgqueue_flush", self.queue)
        assert not rig.pending(RECEIVE)
        assert rig.taken() == [SEND] * ROUNDS

    def test_what_software_sets_pending_stays_until_software_clears_it(self, rig: Levels) -> None:
        delivery = rig.root.vic.delivery
        delivery.set_pending(delivery.spi(43), message=False)
        assert rig.taken() == [43] * ROUNDS
        delivery.clear_pending(delivery.spi(43), message=False)
        assert rig.taken() == []


class TestListRegisters:
    """Four interrupts of one priority are in sight, the others wait (boot.md 1)."""

    def test_the_fifth_waits_until_none_of_the_four_is_left(self, guest: GicGuest) -> None:
        for intid in (75, 74, 73, 72, 70, 71):
            raise_spi(guest, intid, 0xA0)
        assert guest.take() == [75, 74, 73, 72, 70, 71]

    def test_a_higher_priority_drives_the_least_out(self, guest: GicGuest) -> None:
        for intid, priority in ((75, 0xA0), (74, 0xB0), (73, 0xA0), (72, 0xB0), (71, 0x80), (70, 0xA0)):
            raise_spi(guest, intid, priority)
        assert guest.take() == [71, 75, 70, 73, 72, 74]

    def test_a_group_that_is_switched_on_is_listed_by_number(self) -> None:
        guest = GicGuest().start()
        guest.write(GICD_CTLR, 0)
        for intid in (75, 70, 72):
            raise_spi(guest, intid, 0xA0)
        assert guest.take() == []
        guest.write(GICD_CTLR, GROUP1)
        assert guest.take() == [70, 72, 75]

    def test_what_is_taken_back_leaves_its_place(self, guest: GicGuest) -> None:
        for intid in (75, 74, 73):
            raise_spi(guest, intid, 0xA0)
        guest.set_bit(ICENABLER, 75)
        raise_spi(guest, 76, 0xA0)
        assert guest.take() == [76, 74, 73]

    def test_an_interrupt_that_moves_to_another_vcpu_queues_up_there(self) -> None:
        guest = GicGuest(2).start(groups=3)
        raise_spi(guest, 75, 0xA0)
        assert guest.take() == [75]
        guest.route(75, 1)
        guest.route(74, 1)
        raise_spi(guest, 74, 0xA0)
        guest.set_bit(ISPENDR, 75)
        assert guest.take(1) == [74, 75]
        for intid in (70, 71, 72, 73):
            raise_spi(guest, intid, 0xA0)
        assert guest.take() == [70, 71, 72, 73]


@pytest.fixture
def guest() -> GicGuest:
    return GicGuest().start(groups=3)
