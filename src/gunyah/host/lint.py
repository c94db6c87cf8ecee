"""What a device tree would be refused for, said before anything is started.

Three judges: the binding of the hypervisor node (linux-drivers.md 2, widened by what RM really generates,
rm-behaviour.md 4 and 7.6), the full schema where ``dtschema`` is installed, and RM's own checks of a VM configuration
(rm-behaviour.md 6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gunyah.abi import devicetree as dt
from gunyah.abi.devicetree import ConfigProperty, Property
from gunyah.abi.types import CAP_INVALID
from gunyah.guest.dts import parse_dts
from gunyah.guest.fdt import DeviceTree, FdtError, Node, parse
from gunyah.host.errors import HostError, reason
from gunyah.host.lint_schema import schema_complaints
from gunyah.rm.vmconfig import check as check_vm_config

__all__ = ["Finding", "check_tree", "lint_file", "load_tree"]

_HYPERVISOR_COMPATIBLES: Final = frozenset({*dt.COMPATIBLE_HYPERVISOR_V4, *dt.COMPATIBLE_HYPERVISOR_SECONDARY})
_RM_COMPATIBLES: Final = frozenset(
    {
        *dt.COMPATIBLE_RM_V4,
        *dt.COMPATIBLE_RM_PRIMARY,
        dt.COMPATIBLE_MESSAGE_QUEUE,
        dt.COMPATIBLE_CAPABILITY,
    }
)
_HYPERVISOR_PROPERTIES: Final = frozenset(
    {Property.COMPATIBLE, Property.ADDRESS_CELLS, Property.SIZE_CELLS, Property.PHANDLE, Property.RANGES}
)
_RM_PROPERTIES: Final = frozenset(
    {
        *(Property.COMPATIBLE, Property.REG, Property.INTERRUPTS, Property.PHANDLE, "interrupt-parent"),
        *(Property.FREE_IRQ_START, Property.IS_FULL_DUPLEX, Property.VDEVICE_HANDLE),
        *(Property.TX_MESSAGE_SIZE, Property.RX_MESSAGE_SIZE, Property.TX_QUEUE_DEPTH, Property.RX_QUEUE_DEPTH),
    }
)
_GIC_CELLS: Final = 3
_MOST_INTERRUPT_CELLS: Final = 8
_SPI_COUNT: Final = 988
_INTERRUPT_FLAGS: Final = {dt.IRQ_TYPE_EDGE_RISING: "edge rising", dt.IRQ_TYPE_LEVEL_HIGH: "level high"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that would be refused: where (node path or table), which property, and the sentence."""

    where: str
    property: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.where}: {self.property}: {self.sentence}" if self.property else f"{self.where}: {self.sentence}"


def _list(strings: list[str] | tuple[str, ...]) -> str:
    return ", ".join(f'"{string}"' for string in strings)


# -- reading -----------------------------------------------------------------------------------------------------------


def load_tree(path: Path) -> DeviceTree:
    """The tree in a .dtb or .dts file; raises HostError with what is wrong with the file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise HostError(f"{path} cannot be read: {reason(error)}") from error
    try:
        if path.suffix != ".dts":
            return parse(content)
        return parse_dts(content.decode())
    except FdtError as error:
        raise HostError(f"{path} is not a device tree: {error}") from error
    except UnicodeDecodeError as error:
        raise HostError(f"{path} is not source text: byte {error.start} is not UTF-8") from error


# -- the binding -------------------------------------------------------------------------------------------------------


def _compatible(node: Node, wanted: str, known: frozenset[str], ordered: tuple[str, ...]) -> Iterator[Finding]:
    if Property.COMPATIBLE not in node:
        yield Finding(node.path, Property.COMPATIBLE, f'is missing; it must have "{wanted}"')
        return
    found = node.strings(Property.COMPATIBLE)
    if wanted not in found and tuple(found) != dt.COMPATIBLE_HYPERVISOR_PRIMARY:
        yield Finding(node.path, Property.COMPATIBLE, f'{_list(found)} does not have "{wanted}"')
    unknown = [string for string in found if string not in known]
    if unknown:
        yield Finding(node.path, Property.COMPATIBLE, f"has {_list(unknown)}, which no binding names")
    elif set(found) == set(ordered) and tuple(found) != ordered:
        yield Finding(node.path, Property.COMPATIBLE, f"the order has to be {_list(ordered)}")


def _cell_count(node: Node, name: str, wanted: int, why: str) -> Iterator[Finding]:
    if name not in node:
        yield Finding(node.path, name, f"is missing; it must be {wanted}: {why}")
    elif node.cells(name) != [wanted]:
        yield Finding(node.path, name, f"is {' '.join(map(str, node.cells(name)))}, it must be {wanted}: {why}")


def _unknown_properties(node: Node, known: frozenset[str]) -> Iterator[Finding]:
    for name in node.properties:
        if name not in known:
            yield Finding(node.path, name, "is a property that the binding does not allow here")


def _queue_capabilities(node: Node) -> Iterator[Finding]:
    if Property.REG not in node:
        yield Finding(node.path, Property.REG, "is missing; it must name the TX and the RX queue's capability")
        return
    size = len(node.raw(Property.REG))
    if size != 16:
        yield Finding(
            node.path, Property.REG, f"has {size} bytes, it must be two capabilities of 2 cells each (16 bytes): TX, RX"
        )
        return
    transmit, receive = node.u64s(Property.REG)
    for name, capability in (("TX", transmit), ("RX", receive)):
        if capability == CAP_INVALID:
            yield Finding(node.path, Property.REG, f"the {name} capability is {capability:#x}, the invalid one")
    if transmit == receive:
        yield Finding(node.path, Property.REG, f"TX and RX are the same capability {transmit:#x}; queues are one-way")


def _interrupt_controller(tree: DeviceTree, node: Node) -> tuple[Node | None, Finding | None]:
    """The node's interrupt parent; None in a fragment that names none. A finding when the name leads nowhere."""
    at: Node | None = node
    while at is not None:
        if "interrupt-parent" in at:
            phandle = at.u32("interrupt-parent")
            controller = tree.by_phandle(phandle)
            if controller is None or "#interrupt-cells" not in controller:
                sentence = f"no interrupt controller has the phandle {phandle:#x}"
                return None, Finding(at.path, "interrupt-parent", sentence)
            return controller, None
        at = at.parent
    return None, None


def _interrupt_cells(tree: DeviceTree, node: Node) -> int:
    """#interrupt-cells of the node's interrupt parent; a GIC's when it has none, or one that makes no sense."""
    try:
        controller, _ = _interrupt_controller(tree, node)
        cells = controller.u32("#interrupt-cells") if controller is not None else _GIC_CELLS
    except FdtError:
        return _GIC_CELLS
    return cells if 1 <= cells <= _MOST_INTERRUPT_CELLS else _GIC_CELLS


def _queue_interrupts(tree: DeviceTree, node: Node) -> Iterator[Finding]:
    name = Property.INTERRUPTS
    _, finding = _interrupt_controller(tree, node)
    if finding is not None:
        yield finding
    if name not in node:
        yield Finding(node.path, name, "is missing; it must name the TX and the RX interrupt")
        return
    cells, each = node.cells(name), _interrupt_cells(tree, node)
    if len(cells) != 2 * each:
        wanted = f"two interrupts of {each} cells each: TX, RX"
        yield Finding(node.path, name, f"has {len(cells)} cells, it must be {wanted}")
        return
    if each != _GIC_CELLS:
        return
    for which, (kind, number, flags) in (("TX", cells[:3]), ("RX", cells[3:])):
        if kind != dt.GIC_SPI:
            yield Finding(node.path, name, f"the {which} interrupt has type {kind}, queues have SPIs ({dt.GIC_SPI})")
        elif number >= _SPI_COUNT:
            yield Finding(node.path, name, f"the {which} interrupt is SPI {number}, a VM has 0 to {_SPI_COUNT - 1}")
        if flags not in _INTERRUPT_FLAGS:
            allowed = " or ".join(f"{value} ({words})" for value, words in _INTERRUPT_FLAGS.items())
            yield Finding(node.path, name, f"the {which} interrupt has flags {flags}, it must be {allowed}")
    if cells[:2] == cells[3:5]:
        yield Finding(node.path, name, f"TX and RX are the same interrupt, SPI {cells[1]}")


def _resource_manager(tree: DeviceTree, node: Node) -> Iterator[Finding]:
    yield from _compatible(node, dt.COMPATIBLE_RM, _RM_COMPATIBLES, dt.COMPATIBLE_RM_V4)
    yield from _queue_capabilities(node)
    yield from _queue_interrupts(tree, node)
    yield from _unknown_properties(node, _RM_PROPERTIES)


def _is_resource_manager(node: Node) -> bool:
    name = node.name.partition("@")[0]
    if name in (dt.NODE_RM_V4, dt.NODE_RM_PRIMARY):
        return True
    return Property.COMPATIBLE in node and dt.COMPATIBLE_RM.encode() in node.raw(Property.COMPATIBLE).split(b"\0")


def _hypervisor_node(tree: DeviceTree, node: Node) -> Iterator[Finding]:
    yield from _compatible(node, dt.COMPATIBLE_HYPERVISOR, _HYPERVISOR_COMPATIBLES, dt.COMPATIBLE_HYPERVISOR_V4)
    yield from _cell_count(node, Property.ADDRESS_CELLS, dt.HYPERVISOR_ADDRESS_CELLS, "a capability id is 64 bits")
    yield from _cell_count(node, Property.SIZE_CELLS, dt.HYPERVISOR_SIZE_CELLS, "capabilities have no size")
    yield from _unknown_properties(node, _HYPERVISOR_PROPERTIES)
    managers = [child for child in node.children if _is_resource_manager(child)]
    if not managers:
        yield Finding(node.path, "", f"there is no {dt.NODE_RM_V4} node, so no driver finds the Resource Manager")
    for manager in managers:
        yield from _careful(manager, lambda manager=manager: _resource_manager(tree, manager))  # type: ignore[misc]


def _careful(node: Node, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of ``check``; a property that cannot be read at all ends it with that as the last finding."""
    try:
        yield from check()
    except FdtError as error:
        sentence = str(error).removeprefix(f"{node.path}: ")
        words = sentence.split()
        name = words[1] if words[:1] == ["property"] and len(words) > 1 else ""
        yield Finding(node.path, name, sentence.removeprefix(f"property {name} "))


# -- everything --------------------------------------------------------------------------------------------------------


def _vm_config(tree: DeviceTree) -> Node | None:
    for name in dt.NODE_VM_CONFIGS:
        if (node := tree.root.child(name)) is not None:
            return node
    return None


def _property_in(node: Node | None, sentence: str) -> str:
    """The first property that a sentence names."""
    known = {*ConfigProperty, *Property, *(node.properties if node is not None else ())}
    words = (word.strip(".,:;()'\"") for word in sentence.split())
    return next((word for word in words if word in known), "")


def _configuration(tree: DeviceTree) -> Iterator[Finding]:
    if tree.root.child(dt.NODE_HYPERVISOR) is not None:
        sentence = "RM makes this node itself and refuses to start a VM whose tree already has it"
        yield Finding(f"/{dt.NODE_HYPERVISOR}", "", sentence)
    for refusal in check_vm_config(tree).refusals:
        name = _property_in(tree.find(refusal.path), refusal.sentence)
        yield Finding(refusal.path, name, refusal.sentence.removeprefix(f"property {name} ").removeprefix(f"{name} "))


def check_tree(tree: DeviceTree) -> list[Finding]:
    """All that the binding and RM would refuse in ``tree``, in tree order; then what only the schema says."""
    findings: list[Finding] = []
    hypervisor = tree.root.child(dt.NODE_HYPERVISOR)
    configuration = _vm_config(tree)
    if hypervisor is not None:
        findings += _careful(hypervisor, lambda: _hypervisor_node(tree, hypervisor))
    if configuration is not None:
        findings += _careful(configuration, lambda: _configuration(tree))
    if hypervisor is None and configuration is None:
        names = " or ".join(f"/{name}" for name in dt.NODE_VM_CONFIGS)
        findings.append(
            Finding("/", "", f"there is neither a /{dt.NODE_HYPERVISOR} node (a guest of Gunyah) nor {names} (a VM)")
        )
    known = {(finding.where, finding.property) for finding in findings}
    managers = filter(_is_resource_manager, hypervisor.children if hypervisor is not None else ())
    interrupt_cells = _interrupt_cells(tree, next(managers, tree.root))
    findings += [
        Finding(where, name, sentence)
        for where, name, sentence in schema_complaints(tree, interrupt_cells)
        if (where, name) not in known
    ]
    return findings


def lint_file(path: Path) -> list[Finding]:
    """What would be refused in a .dtb, .dts or SYSTEM.toml file; raises HostError when it cannot be read as one."""
    if path.suffix == ".toml":
        from gunyah.host.system_file import check_system_file

        return check_system_file(path)
    return check_tree(load_tree(path))
