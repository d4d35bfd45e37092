"""YAML that documents show, read by the loader of cluster.yaml: whole files, and parts of one.

A part is laid over the smallest file. What is something else says so behind the language (```yaml kubernetes)
and has to parse.
"""

from __future__ import annotations

import copy
import re
import zoneinfo
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml
from docs_pages import Block, Complaint, Page

from bramble.reference_keys import SMALLEST
from fleet.spec.document import parse_document
from fleet.spec.draft import PathKind, Surroundings
from fleet.spec.load import check_text
from fleet.spec.schema import ClusterDocument, NodeSection

LAB: Final = "lab"
"""Marks a part for the cluster of the lab, whose network is another."""
OTHERS: Final = frozenset({"kubernetes", "prometheus", "cloud-init", "netplan"})
"""Kinds of YAML that are not ours."""


def _probe(path: Path) -> PathKind:
    """A page's paths are the reader's own: overlays and releases are directories, the rest are files."""
    return PathKind.DIRECTORY if re.search(r"overlay|k3s|release", path.name) else PathKind.FILE


NODE_KEYS: Final = frozenset(NodeSection.model_fields)
SECTIONS: Final = frozenset(ClusterDocument.model_fields)
AROUND: Final = Surroundings(Path("/home/reader/attic"), _probe, frozenset(zoneinfo.available_timezones()))


def yaml_complaints(page: Page) -> Iterator[Complaint]:
    """Every YAML block, and every `key: value` of cluster.yaml in backticks, that the loader would refuse."""
    for block in page.blocks:
        if block.language in ("yaml", "yml"):
            for line, fault in _block_faults(block):
                yield Complaint(page.name, line, fault)
    for span in page.words:
        key = span.text.partition(":")[0]
        if ": " in span.text and key in SECTIONS and "…" not in span.text:
            for _line, fault in _block_faults(Block("yaml", span.text, span.line)):
                yield Complaint(page.name, span.line, f"`{span.text}`: {fault}")


def _block_faults(block: Block) -> Iterator[tuple[int, str]]:
    """(line of the page, what is wrong)."""
    others = block.notes - {LAB}
    if others - OTHERS:
        yield block.line, f"nobody knows YAML of the kind {sorted(others - OTHERS)[0]!r}"
        return
    if others:
        try:
            list(yaml.safe_load_all(block.text))
        except yaml.YAMLError as exc:
            yield block.line, f"no YAML: {exc}"
        return
    read = parse_document(block.text)  # as the loader reads it: `on` is a word
    for fault in read.faults:
        yield block.line + fault.line - 1, f"no YAML for cluster.yaml: {fault.message}"
    if read.faults:
        return
    value = read.data
    is_whole = isinstance(value, dict) and "version" in value
    text = block.text if is_whole else yaml.safe_dump(with_part(value, in_lab=LAB in block.notes))
    checked = check_text(text, Path("cluster.yaml"), AROUND)
    for problem in checked.errors:
        line = problem.line if is_whole else 1  # of a part, the lines are those of the laid together file
        yield block.line + line - 1, f"cluster.yaml refuses it: {problem.key}: {problem.message}"


def with_part(part: Any, *, in_lab: bool = False) -> dict[str, Any]:
    """The smallest cluster.yaml with a part of one in it; `in_lab`, on the lab's network.

    Keys of a node are its node's; a bare list is nodes that are added; a mapping's `nodes` are all there are
    where a server is among them, and added where not.
    """
    document: dict[str, Any] = copy.deepcopy(dict(SMALLEST))
    if in_lab:
        document["network"] |= {"interface": "bramble0", "subnet": "10.77.0.0/24"}
    is_list = isinstance(part, list)
    content: Any = {"nodes": part} if is_list else part
    if isinstance(content, dict) and content and set(content) <= NODE_KEYS:
        document["nodes"][0] |= content
        return document
    if not isinstance(content, dict):
        return {"version": 1, "not a mapping": str(part)}
    nodes = content.get("nodes")
    if isinstance(nodes, list) and all(isinstance(node, dict) for node in nodes):
        is_all = not is_list and any(node.get("role") == "server" for node in nodes)
        names = {node.get("name") for node in nodes}
        kept = [] if is_all else [node for node in document["nodes"] if node["name"] not in names]
        content = {**content, "nodes": [*kept, *nodes]}
    return _merged(document, content)


def _merged(into: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    for key, value in part.items():
        mine = into.get(key)
        into[key] = _merged(mine, value) if isinstance(mine, dict) and isinstance(value, dict) else value
    return into
