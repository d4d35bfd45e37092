"""YAML with positions: text → plain data, and the line where every key stands.

Scalars stay the text that the author wrote. YAML 1.1 would make a number to base 60 of the MAC
`10:20:30:40:50:60`, an integer of a serial, and `False` of `dhcp: off`; `fleet.spec.schema` gives each value
its type. Only what is passed through to k3s is read as typed YAML, because k3s reads it so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import yaml

Key = tuple[str | int, ...]
"""A place in the document: `("nodes", 3, "mac")`."""

MAX_DOCUMENT_BYTES: Final = 2 << 20
"""A thousand nodes with all their keys take about an eighth of this."""
_MAX_VALUES: Final = 200_000
"""Bounds what aliases of aliases can unfold to."""
_TYPED_SUBTREES: Final = {("cluster", "k3s", "config"), ("cluster", "k3s", "registries")}
_MERGE_TAG: Final = "tag:yaml.org,2002:merge"
_ITEM: Final = (
    "a list's item begins in another column than those before it",
    "Begin all '- ' in one column.",
)
_KEY: Final = ("a key begins in another column than the keys beside it", "Begin them in one column.")
_SLIPS: Final[tuple[tuple[str, tuple[str, str]], ...]] = (
    ("but found '-'", _ITEM),
    ("but found '<block sequence start>'", _ITEM),
    ("but found '<block mapping start>'", _KEY),
    (
        "mapping values are not allowed",
        (
            "a key or a ': ' stands where there can be none",
            "Is it indented too far? Does the line above lack its ':'? Text that holds ': ' needs quotes.",
        ),
    ),
    (
        "expected ',' or ']'",
        ("a '[' above has no ']'", "Put ']' behind its last item, and commas between them."),
    ),
    (
        "expected ',' or '}'",
        ("a '{' above has no '}'", "Put '}' behind its last key, and commas between them."),
    ),
    ("cannot start any token", ("a value begins with a character of YAML's own", "Put it into quotes.")),
)
"""What PyYAML says of the usual slips → what it is, and how to mend it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A place in the document and what is wrong there."""

    key: Key
    line: int
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file.

    Attributes:
        data: dict, list, str and None; below the k3s pass-through also int, float and bool. None: no data.
        faults: Everything that made the YAML itself wrong; `data` is what could be read all the same.
    """

    data: Any
    faults: tuple[Fault, ...]
    _lines: dict[Key, int] = field(repr=False)

    def has(self, key: Key) -> bool:
        return key in self._lines

    def value(self, key: Key) -> Any:
        """The value at a key that `has`."""
        value = self.data
        for part in key:
            value = value[part]
        return value

    def line(self, key: Key) -> int:
        """The line of a key, or of the nearest thing around it that is in the file."""
        while key and key not in self._lines:
            key = key[:-1]
        return self._lines.get(key, 1)


def dotted(key: Key) -> str:
    """Write a place as people do: `nodes[3].mac`."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def parse_document(text: str) -> Document:
    """Read YAML text. Never raises for what the text contains: see `Document.faults`."""
    if len(text.encode()) > MAX_DOCUMENT_BYTES:
        fault = Fault((), 1, f"the file is larger than {MAX_DOCUMENT_BYTES} bytes", "Is it a cluster.yaml?")
        return Document(None, (fault,), {})
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        return Document(None, (_syntax_fault(text, error),), {})
    except RecursionError:
        fault = Fault((), 1, "the document is nested too deeply", "Is it a cluster.yaml?")
        return Document(None, (fault,), {})
    if root is None:
        fault = Fault((), 1, "the file is empty", "Run 'bramble init' for a commented starter file.")
        return Document(None, (fault,), {})
    builder = _Builder()
    data = builder.build(root, ())
    return Document(data, tuple(builder.faults), builder.lines)


def _syntax_fault(text: str, error: yaml.YAMLError) -> Fault:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = mark.line + 1 if mark else 1
    lines = text.splitlines()
    shown = lines[line - 1] if line <= len(lines) else ""
    if shown[: len(shown) - len(shown.lstrip())].count("\t"):
        return Fault((), line, "the line is indented with a tab, YAML allows only spaces", "Use two spaces.")
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
    context = getattr(error, "context", None)
    told = f"{context}, {problem}" if context else str(problem)
    hint = "Look at this line and the one above it."
    told, hint = next((slip for sign, slip in _SLIPS if sign in told), (told, hint))
    return Fault((), line, f"the YAML cannot be read: {told}", hint)


class _Builder:
    """Walks the composed nodes once, noting lines and faults on the way."""

    def __init__(self) -> None:
        self.lines: dict[Key, int] = {}
        self.faults: list[Fault] = []
        self._values = 0
        self._open: set[int] = set()

    def build(self, node: yaml.Node, key: Key, line: int | None = None) -> Any:
        line = node.start_mark.line + 1 if line is None else line
        self.lines[key] = line
        self._values += 1
        if id(node) in self._open or self._values > _MAX_VALUES:
            what = "an alias that contains itself" if id(node) in self._open else "too many values"
            if self._values <= _MAX_VALUES + 1:
                self.faults.append(Fault(key, line, f"the document has {what}", "Write the values out."))
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, key)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self._item(item, (*key, index)) for index, item in enumerate(node.value)]
            return self._mapping(node, key)
        finally:
            self._open.discard(id(node))

    def _item(self, node: yaml.Node, key: Key) -> Any:
        value = self.build(node, key)
        if isinstance(node, yaml.ScalarNode) and value is None and self._values <= _MAX_VALUES:
            self.faults.append(
                Fault(key, self.lines[key], "the list item is empty", "Fill it or remove the line.")
            )
        return value

    def _mapping(self, node: yaml.Node, key: Key) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name_node, value_node in node.value:
            line = name_node.start_mark.line + 1
            if name_node.tag == _MERGE_TAG:
                hint = "Put what the nodes share under 'defaults:'."
                self.faults.append(Fault(key, line, "the merge key '<<' is not supported", hint))
                continue
            if not isinstance(name_node, yaml.ScalarNode):
                self.faults.append(Fault(key, line, "a key is a list or a mapping, a key is a word", ""))
                continue
            name: str = name_node.value
            if name in found:
                first = self.lines[*key, name]
                message = f"the key {name!r} is given twice, first on line {first}"
                self.faults.append(Fault((*key, name), line, message, "Keep one of the two."))
                continue
            found[name] = self.build(value_node, (*key, name), line)
        return found

    def _scalar(self, node: yaml.ScalarNode, key: Key) -> Any:
        if node.tag == "tag:yaml.org,2002:null":
            return None
        if not any(key[: len(typed)] == typed for typed in _TYPED_SUBTREES):
            return node.value
        if node.tag not in {f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool")}:
            return node.value
        try:
            return yaml.SafeLoader("").construct_object(node)
        except (ValueError, yaml.YAMLError):
            return node.value
