"""Names in documents that look like ours: they have to exist.

Files of the checkout, modules and what is in them, tests, keys of cluster.yaml, metrics, variables of the
environment, routes of the API, options, words like `late-link`; and links with their anchors.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from docs_commands import option_names
from docs_pages import ROOT, Complaint, Page

from bramble.reference_keys import document_keys
from fleet.api.openapi import openapi_path
from fleet.api.table import ROUTES
from fleet.lifecycle import State

PACKAGES: Final = ("agent", "bramble", "fleet", "imagebuilder", "lab", "pxe", "benchmarks")
FOLDERS: Final = (
    *PACKAGES,
    "cloud-init",
    "overlays",
    "examples",
    "tests",
    "docs",
    "deploy",
    "scripts",
    ".ci",
)
FILE_SUFFIXES: Final = frozenset(
    {"crt", "csr", "deb", "delta", "gz", "img", "json", "key", "log", "pem", "pub", "py", "pyz"}
    | {"service", "sig", "socket", "toml", "txt", "xz", "yaml", "yml", "zst"}
)
OTHERS_OPTIONS: Final = frozenset(
    {"--apply", "--build-arg", "--cluster-init", "--cluster-reset", "--format", "--now", "--only", "--trial"}
)
"""Options of other programs; `--only` and `--trial` are those of `python -m benchmarks`."""
OTHERS_WORDS: Final = frozenset({"boot_arg1", "import-linter", "local-path", "start_file"})
"""A variable of the firmware, names of other programs, k3s' storage class, and a setting of config.txt."""
EXAMPLE_NODE: Final = re.compile(r"(?:attic|shelf|bay|pi[45]|cm[45])-")
OPEN_KEYS: Final = (
    "cluster.k3s.config",
    "cluster.k3s.registries",
    "defaults.",
    "nodes[].labels",
    "image.user",
)
"""Below these anything may stand, or a key of a node."""
SUFFIXES_OF_METRICS: Final = ("_total", "_bucket", "_count", "_sum", "_created")


def link_complaints(page: Page, known: Mapping[str, Page]) -> Iterator[Complaint]:
    """Links that lead nowhere in the checkout. Addresses on the web are not asked for."""
    for link in page.links:
        target, _, anchor = link.text.partition("#")
        if re.match(r"(?:https?|mailto):", target):
            continue
        path = (ROOT / page.name).parent / unquote(target) if target else ROOT / page.name
        name = _name_in_checkout(path)
        if name is None or not (ROOT / name).exists():
            yield Complaint(page.name, link.line, f"the link {link.text!r} leads to no file")
        elif anchor and name in known and anchor not in known[name].anchors:
            yield Complaint(page.name, link.line, f"{name} has no heading for {('#' + anchor)!r}")


def _name_in_checkout(path: Path) -> str | None:
    resolved = path.resolve()
    return resolved.relative_to(ROOT).as_posix() if resolved.is_relative_to(ROOT) else None


def name_complaints(page: Page) -> Iterator[Complaint]:
    """Words in backticks that look like a name of ours and are none."""
    for span in page.words:
        for check in CHECKS:
            fault = check(span.text)
            if fault:
                yield Complaint(page.name, span.line, f"`{span.text}`: {fault}")


def _path(text: str) -> str | None:
    match = re.fullmatch(rf"(?:\./)?((?:{'|'.join(map(re.escape, FOLDERS))})/[\w./*-]*)(?:::.*)?", text)
    if match is None or "…" in text:
        return None
    name = match[1].rstrip("/")
    found = list(ROOT.glob(name)) if "*" in name else [path for path in (ROOT / name,) if path.exists()]
    return None if found else "there is no such file"


def _test(text: str) -> str | None:
    match = re.fullmatch(r"(?:[\w/]*/)?(test_\w+\.py)(?:::(\w+))?", text)
    if match is None:
        return None
    files = list((ROOT / "tests").rglob(match[1]))
    if not files:
        return "there is no such test file"
    wanted = match[2]
    if wanted and not any(
        re.search(rf"^\s*(?:async )?(?:def|class) {wanted}\b|^{wanted} = ", file.read_text("utf-8"), re.M)
        for file in files
    ):
        return f"{match[1]} has no {wanted}"
    return None


def _module(text: str) -> str | None:
    if not re.fullmatch(rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)+(?:\(.*\))?", text):
        return None
    parts = text.partition("(")[0].split(".")
    if parts[-1] in FILE_SUFFIXES:
        return None
    place = ROOT
    for number, part in enumerate(parts):
        if (place / part).is_dir():
            place /= part
        elif (place / f"{part}.py").is_file():
            return _attribute(place / f"{part}.py", parts[number + 1 :])
        else:
            return _attribute(place / "__init__.py", parts[number:])
    return None


def _attribute(file: Path, names: list[str]) -> str | None:
    if not names:
        return None
    if not file.is_file() or names[0] not in top_level_names(file):
        return f"{file.relative_to(ROOT)} has no {names[0]}"
    return None


@cache
def top_level_names(file: Path) -> frozenset[str]:
    """What a module defines or imports."""
    found = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return frozenset(found)


@cache
def spec_keys() -> frozenset[str]:
    """Every key of cluster.yaml, with the sections that they are in."""
    keys = {entry.key.partition(" ")[0] for entry in document_keys()}
    return frozenset(
        key[:end] for key in keys for end in (*(m.start() for m in re.finditer(r"\.", key)), len(key))
    )


def _key(text: str) -> str | None:
    sections = {key for key in spec_keys() if "." not in key}
    match = re.fullmatch(r"([a-z_]+(?:\[\d*\])?(?:\.[a-z0-9_]+)+)(?:: .*)?", text)
    if match is None:
        return None
    key = re.sub(r"\[\d*\]", "[]", match[1])
    if key.partition(".")[0].removesuffix("[]") not in sections or key.rpartition(".")[2] in FILE_SUFFIXES:
        return None
    if key in spec_keys() or key.startswith(OPEN_KEYS):
        return None
    return "cluster.yaml has no such key"


@cache
def sources() -> str:
    """The text of every module that may name a metric or read the environment."""
    return "\n".join(
        file.read_text("utf-8") for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))
    ) + "\n".join(
        (ROOT / name).read_text("utf-8")
        for name in ("Makefile", "scripts/setup-system", "imagebuilder/bases/catalogue.toml")
    )


@cache
def metric_names() -> frozenset[str]:
    """Metrics by their full names, and the ends of those that are put together (`bramble_{name}`)."""
    return frozenset(re.findall(r"\"(?:bramble_)?([a-z][a-z0-9_]+)\"", sources()))


def _metric(text: str) -> str | None:
    match = re.fullmatch(r"bramble_([a-z0-9_]+)(?:\{.*\})?", text)
    if match is None:
        return None
    name = match[1]
    for suffix in SUFFIXES_OF_METRICS:
        name = name.removesuffix(suffix)
    ends = {name, name.removeprefix("node_"), name.removeprefix("tftp_")}
    return None if ends & metric_names() else "there is no such metric"


def _variable(text: str) -> str | None:
    match = re.match(r"(?:export )?\$?(BRAMBLE_[A-Z_]+)\b", text)
    if (
        match is None
        or f'"{match[1]}"' in sources()
        or f"${match[1]}" in sources()
        or f"{match[1]}" in sources()
    ):
        return None
    return "nothing reads this variable"


def _route(text: str) -> str | None:
    match = re.fullmatch(r"(?:(GET|POST|PUT|PATCH|DELETE) )?(/v1/\S+)", text)
    if match is None:
        return None
    path = re.sub(r"\{[^}]*\}", "{}", match[2].partition("?")[0])
    for route in ROUTES:
        known = re.sub(r"\{[^}]*\}", "{}", openapi_path(route.path))
        if known == path and match[1] in (None, route.method):
            return None
    return "the API has no such route"


def _option(text: str) -> str | None:
    match = re.fullmatch(r"(--[a-z][a-z0-9-]*)(?:[ =].*)?", text)
    if match is None or match[1] in option_names() | OTHERS_OPTIONS:
        return None
    return "no command has such an option"


def _state(text: str) -> str | None:
    if not re.fullmatch(r"failed-[a-z-]+", text) or text in set(State):
        return None
    return "there is no such state"


@cache
def words_of_ours() -> frozenset[str]:
    """Every text constant of the sources: names of rules, states, events, conditions, problems, values."""
    return frozenset(re.findall(r"[\"'`.]([a-z][a-z0-9]*(?:[-_][a-z0-9]+)+)[\"'`]", sources()))


def _word(text: str) -> str | None:
    if not re.fullmatch(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)+", text) or text.startswith("bramble_"):
        return None
    last_keys = {key.rpartition(".")[2] for key in spec_keys()}
    if text in words_of_ours() | last_keys | OTHERS_WORDS or EXAMPLE_NODE.match(text):
        return None
    return "nothing of ours is called so"


CHECKS: Final[tuple[Callable[[str], str | None], ...]] = (
    _path,
    _test,
    _module,
    _key,
    _metric,
    _variable,
    _route,
    _option,
    _state,
    _word,
)
"""Each looks at words in backticks: None where they are not of its kind, or exist."""
