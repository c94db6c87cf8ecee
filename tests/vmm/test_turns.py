"""Who gets how much of a core: VMs that the owner runs itself, and VMs that the hypervisor schedules below it."""

from __future__ import annotations

import struct

import pytest

import gunyah
from gunyah.secondary import PrimaryVm
from gunyah.vmm.images import parse_image
from gunyah.vmm.vm_config import VmSettings

MIB = 1 << 20
COUNTER = 0x30_0000
# movz x1, #0x8030, lsl #16; mov x0, #0; loop: add x0, x0, #1; str x0, [x1]; b loop
SPIN = struct.pack("<5I", 0xD2B0_0601, 0xD280_0000, 0x9100_0400, 0xF900_0020, 0x17FF_FFFE)


def turns(system: gunyah.System, vms: list[PrimaryVm]) -> list[int]:
    """How far each VM comes while the machine runs for a second of its clock."""

    def counts() -> list[int]:
        found = []
        for vm in vms:
            memory = vm.inside._memory
            assert memory is not None
            found.append(system.memory.read_u64(memory.address + COUNTER))
        return found

    before = counts()
    system.run(None, 1.0)
    return [after - start for start, after in zip(before, counts(), strict=True)]


@pytest.mark.parametrize(("cores", "placed"), [(1, 0), (2, 1)])
def test_vms_of_the_hypervisor_do_not_starve_behind_a_busy_vm_of_the_owner(cores: int, placed: int) -> None:
    with gunyah.System(seed=1, vcpus=cores) as system:
        vms = []
        for name, affinity in (("busy", "proxy"), ("first", "static"), ("second", "static")):
            image = parse_image(SPIN, name)
            settings = VmSettings(name=name, image=image, memory=4 * MIB, console="none", affinity=affinity)
            vms.append(system.primary.vm(settings))
            vms[-1].start()
        assert {vm.inside.settings.cores for vm in vms[1:]} == {(placed,)}
        busy, *others = turns(system, vms)
        assert all(other > busy / 20 for other in (*others, busy)), (busy, others)
        for vm in vms:
            vm.deallocate()
