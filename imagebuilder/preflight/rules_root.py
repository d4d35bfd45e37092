"""Rules over the installed system: units that are switched on exist, and so do the programs that they
start."""

from __future__ import annotations

import posixpath
import re
import stat
from collections.abc import Iterator
from typing import Final

from imagebuilder.preflight.documents import parse_yaml
from imagebuilder.preflight.evidence import Evidence
from imagebuilder.preflight.finding import Finding, error, note, warning

UNIT_DIRECTORIES: Final = ("/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system")
K3S: Final = "/usr/local/bin/k3s"
K3S_IMAGES: Final = "/var/lib/rancher/k3s/agent/images"

_EXEC: Final = re.compile(r"^ExecStart=([@:+!-]*)(/\S+)", re.M)
_TEMPLATE: Final = re.compile(r"@[^.]*\.")


def check_units(evidence: Evidence) -> Iterator[Finding]:
    """Every unit that is switched on in /etc/systemd/system is there, and what it starts is a program."""
    top = UNIT_DIRECTORIES[0]
    for name in evidence.root.names(top):
        if not name.endswith((".wants", ".requires")):
            continue
        for unit in evidence.root.names(f"{top}/{name}"):
            link = f"{top}/{name}/{unit}"
            entry = evidence.root.find(link, False)
            if entry is None or entry.target is None:
                continue
            path = _unit_file(evidence, unit)
            if path is None:
                yield warning(
                    "unit-link",
                    f"root:{link}",
                    f"it switches {unit} on, which is not installed; systemd goes on without it",
                    "Install the unit, or remove the link.",
                )
            elif evidence.root.find(path, False) is not None:
                yield from _program(evidence, unit, path)


def _unit_file(evidence: Evidence, unit: str) -> str | None:
    """Where systemd finds a unit, in its order; the template of an instance."""
    for name in dict.fromkeys((unit, _TEMPLATE.sub("@.", unit))):
        for directory in UNIT_DIRECTORIES:
            path = f"{directory}/{name}"
            entry = evidence.root.find(path, False)
            if entry is not None and (entry.target == "/dev/null" or evidence.root.has(path)):
                return path
    return None


def _program(evidence: Evidence, unit: str, path: str) -> Iterator[Finding]:
    for match in _EXEC.finditer(evidence.root.text(path) or ""):
        program = match[2]
        if "-" in match[1] or "%" in program or "$" in program:
            continue
        found = evidence.root.find(program, True)
        if found is None:
            yield error(
                "unit-program",
                f"root:{path}",
                f"{unit} is on and starts {program}, which is not there",
                "Install the program, or switch the unit off.",
            )
        elif stat.S_ISREG(found.mode) and not found.mode & 0o111:
            yield error(
                "unit-program",
                f"root:{path}",
                f"{unit} is on and starts {program}, which is not executable (mode {found.mode & 0o7777:o})",
                "Give it mode 0755.",
            )


def check_k3s(evidence: Evidence) -> Iterator[Finding]:
    """k3s, where it is in the image: executable, its settings YAML, its units off until the node joins."""
    binary = evidence.root.find(K3S, True)
    if binary is None:
        if evidence.is_ours:
            yield error("k3s", f"root:{K3S}", "the image holds no k3s", "Build the image again.")
        return
    if not binary.mode & 0o111:
        yield error("k3s", f"root:{K3S}", "k3s is not executable", "Give it mode 0755.")
    for path in _config_files(evidence):
        document = parse_yaml(evidence.root.text(path) or "")
        if document.broken is not None:
            yield error(
                "k3s-config",
                f"root:{path}:{document.broken.line}",
                f"k3s does not start with it: {document.broken.text}",
                "Correct that line.",
            )
        elif document.value is not None and not isinstance(document.value, dict):
            yield error(
                "k3s-config", f"root:{path}", "it is no mapping of options", "Write it as 'key: value'."
            )
        for fault in document.faults:
            yield warning("k3s-config", f"root:{path}:{fault.line}", fault.text, "Merge the two.")
    images = evidence.root.names(K3S_IMAGES)
    archives = [name for name in images if re.search(r"\.tar(\.\w+)?$", name)]
    if archives and ".cache.json" not in images:
        yield warning(
            "k3s-images",
            f"root:{K3S_IMAGES}",
            f"without .cache.json beside {archives[0]} every start of k3s reads the images again, which "
            "takes minutes",
            "Put an empty file .cache.json there.",
        )
    for name in ("server/token", "agent/token"):
        token = evidence.root.find(f"/var/lib/rancher/k3s/{name}", True)
        if token is not None and token.mode & 0o077:
            yield error(
                "k3s-token",
                f"root:/var/lib/rancher/k3s/{name}",
                "everybody can read the join token",
                "Give it mode 0600; better, leave it out of the image.",
            )
    if not archives:
        yield note("k3s-images", f"root:{K3S_IMAGES}", "no images are preloaded: the node needs a registry")


def _config_files(evidence: Evidence) -> Iterator[str]:
    directory = "/etc/rancher/k3s"
    for name in ("config.yaml", "registries.yaml"):
        if evidence.root.has(posixpath.join(directory, name)):
            yield posixpath.join(directory, name)
    for name in evidence.root.names(f"{directory}/config.yaml.d"):
        if name.endswith((".yaml", ".yml")):
            yield f"{directory}/config.yaml.d/{name}"
