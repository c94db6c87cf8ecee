"""Where the examples of the RM reference run: a primary VM at its prompt, memory of its own, guests that talk to RM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gunyah
from gunyah.abi import pyimage
from gunyah.abi.errors import RmError
from gunyah.abi.profile import PUBLIC_2023
from gunyah.linux.kernel import Kernel
from gunyah.linux.rm_client import RmClient, RmRefused, rm_calls_of
from gunyah.secondary import PrimaryVm
from gunyah.vmm.images import parse_image
from gunyah.vmm.vm_config import VmSettings, configured_tree, placement_of, tree_span

__all__ = ["Guest", "RmLab", "refused"]

MIB = 1 << 20


@contextmanager
def refused(error: RmError) -> Iterator[None]:
    """What is inside must be refused with ``error``."""
    try:
        yield
    except RmRefused as refusal:
        assert refusal.error is error, refusal
    else:
        raise AssertionError(f"RM did not answer {error.name}")


class Guest:
    """A running secondary VM that is a Linux in Python; ``rm`` is RM as it sees it."""

    def __init__(self, lab: RmLab, vm: PrimaryVm, kernel: Kernel) -> None:
        self.vm = vm
        inside = rm_calls_of(lambda: kernel.resource_managers)

        def invoke(message_id: int, payload: bytes) -> bytes:
            submission = kernel.submit(inside, message_id, payload)
            assert lab.system.run(lambda: submission.done or vm.exit is not None, 60)
            result: bytes = submission.result() if submission.done else b""
            return result

        self.rm = RmClient(invoke)

    @property
    def vmid(self) -> int:
        return self.vm.vmid


class RmLab:
    """``rm`` is the primary VM's client; ``memory`` gives it pages, ``guest`` a secondary VM."""

    def __init__(self, system: gunyah.System) -> None:
        self.system = system
        self.rm = system.primary.rm

    def memory(self, size: int = 0x1000) -> int:
        """Address of ``size`` fresh bytes of the primary VM's, page aligned."""
        return int(self.system.primary.kernel.services.heap.allocate(size, 0x1000).address)

    def inside(self, function: Callable[[], Any]) -> Any:
        """Run a function as a process in the primary VM."""
        return self.system.primary.call(function)

    def settings(self, function: Callable[..., Any], name: str = "guest", **changes: Any) -> VmSettings:
        image = parse_image(pyimage.pack(self.system.load_program(name, function)), name)
        return VmSettings(name=name, image=image, memory=16 * MIB, console="rm", **changes)

    def guest(self, name: str = "guest") -> Guest:
        """Start one."""
        kernel = Kernel(PUBLIC_2023, cmdline="console=ttynull")
        vm = self.system.primary.vm(self.settings(kernel.main, name))
        vm.start()
        assert self.system.run(lambda: kernel.booted, 10)
        return Guest(self, vm, kernel)

    def lent_image(self, vmid: int) -> tuple[int, tuple[int, int]]:
        """Memory with an image and a device tree in it, lent to a VM: the memparcel, (offset, bytes) of the tree."""
        settings = self.settings(lambda cpu, x0: cpu.wfi())
        placement = placement_of(settings)
        blob = configured_tree(settings, placement).pack()
        kernel = self.system.primary.kernel
        start = kernel.services.heap.allocate(settings.memory, 2 * MIB).address

        def load() -> None:
            for address, data in placement.chunks(None, blob):
                kernel.services.cpu.write(start + address - placement.memory[0], data)

        self.inside(load)
        return self.rm.mem_lend([(vmid, 7)], [(start, settings.memory)]), tree_span(blob, placement)
