"""Flattened device trees: parse, change, serialise, print (Devicetree Specification, version 17 of the format).

A tree is ``Node`` objects with properties as raw big-endian bytes and typed accessors over them. Parsing is for hostile
input too: every offset is checked, depth, node count and size are bounded, and whatever is wrong is one FdtError
sentence.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["DeviceTree", "FdtError", "MAX_SIZE", "Node", "apply_overlay", "merge", "parse", "total_size"]

MAGIC = 0xD00D_FEED
MAX_SIZE = 16 << 20
"""Bytes; larger blobs are refused."""
MAX_DEPTH = 64
MAX_NODES = 65_536
MAX_PROPERTIES = 1_000_000

_HEADER = struct.Struct(">10I")
_VERSION, _COMPATIBLE_VERSION = 17, 16
_BEGIN_NODE, _END_NODE, _PROP, _NOP, _END = 1, 2, 3, 4, 9
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789,._+-@#?")


class FdtError(Exception):
    """A device tree, or one of its properties, is not as it must be: one sentence with path and values."""


class Node:
    """One node: ``name`` with its unit address, ``properties`` name -> bytes in order, ``children`` in order."""

    __slots__ = ("children", "name", "parent", "properties")

    def __init__(self, name: str = "", parent: Node | None = None) -> None:
        self.name = name
        self.parent = parent
        self.properties: dict[str, bytes] = {}
        self.children: list[Node] = []

    # -- structure -----------------------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """Full path, ``/`` for the root."""
        names: list[str] = []
        node: Node | None = self
        while node is not None and node.parent is not None:
            names.append(node.name)
            node = node.parent
        return "/" + "/".join(reversed(names))

    @property
    def unit_address(self) -> str:
        """What follows ``@`` in the name, or an empty string."""
        return self.name.partition("@")[2]

    def walk(self) -> Iterator[Node]:
        """This node and all below it, depth first, in order."""
        yield self
        for child in self.children:
            yield from child.walk()

    def child(self, name: str) -> Node | None:
        """The child called ``name``; without ``@`` in it, also the only one whose name before ``@`` is ``name``."""
        candidates = []
        for node in self.children:
            if node.name == name:
                return node
            if node.name.partition("@")[0] == name:
                candidates.append(node)
        return candidates[0] if len(candidates) == 1 else None

    def find(self, path: str) -> Node | None:
        """The node at ``path`` relative to this one (a leading ``/`` is ignored), or None."""
        node: Node | None = self
        for name in path.split("/"):
            if name and node is not None:
                node = node.child(name)
        return node

    def add(self, name: str) -> Node:
        """Append a new child; raises FdtError if there is one of that name or the name is not allowed."""
        if not name or len(name) > 255 or not set(name) <= _NAME_CHARACTERS:
            raise FdtError(f"{self.path}: {name!r} is no name for a node")
        if any(child.name == name for child in self.children):
            raise FdtError(f"{self.path}: there is a child {name} already")
        node = Node(name, self)
        self.children.append(node)
        return node

    def ensure(self, path: str) -> Node:
        """The node at ``path`` relative to this one, made where missing."""
        node = self
        for name in path.split("/"):
            if name:
                node = node.child(name) or node.add(name)
        return node

    def remove(self) -> None:
        """Take this node out of its parent."""
        if self.parent is None:
            raise FdtError("the root node cannot be removed")
        self.parent.children.remove(self)
        self.parent = None

    # -- reading properties --------------------------------------------------------------------------------------------

    def __contains__(self, name: str) -> bool:
        return name in self.properties

    def raw(self, name: str) -> bytes:
        """The property's bytes; raises FdtError if it is missing."""
        try:
            return self.properties[name]
        except KeyError:
            raise FdtError(f"{self.path}: property {name} is missing") from None

    def strings(self, name: str) -> list[str]:
        """A string list; raises FdtError unless every string ends with a NUL and is ASCII."""
        value = self.raw(name)
        if not value.endswith(b"\0"):
            raise FdtError(f"{self.path}: property {name} is not a string list ({len(value)} bytes without final NUL)")
        try:
            return value[:-1].decode("ascii").split("\0")
        except UnicodeDecodeError:
            raise FdtError(f"{self.path}: property {name} holds bytes that are not ASCII") from None

    def string(self, name: str) -> str:
        """A single string."""
        strings = self.strings(name)
        if len(strings) != 1:
            raise FdtError(f"{self.path}: property {name} holds {len(strings)} strings, one is expected")
        return strings[0]

    def cells(self, name: str) -> list[int]:
        """32-bit cells."""
        value = self.raw(name)
        if len(value) % 4:
            raise FdtError(f"{self.path}: property {name} is {len(value)} bytes, not a multiple of 4")
        return list(struct.unpack(f">{len(value) // 4}I", value))

    def u32(self, name: str, default: int | None = None) -> int:
        """One cell; ``default`` when the property is missing."""
        if default is not None and name not in self.properties:
            return default
        cells = self.cells(name)
        if len(cells) != 1:
            raise FdtError(f"{self.path}: property {name} holds {len(cells)} cells, one is expected")
        return cells[0]

    def u64s(self, name: str) -> list[int]:
        """64-bit values, two cells each."""
        value = self.raw(name)
        if len(value) % 8:
            raise FdtError(f"{self.path}: property {name} is {len(value)} bytes, not a multiple of 8")
        return list(struct.unpack(f">{len(value) // 8}Q", value))

    def u64(self, name: str) -> int:
        """One 64-bit value, or one cell widened (as ``linux,initrd-start`` is written either way)."""
        value = self.raw(name)
        if len(value) not in (4, 8):
            raise FdtError(f"{self.path}: property {name} is {len(value)} bytes, 4 or 8 are expected")
        return int.from_bytes(value, "big")

    @property
    def compatible(self) -> list[str]:
        """The compatible strings; empty when there are none."""
        return self.strings("compatible") if "compatible" in self.properties else []

    @property
    def enabled(self) -> bool:
        """False when ``status`` says anything but okay."""
        return "status" not in self.properties or self.strings("status")[0] in ("okay", "ok")

    @property
    def address_cells(self) -> int:
        """#address-cells for the children's ``reg`` (2 when missing); raises FdtError above 4."""
        return self._cell_count("#address-cells", 2)

    @property
    def size_cells(self) -> int:
        """#size-cells for the children's ``reg`` (1 when missing); raises FdtError above 4."""
        return self._cell_count("#size-cells", 1)

    def _cell_count(self, name: str, default: int) -> int:
        count = self.u32(name, default)
        if count > 4:
            raise FdtError(f"{self.path}: {name} is {count}, at most 4 is possible")
        return count

    def reg(self, name: str = "reg") -> list[tuple[int, int]]:
        """(address, size) entries by the parent's cell counts."""
        if self.parent is None:
            raise FdtError("the root node has no addresses")
        address, size = self.parent.address_cells, self.parent.size_cells
        cells = self.cells(name)
        step = address + size
        if step == 0 or len(cells) % step:
            raise FdtError(f"{self.path}: {name} has {len(cells)} cells, the parent's counts are {address} + {size}")

        def number(start: int, count: int) -> int:
            value = 0
            for cell in cells[start : start + count]:
                value = value << 32 | cell
            return value

        return [(number(i, address), number(i + address, size)) for i in range(0, len(cells), step)]

    # -- writing properties --------------------------------------------------------------------------------------------

    def set_strings(self, name: str, *values: str) -> None:
        """Set a string or string list."""
        self.properties[name] = b"".join(value.encode("ascii") + b"\0" for value in values)

    def set_cells(self, name: str, *values: int) -> None:
        """Set 32-bit cells."""
        self.properties[name] = struct.pack(f">{len(values)}I", *values)

    def set_u64s(self, name: str, *values: int) -> None:
        """Set 64-bit values, two cells each."""
        self.properties[name] = struct.pack(f">{len(values)}Q", *values)

    def set_flag(self, name: str) -> None:
        """Set an empty property."""
        self.properties[name] = b""

    def __repr__(self) -> str:
        return f"<fdt node {self.path}>"


@dataclass(slots=True)
class DeviceTree:
    """A whole tree with the memory reservations (address, size) of its blob."""

    root: Node = field(default_factory=Node)
    reservations: list[tuple[int, int]] = field(default_factory=list)
    boot_cpu: int = 0

    def find(self, path: str) -> Node | None:
        """The node at an absolute path or at an alias's path, or None."""
        if path.startswith("/"):
            return self.root.find(path)
        aliases = self.root.child("aliases")
        first, _, rest = path.partition("/")
        if aliases is None or first not in aliases:
            return None
        node = self.root.find(aliases.string(first))
        return node.find(rest) if node is not None else None

    def node(self, path: str) -> Node:
        """As ``find``; raises FdtError when there is none."""
        node = self.find(path)
        if node is None:
            raise FdtError(f"there is no node {path}")
        return node

    def find_compatible(self, *names: str) -> Iterator[Node]:
        """All nodes with one of the compatible strings, in order."""
        wanted = set(names)
        return (node for node in self.root.walk() if wanted.intersection(node.compatible))

    def by_phandle(self, phandle: int) -> Node | None:
        """The node with that phandle."""
        for node in self.root.walk():
            if "phandle" in node and node.u32("phandle") == phandle:
                return node
        return None

    def phandle_of(self, node: Node) -> int:
        """The node's phandle, given one that is free when it has none."""
        if "phandle" not in node:
            used = [other.u32("phandle") for other in self.root.walk() if "phandle" in other]
            node.set_cells("phandle", max(used, default=0) + 1)
        return node.u32("phandle")

    def pack(self, padding: int = 0) -> bytes:
        """The blob (DTB), ``padding`` spare bytes included in its size."""
        offsets: dict[str, int] = {}
        strings = bytearray()
        tokens = bytearray()

        def emit(node: Node) -> None:
            tokens.extend(struct.pack(">I", _BEGIN_NODE))
            name = node.name.encode("ascii") + b"\0"
            tokens.extend(name + bytes(-len(name) % 4))
            for key, value in node.properties.items():
                if key not in offsets:
                    offsets[key] = len(strings)
                    strings.extend(key.encode("ascii") + b"\0")
                tokens.extend(struct.pack(">III", _PROP, len(value), offsets[key]))
                tokens.extend(value + bytes(-len(value) % 4))
            for child in node.children:
                emit(child)
            tokens.extend(struct.pack(">I", _END_NODE))

        emit(self.root)
        tokens.extend(struct.pack(">I", _END))
        reserved = b"".join(struct.pack(">QQ", *entry) for entry in (*self.reservations, (0, 0)))
        reserved_at = _HEADER.size
        tokens_at = reserved_at + len(reserved)
        strings_at = tokens_at + len(tokens)
        size = strings_at + len(strings) + padding
        header = _HEADER.pack(
            MAGIC, size, tokens_at, strings_at, reserved_at, _VERSION, _COMPATIBLE_VERSION, self.boot_cpu,
            len(strings), len(tokens),
        )  # fmt: skip
        return header + reserved + bytes(tokens) + bytes(strings) + bytes(padding)


def total_size(header: bytes) -> int:
    """Size in bytes that a blob's first 40 bytes announce; raises FdtError if it is no device tree."""
    if len(header) < _HEADER.size:
        raise FdtError(f"a device tree has at least {_HEADER.size} bytes, here are {len(header)}")
    magic, size = struct.unpack_from(">II", header)
    if magic != MAGIC:
        raise FdtError(f"not a device tree: magic is {magic:#010x}, not {MAGIC:#010x}")
    if not _HEADER.size <= size <= MAX_SIZE:
        raise FdtError(f"the device tree announces {size} bytes, {_HEADER.size} to {MAX_SIZE} are possible")
    return int(size)


def parse(blob: bytes | bytearray | memoryview) -> DeviceTree:
    """A tree from a blob (bytes behind its announced size are ignored); raises FdtError."""
    blob = bytes(blob)
    size = total_size(blob)
    if size > len(blob):
        raise FdtError(f"the device tree announces {size} bytes, only {len(blob)} are here")
    (_, _, tokens_at, strings_at, reserved_at, version, compatible_version, boot_cpu, strings_size, tokens_size) = (
        _HEADER.unpack_from(blob)
    )
    if version < _COMPATIBLE_VERSION or compatible_version > _VERSION:
        raise FdtError(f"device tree format version {version} (compatible with {compatible_version}) is not supported")
    if version < 17:
        tokens_size = max(0, size - tokens_at)
    for what, start, length in (("structure", tokens_at, tokens_size), ("strings", strings_at, strings_size)):
        if start + length > size:
            raise FdtError(f"the {what} block {start:#x}+{length:#x} ends behind the device tree's {size:#x} bytes")
    tree = DeviceTree(boot_cpu=boot_cpu)
    tree.reservations = _reservations(blob, reserved_at, size)
    _Parser(blob[tokens_at : tokens_at + tokens_size], blob[strings_at : strings_at + strings_size]).run(tree.root)
    return tree


def _reservations(blob: bytes, start: int, size: int) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    while start + 16 <= size:
        address, length = struct.unpack_from(">QQ", blob, start)
        if (address, length) == (0, 0):
            return found
        found.append((address, length))
        start += 16
    raise FdtError("the memory reservation block has no end")


class _Parser:
    """The structure block's tokens as nodes, without recursion."""

    def __init__(self, tokens: bytes, strings: bytes) -> None:
        self.tokens = tokens
        self.strings = strings
        self.at = 0
        self.names: dict[int, str] = {}

    def run(self, root: Node) -> None:
        node: Node | None = None
        depth = nodes = properties = 0
        # Names of each open node's children: a hostile tree has many, and a look through them for each is too long.
        names: list[set[str]] = []
        while True:
            at, token = self.at, self._word()
            if token == _NOP:
                continue
            if token == _BEGIN_NODE:
                name = self._node_name(at)
                depth, nodes = depth + 1, nodes + 1
                if depth > MAX_DEPTH or nodes > MAX_NODES:
                    raise FdtError(f"more than {MAX_NODES} nodes or deeper than {MAX_DEPTH}")
                if node is None:
                    if nodes > 1:
                        raise FdtError("the device tree has a second root node")
                    root.name = ""
                    node = root
                else:
                    node = self._child(node, name, names[-1])
                names.append(set())
            elif token == _END_NODE and node is not None:
                depth -= 1
                names.pop()
                node = node.parent
            elif token == _PROP and node is not None:
                properties += 1
                if properties > MAX_PROPERTIES:
                    raise FdtError(f"more than {MAX_PROPERTIES} properties")
                self._property(node)
            elif token == _END and node is None and nodes:
                return
            else:
                raise FdtError(f"unexpected token {token:#x} at {at:#x} of the structure block")

    @staticmethod
    def _child(parent: Node, name: str, taken: set[str]) -> Node:
        if name in taken:
            raise FdtError(f"{parent.path}: there are two children {name}")
        if not name or not set(name) <= _NAME_CHARACTERS:
            raise FdtError(f"{parent.path}: {name!r} is no name for a node")
        taken.add(name)
        node = Node(name, parent)
        parent.children.append(node)
        return node

    def _word(self) -> int:
        if self.at + 4 > len(self.tokens):
            raise FdtError(f"the structure block ends at {self.at:#x} without an end token")
        (word,) = struct.unpack_from(">I", self.tokens, self.at)
        self.at += 4
        return int(word)

    def _node_name(self, at: int) -> str:
        end = self.tokens.find(b"\0", self.at, self.at + 256)
        if end < 0:
            raise FdtError(f"the node name at {at:#x} has no end")
        name = self.tokens[self.at : end].decode("latin-1")
        self.at = (end + 4) & ~3
        return name

    def _property(self, node: Node) -> None:
        length, offset = self._word(), self._word()
        if self.at + length > len(self.tokens):
            raise FdtError(f"{node.path}: a property of {length} bytes ends behind the structure block")
        name = self.names.get(offset)
        if name is None:
            end = self.strings.find(b"\0", offset, offset + 256)
            if offset >= len(self.strings) or end < 0:
                raise FdtError(f"{node.path}: a property's name at {offset:#x} is outside the strings block")
            name = self.strings[offset:end].decode("latin-1")
            if not name or not set(name) <= _NAME_CHARACTERS:
                raise FdtError(f"{node.path}: {name!r} is no name for a property")
            self.names[offset] = name
        if name in node.properties:
            raise FdtError(f"{node.path}: property {name} is there twice")
        node.properties[name] = self.tokens[self.at : self.at + length]
        self.at = (self.at + length + 3) & ~3


def merge(target: Node, source: Node) -> None:
    """Lay ``source`` over ``target``: its properties replace, its children are merged or added (names as in the
    blob)."""
    target.properties.update(source.properties)
    for child in source.children:
        existing = next((node for node in target.children if node.name == child.name), None)
        merge(existing if existing is not None else target.add(child.name), child)


def apply_overlay(tree: DeviceTree, overlay: DeviceTree) -> None:
    """Apply an overlay whose fragments name their target by ``target-path`` or by phandle; raises FdtError, tree
    unchanged."""
    steps: list[tuple[Node, Node]] = []
    for fragment in overlay.root.children:
        content = fragment.child("__overlay__")
        if content is None:
            continue
        if "target-path" in fragment:
            path = fragment.string("target-path")
            target = tree.find(path)
        else:
            path = f"phandle {fragment.u32('target')}"
            target = tree.by_phandle(fragment.u32("target"))
        if target is None:
            raise FdtError(f"overlay {fragment.path}: the target {path} does not exist")
        steps.append((target, content))
    for target, content in steps:
        merge(target, content)
