"""Hypervisor and specification agree after every call, and the checker sees it when they do not."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from tests.hypervisor.root_rig import RootRig
from tests.hypervisor.yard import Yard, sleep_for_ever
from tools.fuzz.choices import records
from tools.fuzz.root_attack import RootAttack

import gunyah
from gunyah.abi.errors import Error
from gunyah.abi.hypercalls import BY_NAME
from gunyah.abi.objects import ObjectState, ObjectType
from gunyah.hypervisor.cspace import CSpace
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.memdb import MemoryDatabase
from gunyah.hypervisor.objects import KernelObject
from gunyah.hypervisor.specification import capabilities, ownership
from gunyah.hypervisor.specification.checker import Checker, Divergence, differences
from gunyah.hypervisor.specification.observe import observe
from gunyah.hypervisor.specification.state import Extent, Slot, Space, Thing, World

KINDS = ["cspace", "addrspace", "memextent", "thread", "doorbell", "msgqueue", "vic", "vpm_group", "virtio_mmio"]
PAGE = 0x1000
CLAY = 0x6000_0000


class SpecificationMachine(RuleBasedStateMachine):
    """Random calls of the root VM in a small world; the checker compares after every one."""

    @initialize()
    def start(self) -> None:
        self.rig = RootRig()
        self.checker = Checker(self.rig.hv)
        self.rig.hv.instruments.append(self.checker)
        self.ids: list[tuple[int, int]] = []
        self.spaces = [self.rig.cspace]
        for limit in (6, 20):
            self.spaces.append(self.rig.active("cspace", limit))
        self.agree()

    def agree(self) -> None:
        assert self.checker.divergence is None, self.checker.divergence

    def do(self, name: str, *inputs: int) -> tuple[int, ...]:
        answer = self.rig.call(name, *inputs)
        self.agree()
        return answer.results if answer.ok else ()

    def pick(self, number: int, kind: str | None = None) -> int:
        """A capability of the root space, of a kind if there is one."""
        held = self.rig.root.cspace.capabilities_held
        wanted = [each.id for each in held if kind is None or each.object.type.value == kind]
        # The hundreds of hardware interrupts would crowd out the rest.
        wanted = wanted or [each.id for each in held if each.object.type is not ObjectType.HWIRQ]
        return wanted[number % len(wanted)]

    @rule(kind=st.sampled_from(KINDS), space=st.integers(0, 2))
    def create(self, kind: str, space: int) -> None:
        for capid in self.do(f"partition_create_{kind}", self.rig.partition, self.spaces[space]):
            self.ids.append((space, capid))

    @rule(at=st.integers(0, 99), space=st.integers(0, 2), mask=st.sampled_from([0, 1, 3, 0x8000_0000, 0xFFFF_FFFF]))
    def copy(self, at: int, space: int, mask: int) -> None:
        home, capid = self.ids[at % len(self.ids)] if self.ids else (0, self.pick(at))
        for new in self.do("cspace_copy_cap_from", self.spaces[home], capid, self.spaces[space], mask):
            self.ids.append((space, new))

    @rule(at=st.integers(0, 99))
    def delete(self, at: int) -> None:
        if self.ids:
            home, capid = self.ids[at % len(self.ids)]
            self.do("cspace_delete_cap_from", self.spaces[home], capid)

    @rule(at=st.integers(0, 99))
    def revoke(self, at: int) -> None:
        if self.ids:
            home, capid = self.ids[at % len(self.ids)]
            self.do("cspace_revoke_caps_from", self.spaces[home], capid)

    @rule(at=st.integers(0, 99))
    def activate(self, at: int) -> None:
        if self.ids:
            home, capid = self.ids[at % len(self.ids)]
            self.do("object_activate_from", self.spaces[home], capid)

    @rule(at=st.integers(0, 99), limit=st.sampled_from([0, 1, 5, 14261]))
    def configure_space(self, at: int, limit: int) -> None:
        self.do("cspace_configure", self.pick(at, "cspace"), limit)

    @rule(at=st.integers(0, 99), vmid=st.integers(0, 4) | st.just(256))
    def configure_addrspace(self, at: int, vmid: int) -> None:
        self.do("addrspace_configure", self.pick(at, "addrspace"), vmid)

    @rule(
        at=st.integers(0, 99),
        page=st.integers(0, 6),
        pages=st.integers(0, 4),
        word=st.sampled_from([7, 6, 0x1_0007, 0x1_0004, 3, 0x107]),
    )
    def configure_extent(self, at: int, page: int, pages: int, word: int) -> None:
        capid = self.pick(at, "memextent")
        self.do("memextent_configure", capid, CLAY + PAGE * page, PAGE * pages, word)
        self.do("object_activate", capid)

    @rule(
        at=st.integers(0, 99),
        parent=st.integers(0, 99),
        page=st.integers(0, 3),
        pages=st.integers(0, 3),
        word=st.sampled_from([7, 4, 0x1_0007, 0x1_0004]),
    )
    def derive(self, at: int, parent: int, page: int, pages: int, word: int) -> None:
        capid = self.pick(at, "memextent")
        above = self.pick(parent, "memextent")
        self.do("memextent_configure_derive", capid, above, PAGE * page, PAGE * pages, word)
        self.do("object_activate", capid)

    @rule(
        kind=st.integers(0, 3),
        giver=st.integers(0, 99),
        receiver=st.integers(0, 99),
        partition=st.integers(0, 2),
        page=st.integers(0, 3),
        pages=st.integers(0, 3),
    )
    def donate(self, kind: int, giver: int, receiver: int, partition: int, page: int, pages: int) -> None:
        one = self.rig.partition if partition == 1 else self.pick(giver, "memextent")
        two = self.rig.partition if partition == 2 else self.pick(receiver, "memextent")
        self.do("memextent_donate", kind, one, two, PAGE * page, PAGE * pages)

    @rule(thread=st.integers(0, 99), holder=st.integers(0, 99), which=st.integers(0, 4))
    def attach(self, thread: int, holder: int, which: int) -> None:
        target = self.pick(thread, "thread")
        if which == 0:
            self.do("cspace_attach_thread", self.pick(holder, "cspace"), target)
        elif which == 1:
            self.do("addrspace_attach_thread", self.pick(holder, "addrspace"), target)
        elif which == 2:
            self.do("vic_attach_vcpu", self.pick(holder, "vic"), target, holder % 2)
        elif which == 3:
            self.do("vpm_group_attach_vcpu", self.pick(holder, "vpm_group"), target, holder % 3)
        else:
            self.do("object_activate", target)

    @rule(at=st.integers(0, 99), extent=st.integers(0, 99), which=st.booleans())
    def lend_to_the_hypervisor(self, at: int, extent: int, which: bool) -> None:
        memory = self.pick(extent, "memextent")
        if which:
            self.do("virtio_mmio_configure", self.pick(at, "virtio_mmio"), memory, 2, 0, 0)
        else:
            self.do("addrspace_configure_info_area", self.pick(at, "addrspace"), memory, 0x5000_0000)

    @rule(at=st.integers(0, 99), vic=st.integers(0, 99), index=st.integers(0, 2))
    def attach_frame(self, at: int, vic: int, index: int) -> None:
        space = self.pick(at, "addrspace")
        self.do(
            "addrspace_attach_vdevice", space, self.pick(vic, "vic"), index, 0x5000_0000 + 0x2_0000 * index, 0x2_0000, 0
        )

    @rule(
        line=st.sampled_from([16, 17, 40]), vic=st.integers(0, 99), virq=st.sampled_from([16, 17, 40]), on=st.booleans()
    )
    def forward(self, line: int, vic: int, virq: int, on: bool) -> None:
        hwirq = self.rig.root.environment["vic_hwirq"][line]  # type: ignore[index, call-overload]
        if on:
            self.do("hwirq_bind_virq", hwirq, self.pick(vic, "vic"), virq)
        else:
            self.do("hwirq_unbind_virq", hwirq)

    @rule(at=st.integers(0, 99))
    def what_has_no_rule_changes_nothing(self, at: int) -> None:
        self.do("doorbell_send", self.pick(at, "doorbell"), 3)
        self.do("memextent_modify", self.pick(at, "memextent"), 0, 0, 0)
        self.do("hypervisor_identify")
        self.do("object_reset", self.pick(at))


TestSpecificationMachine = SpecificationMachine.TestCase
TestSpecificationMachine.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)


def checked(rig: RootRig) -> Checker:
    checker = Checker(rig.hv)
    rig.hv.instruments.append(checker)
    return checker


def test_a_hostile_root_vm_and_its_vms_stay_within_the_specification() -> None:
    attack = RootAttack(records(33, 700), seed=33)
    checker = Checker(attack.hv)
    attack.hv.instruments.append(checker)
    assert attack.run() == []
    assert checker.divergence is None
    assert checker.checked > 500


class TestDivergence:
    """What the checker says when the hypervisor breaks a rule."""

    def test_a_copy_with_more_rights_than_its_source(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rig = RootRig()
        checker = checked(rig)
        bell = rig.active("doorbell")
        original = CSpace.copy_from

        def generous(self: CSpace, source: CSpace, capid: int, mask: int) -> int:
            new = original(self, source, capid, mask)
            self.capability(new).rights |= 4
            return new

        monkeypatch.setattr(CSpace, "copy_from", generous)
        rig.call("cspace_copy_cap_from", rig.cspace, bell, rig.cspace, 1)
        assert checker.divergence is not None
        first = str(checker.divergence).splitlines()
        assert "cspace_copy_cap_from(" in first[0]
        assert "rights=1" in first[1]
        assert "rights=5" in first[1]
        assert any("allows" in line for line in first)
        assert rig.hv.stopped == "divergence"

    def test_a_reference_that_leaks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rig = RootRig()
        checker = checked(rig)
        space, thread = rig.active("cspace", 4), rig.create("thread")

        def twice(hv: object, vcpu: object, cspace: KernelObject, thread: object) -> None:
            cspace.get()
            thread.attach_cspace(cspace)  # type: ignore[attr-defined]

        from gunyah.hypervisor import calls
        from gunyah.hypervisor.hypercall import Dispatcher

        rig.hv.dispatcher = Dispatcher(rig.hv, {**calls.HANDLERS, "cspace_attach_thread": twice})
        rig.call("cspace_attach_thread", space, thread)
        assert checker.divergence is not None
        assert "pins: expected 0, found 1" in str(checker.divergence)

    def test_memory_with_two_takers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rig = RootRig()
        checker = checked(rig)
        rig.active("memextent", CLAY, PAGE, 7)
        monkeypatch.setattr(MemoryDatabase, "is_owned", lambda *_: True)
        other = rig.create("memextent")
        rig.call("memextent_configure", other, CLAY, PAGE, 7)
        rig.call("object_activate", other)
        assert checker.divergence is not None
        assert "MEMDB_NOT_OWNER" in str(checker.divergence)

    def test_an_object_that_is_still_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rig = RootRig()
        checker = checked(rig)
        bell = rig.active("doorbell")
        monkeypatch.setattr(CSpace, "_forget", staticmethod(lambda capability: capability.object.capabilities.clear()))
        rig.call("cspace_delete_cap_from", rig.cspace, bell)
        assert checker.divergence is not None
        assert "expected to be gone" in str(checker.divergence)

    def test_a_wrong_refusal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rig = RootRig()
        checker = checked(rig)
        bell = rig.create("doorbell")
        wrong = HypervisorError(Error.DENIED, "just so")
        monkeypatch.setattr(CSpace, "_wrong_type", lambda *_: wrong)
        rig.call("cspace_delete_cap_from", bell, bell)
        assert checker.divergence is not None
        assert "CSPACE_WRONG_OBJECT_TYPE was expected" in str(checker.divergence)

    def test_after_the_first_one_nothing_is_checked_any_more(self) -> None:
        rig = RootRig()
        checker = checked(rig)
        before = checker.divergence = Divergence("before", ("something",), World(), World())
        rig.active("doorbell")
        assert (checker.checked, checker.divergence) == (0, before)

    def test_every_kind_of_difference_is_named(self) -> None:
        thing = Thing(ObjectType.CSPACE, space=Space(3, {1: Slot(2, 1, True)}))
        other = Thing(
            ObjectType.CSPACE, ObjectState.ACTIVE, space=Space(4, {1: Slot(2, 1, False), 9: Slot(2, 1, False)})
        )
        lines = list(differences(World({1: thing}, ((0, 1, 5),)), World({1: other, 2: other}, ((0, 1, 6),))))
        assert [line.split(":")[0] for line in lines] == [
            "object #1 state",
            "space #1 slot 0x1",
            "space #1 slot 0x9",
            "space #1 limit",
            "object #2",
            "memory 0x0..0x1",
            "memory 0x0..0x1",
        ]


def test_the_checker_works_in_a_running_machine_with_both_encodings_and_deferred_calls() -> None:
    yard = Yard()
    checker = checked(yard)
    vm = yard.vm(sleep_for_ever, proxied=True)
    yard.call("vcpu_run", vm.threads[0], 0, 0, 0)
    x = yard.vcpu.x
    x[0:4] = [BY_NAME["partition_create_doorbell"].smccc, yard.partition, yard.cspace, 77]
    yard.hv.dispatcher.hvc(yard.vcpu, 0)
    assert x[0] == 0
    x[0:3] = [yard.partition, yard.cspace, 77]
    yard.hv.dispatcher.hvc(yard.vcpu, BY_NAME["partition_create_doorbell"].hvc)
    assert x[0] == Error.ARGUMENT_INVALID
    yard.call("vcpu_configure", vm.threads[0], 1 << 6)
    yard.ok("vcpu_kill", vm.threads[0])
    yard.settle()
    assert checker.divergence is None
    assert checker.checked > 20


class TestRules:
    """The rules by themselves, on states made by hand."""

    def _world(self, **things: Thing) -> World:
        return World({int(name[1:]): thing for name, thing in things.items()})

    def test_references_are_capabilities_holders_and_pins(self) -> None:
        world = self._world(
            t1=Thing(ObjectType.CSPACE, space=Space(9, {10: Slot(2, 1, True), 11: Slot(2, 1, False)}), pins=1),
            t2=Thing(ObjectType.DOORBELL),
            t3=Thing(ObjectType.THREAD, holds=(2, 2), pins=3),
        )
        assert capabilities.references(world.things) == {1: 1, 2: 3, 3: 3}

    def test_what_nobody_holds_goes_and_takes_what_only_it_held(self) -> None:
        world = self._world(
            t1=Thing(ObjectType.THREAD, holds=(2,)),
            t2=Thing(ObjectType.CSPACE, space=Space(4, {7: Slot(3, 1, True)})),
            t3=Thing(ObjectType.DOORBELL),
            t4=Thing(ObjectType.VIC, pins=1),
        )
        assert set(capabilities.collect(world).things) == {4}

    def test_two_spaces_that_hold_each_other_stay(self) -> None:
        world = self._world(
            t1=Thing(ObjectType.CSPACE, space=Space(4, {7: Slot(2, 1, True)})),
            t2=Thing(ObjectType.CSPACE, space=Space(4, {8: Slot(1, 1, True)})),
        )
        assert set(capabilities.collect(world).things) == {1, 2}

    @pytest.mark.parametrize(
        ("base", "size", "expected"),
        [
            (0, 4, ((0, 4, "b"), (4, 10, "a"))),
            (4, 2, ((0, 4, "a"), (4, 6, "b"), (6, 10, "a"))),
            (6, 4, ((0, 6, "a"), (6, 10, "b"))),
            (0, 10, ((0, 10, "b"),)),
            (20, 2, ((0, 10, "a"), (20, 22, "b"))),
        ],
    )
    def test_a_transfer_cuts_and_joins(self, base: int, size: int, expected: object) -> None:
        owners = ownership.transferred(((0, 10, "a"),), base, size, "b")
        assert owners == expected
        if base < 10:
            assert ownership.transferred(owners, base, size, "a") == ((0, 10, "a"),)

    def test_what_a_child_may_be(self) -> None:
        parent = Extent(0x1000, 0x4000, 6, 0)

        def allowed(child: Extent) -> bool:
            return ownership.may_derive(parent, child)

        assert allowed(Extent(0x1000, 0x4000, 6, 1))
        assert allowed(Extent(0x2000, 0x1000, 4, 0))
        assert not allowed(Extent(0x2000, 0x1000, 7, 0))
        assert not allowed(Extent(0x4000, 0x2000, 4, 0))
        assert not ownership.may_derive(Extent(0, 0x1000, 7, 1), Extent(0, 0x1000, 7, 2))

    def test_observing_changes_nothing(self) -> None:
        yard = Yard()
        yard.vm(sleep_for_ever)
        assert observe(yard.hv) == observe(yard.hv)


def test_the_resource_manager_and_linux_stay_within_the_specification() -> None:
    with gunyah.System(check=True, seed=3) as system:
        gh0, gh1 = system.primary.tty("ttyGH0"), system.primary.tty("ttyGH1")
        gh0.write(b"hello\n")
        assert gh1.readline() == b"hello\n"
        checker = system.instruments[-1]
        assert isinstance(checker, Checker)
        assert checker.divergence is None
        assert checker.checked > 50
