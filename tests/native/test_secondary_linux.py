"""Debian's kernel, unmodified, as a secondary VM of a Python primary VM: made by RPC alone, again and again."""

from __future__ import annotations

from pathlib import Path

import pytest

import gunyah
from gunyah.abi.rm import ExitType
from gunyah.vmm.loader import read_image
from gunyah.vmm.vm_config import VmSettings

PROMPT = b"# "
SECONDS = 400.0


@pytest.mark.linux
def test_a_stock_kernel_boots_powers_off_is_reset_and_boots_again(linux: tuple[Path, Path]) -> None:
    kernel, initrd = linux
    settings = VmSettings(
        name="debian",
        image=read_image(kernel),
        ramdisk=initrd.read_bytes(),
        memory=160 << 20,
        bootargs="console=ttyAMA0 nokaslr quiet",
        seed=bytes(range(64)),
    )
    with gunyah.System(seed=1) as system:
        before = system.ledger()
        vm = system.primary.vm(settings)
        for start in (vm.start, vm.restart):
            start()
            vm.read_until(PROMPT, SECONDS)
            vm.write(b"echo $((6*7)); cat /proc/device-tree/hypervisor/qcom,gunyah-vm/qcom,image-name; poweroff -f\n")
            assert b"debian" in vm.read_until(b"debian", SECONDS)
            assert vm.wait_exit(SECONDS).exit_type == ExitType.PLATFORM_OFF
            vm.output.clear()
        vm.deallocate()
        assert not system.ledger().since(before)
        assert not system.primary.kernel.oopses
