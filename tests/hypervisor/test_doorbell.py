"""Doorbells: flags, masks and their interrupt (objects.md 9)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.hypervisor.root_rig import RootRig
from tests.hypervisor.yard import Yard, call

from gunyah.abi.errors import Error
from gunyah.guest.cpu import Cpu
from gunyah.guest.gic import Gic

U64 = (1 << 64) - 1
VIRQ = 40


def test_flags_are_sticky_and_each_call_tells_what_they_were() -> None:
    rig = RootRig()
    bell = rig.active("doorbell")
    assert rig.call("doorbell_send", bell, 0b0110).results == (0,)
    assert rig.call("doorbell_send", bell, 0b1010).results == (0b0110,)
    assert rig.call("doorbell_receive", bell, 0b0010).results == (0b1110,)
    assert rig.call("doorbell_receive", bell, U64).results == (0b1100,)
    assert rig.call("doorbell_receive", bell, 1).results == (0,)


def test_receive_must_name_flags() -> None:
    rig = RootRig()
    bell = rig.active("doorbell")
    rig.call("doorbell_send", bell, 1)
    assert rig.call("doorbell_receive", bell, 0).error == Error.ARGUMENT_INVALID
    assert rig.call("doorbell_receive", bell, 1).results == (1,)


def test_receive_returns_masked_flags_too() -> None:
    rig = RootRig()
    bell = rig.active("doorbell")
    rig.call("doorbell_mask", bell, 0, 0)
    rig.call("doorbell_send", bell, 5)
    assert rig.call("doorbell_receive", bell, 4).results == (5,)


def test_the_ack_mask_clears_what_it_names_when_an_enabled_flag_rings() -> None:
    rig = RootRig()
    bell = rig.active("doorbell")
    rig.call("doorbell_mask", bell, 0b0001, 0b0111)
    rig.call("doorbell_send", bell, 0b1110)
    assert rig.call("doorbell_send", bell, 0b0001).results == (0b1110,)
    assert rig.call("doorbell_receive", bell, U64).results == (0b1000,)


def test_a_new_mask_that_lets_old_flags_through_applies_the_ack_mask() -> None:
    rig = RootRig()
    bell = rig.active("doorbell")
    rig.call("doorbell_mask", bell, 0, 0)
    rig.call("doorbell_send", bell, 0b11)
    rig.call("doorbell_mask", bell, 0b01, 0b01)
    assert rig.call("doorbell_receive", bell, U64).results == (0b10,)


def test_reset_takes_flags_and_masks_back() -> None:
    rig = RootRig()
    bell = rig.active("doorbell")
    rig.call("doorbell_mask", bell, 0, U64)
    rig.call("doorbell_send", bell, 0xFF)
    rig.call("doorbell_reset", bell)
    assert rig.call("doorbell_send", bell, 1).results == (0,)
    assert rig.call("doorbell_receive", bell, U64).results == (1,)


def test_a_bound_doorbell_is_not_bound_again_and_unbinding_never_fails() -> None:
    rig = RootRig()
    bell, other = rig.active("doorbell"), rig.active("doorbell")
    assert rig.call("doorbell_unbind_virq", bell).ok
    assert rig.call("doorbell_bind_virq", bell, rig.vic, VIRQ).ok
    assert rig.call("doorbell_bind_virq", bell, rig.vic, VIRQ + 1).error == Error.VIRQ_BOUND
    assert rig.call("doorbell_bind_virq", other, rig.vic, VIRQ).error == Error.BUSY
    assert rig.call("doorbell_bind_virq", other, rig.vic, 31).error == Error.ARGUMENT_INVALID
    assert rig.call("doorbell_unbind_virq", bell).ok
    assert rig.call("doorbell_bind_virq", other, rig.vic, VIRQ).ok


def test_a_doorbell_that_goes_leaves_its_interrupt_free() -> None:
    rig = RootRig()
    bell, other = rig.active("doorbell"), rig.active("doorbell")
    rig.call("doorbell_bind_virq", bell, rig.vic, VIRQ)
    rig.call("cspace_delete_cap_from", rig.cspace, bell)
    assert rig.call("doorbell_bind_virq", other, rig.vic, VIRQ).ok


class Ringing:
    """A VM that counts the interrupts of a doorbell, which the root VM rings."""

    def __init__(self, *, edge: bool, clear: int = 0) -> None:
        self.edge, self.clear = edge, clear
        self.taken = 0
        self.bell = 0
        self.yard = Yard()
        self.vm = self.yard.vm(self._main, on=False)
        self.root_bell = self.yard.active("doorbell")
        self.bell = self.yard.give(self.vm, self.root_bell)
        self.yard.ok("doorbell_bind_virq", self.root_bell, self.vm.vic, VIRQ)
        self.yard.ok("vcpu_poweron", self.vm.threads[0], self.vm.entries[0], 0, 0)
        self.yard.settle()

    def _main(self, cpu: Cpu, x0: int) -> None:
        gic = Gic(cpu)
        gic.start()

        def handler() -> None:
            self.taken += 1
            if self.clear:
                call(cpu, "doorbell_receive", self.bell, self.clear)
            elif self.taken > 5:
                gic.mask(VIRQ)

        gic.enable(VIRQ, handler, edge=self.edge)
        while True:
            cpu.wfi()

    def ring(self, flags: int) -> int:
        """Interrupts taken after a send."""
        before = self.taken
        self.yard.ok("doorbell_send", self.root_bell, flags)
        self.yard.settle()
        return self.taken - before


def test_an_edge_interrupt_comes_once_a_send() -> None:
    ringing = Ringing(edge=True)
    assert [ringing.ring(1), ringing.ring(1), ringing.ring(2)] == [1, 1, 1]


def test_a_send_of_masked_flags_still_makes_an_edge_but_no_level() -> None:
    edge = Ringing(edge=True)
    edge.yard.ok("doorbell_mask", edge.root_bell, 0, 0)
    assert edge.ring(1) == 1
    level = Ringing(edge=False, clear=U64)
    level.yard.ok("doorbell_mask", level.root_bell, 0, 0)
    assert level.ring(1) == 0
    level.yard.ok("doorbell_mask", level.root_bell, 1, 0)
    level.yard.settle()
    assert level.taken == 1


def test_a_level_interrupt_stands_until_the_flags_are_received() -> None:
    assert Ringing(edge=False).ring(1) > 5
    assert Ringing(edge=False, clear=U64).ring(1) == 1


def test_masking_the_flags_lowers_a_level() -> None:
    ringing = Ringing(edge=False, clear=U64)
    ringing.vm.vcpus[0].blocks |= 256
    ringing.yard.ok("doorbell_send", ringing.root_bell, 1)
    ringing.yard.ok("doorbell_mask", ringing.root_bell, 0, 0)
    ringing.vm.vcpus[0].unblock(256)
    ringing.yard.settle()
    assert ringing.taken == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("send"), st.integers(0, 15), st.just(0)),
            st.tuples(st.just("receive"), st.integers(1, 15), st.just(0)),
            st.tuples(st.just("mask"), st.integers(0, 15), st.integers(0, 15)),
            st.tuples(st.just("reset"), st.just(0), st.just(0)),
        ),
        max_size=30,
    )
)
def test_flags_are_those_of_the_sheet_after_any_calls(calls: list[tuple[str, int, int]]) -> None:
    rig = RIG
    bell = rig.active("doorbell")
    flags, enable, ack = 0, U64, 0
    for name, first, second in calls:
        if name == "send":
            assert rig.call("doorbell_send", bell, first).results == (flags,)
            flags |= first
            if flags & enable:
                flags &= ~ack
        elif name == "receive":
            assert rig.call("doorbell_receive", bell, first).results == (flags,)
            flags &= ~first
        elif name == "mask":
            assert rig.call("doorbell_mask", bell, first, second).ok
            enable, ack = first, second
            if flags & enable:
                flags &= ~ack
        else:
            assert rig.call("doorbell_reset", bell).ok
            flags, enable, ack = 0, U64, 0
        assert rig.root.cspace.capability(bell).object.flags == flags  # type: ignore[attr-defined]
    rig.call("cspace_delete_cap_from", rig.cspace, bell)


RIG = RootRig()
