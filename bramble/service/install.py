"""Put the service in place on this machine, look at it, and take it away. Runs systemctl and useradd.

What people keep (cluster.yaml, the state directory with the cluster's keys) is never removed.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bramble.service.unit import (
    BUILD_UNIT,
    CACHE,
    NODE,
    STATE,
    UNIT,
    USER,
    ServiceSpec,
    render_build_unit,
    render_unit,
)
from fleet.errors import FleetError, InputError
from fleet.files import sync_directory
from imagebuilder.errors import CommandFailed, MissingTool
from imagebuilder.runner import Completed, run

UNIT_DIRECTORY: Final = Path("etc/systemd/system")
PACKAGED: Final = Path("/usr/lib/systemd/system") / UNIT
"""Where the Debian package has it: that one is dpkg's to remove."""
PROPERTIES: Final = (
    "LoadState",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "MainPID",
    "NRestarts",
    "StatusText",
    "Result",
    "ActiveEnterTimestamp",
    "MemoryCurrent",
)
BOOTED: Final = Path("/run/systemd/system")
"""Is there where systemd runs the machine. Source: sd_booted(3)."""
INSTEAD: Final = "run 'bramble serve' as the container's program, or by what starts services here"
Run = Callable[[Sequence[str]], Completed]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an installation does: files by their path, then commands in order."""

    files: dict[Path, str]
    commands: tuple[tuple[str, ...], ...]


def find_program(executable: str) -> Path:
    """The `bramble` beside this Python, or the one on the path.

    Raises:
        FleetError: There is none: it runs from a checkout without being installed.
    """
    beside = Path(executable).parent / "bramble"
    found = beside if beside.exists() else shutil.which("bramble")
    if found is None:
        raise FleetError(
            f"no program 'bramble' beside {executable} or on the path",
            "Install it: 'pipx install --global bramble', the Debian package, or 'make setup' in a checkout.",
        )
    return Path(found).absolute()


def plan_installation(spec: ServiceSpec, *, start: bool, user_exists: bool) -> Plan:
    """Everything that `install` will do; pure."""
    add_user: tuple[tuple[str, ...], ...] = ()
    if not user_exists:
        no_login = ("--shell", "/usr/sbin/nologin", "--home-dir", str(STATE), "--no-create-home")
        add_user = (("useradd", "--system", "--user-group", *no_login, USER),)
    # Restarted, not only started: one that runs already goes on with the units of before otherwise.
    run_it: tuple[tuple[str, ...], ...] = (("systemctl", "restart", UNIT),) if start else ()
    return Plan(
        files={
            Path("/") / UNIT_DIRECTORY / UNIT: render_unit(spec),
            Path("/") / UNIT_DIRECTORY / BUILD_UNIT: render_build_unit(spec),
        },
        commands=(*add_user, ("systemctl", "daemon-reload"), ("systemctl", "enable", UNIT), *run_it),
    )


def problems(spec: ServiceSpec, *, is_root: bool, exists: Callable[[Path], bool] = Path.exists) -> list[str]:
    """What would keep the service from working; all of it."""
    found = [] if is_root else ["root is needed: run it with sudo, or look at it with --dry-run"]
    if not exists(BOOTED):
        found.append(f"this machine is not run by systemd: {INSTEAD}")
    if exists(NODE):
        found.append(
            f"this machine is a node that Bramble installed ({NODE}), whose agent has {STATE} for itself: "
            "run the server on another one, which is no node"
        )
    if not exists(spec.cluster):
        found.append(f"{spec.cluster} does not exist: 'bramble init {spec.cluster}' writes one to start from")
    elif not _can_read(spec.cluster):
        found.append(
            f"user {USER} cannot read {spec.cluster}: 'chmod a+r {spec.cluster}', there is no secret in it"
        )
    for path in (spec.program, spec.cluster):
        barred = _barred(path) if exists(path) else None
        if barred is not None:
            found.append(
                f"user {USER} cannot reach {path}: {barred} is closed to others. Put it elsewhere "
                "('pipx install --global bramble', /etc/bramble/cluster.yaml)"
            )
    return found


def _can_read(file: Path) -> bool:
    """Whether everybody may read it, or the service's user is given it by name."""
    known = file.stat()
    if known.st_mode & stat.S_IROTH:
        return True
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        return False
    is_owner = known.st_uid == user.pw_uid and bool(known.st_mode & stat.S_IRUSR)
    return is_owner or (known.st_gid == user.pw_gid and bool(known.st_mode & stat.S_IRGRP))


def _barred(path: Path) -> Path | None:
    """The first directory on the way that a stranger may not pass; also on the way of links."""
    for way in {path, path.resolve()}:
        for folder in reversed(way.parents):
            if not folder.stat().st_mode & stat.S_IXOTH:
                return folder
    return None


def install(plan: Plan, *, root: Path = Path("/"), execute: Run = run) -> None:
    """Carry out a plan. A unit that is replaced is replaced whole.

    Args:
        root: Another directory than `/`: only files are written then, nothing is run.

    Raises:
        FleetError: A file cannot be written, or a command fails.
    """
    for path, text in plan.files.items():
        _write(root / path.relative_to("/"), text)
    if root == Path("/"):
        for argv in plan.commands:
            _execute(execute, argv)


def installed(root: Path = Path("/")) -> list[Path]:
    """The units that `uninstall` would remove.

    Raises:
        FleetError: They came with a package, or there is no systemd that could stop them.
    """
    there = [path for name in (UNIT, BUILD_UNIT) if (path := root / UNIT_DIRECTORY / name).exists()]
    if not there and PACKAGED.exists():
        raise InputError("the service belongs to the Debian package", "Remove that: 'apt remove bramble'.")
    if there and root == Path("/"):
        _require_systemd()
    return there


def uninstall(*, execute: Run = run, root: Path = Path("/")) -> list[Path]:
    """Stop the service and remove its units; what was removed.

    Raises:
        FleetError: As `installed`, or a command fails.
    """
    there = installed(root)
    if not there:
        return []
    if root == Path("/"):
        _execute(execute, ("systemctl", "disable", "--now", UNIT))
    for path in there:
        path.unlink()
    if root == Path("/"):
        _execute(execute, ("systemctl", "daemon-reload"))
    return there


def status(execute: Run = run) -> dict[str, Any]:
    """What systemd says of the service.

    Raises:
        FleetError: There is no systemd to ask.
    """
    _require_systemd()
    answer = _execute(execute, ("systemctl", "show", UNIT, f"--property={','.join(PROPERTIES)}"))
    said = dict(
        line.split("=", 1) for line in answer.stdout.decode(errors="replace").splitlines() if "=" in line
    )
    return {
        "installed": said.get("LoadState") == "loaded",
        "enabled": said.get("UnitFileState") in ("enabled", "enabled-runtime"),
        "running": said.get("ActiveState") == "active",
        "state": f"{said.get('ActiveState', 'unknown')} ({said.get('SubState', 'unknown')})",
        "since": said.get("ActiveEnterTimestamp", ""),
        "restarts": _number(said.get("NRestarts")),
        "pid": _number(said.get("MainPID")),
        "memory_bytes": _number(said.get("MemoryCurrent")),
        "says": said.get("StatusText", ""),
        "result": said.get("Result", ""),
    }


def kept() -> tuple[Path, ...]:
    """What an uninstallation leaves, and a person may want to remove."""
    return tuple(path for path in (STATE, CACHE) if path.exists())


def _require_systemd() -> None:
    if not BOOTED.exists():
        raise FleetError(
            "this machine is not run by systemd, so it has no service", f"{INSTEAD.capitalize()}."
        )


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0


def _execute(execute: Run, argv: Sequence[str]) -> Completed:
    try:
        return execute(argv)
    except (CommandFailed, MissingTool) as error:
        raise FleetError(error.message, error.hint) from error


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        with new.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.chmod(0o644)
        new.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise FleetError(f"{path} cannot be written: {error.strerror}", "Is this run as root?") from error
