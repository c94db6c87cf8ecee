"""What can be the primary VM of a system: the Linux stack in Python, a Python program, or images for the CPU engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from gunyah.abi import cbor, pyimage
from gunyah.guest.cpu import Cpu, Program
from gunyah.machine import board
from gunyah.vmm.board_tree import board_tree

if TYPE_CHECKING:
    from gunyah.system import System

__all__ = ["Primary", "ProgramPrimary"]

Chunk = tuple[int, bytes]
"""Physical address and bytes to put there before power-on."""


class Primary(Protocol):
    """Something that a system can start as VMID 3."""

    environment: Mapping[str, cbor.Value]
    """Keys added to the root VM's environment (``entry_hlos`` ...)."""

    def prepare(self, system: System, /) -> Iterable[Chunk]:
        """What lies in memory when the Resource Manager starts: code at the entry, device tree."""

    @property
    def up(self) -> bool:
        """The VM runs and may be used."""


class ProgramPrimary:
    """A Python function as the primary VM: ``function(cpu, x0)``, x0 is the IPA of the device tree."""

    def __init__(self, function: Program, *, name: str = "primary", bootargs: str = "") -> None:
        self._function = function
        self._name = name
        self._bootargs = bootargs
        self.environment: Mapping[str, cbor.Value] = {}
        self.entered = False
        self.finished = False

    def prepare(self, system: System) -> Iterable[Chunk]:
        """The program's image at the entry, the board's tree where RM expects it."""
        number = system.load_program(self._name, self._main)
        yield board.HLOS_ENTRY, pyimage.pack(number)
        tree = board_tree(
            memory=[(board.HLOS.base, system.memory_size)],
            cores=system.vcpus,
            bootargs=self._bootargs,
            seed=system.hypervisor.random.randbytes(64),
        )
        yield board.HLOS_DEVICE_TREE, tree.pack()

    def _main(self, cpu: Cpu, x0: int) -> None:
        self.entered = True
        try:
            self._function(cpu, x0)
        finally:
            self.finished = True

    @property
    def up(self) -> bool:
        """The program has been entered."""
        return self.entered


class LinuxPrimary(ProgramPrimary):
    """placeholder until the kernel is there."""
