"""The three ways of the Kubernetes API to change a part of an object. Pure; every function returns a new
object.

Merge patch: RFC 7386. JSON patch: RFC 6902. Strategic merge patch: lists whose items have a key are merged
item by item. Source: Kubernetes API conventions, "Patch", and the merge keys of the core types.
"""

from __future__ import annotations

import copy
from typing import Any

from lab.k3s_sim.node.errors import StatusError, bad_request
from lab.k3s_sim.node.objects import Object

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"

_MERGE_KEYS = {
    "conditions": "type", "addresses": "type", "taints": "key", "ownerReferences": "uid",
    "containers": "name", "initContainers": "name", "volumes": "name", "env": "name",
    "ports": "containerPort", "imagePullSecrets": "name", "volumeMounts": "mountPath",
}  # fmt: skip
_MERGED_SETS = ("finalizers",)


def apply_patch(kind: str, target: Object, patch: Any) -> Object:
    """Apply a patch of the content type `kind`.

    Raises:
        StatusError: 415 for another content type, 400 or 422 for a patch that can not be applied.
    """
    if kind == JSON_PATCH:
        if not isinstance(patch, list):
            raise bad_request("a JSON patch is a list of operations")
        return json_patch(target, patch)
    if not isinstance(patch, dict):
        raise bad_request("the patch is not a JSON object")
    if kind == MERGE:
        return merge_patch(target, patch)
    if kind == STRATEGIC:
        return strategic_patch(target, patch)
    text = f"the body of the request was in an unknown format - accepted media types include: {JSON_PATCH}, "
    raise StatusError(415, "UnsupportedMediaType", f"{text}{MERGE}, {STRATEGIC}")


def merge_patch(target: Object, patch: Object) -> Object:
    """RFC 7386: null removes, objects merge, everything else replaces."""
    merged = copy.deepcopy(target)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            below = merged.get(key)
            merged[key] = merge_patch(below if isinstance(below, dict) else {}, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def strategic_patch(target: Object, patch: Object) -> Object:
    """Like a merge patch, but lists with a merge key are merged; `$patch: replace|delete` is honoured."""
    if patch.get("$patch") == "replace":
        return {key: copy.deepcopy(value) for key, value in patch.items() if key != "$patch"}
    merged = copy.deepcopy(target)
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            merged[name] = [item for item in merged.get(name) or [] if item not in value]
        elif key.startswith("$"):
            continue  # $setElementOrder and $retainKeys change no value that the simulator keeps
        elif value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            below = merged.get(key)
            merged[key] = strategic_patch(below if isinstance(below, dict) else {}, value)
        elif isinstance(value, list) and key in _MERGE_KEYS:
            merged[key] = _merge_list(merged.get(key) or [], value, _MERGE_KEYS[key])
        elif isinstance(value, list) and key in _MERGED_SETS:
            present = merged.get(key) or []
            merged[key] = [*present, *(item for item in value if item not in present)]
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _merge_list(present: list[Any], given: list[Any], merge_key: str) -> list[Any]:
    if any(isinstance(item, dict) and item == {"$patch": "replace"} for item in given):
        return [copy.deepcopy(item) for item in given if item != {"$patch": "replace"}]
    merged = copy.deepcopy(present)
    for item in given:
        if not isinstance(item, dict) or merge_key not in item:
            raise bad_request(f"map: {item} does not contain declared merge key: {merge_key}")
        place = next((n for n, old in enumerate(merged) if old.get(merge_key) == item[merge_key]), None)
        if item.get("$patch") == "delete":
            if place is not None:
                del merged[place]
        elif place is None:
            merged.append(copy.deepcopy(item))
        else:
            merged[place] = strategic_patch(merged[place], item)
    return merged


def json_patch(target: Object, operations: list[Any]) -> Object:
    """RFC 6902; a `test` that fails refuses the whole patch (422)."""
    document: Any = copy.deepcopy(target)
    for operation in operations:
        try:
            document = _operate(document, operation)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            text = f"the server rejected our request due to an error in our request: {operation}: {error}"
            raise StatusError(422, "Invalid", text) from error
    if not isinstance(document, dict):
        raise bad_request("the patch leaves no JSON object")
    return document


def _operate(document: Any, operation: Any) -> Any:
    name, path = operation["op"], _pointer(operation["path"])
    if name == "test":
        if _look_up(document, path) != operation["value"]:
            raise ValueError("testing value failed")
        return document
    if name == "remove":
        return _removed(document, path)
    if name == "replace":
        return _added(_removed(document, path), path, operation["value"])
    if name == "add":
        return _added(document, path, operation["value"])
    source = _pointer(operation["from"])
    value = copy.deepcopy(_look_up(document, source))
    if name == "copy":
        return _added(document, path, value)
    if name == "move":
        return _added(_removed(document, source), path, value)
    raise ValueError(f"unknown operation {name!r}")


def _pointer(text: str) -> list[str]:
    """RFC 6901."""
    if text and not text.startswith("/"):
        raise ValueError(f"{text!r} is not a JSON pointer")
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _look_up(document: Any, path: list[str]) -> Any:
    for part in path:
        document = document[_index(document, part)]
    return document


def _index(container: Any, part: str) -> Any:
    if isinstance(container, list):
        if not part.isdigit():
            raise ValueError(f"{part!r} is not a place in a list")
        return int(part)
    return part


def _removed(document: Any, path: list[str]) -> Any:
    if not path:
        return None
    parent = _look_up(document, path[:-1])
    del parent[_index(parent, path[-1])]
    return document


def _added(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return copy.deepcopy(value)
    parent = _look_up(document, path[:-1])
    if isinstance(parent, list):
        place = len(parent) if path[-1] == "-" else _index(parent, path[-1])
        if place > len(parent):
            raise IndexError(f"{path[-1]} is behind the end of the list")
        parent.insert(place, copy.deepcopy(value))
    else:
        parent[path[-1]] = copy.deepcopy(value)
    return document
