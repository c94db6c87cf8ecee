"""Reading a configuration's properties so that every mistake becomes one sentence and reading goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from gunyah.abi.errors import RmError
from gunyah.abi.types import PAGE_MASK
from gunyah.guest.fdt import DeviceTree, FdtError, Node

__all__ = ["NodeReader", "Refusal"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason: RM's error, the node's path, and a sentence that names the property."""

    code: RmError
    path: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.path}: {self.sentence}"


class NodeReader:
    """Properties of the nodes of one tree; collects refusals and warnings."""

    def __init__(self, tree: DeviceTree) -> None:
        self.tree = tree
        self.refusals: list[Refusal] = []
        self.warnings: list[str] = []

    def refuse(self, node: Node, sentence: str, code: RmError = RmError.MEM_INVALID) -> None:
        """Note a reason against the configuration."""
        self.refusals.append(Refusal(code, node.path, sentence))

    def get(self, node: Node, name: str, read: Callable[[str], _T], default: _T) -> _T:
        """A property through an accessor of its node; what is malformed is refused and read as the default."""
        if name not in node:
            return default
        try:
            return read(name)
        except FdtError as error:
            self.refuse(node, str(error).removeprefix(f"{node.path}: "))
            return default

    def items(self, node: Node, name: str, read: Callable[[str], list[_T]]) -> list[_T]:
        """A list property; empty when missing or malformed."""
        empty: list[_T] = []
        return self.get(node, name, read, empty)

    def page(self, node: Node, name: str, default: int) -> int:
        """A number that must be a multiple of 4096 if it is there."""
        value = self.get(node, name, node.u64, default)
        if name in node and value & PAGE_MASK:
            self.refuse(node, f"{name} {value:#x} is not a multiple of 4096")
        return value
