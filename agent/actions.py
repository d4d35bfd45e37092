"""Changes to the node: files of the join material, the k3s unit. Each can be repeated without harm."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path

from agent.commands import Runner
from agent.errors import AgentError
from agent.files import sync_directory, write_atomically
from agent.protocol import JoinMaterial, NodeFile
from agent.state import JoinRecord

ALLOWED_ROOTS = ("/etc/rancher/", "/var/lib/rancher/")
"""Join material is k3s configuration; a path elsewhere is a mistake, whoever made it."""
PRIVATE_ROOT = "/var/lib/rancher/k3s/server"
"""k3s makes it 0700 and relies on that for the secrets below; a directory that it finds keeps its mode."""
ALLOWED_UNITS = ("k3s.service", "k3s-agent.service")
_HINT = "This is a bug of the control server; please report it."
_NODE_NAME = re.compile(r"^node-name: *'?([^\s']+)'? *$", re.MULTILINE)
_TOKEN_FILE = re.compile(r"^token-file: *(\S+) *$", re.MULTILINE)


def resolve(root: Path, path: str) -> Path:
    """Where a file of the join material goes.

    Raises:
        AgentError: outside of `ALLOWED_ROOTS`, or not in its shortest form.
    """
    if not _is_allowed(path):
        raise AgentError(
            f"join material names '{path}', only files below {' and '.join(ALLOWED_ROOTS)} are", _HINT
        )
    return root / path.lstrip("/")


def _is_allowed(path: str) -> bool:
    return path.isprintable() and posixpath.normpath(path) == path and path.startswith(ALLOWED_ROOTS)


def require_own(material: JoinMaterial, node: str, unit: str) -> None:
    """Join material is for one node and one role; whoever mixes them up gives away another's secrets.

    Raises:
        AgentError: it is another node's, or of the other role, or a part of it could never be put in place.
    """
    if material.unit != unit:
        raise AgentError(f"join material is for unit '{material.unit}', this node runs {unit}", _HINT)
    files = (*material.files, *material.files_after_ready)
    settings = (file.content for file in files if "/config.yaml.d/" in file.path)
    others = {name for content in settings for name in _NODE_NAME.findall(content)} - {node}
    if others:
        raise AgentError(f"join material is for {', '.join(sorted(others))}, this node is {node}", _HINT)
    for file in files:
        resolve(Path("/"), file.path)
        _parse_mode(file)


def place_material(root: Path, run: Runner, material: JoinMaterial, *, restart: bool) -> JoinRecord:
    """Write the files in their order. The unit is not started before the record of it is stored
    (`start_unit`): material that is put in place twice would set aside what k3s made of the first.

    Raises:
        AgentError: asking again for the material and repeating is safe.
    """
    if material.unit not in ALLOWED_UNITS:
        raise AgentError(
            f"join material names unit '{material.unit}', expected {' or '.join(ALLOWED_UNITS)}", _HINT
        )
    for path in (*material.remove_after_ready, *material.set_aside):
        resolve(root, path)
    if any((root / path.lstrip("/")).exists() for path in material.set_aside):
        run(["systemctl", "stop", material.unit])
        set_aside(root, material.set_aside)
    write_files(root, material.files)
    return JoinRecord(
        generation=material.generation,
        unit=material.unit,
        files_after_ready=material.files_after_ready,
        remove_after_ready=material.remove_after_ready,
        pending="restart" if restart else "start",
    )


def start_unit(run: Runner, record: JoinRecord) -> None:
    """Enable the unit and do what is pending with it, without waiting for its end.

    Raises:
        AgentError: systemd refuses; repeating is safe.
    """
    run(["systemctl", "enable", "--quiet", record.unit])
    # k3s notifies systemd only when it has joined: waiting here could take minutes.
    run(["systemctl", record.pending, "--no-block", record.unit])


def set_aside(root: Path, paths: Iterable[str]) -> None:
    """Rename each directory to `<name>.before-rejoin`, in place of what an earlier time left under that name.

    Raises:
        AgentError: the disk refuses.
    """
    for name in paths:
        path = resolve(root, name)
        if not path.exists():
            continue
        aside = path.with_name(f"{path.name}.before-rejoin")
        try:
            if aside.exists():
                import shutil  # half a MiB of a service that needs it once in a year

                shutil.rmtree(aside)
            path.rename(aside)
            sync_directory(path.parent)
        except OSError as exc:
            raise AgentError(
                f"{path} can not be set aside: {exc.strerror}", "Is the disk read-only?"
            ) from exc


def configure(
    root: Path, run: Runner, record: JoinRecord, files: Iterable[NodeFile], *, restart: bool
) -> None:
    """Put the settings that a joined node keeps in place; a running k3s reads them when it starts again."""
    write_files(root, files)
    if restart:
        run(["systemctl", "restart", "--no-block", record.unit])


def adopt(root: Path, unit: str, generation: int, files: tuple[NodeFile, ...]) -> JoinRecord:
    """The record of a join that nobody remembers, from what is on the disk; changes nothing.

    A token file is left to be removed where the settings that are in place still name it, and those that the
    node is to keep do not.

    Args:
        generation: Of the material that the node is said to have.
        files: What the node is to keep.
    """
    kept = {path for file in files for path in _TOKEN_FILE.findall(file.content)}
    named = {path for file in files for path in _TOKEN_FILE.findall(_read(resolve(root, file.path)))}
    left = tuple(sorted(filter(_is_allowed, named - kept)))
    return JoinRecord(
        generation,
        unit,
        files_after_ready=files if left else (),
        remove_after_ready=left,
        cleaned=not left,
    )


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def finish_join(root: Path, record: JoinRecord) -> None:
    """Take the join secrets away.

    The configuration loses its reference first and the file goes second: k3s refuses to start with a
    `token-file` that points nowhere, even though it needs no token any more (facts of k3s, pkg/cli/agent).
    Before that everything is flushed: k3s does not sync the keys that stand in for the token from now on.
    """
    os.sync()
    write_files(root, record.files_after_ready)
    for name in record.remove_after_ready:
        path = resolve(root, name)
        try:
            path.unlink(missing_ok=True)
            if path.parent.is_dir():
                sync_directory(path.parent)
        except OSError as exc:
            raise AgentError(f"{path} can not be removed: {exc.strerror}", "Is the disk read-only?") from exc


def write_files(root: Path, files: Iterable[NodeFile]) -> None:
    """Write each file atomically with its mode; missing directories are made, 0755, those of k3s server 0700.

    Raises:
        AgentError: a path or mode that is not allowed (nothing was written), or the disk refuses.
    """
    checked = [(resolve(root, file.path), _parse_mode(file), file.content.encode()) for file in files]
    for path, mode, data in checked:
        try:
            _make_directory(path.parent, private=resolve(root, PRIVATE_ROOT))
        except OSError as exc:
            raise AgentError(
                f"{path.parent} can not be made: {os.strerror(exc.errno or 0)}", "Is the disk full?"
            ) from exc
        write_atomically(path, data, mode)


def _make_directory(directory: Path, *, private: Path) -> None:
    """Make what is missing of `directory`; `private` and all below it for root only.

    `mkdir(parents=True)` would give the parents the default mode.
    """
    for path in reversed((directory, *directory.parents)):
        if not path.is_dir():
            path.mkdir(0o700 if path.is_relative_to(private) else 0o755, exist_ok=True)


def _parse_mode(file: NodeFile) -> int:
    if not re.fullmatch(r"0[0-7]{3}", file.mode):
        raise AgentError(
            f"join material: {file.path} has mode '{file.mode}', octal text such as 0600 is", _HINT
        )
    return int(file.mode, 8)
