"""Images for the CPU engine as the primary VM, and the board's devices that it is given: console UART and clock.

primary = NativePrimary(kernel=Path("Image"), ramdisk=Path("initrd"), bootargs="console=ttyAMA0")
with gunyah.System(primary) as system:
    system.run(until=lambda: b"login:" in primary.output)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gunyah.abi import cbor
from gunyah.abi.types import VMID_HLOS
from gunyah.guest.fdt import DeviceTree
from gunyah.machine import board
from gunyah.machine.empty import attach_empty_slots
from gunyah.machine.pl011 import PL011
from gunyah.machine.pl031 import PL031
from gunyah.output import ConsoleOutput
from gunyah.vmm.images import Image
from gunyah.vmm.loader import Placement, place, read_image, read_ramdisk, read_tree, tree_for

if TYPE_CHECKING:
    from gunyah.hypervisor.timers import Timeout
    from gunyah.system import System

__all__ = ["NativePrimary"]

# The date that a machine on a virtual clock begins at: 2024-01-01.
VIRTUAL_EPOCH = 1_704_067_200


class NativePrimary:
    """A kernel, a RAM disk and a tree as the primary VM; its PL011 sends to ``sink``, or into ``output``."""

    def __init__(
        self,
        *,
        kernel: Path | Image,
        ramdisk: Path | bytes | None = None,
        tree: Path | DeviceTree | None = None,
        bootargs: str = "",
        sink: Callable[[bytes], object] | None = None,
    ) -> None:
        """Read the files; raises ``LoadError`` and ``ImageError`` with one sentence."""
        self._files = kernel, ramdisk
        self._read_files()
        self._given = read_tree(tree) if isinstance(tree, Path) else tree
        self._bootargs = bootargs
        self.environment: Mapping[str, cbor.Value] = {}
        self.output = ConsoleOutput()
        self.uart = PL011(sink if sink is not None else self.output.take, partial(self._line, board.INTID_UART))
        self.clock: PL031 | None = None
        self._alarm: Timeout | None = None
        self.placement: Placement | None = None
        self._system: System | None = None

    def _read_files(self) -> None:
        kernel, ramdisk = self._files
        self.image = read_image(kernel) if isinstance(kernel, Path) else kernel
        self._ramdisk = read_ramdisk(ramdisk) if isinstance(ramdisk, Path) else ramdisk
        self._loaded = False

    def device_tree(self, memory_size: int, cores: int, seed: bytes) -> tuple[Placement, DeviceTree]:
        """Where everything goes in ``memory_size`` bytes, and the tree that RM will find; raises ``LoadError``."""
        placement = place(self.image, len(self._ramdisk or b""), (board.HLOS.base, memory_size))
        tree = tree_for(placement, cores=cores, bootargs=self._bootargs, seed=seed, given=self._given)
        return placement, tree

    def prepare(self, system: System) -> Iterable[tuple[int, bytes]]:
        """Attach the devices, and give what lies in memory when the Resource Manager starts."""
        hv = system.hypervisor
        self._system = system
        if self._loaded:
            self._read_files()
        placement, tree = self.device_tree(system.memory_size, system.vcpus, hv.random.randbytes(64))
        self.placement = placement
        self.environment = {
            "entry_hlos": placement.entry,
            "hlos_dt_base": placement.tree,
            "hlos_ramfs_base": placement.ramdisk[0] if placement.ramdisk else board.HLOS_RAMDISK,
        }
        epoch = int(time.time()) if hv.clock.real else VIRTUAL_EPOCH
        hv.bus.attach(board.UART.base, board.UART.size, self.uart)
        self.clock = PL031(hv.clock, epoch, partial(self._line, board.INTID_RTC), self._set_alarm)
        hv.bus.attach(board.RTC.base, board.RTC.size, self.clock)
        attach_empty_slots(hv.bus)
        return self._chunks(placement, tree)

    def _chunks(self, placement: Placement, tree: DeviceTree) -> Iterator[tuple[int, bytes]]:
        yield from placement.chunks(self._ramdisk, tree.pack())
        # The machine's memory has them now: a kernel's bytes would be in ours twice.
        self.image = self.image.emptied()
        self.placement = replace(placement, image=self.image)
        self._ramdisk = None
        self._loaded = True

    def _line(self, intid: int, level: bool) -> None:
        system = self._system
        if system is not None and system.root is not None:
            system.root.hwirqs[intid].raise_line(level)

    def _set_alarm(self) -> None:
        """Have the clock looked at when its alarm is due."""
        assert self._system is not None and self.clock is not None
        timers = self._system.hypervisor.timers
        if self._alarm is not None:
            timers.cancel(self._alarm)
        due = self.clock.next_event
        self._alarm = timers.at(due, self.clock.poll) if due is not None else None

    @property
    def up(self) -> bool:
        """The boot vCPU has been powered on."""
        system = self._system
        if system is None:
            return False
        return any(v.vmid == VMID_HLOS and not v.powered_off for v in system.hypervisor.vcpus.values())

    def type(self, data: bytes) -> int:
        """Let the console receive ``data``; the number of bytes taken."""
        return self.uart.feed(data)
