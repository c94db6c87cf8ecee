"""Debian's kernel, unmodified, with virtio devices whose backends live in the primary VM (objects.md 15)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.native.conftest import fetch_tool

import gunyah
from gunyah.abi.rm import ExitType
from gunyah.secondary import PrimaryVm
from gunyah.vmm.loader import read_image
from gunyah.vmm.virtio_devices import BlockDevice, ConsoleDevice, EntropyDevice, MemoryStorage
from gunyah.vmm.vm_config import Virtio, VmSettings

SECONDS = 400.0


def shell(vm: PrimaryVm, command: str) -> str:
    """Type a command at the prompt; what it printed."""
    vm.write(command.encode() + b"; echo do''ne\n")
    said = vm.read_until(b"\ndone\r\n", SECONDS).decode()
    vm.read_until(b"# ", SECONDS)
    return said


@pytest.mark.linux
@pytest.mark.linux_modules
def test_a_stock_kernel_uses_a_disk_a_console_and_random_numbers_of_the_primary_vm(
    linux: tuple[Path, Path], linux_modules: list[Path]
) -> None:
    kernel, initrd = linux
    archive = initrd.read_bytes()
    archive += bytes(-len(archive) % 512)
    archive += fetch_tool().extra_initramfs({f"mod/{path.name}": path.read_bytes() for path in linux_modules})
    disk = MemoryStorage(b"hello from the owner\n".ljust(1 << 20, b"\0"))
    typed = bytearray()
    console = ConsoleDevice(typed.extend)
    settings = VmSettings(
        name="debian",
        image=read_image(kernel),
        ramdisk=archive,
        memory=160 << 20,
        bootargs="console=ttyAMA0 nokaslr quiet",
        seed=bytes(range(64)),
        # A stock driver has its rings and its buffers anywhere in its memory.
        share=True,
        virtio=(
            Virtio(7, BlockDevice(disk, "seven"), pool=0x1000),
            Virtio(8, console, pool=0x1000),
            Virtio(9, EntropyDevice(os.urandom), pool=0x1000),
        ),
    )
    with gunyah.System(seed=1) as system:
        before = system.ledger()
        vm = system.primary.vm(settings)
        vm.start()
        vm.read_until(b"# ", SECONDS)
        shell(vm, f"for m in {' '.join(path.name for path in linux_modules)}; do insmod /mod/$m || echo bad $m; done")
        said = shell(vm, "head -1 /dev/vda; cat /sys/block/vda/serial /sys/block/vda/size")
        assert "hello from the owner" in said and "seven" in said and "2048" in said
        shell(vm, "echo written by the guest > x; dd if=x of=/dev/vda bs=512 seek=4 conv=sync,fsync")
        assert disk.content[2048:].startswith(b"written by the guest\n") and disk.flushes
        assert "16+0 records in" in shell(vm, "dd if=/dev/vda of=/dev/null bs=64k 2>&1")
        assert "\n8\r\n" in shell(vm, "head -c 8 /dev/hwrng | wc -c").replace("\r\r", "\r")
        shell(vm, "(read a < /dev/hvc0; echo got $a > /dev/hvc0) & echo hello > /dev/hvc0")
        console.feed(b"ping\n")
        assert system.run(lambda: b"got ping" in typed, SECONDS) and b"hello" in typed
        vm.write(b"poweroff -f\n")
        assert vm.wait_exit(SECONDS).exit_type == ExitType.PLATFORM_OFF
        assert not any(backend.failure for backend in vm.inside.backends)
        vm.deallocate()
        assert not system.ledger().since(before)
        assert not system.primary.kernel.oopses
