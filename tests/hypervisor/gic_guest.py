"""A VM's interrupt controller with vCPUs that only write down what the VIC tells them."""

from __future__ import annotations

from collections.abc import Sequence

from gunyah.abi.errors import Error
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.vgic_cpu_interface import CpuInterface
from gunyah.hypervisor.vic import Vic
from gunyah.hypervisor.virq import VirqSource

GICD_CTLR = 0x0000
IGROUPR, ISENABLER, ICENABLER, ISPENDR, ICPENDR, ISACTIVER, ICACTIVER = range(0x80, 0x400, 0x80)
IPRIORITYR = 0x0400
ICFGR = 0x0C00
IROUTER = 0x6000
SGI_FRAME = 0x1_0000
SPURIOUS = 1023
GROUP1 = 1 << 1


class Refusal:
    """Context that expects a HypervisorError with one code."""

    def __init__(self, code: Error) -> None:
        self.code = code

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, value: object, trace: object) -> bool:
        assert isinstance(value, HypervisorError), f"expected {self.code!r}, got {value!r}"
        assert value.code == self.code, value
        return True


class RecordingVcpu:
    """What a VIC needs of a vCPU. ``calls`` is every value given to ``set_virq``."""

    def __init__(self, pinned: bool = False, affinity: int = 0) -> None:
        self.vic: Vic | None = None
        self.vic_index = 0
        self.gic: CpuInterface | None = None
        self.pinned = pinned
        self.affinity = affinity
        self.calls: list[bool] = []

    @property
    def virq(self) -> bool:
        return self.calls[-1] if self.calls else False

    def set_virq(self, pending: bool) -> None:
        self.calls.append(pending)

    def __str__(self) -> str:
        return f"vCPU {self.vic_index}"


class GicGuest:
    """A VIC with active vCPUs, driven through its frames and system registers as guest code would."""

    def __init__(
        self, vcpus: int = 1, slots: int | None = None, shared: int = 988, flags: int = 0, hv: object = None
    ) -> None:
        self.vic = Vic(None, hv)
        self.vic.configure(slots or vcpus, shared, flags, 0)
        self.vic.activate()
        self.vcpus = [RecordingVcpu() for _ in range(vcpus)]
        for index, vcpu in enumerate(self.vcpus):
            self.attach(vcpu, index)

    def attach(self, vcpu: RecordingVcpu, index: int) -> None:
        self.vic.attach_vcpu(vcpu, index)
        self.vic.vcpu_activated(vcpu)

    def gic(self, cpu: int = 0) -> CpuInterface:
        gic = self.vcpus[cpu].gic
        assert gic is not None
        return gic

    # -- frames --------------------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int = 4, cpu: int = 0) -> int:
        return self.vic.distributor.read(self.vcpus[cpu], offset, size)

    def write(self, offset: int, value: int, size: int = 4, cpu: int = 0) -> None:
        self.vic.distributor.write(self.vcpus[cpu], offset, size, value)

    def read_redistributor(self, offset: int, size: int = 4, index: int = 0, cpu: int = 0) -> int:
        return self.vic.redistributor(index).read(self.vcpus[cpu], offset, size)

    def write_redistributor(self, offset: int, value: int, size: int = 4, index: int = 0, cpu: int = 0) -> None:
        self.vic.redistributor(index).write(self.vcpus[cpu], offset, size, value)

    def bit(self, bank: int, intid: int, cpu: int = 0) -> int:
        """The interrupt's bit in a one-bit bank."""
        if intid < 32:
            return self.read_redistributor(SGI_FRAME + bank, index=cpu) >> intid & 1
        return self.read(bank + 4 * (intid // 32)) >> intid % 32 & 1

    def set_bit(self, bank: int, intid: int, cpu: int = 0) -> None:
        """Write 1 to the interrupt's bit of a set or clear bank."""
        if intid < 32:
            self.write_redistributor(SGI_FRAME + bank, 1 << intid, index=cpu)
        else:
            self.write(bank + 4 * (intid // 32), 1 << intid % 32)

    def set_group(self, intid: int, group: int, cpu: int = 0) -> None:
        offset = IGROUPR + 4 * (intid // 32)
        mask = 1 << intid % 32
        if intid < 32:
            old = self.read_redistributor(SGI_FRAME + IGROUPR, index=cpu)
            self.write_redistributor(SGI_FRAME + IGROUPR, old & ~mask | mask * group, index=cpu)
        else:
            self.write(offset, self.read(offset) & ~mask | mask * group)

    def set_edge(self, intid: int, edge: bool, cpu: int = 0) -> None:
        offset = ICFGR + 4 * (intid // 16)
        mask = 2 << 2 * (intid % 16)
        if intid < 32:
            old = self.read_redistributor(SGI_FRAME + offset, index=cpu)
            self.write_redistributor(SGI_FRAME + offset, old & ~mask | mask * edge, index=cpu)
        else:
            self.write(offset, self.read(offset) & ~mask | mask * edge)

    def set_priority(self, intid: int, priority: int, cpu: int = 0) -> None:
        if intid < 32:
            self.write_redistributor(SGI_FRAME + IPRIORITYR + intid, priority, 1, index=cpu)
        else:
            self.write(IPRIORITYR + intid, priority, 1)

    def route(self, intid: int, affinity: int) -> None:
        self.write(IROUTER + 8 * intid, affinity, 8)

    # -- as an operating system would ----------------------------------------------------------------------------------

    def start(self, *, groups: int = GROUP1) -> GicGuest:
        """Enable the groups everywhere and let all priorities but the lowest through."""
        self.write(GICD_CTLR, groups)
        for index in range(len(self.vcpus)):
            gic = self.gic(index)
            gic.write("ICC_PMR_EL1", 0xFF)
            gic.write("ICC_IGRPEN0_EL1", groups & 1)
            gic.write("ICC_IGRPEN1_EL1", groups >> 1)
        return self

    def enable(self, intid: int, *, edge: bool = True, priority: int = 0xA0, group: int = 1, cpu: int = 0) -> None:
        self.set_group(intid, group, cpu)
        self.set_priority(intid, priority, cpu)
        if intid >= 16:
            self.set_edge(intid, edge, cpu)
        self.set_bit(ISENABLER, intid, cpu)

    def source(self, virq: int, level: Sequence[bool] | list[bool] | None = None) -> VirqSource:
        """A bound source; ``level[0]`` is what it answers when asked whether it still asserts."""
        still = level if level is not None else [False]
        source = VirqSource(self, f"test {virq}", lambda: still[0])
        self.vic.bind_shared(source, virq)
        return source

    def take(self, cpu: int = 0, limit: int = 8) -> list[int]:
        """Acknowledge and end group 1 interrupts until none is left, at most ``limit``."""
        gic = self.gic(cpu)
        taken: list[int] = []
        while len(taken) < limit:
            intid = gic.acknowledge()
            if intid == SPURIOUS:
                break
            taken.append(intid)
            gic.end(intid)
        return taken
