"""Device trees as source text: print a tree, and read the subset of DTS that descriptions by hand need.

Read: nodes, labels, references (``&label``, ``&{/path}``) in cells and as strings, ``/bits/``, strings, byte strings,
integer expressions without operators, ``/memreserve/``, ``/delete-node/``, ``/delete-property/``, re-opened nodes,
comments. Not read: ``/include/`` and the C preprocessor (GIC and interrupt flags of the usual headers are known by
name).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from gunyah.guest.fdt import DeviceTree, FdtError, Node

__all__ = ["parse_dts", "to_dts"]

_CONSTANTS = {
    "GIC_SPI": 0,
    "GIC_PPI": 1,
    "IRQ_TYPE_NONE": 0,
    "IRQ_TYPE_EDGE_RISING": 1,
    "IRQ_TYPE_EDGE_FALLING": 2,
    "IRQ_TYPE_EDGE_BOTH": 3,
    "IRQ_TYPE_LEVEL_HIGH": 4,
    "IRQ_TYPE_LEVEL_LOW": 8,
}
_PRINTABLE = frozenset(range(0x20, 0x7F))


def _value(raw: bytes) -> str:
    """A property's bytes in the form a reader expects: strings, cells, or bytes."""
    if raw.endswith(b"\0") and len(raw) > 1:
        parts = raw[:-1].split(b"\0")
        if all(part and set(part) <= _PRINTABLE for part in parts):
            return ", ".join(
                '"' + part.decode("ascii").replace("\\", "\\\\").replace('"', '\\"') + '"' for part in parts
            )
    if len(raw) % 4 == 0:
        return "<" + " ".join(f"{cell:#x}" for cell in struct.unpack(f">{len(raw) // 4}I", raw)) + ">"
    return "[" + raw.hex(" ") + "]"


def to_dts(tree: DeviceTree | Node) -> str:
    """Source text of a whole tree, or of one node and what is below it."""
    lines: list[str] = []

    def emit(node: Node, indent: str) -> None:
        lines.append(f"{indent}{node.name or '/'} {{")
        inner = indent + "\t"
        for name, raw in node.properties.items():
            lines.append(f"{inner}{name} = {_value(raw)};" if raw else f"{inner}{name};")
        for child in node.children:
            if lines[-1] != f"{indent}{node.name or '/'} {{":
                lines.append("")
            emit(child, inner)
        lines.append(f"{indent}}};")

    if isinstance(tree, DeviceTree):
        lines.append("/dts-v1/;")
        lines.extend(f"/memreserve/ {address:#x} {size:#x};" for address, size in tree.reservations)
        lines.append("")
        emit(tree.root, "")
    else:
        emit(tree, "")
    return "\n".join(lines) + "\n"


_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*|/\*.*?\*/)
    |(?P<directive>/(?:dts-v1|plugin|memreserve|bits|delete-node|delete-property|include|omit-if-no-ref)/)
    |(?P<string>"(?:[^"\\]|\\.)*")
    |(?P<bytes>\[[0-9a-fA-F\s]*\])
    |(?P<reference>&\{[^}]*\}|&[A-Za-z_][A-Za-z0-9_]*)
    |(?P<label>[A-Za-z_][A-Za-z0-9_]*:)
    |(?P<word>[A-Za-z0-9,._+\-@\#?]+|/)
    |(?P<mark>[{};=<>,()])""",
    re.VERBOSE | re.DOTALL,
)


class _Source:
    """Tokens of a source text with one token of look-ahead; errors carry the line."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._tokens = self._split()
        self.kind, self.token, self.line = "", "", 1
        self.next()

    def _split(self) -> Iterator[tuple[str, str, int]]:
        at, line = 0, 1
        while at < len(self.text):
            match = _TOKEN.match(self.text, at)
            if match is None:
                raise FdtError(f"line {line}: {self.text[at : at + 12]!r} is not understood")
            kind = match.lastgroup or ""
            if kind != "space":
                yield kind, match.group(), line
            line += match.group().count("\n")
            at = match.end()
        yield "end", "the end of the file", line

    def next(self) -> str:
        token = self.token
        self.kind, self.token, self.line = next(self._tokens)
        return token

    def accept(self, token: str) -> bool:
        if self.token == token and self.kind != "string":
            self.next()
            return True
        return False

    def expect(self, token: str) -> None:
        if not self.accept(token):
            raise self.error(f"{token!r} is expected, not {self.token!r}")

    def take(self, kind: str, what: str) -> str:
        if self.kind != kind:
            raise self.error(f"{what} is expected, not {self.token!r}")
        return self.next()

    def error(self, sentence: str) -> FdtError:
        return FdtError(f"line {self.line}: {sentence}")

    def number(self, bits: int = 32) -> int:
        line, token = self.line, self.next()
        if token in _CONSTANTS:
            return _CONSTANTS[token]
        try:
            value = int(token, 8) if re.fullmatch(r"0[0-7]+", token) else int(token, 0)
        except ValueError:
            raise FdtError(f"line {line}: {token!r} is not a number") from None
        if not -(1 << bits - 1) <= value < 1 << bits:
            raise FdtError(f"line {line}: {token} does not fit in {bits} bits")
        return value & (1 << bits) - 1


class _Reader:
    def __init__(self, text: str) -> None:
        self.source = _Source(text)
        self.tree = DeviceTree()
        self.labels: dict[str, Node] = {}
        # Properties with references, filled in when all nodes and labels are known.
        self.fixups: dict[tuple[int, str], tuple[Node, str, list[bytes | str], int]] = {}
        self.depth = 0

    def read(self) -> DeviceTree:
        source = self.source
        while source.kind != "end":
            labels = self._labels()
            if source.accept("/dts-v1/") or source.accept("/plugin/"):
                source.expect(";")
            elif source.accept("/memreserve/"):
                self.tree.reservations.append((source.number(64), source.number(64)))
                source.expect(";")
            elif source.accept("/delete-node/"):
                self._resolve(source.take("reference", "a reference"), source.line).remove()
                source.expect(";")
            elif source.kind == "reference":
                line = source.line
                self._body(self._resolve(source.next(), line), labels)
            elif source.accept("/"):
                self._body(self.tree.root, labels)
            else:
                raise source.error(f"a node is expected, not {source.token!r}")
        for node, name, parts, line in self.fixups.values():
            node.properties[name] = b"".join(
                part if isinstance(part, bytes) else self._reference(part, line) for part in parts
            )
        return self.tree

    def _labels(self) -> list[str]:
        labels = []
        while self.source.kind == "label":
            labels.append(self.source.next()[:-1])
        return labels

    def _resolve(self, reference: str, line: int) -> Node:
        target = reference.lstrip("&")
        node = self.tree.find(target[1:-1]) if target.startswith("{") else self.labels.get(target)
        if node is None:
            raise FdtError(f"line {line}: {reference} refers to nothing")
        return node

    def _reference(self, reference: str, line: int) -> bytes:
        as_path = reference.startswith("path:")
        node = self._resolve(reference.removeprefix("path:"), line)
        if as_path:
            return node.path.encode("ascii") + b"\0"
        return struct.pack(">I", self.tree.phandle_of(node))

    def _body(self, node: Node, labels: list[str]) -> None:
        source = self.source
        for label in labels:
            self.labels[label] = node
        self.depth += 1
        if self.depth > 64:
            raise source.error("nodes are nested deeper than 64")
        source.expect("{")
        while not source.accept("}"):
            self._entry(node)
        source.expect(";")
        self.depth -= 1

    def _entry(self, node: Node) -> None:
        source = self.source
        labels = self._labels()
        if source.accept("/delete-property/"):
            node.properties.pop(source.take("word", "a property name"), None)
            source.expect(";")
        elif source.accept("/delete-node/"):
            name = source.take("word", "a node name")
            for child in [child for child in node.children if child.name == name]:
                child.remove()
            source.expect(";")
        else:
            source.accept("/omit-if-no-ref/")
            name = source.take("word", "a property or node")
            if source.token == "{":
                existing = next((child for child in node.children if child.name == name), None)
                self._body(existing if existing is not None else node.add(name), labels)
            elif source.accept(";"):
                node.properties[name] = b""
            else:
                source.expect("=")
                self._value(node, name)

    def _value(self, node: Node, name: str) -> None:
        source = self.source
        line = source.line
        parts: list[bytes | str] = []
        while True:
            self._labels()
            if source.kind == "string":
                text = source.next()[1:-1]
                parts.append(text.encode("latin-1").decode("unicode_escape").encode("latin-1") + b"\0")
            elif source.kind == "bytes":
                parts.append(bytes.fromhex(source.next()[1:-1]))
            elif source.kind == "reference":
                parts.append("path:" + source.next())
            else:
                bits = 32
                if source.accept("/bits/"):
                    bits = source.number()
                    if bits not in (8, 16, 32, 64):
                        raise source.error(f"/bits/ {bits} is not 8, 16, 32 or 64")
                source.expect("<")
                while not source.accept(">"):
                    self._labels()
                    if source.kind == "reference":
                        parts.append(source.next())
                    elif source.accept("("):
                        parts.append(source.number(bits).to_bytes(bits // 8, "big"))
                        source.expect(")")
                    else:
                        parts.append(source.number(bits).to_bytes(bits // 8, "big"))
            if not source.accept(","):
                break
        source.expect(";")
        node.properties[name] = b""
        self.fixups[id(node), name] = (node, name, parts, line)


def parse_dts(text: str) -> DeviceTree:
    """A tree from source text; raises FdtError with the line."""
    return _Reader(text).read()
