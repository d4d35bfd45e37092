"""Document → typed sections, with a finding for every key and value that does not fit.

pydantic finds the faults; this module tells them in Bramble's words, takes the faulty values out, and
validates what remains, so that one run reports everything.
"""

from __future__ import annotations

import copy
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from fleet.spec.document import Key
from fleet.spec.problems import Severity
from fleet.spec.schema import ClusterDocument
from fleet.spec.values import suggest

_EXPECTED: Final = {
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
    "dict_type": "a mapping (key: value)",
    "list_type": "a list (one '- …' per line, or [a, b])",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
}
_PLACES_OF_OTHER_KEYS: Final = {
    "node": "nodes",
    "gateway": "network.gateway",
    "subnet": "network.subnet",
    "interface": "network.interface",
    "dhcp": "network.dhcp",
    "domain": "cluster.domain",
    "k3s": "cluster.k3s",
    "timezone": "image.timezone",
    "packages": "image.packages",
    "packages_at": "image.packages_at",
    "user": "image.user",
    "ssh_authorized_keys": "image.user.ssh_authorized_keys",
    "api_vip": "cluster.k3s.api_vip",
}
"""Where a key that people put into another section belongs."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem before it has a file and a line."""

    key: Key
    message: str
    hint: str = ""
    severity: Severity = Severity.ERROR


def shape_document(
    data: Mapping[str, Any], without: frozenset[Key] = frozenset()
) -> tuple[ClusterDocument, frozenset[Key], list[Finding]]:
    """Type a document.

    Args:
        data: What `parse_document` read; not changed.
        without: Places to take out unseen: they were reported before.

    Returns:
        The typed document without what was faulty, the places of the faulty values, and the findings.
    """
    remaining = copy.deepcopy(dict(data))
    findings: list[Finding] = []
    faulty: set[Key] = set(without)
    for key in without:
        _take_out(remaining, key)
    while True:
        try:
            return ClusterDocument.model_validate(remaining), frozenset(faulty), findings
        except ValidationError as error:
            known = len(faulty)
            for detail in error.errors(include_url=False):
                location = tuple(detail["loc"])
                key = _place(remaining, location)
                findings.append(
                    _tell(detail["type"], location, key, detail.get("input"), detail.get("ctx", {}))
                )
                faulty.add(key)
            if len(faulty) == known:
                raise  # a fault that taking values out does not end is a fault of the schema
            for key in faulty:
                _take_out(remaining, key)


def _place(data: Any, location: Key) -> Key:
    """Leave out what pydantic adds to a location and the document does not have: union tags, '[key]'."""
    key: list[str | int] = []
    for part in location:
        inside = part in data if isinstance(data, dict) else isinstance(data, list) and isinstance(part, int)
        if inside:
            data = data[part]
            key.append(part)
    return tuple(key)


def _take_out(data: Any, key: Key) -> None:
    *parents, last = key
    for part in parents:
        if isinstance(data, list) and isinstance(part, int):
            data = data[part]
        else:
            data = data.get(part) if isinstance(data, dict) else None
    if isinstance(data, list) and isinstance(last, int):
        # An empty place keeps the numbers of the items behind it, and with them their lines.
        data[last] = None
    elif isinstance(data, dict):
        data.pop(last, None)


def _tell(kind: str, location: Key, key: Key, found: Any, context: Mapping[str, Any]) -> Finding:
    error = context.get("error")
    if kind == "value_error":
        return Finding(key, getattr(error, "message", str(error)), getattr(error, "hint", ""))
    if kind == "extra_forbidden":
        return _unknown_key(location, key)
    if kind == "union_tag_not_found":
        first = "webhook" if key[:1] == ("notify",) else "manual"
        hint = f"Write 'driver: {first}', or the name of another driver."
        return Finding(key, "the key 'driver' is missing", hint)
    if kind == "union_tag_invalid":
        drivers = [name.strip("' ") for name in str(context["expected_tags"]).split(",")]
        return Finding(
            (*key, "driver"),
            f"{context['tag']!r} is not a driver of {'notify' if key[:1] == ('notify',) else 'power'}",
            suggest(context["tag"], drivers),
        )
    if kind in ("greater_than_equal", "less_than_equal"):
        if key == ("version",):
            hint = "Write 'version: 1'; a newer file needs a newer Bramble."
            return Finding(key, f"version {found} of the format is not known, expected 1", hint)
        bound = f"at least {context['ge']}" if "ge" in context else f"at most {context['le']}"
        return Finding(key, f"{found} is out of range, expected {bound}")
    return Finding(key, f"found {_describe(found)}, expected {_EXPECTED.get(kind, kind)}")


def _describe(found: Any) -> str:
    """Name the kind of a value; only a short plain word is quoted."""
    if isinstance(found, dict):
        return "a mapping"
    if isinstance(found, list):
        return "a list"
    text = str(found)
    return repr(text) if len(text) <= 40 and "\n" not in text else "a longer text"


def _unknown_key(location: Key, key: Key) -> Finding:
    name = str(location[-1])
    known = _known_keys(location[:-1])
    hint = suggest(name, known)
    if (home := _PLACES_OF_OTHER_KEYS.get(name)) and not hint.startswith("Did"):
        hint = f"It belongs in '{home}'."
    return Finding(key, f"the key {name!r} is not known here", hint)


def _known_keys(location: Key) -> list[str]:
    """The keys of the section at a pydantic location."""
    models: list[type[BaseModel]] = [ClusterDocument]
    for part in location:
        if isinstance(part, int):
            continue
        tagged = [model for model in models if _tag(model) == part]
        models = tagged or [
            inner
            for model in models
            if part in model.model_fields
            for inner in _models_in(model.model_fields[part].annotation)
        ]
    return sorted({name for model in models for name in model.model_fields})


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)


def _tag(model: type[BaseModel]) -> str | None:
    driver = model.model_fields.get("driver")
    tags: Iterable[str] = typing.get_args(driver.annotation) if driver else ()
    return next(iter(tags), None)
