"""The part of YAML that k3s configuration files use, and a clear error with the line for everything else.

Understood: block mappings and block lists, flow lists and mappings on one line, quoted and plain scalars,
comments, `---`, and a document that is JSON. Refused: anchors, aliases, tags, block scalars, tabs, complex
keys. Every scalar comes back as text: k3s turns each of its configuration into a command line argument
anyway. Manifests need types; `typed` finds them from the plain scalars.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Union

Value = Union[str, "list[Value]", "dict[str, Value]"]

_KEY = re.compile(
    r"""(?P<key>"(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^\s:#'"\[\]{},&*!|>%@`-][^:#]*?|-?[^\s:#'"]+)\s*:(?=\s|$)"""
)
_ESCAPE = re.compile(r"\\(x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)")
_SHORT_ESCAPES = {
    **{"0": "\0", "a": "\a", "b": "\b", "t": "\t", "\t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r"},
    **{"e": "\x1b", " ": " ", '"': '"', "/": "/", "\\": "\\", "N": "\x85", "_": "\xa0"},
    **{"L": "\u2028", "P": "\u2029"},
}
"""Source: YAML 1.2.2, section 5.7."""
_DOCUMENT_START = re.compile(r"^---.*$", re.MULTILINE)
_INTEGER = re.compile(r"[-+]?[0-9]+")
_CONSTANTS: dict[str, bool | None] = {"true": True, "false": False, "": None}
"""An empty plain scalar is null; `~` and `null` have become empty by then."""
_FORBIDDEN_START = {
    "&": "an anchor",
    "*": "an alias",
    "!": "a tag",
    "|": "a block scalar",
    ">": "a block scalar",
    "%": "a directive",
    "@": "a reserved character",
    "`": "a reserved character",
    "?": "a complex key",
}


class Plain(str):
    """A scalar without quotes: its text may mean a number, a truth value or nothing."""

    __slots__ = ()


class YamlError(ValueError):
    """The text is not YAML, or uses a part of YAML that this reader does not know."""

    def __init__(self, file: str, line: int, message: str) -> None:
        super().__init__(f"{file}: line {line}: {message}")
        self.file = file
        self.line = line
        self.message = message


@dataclass(frozen=True)
class _Line:
    number: int
    indent: int
    text: str


def parse_mapping(text: str, file: str) -> dict[str, Value]:
    """Parse one document whose top level is a mapping; an empty document is an empty mapping.

    Raises:
        YamlError: with the file's name and the line.
    """
    if text.lstrip().startswith("{"):
        return _parse_json(text, file)
    reader = _Reader(file, _significant_lines(text, file))
    try:
        value = reader.document()
    except RecursionError as error:
        raise YamlError(file, 1, "brackets or blocks are nested too deeply") from error
    if not isinstance(value, dict):
        raise YamlError(file, 1, "expected 'key: value' lines at the top level")
    return value


def parse_manifests(text: str, file: str) -> list[Any]:
    """Parse the documents of a manifest, with types; empty documents are left out.

    Raises:
        YamlError: with the file's name and the line within the document.
    """
    if text.lstrip().startswith("{"):
        try:
            return [json.loads(text)]
        except json.JSONDecodeError as error:
            raise YamlError(file, error.lineno, f"not valid JSON: {error.msg}") from error
    documents = [parse_mapping(part, file) for part in _DOCUMENT_START.split(text)]
    return [typed(document) for document in documents if document]


def typed(value: Value) -> Any:
    """The value with numbers, truth values and null, as YAML 1.2's core schema reads plain scalars."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    if not isinstance(value, Plain):
        return value
    if value in _CONSTANTS:
        return _CONSTANTS[value]
    return int(value) if _INTEGER.fullmatch(value) else str(value)


def _parse_json(text: str, file: str) -> dict[str, Value]:
    try:
        value = _from_json(json.loads(text))
    except json.JSONDecodeError as error:
        raise YamlError(file, error.lineno, f"not valid JSON: {error.msg}") from error
    if not isinstance(value, dict):
        raise YamlError(file, 1, "expected an object at the top level")
    return value


def _from_json(value: object) -> Value:
    if isinstance(value, dict):
        return {str(key): _from_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _significant_lines(text: str, file: str) -> list[_Line]:
    lines: list[_Line] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        content = _without_comment(raw).rstrip()
        stripped = content.lstrip(" ")
        if not stripped.strip():
            continue
        if stripped.startswith("\t"):
            raise YamlError(file, number, "a tab indents this line; YAML wants spaces")
        if content == "---":
            if lines:
                raise YamlError(file, number, "a second document starts here; one is allowed")
            continue
        lines.append(_Line(number, len(content) - len(stripped), stripped))
    return lines


def _without_comment(line: str) -> str:
    quote = ""
    skip = False
    for index, character in enumerate(line):
        if skip:
            skip = False
        elif quote:
            if character == "\\" and quote == '"':
                skip = True
            elif character == quote:
                quote = ""
        elif character in "\"'" and (index == 0 or line[index - 1] in " \t[{,:-"):
            quote = character
        elif character == "#" and (index == 0 or line[index - 1] in " \t"):
            return line[:index]
    return line


class _Reader:
    """Recursive descent over the significant lines."""

    def __init__(self, file: str, lines: list[_Line]) -> None:
        self._file = file
        self._lines = lines
        self._next = 0

    def document(self) -> Value:
        if not self._lines:
            return {}
        value = self._block(self._lines[0].indent)
        if self._next < len(self._lines):
            raise self._error(
                self._lines[self._next], "this line is indented differently from the lines above"
            )
        return value

    def _error(self, line: _Line, message: str) -> YamlError:
        return YamlError(self._file, line.number, message)

    def _block(self, indent: int) -> Value:
        if _is_item(self._lines[self._next].text):
            return self._list(indent)
        return self._mapping(indent)

    def _list(self, indent: int) -> Value:
        items: list[Value] = []
        while self._next < len(self._lines):
            line = self._lines[self._next]
            if line.indent != indent or not _is_item(line.text):
                break
            text = line.text[1:].strip()
            if not text:
                items.append(self._item_below(indent))
            elif _is_item(text) or _KEY.match(text):  # a block that begins on the line of its '-'
                inner = line.indent + len(line.text) - len(line.text[1:].lstrip())
                self._lines[self._next] = _Line(line.number, inner, text)
                items.append(self._block(inner))
            else:
                items.append(self._inline(line, text))
                self._next += 1
        return items

    def _item_below(self, indent: int) -> Value:
        """The block below a '-' that stands alone."""
        self._next += 1
        if self._next < len(self._lines) and self._lines[self._next].indent > indent:
            return self._block(self._lines[self._next].indent)
        return Plain("")

    def _mapping(self, indent: int) -> Value:
        mapping: dict[str, Value] = {}
        while self._next < len(self._lines):
            line = self._lines[self._next]
            if line.indent != indent:
                break
            key, value = self._entry(line)
            if key in mapping:
                raise self._error(line, f"the key {key!r} stands here a second time")
            mapping[key] = value
        return mapping

    def _entry(self, line: _Line) -> tuple[str, Value]:
        if line.text[0] in _FORBIDDEN_START:
            raise self._error(
                line, f"{_FORBIDDEN_START[line.text[0]]} is outside the YAML that this simulator reads"
            )
        match = _KEY.match(line.text)
        if match is None:
            raise self._error(line, f"expected 'key: value', found {line.text!r}")
        key = self._scalar(line, match["key"])
        rest = line.text[match.end() :].strip()
        self._next += 1
        if rest:
            return key, self._inline(line, rest)
        if self._next == len(self._lines):
            return key, Plain("")
        following = self._lines[self._next]
        if following.indent > line.indent or (following.indent == line.indent and _is_item(following.text)):
            return key, self._block(following.indent)
        return key, Plain("")

    def _inline(self, line: _Line, text: str) -> Value:
        if text[0] in "[{":
            value, rest = self._flow(line, text)
            if rest.strip():
                raise self._error(line, f"{rest.strip()!r} follows the closing bracket")
            return value
        return self._scalar(line, text)

    def _flow(self, line: _Line, text: str) -> tuple[Value, str]:
        text = text.lstrip()
        if text.startswith("["):
            return self._flow_list(line, text[1:])
        if text.startswith("{"):
            return self._flow_mapping(line, text[1:])
        scalar, rest = self._flow_token(line, text, stop=",]}")
        return self._scalar(line, scalar), rest

    def _flow_list(self, line: _Line, text: str) -> tuple[Value, str]:
        items: list[Value] = []
        text = text.lstrip()
        while not text.startswith("]"):
            item, text = self._flow(line, text)
            items.append(item)
            text = self._after_item(line, text, "]")
        return items, text[1:]

    def _flow_mapping(self, line: _Line, text: str) -> tuple[Value, str]:
        mapping: dict[str, Value] = {}
        text = text.lstrip()
        while not text.startswith("}"):
            token, text = self._flow_token(line, text, stop=":,}")
            if not text.startswith(":"):
                raise self._error(line, f"expected ':' after {token!r}")
            mapping[self._scalar(line, token)], text = self._flow(line, text[1:])
            text = self._after_item(line, text, "}")
        return mapping, text[1:]

    def _after_item(self, line: _Line, text: str, closing: str) -> str:
        text = text.lstrip()
        if text.startswith(","):
            return text[1:].lstrip()
        if not text.startswith(closing):
            raise self._error(line, f"expected ',' or '{closing}' on this line")
        return text

    def _flow_token(self, line: _Line, text: str, *, stop: str) -> tuple[str, str]:
        text = text.lstrip()
        if text[:1] in ("'", '"'):
            end = _end_of_quoted(text)
            if end is None:
                raise self._error(line, "a quotation mark is not closed on this line")
            return text[:end], text[end:].lstrip()
        end = next((index for index, character in enumerate(text) if character in stop), len(text))
        if not text[:end].strip():
            raise self._error(line, "a value is missing; a list or mapping in brackets ends on its line")
        return text[:end].strip(), text[end:]

    def _scalar(self, line: _Line, text: str) -> str:
        if text[0] in "\"'":
            if _end_of_quoted(text) != len(text):
                raise self._error(line, f"a quoted value must be all of the value: {text}")
            if text[0] == "'":
                return text[1:-1].replace("''", "'")
            try:
                return _ESCAPE.sub(_unescaped, text[1:-1])
            except ValueError as error:
                raise self._error(line, f"an escape in {text} is unknown: {error}") from error
        if text[0] in _FORBIDDEN_START:
            raise self._error(
                line, f"{_FORBIDDEN_START[text[0]]} is outside the YAML that this simulator reads"
            )
        if ": " in text:
            raise self._error(line, f"{text!r} contains ': '; quote it")
        return Plain("" if text in ("~", "null", "Null", "NULL") else text)


def _unescaped(match: re.Match[str]) -> str:
    escape = match[1]
    if escape in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[escape]
    if len(escape) == 1:
        raise ValueError(match[0])
    return chr(int(escape[1:], 16))  # ValueError beyond the last code point


def _is_item(text: str) -> bool:
    return text == "-" or text.startswith("- ")


def _end_of_quoted(text: str) -> int | None:
    """Index after the quoted string that `text` starts with."""
    pattern = r'"(?:[^"\\]|\\.)*"' if text[0] == '"' else r"'(?:[^']|'')*'"
    match = re.match(pattern, text)
    return match.end() if match else None
