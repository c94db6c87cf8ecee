"""The binding's schema applied to a device tree by ``dtschema``, where that is installed (extra ``lint``)."""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Iterator
from contextlib import redirect_stderr
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any, Final

import gunyah.linux.bindings
from gunyah.abi.devicetree import NODE_HYPERVISOR
from gunyah.guest.fdt import DeviceTree, FdtError, parse

__all__ = ["schema_available", "schema_complaints"]

BINDINGS: Final = Path(gunyah.linux.bindings.__file__).parent
_MOST_CELLS: Final = 8
_SCHEMA: Final = "gunyah"
"""Part of the ids of our own schemas; a tree's other nodes are others' business."""


def schema_available() -> bool:
    """Whether the full schema can be checked here."""
    return importlib.util.find_spec("dtschema") is not None


@cache
def _validator() -> Any:
    import dtschema

    return dtschema.DTValidator([str(path) for path in sorted(BINDINGS.glob("*.yaml"))])


def schema_complaints(tree: DeviceTree, interrupt_cells: int) -> Iterator[tuple[str, str, str]]:
    """(node path, property, sentence) for all that the schema refuses; nothing where ``dtschema`` is missing.

    ``interrupt_cells`` is the number of cells of one interrupt of the Resource Manager's node.
    """
    if not schema_available() or tree.root.child(NODE_HYPERVISOR) is None:
        return
    try:
        reduced = _hypervisor_only(tree, interrupt_cells)
        _check_cells(reduced)
        validator = _validator()
        with redirect_stderr(StringIO()):  # It also prints what it then reports.
            roots = validator.decode_dtb(reduced.pack())
            complaints = [complaint for root in roots for complaint in _nodes(validator, root, "/", "/")]
    except FdtError as error:
        yield "/", "", f"the schema cannot be applied to this tree: {error}"
    except (ArithmeticError, LookupError, TypeError, ValueError, struct.error) as error:
        # It takes well-formed properties for granted.
        yield "/", "", f"the schema cannot be applied to this tree: {error!r}"
    else:
        yield from complaints


def _check_cells(tree: DeviceTree) -> None:
    """Refuse counts that no bus has: dtschema goes through a property in steps of them, be they 0 or 4 billion."""
    for node in tree.root.walk():
        if node.address_cells + node.size_cells == 0 and any("reg" in child for child in node.children):
            raise FdtError(f"{node.path}: #address-cells and #size-cells are 0, but a child has reg")
        for name in node.properties:
            if name.startswith("#") and name.endswith("-cells") and node.u32(name) > _MOST_CELLS:
                raise FdtError(f"{node.path}: {name} is {node.u32(name)}, at most {_MOST_CELLS} make sense")
        if node.u32("#interrupt-cells", 1) == 0:
            raise FdtError(f"{node.path}: #interrupt-cells is 0")


def _hypervisor_only(tree: DeviceTree, interrupt_cells: int) -> DeviceTree:
    """The hypervisor node below a root with an interrupt controller: the rest of the tree is others' business."""
    copy = parse(tree.pack())
    for node in list(copy.root.children):
        if node.name != NODE_HYPERVISOR:
            node.remove()
    for node in copy.root.walk():
        node.properties.pop("interrupt-parent", None)
    gic = copy.root.ensure("interrupt-controller")
    gic.set_cells("#interrupt-cells", interrupt_cells)
    gic.set_flag("interrupt-controller")
    copy.root.set_cells("interrupt-parent", copy.phandle_of(gic))
    return copy


def _nodes(validator: Any, node: dict[str, Any], name: str, path: str) -> Iterator[tuple[str, str, str]]:
    node["$nodename"] = [name]
    for error in validator.iter_errors(node, filter=[_SCHEMA]):
        yield from _error(error, path)
    for child, value in list(node.items()):
        if isinstance(value, dict):
            yield from _nodes(validator, value, child, f"{path.rstrip('/')}/{child}")


def _error(error: Any, path: str) -> Iterator[tuple[str, str, str]]:
    """The error's path leads from the node through its children to the property, and perhaps on to an element."""
    steps = [step for step in error.absolute_path if isinstance(step, str)]
    where, name = path.rstrip("/"), ""
    for index, step in enumerate(steps):
        if index == len(steps) - 1 and not isinstance(error.instance, dict):
            name = step
        else:
            where += f"/{step}"
    sentence = str(error.message).splitlines()[0]
    if error.validator == "required":
        name = next((word for word in error.validator_value if word not in error.instance), "")
        sentence = "is missing; the schema requires it"
    elif error.validator == "additionalProperties":
        name, sentence = _additional(sentence)
    elif error.validator == "type" and error.validator_value == "object":
        # A property where the schema knows nodes only.
        sentence = "is not allowed here by the schema"
    elif error.validator in ("oneOf", "anyOf", "const", "contains", "items", "minItems", "maxItems"):
        sentence = f"{_value(error.instance)} is not what the schema allows"
    yield where or "/", name, sentence


def _additional(sentence: str) -> tuple[str, str]:
    """From dtschema's sentence about properties that do not match: the first name, and our own sentence."""
    words = sentence.split("'")
    return (words[1] if len(words) > 1 else ""), "is not allowed here by the schema"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_value(item) for item in value)
    return f'"{value}"' if isinstance(value, str) else str(value)
