"""Whose file a cluster.yaml is that cannot be used: its name, as far as it can be read. Pure.

Who only looks needs no more of the file than where the record is. A file whose YAML breaks off is read up to
that place; one that only has wrong values is read whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import yaml

from fleet.spec.document import MAX_DOCUMENT_BYTES
from fleet.spec.values import ValueFault, parse_label, parse_store_url

_NAME: Final = ("cluster", "name")
_STORE: Final = ("cluster", "control", "store")
_NO_WORD: Final = ""
"""In place of a key: the place in a list, or a key that is a list or a mapping."""


@dataclass(frozen=True, slots=True)
class Glimpse:
    """What is known of the cluster; None where it does not stand there, or not as it should."""

    name: str | None = None
    store: str | None = None


@dataclass(slots=True)
class _Open:
    """A mapping or a list whose end was not seen yet.

    Attributes:
        key: In a mapping the key that waits for its value.
        is_key: It is itself the key of something, which YAML allows.
    """

    is_mapping: bool
    key: str | None = None
    is_key: bool = False


def glimpse(text: str) -> Glimpse:
    """Read a cluster's name and the place of its record. Never raises for what the text contains."""
    if len(text.encode(errors="replace")) > MAX_DOCUMENT_BYTES:
        return Glimpse()
    found: dict[tuple[str, ...], str] = {}
    try:
        for path, value in _words(text):
            if path in (_NAME, _STORE):
                found.setdefault(path, value)
    except yaml.YAMLError:
        pass  # what stands before that place is known
    name, store = found.get(_NAME), found.get(_STORE)
    try:
        name = parse_label(name) if name is not None else None
    except ValueFault:
        name = None
    try:
        store = parse_store_url(store) if store is not None else None
    except ValueFault:
        store = None
    return Glimpse(name, store)


def _words(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each value that is one word, with the keys that lead to it.

    Raises:
        yaml.YAMLError: Here the text is YAML no longer.
    """
    around: list[_Open] = []
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionEndEvent):
            ended = around.pop()
            if around and not ended.is_key:
                around[-1].key = None
            continue
        if not isinstance(event, yaml.NodeEvent):
            continue
        inner = around[-1] if around else _Open(is_mapping=False)
        is_key = inner.is_mapping and inner.key is None
        word = event.value if isinstance(event, yaml.ScalarEvent) else None
        if is_key:
            inner.key = word if word is not None else _NO_WORD
        elif word is not None:
            yield tuple(each.key or _NO_WORD for each in around), word
        if isinstance(event, yaml.CollectionStartEvent):
            around.append(_Open(isinstance(event, yaml.MappingStartEvent), is_key=is_key))
        elif not is_key:
            inner.key = None
