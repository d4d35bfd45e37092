"""YAML as cloud-init's users write it: every fault with its line, duplicate keys too, and JSON schemas. Pure.

PyYAML keeps the last of two equal keys without a word, and so does cloud-init.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml


@dataclass(frozen=True, slots=True)
class Fault:
    """``line`` counts from 1; 0 for the document as a whole."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML text. ``broken`` is why it does not parse (``value`` is None then); ``faults`` are
    survivable."""

    value: Any
    broken: Fault | None
    faults: tuple[Fault, ...]


class _Loader(yaml.SafeLoader):
    """Like SafeLoader, and remembers keys that occur twice in one mapping."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.faults: list[Fault] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = key_node.value
            line = key_node.start_mark.line + 1
            if isinstance(key_node, yaml.ScalarNode) and key in seen:
                self.faults.append(
                    Fault(
                        line, f"the key {key!r} stands in line {seen[key]} already; the later one replaces it"
                    )
                )
            seen[key] = line
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Document:
    """Parse one document. Never raises."""
    loader = _Loader("")
    try:
        loader = _Loader(text)
        value = loader.get_single_data()
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark
        line = 0 if mark is None else mark.line + 1
        what = exc.problem or "not YAML"
        if line and "\t" in _line(text, line)[: max(1, mark.column + 1) if mark else None]:
            what = "a tab indents the line; YAML allows spaces only"
        return Document(None, Fault(line, what), tuple(loader.faults))
    except (yaml.YAMLError, ValueError) as exc:
        return Document(None, Fault(0, str(exc).splitlines()[0]), tuple(loader.faults))
    finally:
        loader.dispose()
    return Document(value, None, tuple(loader.faults))


def _line(text: str, number: int) -> str:
    lines = text.splitlines()
    return lines[number - 1] if number <= len(lines) else ""


def schema_faults(value: Any, schema_text: str) -> Iterator[Fault]:
    """What a document does against a JSON schema (draft 4, as cloud-init's are), deepest place named.

    Of a choice of forms (anyOf, oneOf) of which none fits, the complaint of the nearest one is given.
    """
    import jsonschema

    schema = json.loads(schema_text)
    validator = jsonschema.Draft4Validator(schema)
    for error in sorted(
        validator.iter_errors(value), key=lambda found: [str(p) for p in found.absolute_path]
    ):
        best = jsonschema.exceptions.best_match([error]) or error
        place = ".".join(str(part) for part in best.absolute_path) or "the document"
        yield Fault(0, f"{place}: {best.message[:200]}")
