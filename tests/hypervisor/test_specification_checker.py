"""What the checker reads out of a hypervisor, and what it says when a call does not do what the rules demand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.hypervisor.root_rig import RootRig
from tests.hypervisor.yard import Yard, sleep_for_ever

from gunyah.abi.errors import Error
from gunyah.abi.hypercalls import BY_NAME
from gunyah.abi.objects import ALL_RIGHTS, ObjectState, ObjectType
from gunyah.abi.types import U64
from gunyah.hypervisor import calls
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.hypercall import Dispatcher
from gunyah.hypervisor.hypervisor import Hypervisor
from gunyah.hypervisor.specification.checker import Checker, differences
from gunyah.hypervisor.specification.observe import Observer, observe
from gunyah.hypervisor.specification.ownership import FREE
from gunyah.hypervisor.specification.state import Extent, Slot, Space, Thing, World, thing_lines

PAGE = 0x1000
CLAY = 0x6000_0000
RWX = 7
SPARSE = 0x1_0000


@pytest.fixture
def rig() -> RootRig:
    return RootRig()


def serial(rig: RootRig, capid: int) -> int:
    return rig.root.cspace.capability(capid).object.serial


def seen(rig: RootRig, capid: int) -> Thing:
    return observe(rig.hv).things[serial(rig, capid)]


# -- observing ---------------------------------------------------------------------------------------------------------


class TestObserver:
    """The state that the rules speak of, as it is in a hypervisor."""

    def test_a_plain_object(self, rig: RootRig) -> None:
        bell = rig.create("doorbell")
        assert seen(rig, bell) == Thing(ObjectType.DOORBELL)
        assert rig.call("object_activate", bell).ok
        assert seen(rig, bell) == Thing(ObjectType.DOORBELL, ObjectState.ACTIVE)
        rig.root.cspace.capability(bell).object.get()
        assert seen(rig, bell) == Thing(ObjectType.DOORBELL, ObjectState.ACTIVE, pins=1)

    def test_a_space_with_its_slots(self, rig: RootRig) -> None:
        space = rig.active("cspace", 5)
        home = rig.root.cspace.capability(space).object
        (master,) = rig.call("partition_create_doorbell", rig.partition, space).results
        bell = home.capability(master).object.serial  # type: ignore[attr-defined]
        (copy,) = rig.call("cspace_copy_cap_from", space, master, space, 2).results
        (other,) = rig.call("cspace_copy_cap_from", space, master, rig.cspace, 1).results
        slots = {master: Slot(bell, ALL_RIGHTS[ObjectType.DOORBELL], True), copy: Slot(bell, 2, False)}
        found = seen(rig, space)
        assert found == Thing(ObjectType.CSPACE, ObjectState.ACTIVE, space=Space(5, slots))
        assert found.space is not None
        assert found.space.tables == frozenset(home.ids)  # type: ignore[attr-defined]
        assert seen(rig, other) == Thing(ObjectType.DOORBELL)
        assert rig.call("cspace_revoke_caps_from", space, master).ok
        slots[copy] = Slot(0, 0, False, valid=False)
        assert seen(rig, space) == Thing(ObjectType.CSPACE, ObjectState.ACTIVE, space=Space(5, slots))

    def test_extents_and_the_owners_of_memory(self, rig: RootRig) -> None:
        parent = rig.active("memextent", CLAY, 4 * PAGE, SPARSE | 0x206)
        assert rig.call("memextent_donate", 0, rig.partition, parent, 0, 4 * PAGE).ok
        child = rig.create("memextent")
        assert seen(rig, child) == Thing(ObjectType.MEMEXTENT, extent=Extent())
        assert rig.call("memextent_configure_derive", child, parent, PAGE, 2 * PAGE, 0x204).ok
        one, two = serial(rig, parent), serial(rig, child)
        assert seen(rig, child) == Thing(
            ObjectType.MEMEXTENT, holds=(one,), extent=Extent(CLAY + PAGE, 2 * PAGE, 4, 2, False, one)
        )
        assert rig.call("object_activate", child).ok
        state = observe(rig.hv)
        assert state.things[one] == Thing(
            ObjectType.MEMEXTENT, ObjectState.ACTIVE, extent=Extent(CLAY, 4 * PAGE, 6, 2, True, None)
        )
        around = [piece for piece in state.owners if CLAY - PAGE <= piece[0] <= CLAY + 4 * PAGE]
        assert around == [
            (CLAY, CLAY + PAGE, one),
            (CLAY + PAGE, CLAY + 3 * PAGE, two),
            (CLAY + 3 * PAGE, CLAY + 4 * PAGE, one),
            (CLAY + 4 * PAGE, around[-1][1], FREE),
        ]
        names = {owner for _, _, owner in state.owners if isinstance(owner, str)}
        assert {FREE, "partition hypervisor", "allocator root", "allocator hypervisor"} <= names

    def test_who_holds_whom(self) -> None:
        yard = Yard()
        vm = yard.vm(sleep_for_ever, sleep_for_ever)
        page = yard.active("memextent", CLAY, PAGE, RWX)
        virtio = yard.create("virtio_mmio")
        yard.ok("virtio_mmio_configure", virtio, page, 2, 0, 0)
        addrspace = yard.create("addrspace")
        yard.ok("addrspace_configure", addrspace, 77)
        info = yard.active("memextent", CLAY + PAGE, PAGE, 6)
        yard.ok("addrspace_configure_info_area", addrspace, info, 0x5000_0000)
        four = [serial(yard, capid) for capid in (vm.space, vm.addrspace, vm.vic, vm.group)]
        for index, thread in enumerate(vm.threads):
            found = seen(yard, thread)
            assert (found.kind, found.state, found.index) == (ObjectType.THREAD, ObjectState.ACTIVE, index)
            assert (sorted(found.holds), found.pins) == (sorted(four), 1)
        assert seen(yard, vm.addrspace).vmid == 1
        assert seen(yard, addrspace) == Thing(ObjectType.ADDRSPACE, holds=(serial(yard, info),), vmid=77)
        assert seen(yard, virtio) == Thing(ObjectType.VIRTIO_MMIO, holds=(serial(yard, page),))
        assert seen(yard, page).pins == 0
        yard.ok("object_activate", virtio)
        attached = seen(yard, page).extent
        assert attached is not None
        assert attached.attached is True

    def test_frames_and_forwarded_interrupts(self) -> None:
        yard = Yard()
        vm = yard.vm(sleep_for_ever, sleep_for_ever, options=1, cpus=(0, 1))
        other = yard.active("addrspace", 99)
        hwirq = yard.root.environment["vic_hwirq"][40]  # type: ignore[index, call-overload]
        before = observe(yard.hv)
        yard.ok("addrspace_attach_vdevice", other, vm.vic, 0, 0x5000_0000, 0x1_0000, 0)
        yard.ok("addrspace_attach_vdevice", other, vm.vic, 2, 0x5002_0000, 0x2_0000, 0)
        after = observe(yard.hv)
        space, vic, thread = serial(yard, other), serial(yard, vm.vic), serial(yard, vm.threads[1])
        changed = {number for number in after.things if after.things[number] != before.things[number]}
        assert changed == {vic, thread}
        assert after.things[vic].holds == (space,)
        assert sorted(after.things[thread].holds) == sorted((*before.things[thread].holds, space))
        assert after.things[space].pins == 0
        ppi = yard.root.environment["vic_hwirq"][16]  # type: ignore[index, call-overload]
        yard.ok("hwirq_bind_virq", ppi, vm.vic, 16)
        yard.ok("hwirq_bind_virq", hwirq, vm.vic, 40)
        assert seen(yard, ppi).holds == (vic,)
        assert seen(yard, hwirq).holds == ()

    def test_what_did_not_change_is_not_made_anew_and_what_did_is(self, rig: RootRig) -> None:
        observer = Observer(rig.hv)
        bell, space = rig.create("doorbell"), rig.create("cspace")
        first = observer.observe()
        assert all(observer.observe().things[number] is thing for number, thing in first.things.items())
        steps: list[Callable[[], object]] = [
            lambda: rig.call("cspace_configure", space, 3),
            lambda: rig.call("object_activate", space),
            lambda: rig.call("partition_create_vic", rig.partition, space),
            lambda: rig.call("cspace_copy_cap_from", rig.cspace, bell, space, 1),
            lambda: rig.call("object_activate", bell),
            lambda: rig.call("cspace_revoke_caps_from", rig.cspace, bell),
        ]
        for step in steps:
            step()
            assert observer.observe() == observe(rig.hv)
        thread, vic = rig.create("thread"), rig.active("vic", 4, 64, 0, 0)
        for index in (0, 3):
            assert rig.call("vic_attach_vcpu", vic, thread, index).ok
            assert observer.observe().things[serial(rig, thread)].index == index
        assert rig.call("cspace_delete_cap_from", rig.cspace, bell).ok
        assert serial(rig, space) in observer.observe().things
        assert observer.observe() == observe(rig.hv)


# -- differences -------------------------------------------------------------------------------------------------------


class TestDifferences:
    """Two states, and the sentences about them."""

    BELL = Thing(ObjectType.DOORBELL)

    def lines(self, expected: World, found: World) -> list[str]:
        return list(differences(expected, found))

    def test_equal_states_do_not_differ(self) -> None:
        assert (
            self.lines(World({1: self.BELL}, ((0, 1, 2),)), World({1: Thing(ObjectType.DOORBELL)}, ((0, 1, 2),))) == []
        )

    def test_who_is_there_and_who_is_not(self) -> None:
        assert self.lines(World({1: self.BELL}), World({2: self.BELL})) == [
            f"object #1: expected {self.BELL}, found nothing",
            f"object #2: expected to be gone, found {self.BELL}",
        ]

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("kind", ObjectType.VIC),
            ("state", ObjectState.FAILED),
            ("holds", (3,)),
            ("pins", 2),
            ("vmid", 9),
            ("index", 1),
            ("extent", Extent()),
        ],
    )
    def test_each_field(self, name: str, value: object) -> None:
        other = World({7: self.BELL}).change(7, **{name: value})
        assert self.lines(World({7: self.BELL}), other) == [
            f"object #7 {name}: expected {getattr(self.BELL, name)}, found {value}"
        ]

    def test_slots_and_limits(self) -> None:
        one, two = Slot(1, 2, True), Slot(1, 3, False)
        left = Thing(ObjectType.CSPACE, space=Space(4, {0x10: one, 0x20: one, 0x30: one}))
        right = Thing(ObjectType.CSPACE, space=Space(5, {0x10: one, 0x20: two, 0x40: two}))
        assert self.lines(World({7: left}), World({7: right})) == [
            f"space #7 slot 0x20: expected {one}, found {two}",
            f"space #7 slot 0x30: expected {one}, found empty",
            f"space #7 slot 0x40: expected empty, found {two}",
            "space #7 limit: expected 4, found 5",
        ]

    def test_a_space_where_none_was_is_another_kind_of_thing(self) -> None:
        space = Thing(ObjectType.CSPACE, space=Space(3))
        for one, other in ((self.BELL, space), (space, self.BELL)):
            (line,) = self.lines(World({7: one}), World({7: other}))
            assert line == f"object #7 kind: expected {one.kind}, found {other.kind}"

    def test_all_objects_are_looked_at(self) -> None:
        after = World({1: Thing(ObjectType.VIC), 2: self.BELL, 3: Thing(ObjectType.VIC)})
        lines = self.lines(World(dict.fromkeys((1, 2, 3), self.BELL)), after)
        assert [line.split(":")[0] for line in lines] == ["object #1 kind", "object #3 kind"]

    def test_owners_of_memory(self) -> None:
        left, right = ((0, 0x10, 1), (0x20, 0x30, "b")), ((0, 0x10, 1), (0x20, 0x30, 7))
        assert sorted(self.lines(World({}, left), World({}, right))) == [
            "memory 0x20..0x30: expected the owner b",
            "memory 0x20..0x30: found the owner 7",
        ]


class TestLines:
    """A thing for people to read."""

    def test_a_plain_one(self) -> None:
        assert list(thing_lines(7, Thing(ObjectType.DOORBELL))) == ["#7 doorbell INIT"]

    def test_who_it_holds_what_pins_it_and_its_vmid(self) -> None:
        thing = Thing(ObjectType.ADDRSPACE, ObjectState.ACTIVE, holds=(3, 4), pins=2, vmid=9)
        assert list(thing_lines(7, thing)) == ["#7 addrspace ACTIVE VMID 9 holds #3, #4 pins 2"]

    @pytest.mark.parametrize(
        ("extent", "line"),
        [
            (Extent(0x1000, 0x2000, 6), "    0x1000+0x2000 basic, access 0x6"),
            (Extent(0, 0x1000, 7, 0, True, 5), "    0x0+0x1000 sparse, access 0x7 of #5"),
            (Extent(0, 0x1000, 7, attached=True), "    0x0+0x1000 basic, access 0x7, attached"),
        ],
    )
    def test_its_memory(self, extent: Extent, line: str) -> None:
        assert list(thing_lines(7, Thing(ObjectType.MEMEXTENT, extent=extent))) == ["#7 memextent INIT", line]

    def test_its_slots_in_the_order_of_their_objects(self) -> None:
        slots = {0x30: Slot(9, 7, True), 0x20: Slot(0, 0, False, valid=False), 0x40: Slot(8, 1, False)}
        assert list(thing_lines(7, Thing(ObjectType.CSPACE, space=Space(5, slots)))) == [
            "#7 cspace INIT",
            "    at most 5 capabilities",
            "    0x20: revoked",
            "    0x40: #8 rights 0x1",
            "    0x30: #9 rights 0x7 master",
        ]


# -- checking ----------------------------------------------------------------------------------------------------------


def checked(rig: RootRig, **instead: Callable[..., object]) -> Checker:
    """A checker, with some calls done otherwise."""
    checker = Checker(rig.hv)
    rig.hv.instruments.append(checker)
    handlers = {**calls.HANDLERS, **instead}
    rig.hv.dispatcher = Dispatcher(rig.hv, handlers)  # type: ignore[arg-type]
    return checker


def refuse(error: Error) -> Callable[..., object]:
    def handler(*_: object) -> None:
        raise HypervisorError(error, "for a test")

    return handler


class TestChecker:
    """Calls that answer what they should not, or do what they should not."""

    def test_all_arguments_and_results_are_shown(self, rig: RootRig) -> None:
        checker = checked(rig, partition_create_doorbell=lambda *_: (77,))
        rig.call("partition_create_doorbell", rig.partition, rig.cspace)
        first = str(checker.divergence).splitlines()[0]
        assert first.startswith(f"partition_create_doorbell({rig.partition:#x}, {rig.cspace:#x}, 0x0) = 0x0, 0x4d by ")
        assert "0 objects were made" in str(checker.divergence)

    def test_the_divergence_names_call_arguments_results_and_caller_and_shows_both_states(self, rig: RootRig) -> None:
        bell = rig.create("doorbell")
        checker = checked(rig, object_activate=lambda *_: None)
        rig.call("object_activate", bell)
        lines = str(checker.divergence).splitlines()
        number = serial(rig, bell)
        assert lines[0] == f"object_activate({bell:#x}, 0x0) = 0x0 by {rig.vcpu} diverges from the specification"
        assert checker.divergence is not None
        assert checker.divergence.headline == f"{lines[0]}: {lines[1]}"
        assert rig.hv.remarks[-1] == checker.divergence.headline
        assert lines[1] == f"object #{number} state: expected {ObjectState.ACTIVE}, found {ObjectState.INIT}"
        allowed = lines.index("-- the state that the specification allows:")
        found = lines.index("-- the state that was found:")
        assert any(f"#{number} doorbell ACTIVE" in line for line in lines[allowed:found])
        assert any(f"#{number} doorbell INIT" in line for line in lines[found:])
        assert any("master" in line and f"#{number} rights" in line for line in lines)
        assert any("partition root" in line for line in lines)
        assert rig.hv.stopped == "divergence"

    def test_a_call_without_a_rule_may_change_nothing(self, rig: RootRig) -> None:
        def sneaky(hv: Hypervisor, vcpu: object, *_: object) -> None:
            rig.root.cspace.configure(9999)

        bell = rig.active("doorbell")
        checker = checked(rig, doorbell_send=sneaky)
        rig.call("doorbell_send", bell, 1)
        assert "limit: expected" in str(checker.divergence)

    @pytest.mark.parametrize(
        ("name", "error", "words"),
        [
            ("cspace_configure", Error.DENIED, "ARGUMENT_INVALID was expected"),
            ("cspace_configure", Error.UNIMPLEMENTED, "answers -1: ARGUMENT_INVALID was expected"),
            ("partition_create_doorbell", Error.CSPACE_FULL, "there is room"),
            ("cspace_revoke_caps_from", Error.DENIED, "OK was expected"),
        ],
    )
    def test_an_error_that_cannot_be(self, rig: RootRig, name: str, error: Error, words: str) -> None:
        inputs = {
            "cspace_configure": (rig.create("cspace"), 3),
            "partition_create_doorbell": (rig.partition, rig.cspace),
            "cspace_revoke_caps_from": (rig.cspace, rig.create("doorbell")),
        }[name]
        checker = checked(rig, **{name: refuse(error)})
        rig.call(name, *inputs)
        assert f"{name} answers {int(error)}" in str(checker.divergence)
        assert words in str(checker.divergence)

    def test_negative_errors_are_read_as_such(self, rig: RootRig) -> None:
        checker = checked(rig, object_reset=refuse(Error.UNIMPLEMENTED))
        assert rig.call("object_reset", rig.create("doorbell")).error == Error.UNIMPLEMENTED == -1
        assert checker.divergence is None
        assert rig.call("partition_create_partition", rig.partition, rig.cspace).error == -1
        assert checker.divergence is None

    def test_reserved_arguments_are_refused_first_in_the_native_encoding_only(self, rig: RootRig) -> None:
        checker = checked(rig)
        row = BY_NAME["partition_create_doorbell"]
        x = rig.vcpu.x
        for reserved, error in ((7, Error.ARGUMENT_INVALID), (0, 0)):
            x[0:8] = [rig.partition, rig.cspace, reserved, 0, 0, 0, 0, 0]
            rig.hv.dispatcher.hvc(rig.vcpu, row.hvc)
            assert x[0] == error
            assert checker.divergence is None
        for reserved in (7, 0):
            x[0:8] = [row.smccc, rig.partition, rig.cspace, reserved, 0, 0, 0, 0]
            rig.hv.dispatcher.hvc(rig.vcpu, 0)
            assert x[0] == 0
            assert checker.divergence is None
        assert checker.checked == 4

    def test_early_reserved_bits_are_refused_before_the_capabilities(self, rig: RootRig) -> None:
        checker = checked(rig)
        for name, inputs in (("memextent_modify", (0, 0x100, 0, 0)), ("memextent_donate", (0x100, 0, 0, 0, PAGE))):
            assert rig.call(name, *inputs).error == Error.ARGUMENT_INVALID
        assert rig.call("memextent_modify", 0, 0xFF, 0, 0).error == Error.ARGUMENT_INVALID
        assert checker.divergence is None
        assert checker.checked == 3

    def test_arguments_are_narrowed_as_the_call_narrows_them(self, rig: RootRig) -> None:
        checker = checked(rig)
        addrspace, space = rig.create("addrspace"), rig.create("cspace")
        assert rig.call("addrspace_configure", addrspace, 0x7_0000 | 9).ok
        assert rig.call("cspace_configure", space, 0x3_0000_0000 | 11).error in (0, Error.ARGUMENT_INVALID)
        assert checker.divergence is None
        assert seen(rig, addrspace).vmid == 9

    def test_what_others_do_between_entry_and_answer_is_not_held_against_a_call(self) -> None:
        yard = Yard()
        checker = checked(yard)
        vm = yard.vm(sleep_for_ever, proxied=True)
        counted = checker.checked
        yard.call("vcpu_run", vm.threads[0], 0, 0, 0)
        yard.call("scheduler_yield", 0, 0)
        assert (checker.checked, checker.divergence) == (counted, None)
        yard.call("doorbell_send", yard.active("doorbell"), 1)
        assert checker.checked == counted + 3

    def test_an_answer_to_another_call_than_the_one_that_entered_is_not_checked(self, rig: RootRig) -> None:
        checker = Checker(rig.hv)
        entered, other = BY_NAME["doorbell_send"], BY_NAME["doorbell_mask"]
        checker.hypercall_enter(rig.vcpu, entered, [1, 2, 0], 0)
        checker.hypercall_exit(rig.vcpu, other, [1, 2, 0], [1, 0], 0)
        assert checker.checked == 0
        checker.hypercall_exit(rig.vcpu, entered, [1, 2, 0], [1, 0], 0)
        checker.hypercall_exit(rig.vcpu, entered, [1, 2, 0], [1, 0], 0)
        assert checker.checked == 1

    def test_after_a_divergence_the_states_are_not_read_any_more(self, rig: RootRig) -> None:
        bell = rig.create("doorbell")
        checker = checked(rig, object_activate=lambda *_: None)
        rig.call("object_activate", bell)
        first, counted = checker.divergence, checker.checked
        rig.call("object_activate", bell)
        rig.call("doorbell_send", U64, 1)
        assert (checker.divergence, checker.checked) == (first, counted)
