"""The vGIC against a second, naive one that scans all its interrupts: random programs on two vCPUs must see the same.

The model keeps what the architecture calls state and derives everything else anew each time: nothing is queued, so
nothing can be lost or delivered twice by a queue.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gunyah.hypervisor.virq import VirqSource

from .gic_guest import (
    GICD_CTLR,
    ICACTIVER,
    ICENABLER,
    ICPENDR,
    ISACTIVER,
    ISENABLER,
    ISPENDR,
    SPURIOUS,
    GicGuest,
)

CPUS = 2
SHARED = (32, 40, 41, 1019)
PRIVATE = (0, 5, 27)
BOUND = (40, 41, 27)
PRIORITIES = (0x00, 0x40, 0x48, 0xA0, 0xF0, 0xF8)

intids = st.sampled_from(SHARED + PRIVATE)
cpus = st.integers(0, CPUS - 1)
groups = st.integers(0, 1)


@dataclass
class Line:
    """One interrupt of the model."""

    intid: int
    cpu: int
    edge: bool = False
    enabled: bool = False
    group: int = 0
    priority: int = 0
    active: bool = False
    holder: int | None = None
    latch: bool = False
    level: bool = False
    soft: bool = False

    @property
    def pending(self) -> bool:
        return self.latch if self.edge else self.level or self.soft

    def offered(self, cpu: int) -> bool:
        return self.cpu == cpu and self.enabled and self.pending and not self.active


@dataclass
class Interface:
    """One CPU interface of the model."""

    enables: list[bool] = field(default_factory=lambda: [False, False])
    mask: int = 0
    split: bool = False
    running: list[int] = field(default_factory=list)


class Machine(RuleBasedStateMachine):
    """Every rule does the same to the vGIC and to the model; the invariants compare."""

    @initialize()
    def start(self) -> None:
        self.guest = GicGuest(vcpus=CPUS)
        self.distributor = [False, False]
        self.interfaces = [Interface() for _ in range(CPUS)]
        self.lines: dict[tuple[int, int], Line] = {(intid, 0): Line(intid, 0) for intid in SHARED}
        for cpu in range(CPUS):
            for intid in PRIVATE:
                self.lines[intid, cpu] = Line(intid, cpu, edge=intid < 16)
        self.levels: dict[tuple[int, int], bool] = {}
        self.sources: dict[tuple[int, int], VirqSource] = {}
        for intid in BOUND:
            for cpu in range(CPUS) if intid < 32 else (0,):
                key = intid, cpu
                self.levels[key] = False
                source = VirqSource(None, str(key), lambda key=key: self.levels[key])
                if intid < 32:
                    self.guest.vic.bind_private(source, self.guest.vcpus[cpu], intid)
                else:
                    self.guest.vic.bind_shared(source, intid)
                self.sources[key] = source

    def line(self, intid: int, cpu: int) -> Line:
        return self.lines[intid, cpu if intid < 32 else 0]

    # -- the model's answers -------------------------------------------------------------------------------------------

    def group_open(self, cpu: int, group: int) -> bool:
        return self.distributor[group] and self.interfaces[cpu].enables[group]

    def best(self, cpu: int) -> Line | None:
        waiting = [line for line in self.lines.values() if line.offered(cpu) and self.group_open(cpu, line.group)]
        return min(waiting, key=lambda line: (line.priority, line.group, line.intid), default=None)

    def signalled(self, cpu: int) -> Line | None:
        line = self.best(cpu)
        interface = self.interfaces[cpu]
        if line is None or line.priority >= interface.mask or line.priority >= min(interface.running, default=0x100):
            return None
        return line

    def poll(self, line: Line) -> None:
        if line.level and not self.levels.get((line.intid, line.cpu if line.intid < 32 else 0), False):
            line.level = False

    def deactivate(self, line: Line) -> None:
        line.active = False
        line.holder = None
        if not line.edge and not line.latch:
            self.poll(line)

    def listed(self, line: Line) -> bool:
        return line.holder is not None or (line.offered(line.cpu) and self.group_open(line.cpu, line.group))

    # -- sources -------------------------------------------------------------------------------------------------------

    @rule(intid=st.sampled_from(BOUND), cpu=cpus, edge_only=st.booleans())
    def source_asserts(self, intid: int, cpu: int, edge_only: bool) -> None:
        key = intid, cpu if intid < 32 else 0
        if not edge_only:
            self.levels[key] = True
        self.sources[key].assert_(edge_only=edge_only)
        line = self.lines[key]
        line.latch = True
        line.level = line.level or not edge_only

    @rule(intid=st.sampled_from(BOUND), cpu=cpus, told=st.booleans())
    def source_falls(self, intid: int, cpu: int, told: bool) -> None:
        key = intid, cpu if intid < 32 else 0
        self.levels[key] = False
        if told:
            self.sources[key].clear()
            self.lines[key].level = False

    @rule(sender=cpus, target_list=st.integers(0, 7), intid=st.sampled_from((0, 5)), others=st.booleans())
    def sgi(self, sender: int, target_list: int, intid: int, others: bool) -> None:
        self.guest.gic(sender).write("ICC_SGI1R_EL1", intid << 24 | target_list | others << 40)
        for cpu in range(CPUS):
            if (cpu != sender) if others else target_list >> cpu & 1:
                self.lines[intid, cpu].latch = True

    # -- distributor and redistributor ---------------------------------------------------------------------------------

    @rule(enables=st.integers(0, 3))
    def distributor_groups(self, enables: int) -> None:
        self.guest.write(GICD_CTLR, enables)
        self.distributor = [bool(enables & 1), bool(enables & 2)]

    @rule(intid=intids, cpu=cpus, on=st.booleans())
    def enable(self, intid: int, cpu: int, on: bool) -> None:
        self.guest.set_bit(ISENABLER if on else ICENABLER, intid, cpu)
        line = self.line(intid, cpu)
        line.enabled = on
        if not on and not line.edge:
            self.poll(line)

    @rule(intid=intids, cpu=cpus, on=st.booleans())
    def software_pending(self, intid: int, cpu: int, on: bool) -> None:
        self.guest.set_bit(ISPENDR if on else ICPENDR, intid, cpu)
        line = self.line(intid, cpu)
        line.latch = line.soft = on
        if not on and not line.edge:
            self.poll(line)

    @rule(intid=intids, cpu=cpus, on=st.booleans())
    def software_active(self, intid: int, cpu: int, on: bool) -> None:
        self.guest.set_bit(ISACTIVER if on else ICACTIVER, intid, cpu)
        line = self.line(intid, cpu)
        if not self.listed(line):
            if on:
                line.active = True
            elif line.active:
                self.deactivate(line)

    @rule(intid=intids, cpu=cpus, group=groups)
    def group(self, intid: int, cpu: int, group: int) -> None:
        self.guest.set_group(intid, group, cpu)
        self.line(intid, cpu).group = group

    @rule(intid=intids, cpu=cpus, priority=st.sampled_from(PRIORITIES))
    def priority(self, intid: int, cpu: int, priority: int) -> None:
        self.guest.set_priority(intid, priority, cpu)
        self.line(intid, cpu).priority = priority

    @rule(intid=st.sampled_from((*SHARED, 27)), cpu=cpus, edge=st.booleans())
    def trigger(self, intid: int, cpu: int, edge: bool) -> None:
        self.guest.set_edge(intid, edge, cpu)
        line = self.line(intid, cpu)
        if line.edge and not edge:
            line.soft = False
            line.edge = edge
            self.poll(line)
        line.edge = edge

    @rule(intid=st.sampled_from(SHARED), affinity=st.integers(0, 2))
    def route(self, intid: int, affinity: int) -> None:
        self.guest.route(intid, affinity)
        self.lines[intid, 0].cpu = affinity if affinity < CPUS else -1

    # -- CPU interface -------------------------------------------------------------------------------------------------

    @rule(cpu=cpus, group=groups, on=st.booleans())
    def group_enable(self, cpu: int, group: int, on: bool) -> None:
        self.guest.gic(cpu).write(f"ICC_IGRPEN{group}_EL1", int(on))
        self.interfaces[cpu].enables[group] = on

    @rule(cpu=cpus, mask=st.sampled_from((0, 0x48, 0xF0, 0xFF)))
    def priority_mask(self, cpu: int, mask: int) -> None:
        self.guest.gic(cpu).write("ICC_PMR_EL1", mask)
        self.interfaces[cpu].mask = mask & 0xF8

    @rule(cpu=cpus, split=st.booleans())
    def end_mode(self, cpu: int, split: bool) -> None:
        self.guest.gic(cpu).write("ICC_CTLR_EL1", split << 1)
        self.interfaces[cpu].split = split

    @rule(cpu=cpus, group=groups)
    def acknowledge(self, cpu: int, group: int) -> None:
        line = self.signalled(cpu)
        expected = line.intid if line is not None and line.group == group else SPURIOUS
        assert self.guest.gic(cpu).read(f"ICC_IAR{group}_EL1") == expected
        if line is not None and line.group == group:
            line.active = True
            line.holder = cpu
            line.latch = False
            self.interfaces[cpu].running.append(line.priority)

    @rule(cpu=cpus, intid=intids, group=groups)
    def end(self, cpu: int, intid: int, group: int) -> None:
        self.guest.gic(cpu).write(f"ICC_EOIR{group}_EL1", intid)
        interface = self.interfaces[cpu]
        if interface.running:
            interface.running.remove(min(interface.running))
        line = self.line(intid, cpu)
        if not interface.split and line.holder == cpu:
            self.deactivate(line)

    @rule(cpu=cpus)
    def serve(self, cpu: int) -> None:
        """Take and end whatever is signalled, as a handler does."""
        line = self.signalled(cpu)
        if line is not None:
            self.acknowledge(cpu, line.group)
            self.end(cpu, line.intid, line.group)

    @rule(cpu=cpus, intid=intids)
    def deactivate_by_register(self, cpu: int, intid: int) -> None:
        self.guest.gic(cpu).write("ICC_DIR_EL1", intid)
        line = self.line(intid, cpu)
        if line.active and line.holder in (None, cpu):
            self.deactivate(line)

    # -- comparison ----------------------------------------------------------------------------------------------------

    @invariant()
    def vcpus_hear_of_what_is_signalled(self) -> None:
        for cpu in range(CPUS):
            assert self.guest.vcpus[cpu].virq == (self.signalled(cpu) is not None)

    @invariant()
    def registers_show_the_same_state(self) -> None:
        for (intid, cpu), line in self.lines.items():
            assert self.guest.bit(ISPENDR, intid, cpu) == line.pending, (intid, cpu)
            assert self.guest.bit(ISACTIVER, intid, cpu) == line.active, (intid, cpu)
            assert self.guest.bit(ISENABLER, intid, cpu) == line.enabled, (intid, cpu)
        for cpu, interface in enumerate(self.interfaces):
            best = self.best(cpu)
            gic = self.guest.gic(cpu)
            assert gic.read("ICC_RPR_EL1") == min(interface.running, default=0xFF)
            for group in (0, 1):
                expected = best.intid if best is not None and best.group == group else SPURIOUS
                assert gic.read(f"ICC_HPPIR{group}_EL1") == expected


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=40, stateful_step_count=60, deadline=None)
