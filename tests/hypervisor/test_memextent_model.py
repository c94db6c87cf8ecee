"""Random lives of extents against a model in which every page and every mapping stands on its own.

The model knows nothing of slots' pieces, blocks or intervals: an extent is a set of owned pages and a list of recorded
mappings, each a dictionary from page to (IPA, attributes). What stage 2 must show follows from these two alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gunyah.abi.errors import Error
from gunyah.abi.memory import MappingAttributes, MemextentType
from gunyah.hypervisor.addrspace import Addrspace
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.memextent import MemExtent
from gunyah.hypervisor.memextent_donate import donate_child, donate_sibling
from gunyah.hypervisor.memextent_mapping import map_extent, map_partial, unmap, unmap_all, unmap_partial, update

from .extents import MIB, PAGE, RAM, make_root, pages, space, word

SPAN = 512 * 2
"""Pages of physical memory that the machine plays with: two blocks of 2 MiB."""
WINDOW = 8 * MIB
"""IPA distance of two mappings, so that no two of them overlap."""
POINTS = st.sampled_from([0, 1, 2, 3, 256, 510, 511, 512, 513, 768, 1022, 1023])
ACCESS = st.sampled_from([7, 6, 5, 4])

Pages = dict[int, tuple[int, MappingAttributes]]


@dataclass(eq=False)
class Model:
    extent: MemExtent
    parent: Model | None
    first: int
    count: int
    access: int
    sparse: bool
    owned: set[int] = field(default_factory=set)
    slots: list[tuple[Addrspace, Pages]] = field(default_factory=list)
    held: bool = True
    children: int = 0

    @property
    def range(self) -> range:
        return range(self.first, self.first + self.count)

    def record(self, addrspace: Addrspace, mapped: Pages) -> bool:
        """Put a mapping into a slot; False when all four are taken."""
        if self.sparse:
            for owner, recorded in self.slots:
                if owner is addrspace and not recorded.keys() & mapped.keys():
                    recorded.update(mapped)
                    return True
        if len(self.slots) == 4:
            return False
        self.slots.append((addrspace, dict(mapped)))
        return True


class ExtentMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.root = make_root()
        self.baseline = self.root.heap.used, list(self.root.system.database.ranges())
        self.spaces = [space(self.root, vmid) for vmid in (1, 2)]
        self.free = set(range(SPAN))
        self.live: list[Model] = []
        self.next_ipa = WINDOW

    def pick(self, number: int) -> Model:
        held = [model for model in self.live if model.held]
        return held[number % len(held)]

    def window(self) -> int:
        self.next_ipa += WINDOW
        return self.next_ipa

    # -- creation and destruction --------------------------------------------------------------------------------------

    def create(self, parent: Model | None, first: int, last: int, access: int, sparse: bool) -> None:
        count = last - first + 1
        extent = MemExtent(self.root)
        attributes = word(access, kind=MemextentType.SPARSE if sparse else MemextentType.BASIC)
        if parent is None:
            extent.configure(RAM + first * PAGE, count * PAGE, attributes)
        else:
            extent.configure_derive(parent.extent, (first - parent.first) * PAGE, count * PAGE, attributes)
        model = Model(extent, parent, first, count, access, sparse)
        source = self.free if parent is None else parent.owned
        moves = not sparse or (parent is not None and not parent.sparse)
        wanted = set(model.range) if moves else set()
        expected = None
        if not wanted <= source:
            expected = Error.MEMDB_NOT_OWNER
        elif parent is not None:
            expected = self.inherit(parent, model)
        try:
            extent.activate()
        except HypervisorError as failure:
            assert failure.code is expected, failure
            extent.put()
            return
        assert expected is None
        source -= wanted
        model.owned |= wanted
        if parent is not None:
            parent.children += 1
        self.live.append(model)

    def inherit(self, parent: Model, model: Model) -> Error | None:
        for addrspace, recorded in parent.slots:
            seen: Pages = {}
            for page in model.range:
                if page in recorded:
                    ipa, (user, kernel, memtype) = recorded[page]
                    seen[page] = ipa, MappingAttributes(user & model.access, kernel & model.access, memtype)
            if not model.sparse:
                deltas = {(ipa - page * PAGE, attributes) for page, (ipa, attributes) in seen.items()}
                before = {recorded[page][1] for page in seen}
                if (seen and len(seen) < model.count) or len(deltas) > 1 or len(before) > 1:
                    return Error.DENIED
            if seen:
                assert model.record(addrspace, seen)
        return None

    @rule(a=POINTS, b=POINTS, access=ACCESS, sparse=st.booleans())
    def make(self, a: int, b: int, access: int, sparse: bool) -> None:
        if len(self.live) < 6:
            self.create(None, min(a, b), max(a, b), access, sparse)

    @precondition(lambda self: any(model.held for model in self.live))
    @rule(number=st.integers(0, 9), a=POINTS, b=POINTS, access=ACCESS, sparse=st.booleans())
    def derive(self, number: int, a: int, b: int, access: int, sparse: bool) -> None:
        parent = self.pick(number)
        first, last = max(min(a, b), parent.first), min(max(a, b), parent.range[-1])
        if first <= last and not access & ~parent.access and len(self.live) < 10:
            self.create(parent, first, last, access, sparse)

    @precondition(lambda self: any(model.held for model in self.live))
    @rule(number=st.integers(0, 9))
    def drop(self, number: int) -> None:
        model: Model | None = self.pick(number)
        assert model is not None
        model.held = False
        model.extent.put()
        while model is not None and not model.held and not model.children:
            (self.free if model.parent is None else model.parent.owned).update(model.owned)
            self.live.remove(model)
            model = model.parent
            if model is not None:
                model.children -= 1

    # -- mapping -------------------------------------------------------------------------------------------------------

    @precondition(lambda self: any(model.held for model in self.live))
    @rule(number=st.integers(0, 9), which=st.integers(0, 1), a=POINTS, b=POINTS, whole=st.booleans(), access=ACCESS)
    def map(self, number: int, which: int, a: int, b: int, whole: bool, access: int) -> None:
        model, addrspace = self.pick(number), self.spaces[which]
        access &= model.access
        if access in (0, 1):
            return
        attributes = MappingAttributes(access, access, 0xF)
        first, last = (model.first, model.range[-1]) if whole else (min(a, b), max(a, b))
        first, last = max(first, model.first), min(last, model.range[-1])
        if first > last:
            return
        ipa = self.window()
        mapped = {page: (ipa + (page - first) * PAGE, attributes) for page in range(first, last + 1)}
        expected = None
        if not whole and not model.sparse:
            expected = Error.MEMEXTENT_TYPE
        elif not model.record(addrspace, mapped):
            expected = Error.MEMEXTENT_MAPPINGS_FULL
        try:
            if whole:
                map_extent(model.extent, addrspace, ipa, attributes)
            else:
                map_partial(
                    model.extent,
                    addrspace,
                    ipa,
                    (first - model.first) * PAGE,
                    (last - first + 1) * PAGE,
                    attributes,
                )
        except HypervisorError as failure:
            assert failure.code is expected, failure
        else:
            assert expected is None

    @precondition(lambda self: any(model.slots and model.held for model in self.live))
    @rule(number=st.integers(0, 9), slot=st.integers(0, 3), a=POINTS, access=st.none() | ACCESS)
    def unmap_or_update(self, number: int, slot: int, a: int, access: int | None) -> None:
        mapped = [model for model in self.live if model.slots and model.held]
        model = mapped[number % len(mapped)]
        addrspace, recorded = model.slots[slot % len(model.slots)]
        page = a if a in recorded else min(recorded)
        ipa = recorded[page][0]
        if model.sparse:
            if access is None:
                unmap_partial(model.extent, addrspace, ipa, (page - model.first) * PAGE, PAGE)
                del recorded[page]
            else:
                whole = all(recorded.get(p, (0,))[0] == ipa + (p - page) * PAGE for p in model.range)
                base = ipa - (page - model.first) * PAGE
                self.update(model, addrspace, recorded, base, access, whole)
        else:
            base = recorded[model.first][0]
            if access is None:
                unmap(model.extent, addrspace, base)
                recorded.clear()
            else:
                self.update(model, addrspace, recorded, base, access, True)
        model.slots = [entry for entry in model.slots if entry[1]]

    def update(self, model: Model, addrspace: Addrspace, recorded: Pages, base: int, access: int, whole: bool) -> None:
        allowed = not access & ~model.access
        try:
            update(model.extent, addrspace, base, access, access)
        except HypervisorError as failure:
            assert failure.code is (Error.ARGUMENT_INVALID if not allowed else Error.ADDR_INVALID)
            assert not (allowed and whole)
        else:
            assert allowed
            assert whole
            attributes = MappingAttributes(access, access, 0xF)
            for page in model.range:
                recorded[page] = recorded[page][0], attributes

    @precondition(lambda self: any(model.held for model in self.live))
    @rule(number=st.integers(0, 9))
    def unmap_all(self, number: int) -> None:
        model = self.pick(number)
        unmap_all(model.extent)
        model.slots = []

    # -- donation ------------------------------------------------------------------------------------------------------

    def donated(self, giver: set[int], receiver: set[int], wanted: set[int], allowed: bool) -> None:
        if allowed:
            giver -= wanted
            receiver |= wanted

    @precondition(lambda self: any(model.held for model in self.live))
    @rule(number=st.integers(0, 9), a=POINTS, b=POINTS, reverse=st.booleans())
    def donate(self, number: int, a: int, b: int, reverse: bool) -> None:
        model = self.pick(number)
        first, last = max(min(a, b), model.first), min(max(a, b), model.range[-1])
        if first > last:
            return
        wanted = set(range(first, last + 1))
        outside = self.free if model.parent is None else model.parent.owned
        giver, receiver = (model.owned, outside) if reverse else (outside, model.owned)
        expected = None
        if not model.sparse:
            expected = Error.MEMEXTENT_TYPE
        elif model.parent is not None and not model.parent.sparse:
            expected = Error.ARGUMENT_INVALID
        elif not wanted <= giver:
            expected = Error.MEMDB_NOT_OWNER
        try:
            donate_child(model.extent, (first - model.first) * PAGE, len(wanted) * PAGE, reverse=reverse)
        except HypervisorError as failure:
            assert failure.code is expected, failure
        else:
            assert expected is None
            giver -= wanted
            receiver |= wanted

    @precondition(lambda self: sum(model.parent is not None and model.held for model in self.live) > 1)
    @rule(one=st.integers(0, 9), two=st.integers(0, 9), a=POINTS, b=POINTS)
    def donate_to_sibling(self, one: int, two: int, a: int, b: int) -> None:
        derived = [model for model in self.live if model.parent is not None and model.held]
        giver, receiver = derived[one % len(derived)], derived[two % len(derived)]
        first, last = max(min(a, b), giver.first), min(max(a, b), giver.range[-1])
        if first > last:
            return
        wanted = set(range(first, last + 1))
        expected = None
        related = giver is not receiver and giver.parent is receiver.parent
        if not wanted <= set(receiver.range) or not related:
            expected = Error.ARGUMENT_INVALID
        elif not giver.sparse:
            expected = Error.MEMEXTENT_TYPE
        elif not receiver.sparse:
            expected = Error.ARGUMENT_INVALID
        elif not wanted <= giver.owned:
            expected = Error.MEMDB_NOT_OWNER
        try:
            donate_sibling(giver.extent, receiver.extent, (first - giver.first) * PAGE, len(wanted) * PAGE)
        except HypervisorError as failure:
            assert failure.code is expected, failure
        else:
            assert expected is None
            giver.owned -= wanted
            receiver.owned |= wanted

    # -- what must hold ------------------------------------------------------------------------------------------------

    @invariant()
    def stage_2_shows_what_is_owned_and_mapped(self) -> None:
        if not hasattr(self, "root"):
            return
        self.root.system.database.check()
        for addrspace in self.spaces:
            expected = {
                recorded[page][0]: (RAM + page * PAGE, recorded[page][1])
                for model in self.live
                for owner, recorded in model.slots
                if owner is addrspace
                for page in model.owned & recorded.keys()
            }
            assert pages(addrspace) == expected

    @invariant()
    def every_page_has_one_owner(self) -> None:
        if not hasattr(self, "root"):
            return
        for model in self.live:
            found = {(pa - RAM) // PAGE + i for pa, size in model.extent.owned() for i in range(size // PAGE)}
            assert found == model.owned

    def teardown(self) -> None:
        if not hasattr(self, "root"):
            return
        for model in self.live:
            if model.held:
                model.extent.put()
        for addrspace in self.spaces:
            addrspace.put()
        assert self.root.objects == ()
        assert (self.root.heap.used, list(self.root.system.database.ranges())) == self.baseline


ExtentMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestExtents = ExtentMachine.TestCase
