"""The way from a file to a `ClusterSpec`. The only module of `fleet.spec` that touches the file system."""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fleet.errors import InputError
from fleet.spec.build import build_cluster
from fleet.spec.document import MAX_DOCUMENT_BYTES, Document, dotted, parse_document
from fleet.spec.draft import PathKind, Surroundings, draft_cluster
from fleet.spec.glimpse import Glimpse, glimpse
from fleet.spec.model import ClusterSpec
from fleet.spec.problems import Problem, Severity, SpecErrors, sort_problems
from fleet.spec.secrets import find_secrets
from fleet.spec.shape import Finding, shape_document
from fleet.spec.validate import validate


@dataclass(frozen=True, slots=True)
class CheckedCluster:
    """The outcome of a check.

    Attributes:
        spec: None where there is an error.
        problems: Errors and warnings, sorted by line.
        document: The file as read, for whoever needs to say where a value came from.
    """

    path: Path
    spec: ClusterSpec | None
    problems: tuple[Problem, ...]
    document: Document

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.severity is Severity.ERROR)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.severity is Severity.WARNING)


def load_cluster(path: Path) -> ClusterSpec:
    """Read a cluster.yaml.

    Raises:
        SpecErrors: Every problem of the file, at once.
        InputError: The file cannot be read.
    """
    checked = check_cluster(path)
    if checked.spec is None:
        raise SpecErrors(checked.problems)
    return checked.spec


def check_cluster(path: Path) -> CheckedCluster:
    """Read a cluster.yaml and report on it, warnings included.

    Raises:
        InputError: The file cannot be read.
    """
    return check_text(_read_text(path), path, loader_surroundings(path))


def glimpse_cluster(path: Path) -> Glimpse:
    """Whose file it is, as far as that can be read of one that cannot be used.

    Raises:
        InputError: The file cannot be read.
    """
    return glimpse(_read_text(path))


def loader_surroundings(path: Path) -> Surroundings:
    """This machine, seen from the folder of a file."""
    return Surroundings(path.absolute().parent, probe_path, frozenset(zoneinfo.available_timezones()))


def check_text(text: str, path: Path, around: Surroundings) -> CheckedCluster:
    """Check the text of a cluster.yaml; pure, given what `around` answers."""
    document = parse_document(text)
    found = [
        Problem(file=path, line=fault.line, key=dotted(fault.key), message=fault.message, hint=fault.hint)
        for fault in document.faults
    ]
    spec: ClusterSpec | None = None
    if isinstance(document.data, dict):
        findings: list[Finding] = list(find_secrets(document.data))
        secret_places = frozenset(finding.key for finding in findings)
        sections, faulty, misshapen = shape_document(document.data, without=secret_places)
        draft = draft_cluster(sections, faulty, around)
        findings += [*misshapen, *validate(draft)]
        found += _locate(findings, document, path)
        if not any(problem.severity is Severity.ERROR for problem in found):
            spec = build_cluster(draft, path)
    elif not found:
        message = "the file holds no mapping, a cluster.yaml starts with 'version: 1'"
        hint = "Run 'bramble init' for a commented starter file."
        found.append(Problem(file=path, line=1, key="", message=message, hint=hint))
    return CheckedCluster(path, spec, sort_problems(found), document)


def probe_path(path: Path) -> PathKind:
    """Say what stands at a path; what cannot be looked at counts as missing."""
    try:
        if path.is_dir():
            return PathKind.DIRECTORY
        return PathKind.FILE if path.exists() else PathKind.MISSING
    except OSError:
        return PathKind.MISSING


def _locate(findings: list[Finding], document: Document, path: Path) -> Iterator[Problem]:
    for finding in findings:
        yield Problem(
            file=path,
            line=document.line(finding.key),
            key=dotted(finding.key),
            message=finding.message,
            hint=finding.hint,
            severity=finding.severity,
        )


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_DOCUMENT_BYTES + 1)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist", f"Run 'bramble init {path}' to write one.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        message = f"{path}:{line}: byte {content[error.start]:#04x} is not UTF-8 text"
        raise InputError(message, "Save the file as UTF-8.") from error
