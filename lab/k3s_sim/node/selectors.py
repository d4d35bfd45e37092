"""Label and field selectors of list and watch requests. Pure.

Understood: `a=b`, `a==b`, `a!=b`, `a`, `!a`, `a in (x,y)`, `a notin (x,y)` on labels; `=`, `==`, `!=` on the
fields of FIELDS. Anything else is refused instead of ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from lab.k3s_sim.node.errors import bad_request
from lab.k3s_sim.node.objects import Object

Matcher = Callable[[Object], bool]

FIELDS = (
    "metadata.name", "metadata.namespace", "type", "spec.nodeName", "spec.unschedulable", "status.phase",
    "involvedObject.name", "involvedObject.uid", "involvedObject.kind", "reason",
)  # fmt: skip

_PART = re.compile(r"\s*((?:[^,(]|\([^)]*\))+)\s*(?:,|$)")
_SET = re.compile(r"(\S+)\s+(in|notin)\s+\(([^)]*)\)")
_EQUALITY = re.compile(r"([^=!\s]+)\s*(==|=|!=)\s*([^=!\s]*)")
_KEY = re.compile(r"!?\s*[A-Za-z0-9][-A-Za-z0-9_./]*")


def label_selector(text: str) -> Matcher:
    """Whether an object's labels match a selector as it stands in a query.

    Raises:
        StatusError: 400, the selector can not be read.
    """
    tests = [_label_test(part) for part in _parts(text)]
    return lambda item: all(test(item["metadata"].get("labels") or {}) for test in tests)


def field_selector(text: str) -> Matcher:
    """Whether an object's fields match; an absent field equals the empty text.

    Raises:
        StatusError: 400, a field that the simulator does not select on.
    """
    tests: list[Matcher] = []
    for part in _parts(text):
        match = _EQUALITY.fullmatch(part)
        if match is None or match[1] not in FIELDS:
            raise bad_request(f"field label not supported: {part}")
        tests.append(_field_test(match[1], match[3], match[2] != "!="))
    return lambda item: all(test(item) for test in tests)


def matches_label_selector(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """A selector as objects carry it (`matchLabels`, `matchExpressions`); an empty one matches everything."""
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for expression in selector.get("matchExpressions") or ():
        key, values = expression["key"], expression.get("values") or ()
        holds = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }[expression["operator"]]
        if not holds:
            return False
    return True


def _parts(text: str) -> list[str]:
    parts: list[str] = []
    place = 0
    while place < len(text):
        match = _PART.match(text, place)
        if match is None:
            raise bad_request(f"unable to parse requirement: {text!r}")
        parts.append(match[1].strip())
        place = match.end()
    return parts


def _label_test(part: str) -> Callable[[Mapping[str, str]], bool]:
    match = _SET.fullmatch(part)
    if match is not None:
        key, values = match[1], {value.strip() for value in match[3].split(",")}
        if match[2] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    match = _EQUALITY.fullmatch(part)
    if match is not None:
        key, value = match[1], match[3]
        if match[2] == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if _KEY.fullmatch(part) is None:
        raise bad_request(f"unable to parse requirement: {part!r}")
    key = part.lstrip("! ")
    if part.startswith("!"):
        return lambda labels: key not in labels
    return lambda labels: key in labels


def _field_test(path: str, value: str, wanted: bool) -> Matcher:
    def test(item: Object) -> bool:
        found: Any = item
        for name in path.split("."):
            found = found.get(name) if isinstance(found, dict) else None
        text = {None: "", True: "true", False: "false"}.get(found, str(found))
        if path == "spec.unschedulable" and found is None:
            text = "false"
        return (text == value) is wanted

    return test
