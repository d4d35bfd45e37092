"""The keys of cluster.yaml as a table: what the models, and the defaults in force, say about themselves."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fleet.boards import BoardModel, DiskKind, MacAddress, Serial
from fleet.spec import effective_values
from fleet.spec.draft import PathKind, Surroundings
from fleet.spec.load import check_text
from fleet.spec.model import AddressPool, Taint
from fleet.spec.schema import ClusterDocument
from fleet.spec.windows import Window

CLUSTER: Final = "attic"
SMALLEST: Final[Mapping[str, Any]] = {
    "version": 1,
    "cluster": {"name": CLUSTER, "k3s": {"version": "v1.33.5+k3s1"}},
    "network": {"interface": "eth0", "subnet": "192.168.86.0/24"},
    "nodes": [
        {"name": "pi5-1", "board": "pi5", "role": "server", "mac": "2c:cf:67:12:34:56", "disk": "nvme"}
    ],
}
"""The required keys and no other. A test takes each away and looks for the complaint."""
ONE_OF: Final = frozenset({"nodes[].mac"})
"""Keys of `SMALLEST` that another key can stand in for."""
REQUIRED: Final = "**required**"
NO_DEFAULT: Final = ""
TYPES: Final[Mapping[Any, str]] = {
    str: "text",
    int: "number",
    bool: "true or false",
    IPv4Address: "IPv4 address",
    IPv4Network: "network, `192.168.86.0/24`",
    AddressPool: "range, `FIRST-LAST`",
    MacAddress: "MAC address",
    Serial: "serial number",
    Taint: "taint",
    Window: "window, `sat,sun 01:00-05:00`",
    Any: "anything",
}
PARSED_TYPES: Final = {"parse_duration": "duration, `15m`", "parse_memory": "size, `4G`"}
"""Parser → what people write, where the parsed value says less."""


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One key: its place (`nodes[].mac`), what is written there, what holds without it, and its meaning."""

    key: str
    kind: str
    default: str
    meaning: str


def document_keys() -> Iterator[KeyEntry]:
    """Every key of cluster.yaml in the order of the models; a section's own keys follow it."""
    defaults = _defaults()
    for key, field in _fields(ClusterDocument, ""):
        yield KeyEntry(key, kind_of(field.annotation), defaults.get(key, NO_DEFAULT), field.description or "")


def _fields(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        yield key, field
        sections = list(_models_in(field.annotation))
        if len(sections) == 1:
            inner = f"{key}[]." if _is_list(field.annotation) else f"{key}."
            if not prefix.startswith("defaults"):  # those of `defaults` are those of a node
                yield from _fields(sections[0], inner)
        elif not prefix.startswith("defaults"):
            yield from _variants(sections, f"{key}[]" if _is_list(field.annotation) else key)


def _variants(sections: list[type[BaseModel]], key: str) -> Iterator[tuple[str, FieldInfo]]:
    """Sections of which one applies, told apart by their `driver`."""
    for section in sections:
        driver = typing.get_args(section.model_fields["driver"].annotation)[0]
        for name, field in section.model_fields.items():
            if name != "driver":
                yield f"{key}.{name} ({driver})", field


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)


def _is_list(annotation: Any) -> bool:
    return typing.get_origin(annotation) is list or any(map(_is_list, typing.get_args(annotation)))


def kind_of(annotation: Any) -> str:
    """What a person writes for a value of a type of the models."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        parsers = [getattr(part, "func", None) for part in arguments[1:]]
        found = [PARSED_TYPES.get(getattr(parser, "__name__", ""), "") for parser in parsers]
        return next(filter(None, found), kind_of(arguments[0]))
    if origin in (typing.Union, types.UnionType):
        kinds = [kind_of(argument) for argument in arguments if argument is not type(None)]
        return " or ".join(dict.fromkeys(kinds))
    if origin is typing.Literal:
        return ", ".join(f"`{argument}`" for argument in arguments)
    if origin is list:
        return f"list of {kind_of(arguments[0])}"
    if origin is dict:
        return "mapping"
    if annotation in (BoardModel, DiskKind) or (
        isinstance(annotation, type) and issubclass(annotation, StrEnum)
    ):
        return ", ".join(f"`{_written(member)}`" for member in annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    return TYPES[annotation]


def _written(member: Any) -> str:
    return str(member.yaml_name if isinstance(member, BoardModel) else member.value)


def _defaults() -> dict[str, str]:
    """Key → what holds where it is not given, as the loader itself fills it in."""
    around = Surroundings(Path("/"), lambda path: PathKind.MISSING, frozenset())
    checked = check_text(yaml.safe_dump(dict(SMALLEST)), Path("cluster.yaml"), around)
    if checked.spec is None:
        raise ValueError(f"the smallest cluster.yaml is refused: {[str(p) for p in checked.problems]}")
    defaults = {}
    for value in effective_values(checked.spec, checked.document):
        key = value.key.replace("[0]", "[]")
        if value.origin != "default":
            defaults[key] = NO_DEFAULT if key in ONE_OF else REQUIRED
        elif value.value not in (None, [], {}):
            defaults[key] = f"`{_yaml_text(value.value)}`".replace(CLUSTER, "<cluster.name>")
    return defaults


def _yaml_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
