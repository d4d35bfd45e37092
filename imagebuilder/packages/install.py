"""Make a package layer: the base's tree in the sandbox, its own apt in there, what changed in the store.

The commands that run as root of the sandbox are in ``install.sh``; this module gives it its inputs, follows
its output and owns the work directory. Only this step of a build with packages uses the network, and only
when the store does not hold the layer yet.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imagebuilder.bases import mirror as mirrors
from imagebuilder.errors import CommandFailed, ImageBuilderError
from imagebuilder.packages.dpkg import STATUS_PATH, changed_versions
from imagebuilder.packages.layer import CONTENTS, FILE_NAME, Layer, parse_entries, require_placeable
from imagebuilder.packages.progress import InstallProgress
from imagebuilder.packages.sources import (
    SourceFile,
    debian_replacements,
    find_uris,
    parse_replacements,
    with_replacements,
)
from imagebuilder.packages.volumes import open_volumes
from imagebuilder.runner import require_tools, stream
from imagebuilder.sandbox import SandboxError, require_sandbox, sandboxed
from imagebuilder.still import FileState
from imagebuilder.store import Store, require_room, workspace

KIND: Final = "layers"
FORMAT: Final = 1
"""Raised whenever the same inputs would give another layer than before."""

HERE: Final = Path(__file__).resolve().parent
SCRIPTS: Final = ("install.sh", "capture.py")
TOOLS: Final = ("debugfs", "sh", "awk", "sha256sum")
ROOM_FACTOR: Final = 3
"""The tree, what apt downloads and unpacks, and the layer, as multiples of the base's content."""

TIMEOUT_S: Final = 3 * 3600
APT_SETTINGS: Final = (
    'APT::Sandbox::User "root";',
    'APT::Update::Error-Mode "any";',
    'APT::Get::Never-Include-Phased-Updates "true";',
    'Acquire::Retries "3";',
    'Dir::Etc::sourcelist "/dev/null";',
    'Dir::Etc::sourceparts "/run/bramble/sources.list.d";',
)
UNPROVEN: Final = ("is not signed", "no longer signed", "is not valid", "is expired", "signature")
"""What apt says of a Release file that is signed by nobody it knows, or at the wrong time."""

AT_FIRST_BOOT: Final = "image.packages_at: first-boot"
WAYS_AROUND: Final = (
    "Or let every node install them when it boots for the first time, which needs the network there: "
    f"{AT_FIRST_BOOT} in cluster.yaml."
)


class PackagesError(ImageBuilderError):
    """The packages could not be installed into the image."""


@dataclass(frozen=True, slots=True)
class AptAccess:
    """How this machine reaches the archives, where the user says so.

    Attributes:
        mirror: archive to take Debian's packages from; None: the one that the host's apt uses.
        replacements: ``FROM=TO`` words for other archives (ports.ubuntu.com, archive.raspberrypi.com).
    """

    mirror: str | None = None
    replacements: str = ""


HOST_APT: Final = AptAccess()
"""As the host's own apt does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageRequest:
    """What to install on which base.

    Attributes:
        base_id: names the content of the base; part of the layer's key.
        base_disk: its disk image.
        packages: names, in any order.
        access: how to reach the archives.
        state: that in which the disk has that content; None: as it is when the work begins.
    """

    base_id: str
    base_disk: Path
    packages: tuple[str, ...]
    access: AptAccess = HOST_APT
    state: FileState | None = None


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """A layer in the store: its values and the directory with the contents."""

    layer: Layer
    root: Path
    sha256: str

    def content(self, digest: str) -> Path:
        return self.root / CONTENTS / digest


def find_layer(request: PackageRequest, store: Store) -> StoredLayer | None:
    """The layer, if it was made before; no network, no sandbox."""
    entry = store.find(KIND, _key(request, _own_sources(request.base_disk)))
    return None if entry is None else load_layer(entry)


def make_layer(
    request: PackageRequest,
    *,
    store: Store,
    progress: Callable[[str, float], None] = lambda text, share: None,
) -> StoredLayer:
    """The layer: out of the store, or made now, which takes a minute or more.

    Args:
        progress: called from this thread with what is being done and the share of it that is done.

    Raises:
        PackagesError: no such package, no way to the archive, or a maintainer script failed.
        SandboxError: the host does not allow the namespace, or cannot run arm64 programs.
        LayerError: a package left something that no image can hold.
        MissingTool, NoSpace, StoreError
    """
    own = _own_sources(request.base_disk)
    key = _key(request, own)

    def make(into: Path) -> None:
        state = request.state or FileState.of(request.base_disk)
        with state.holding(request.base_disk):
            _make(request, key, _reachable(own, request), into, progress)

    entry = store.get_or_create(KIND, key, make)
    return load_layer(entry)


def load_layer(directory: Path) -> StoredLayer:
    """The layer in a store entry.

    Raises:
        NotUnderstood: it is not one.
    """
    text = (directory / FILE_NAME).read_bytes()
    return StoredLayer(Layer.parse(text.decode()), directory, hashlib.sha256(text).hexdigest())


def _key(request: PackageRequest, sources: Sequence[SourceFile]) -> str:
    """What a layer depends on.

    The archives' state is not in it: the layer itself records that. Nor is the mirror that this host's apt
    happens to use, which is another way to the same archive; one that was named may be a snapshot and
    counts.
    """
    inputs = {
        "format": FORMAT,
        "base": request.base_id,
        "packages": sorted(set(request.packages)),
        "sources": [[source.name, source.text] for source in sources],
        "mirrors": [request.access.mirror, request.access.replacements.split()],
        "scripts": [hashlib.sha256((HERE / name).read_bytes()).hexdigest() for name in SCRIPTS],
        "settings": APT_SETTINGS,
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:40]


def _own_sources(base_disk: Path) -> list[SourceFile]:
    """The image's apt sources, as they are in it."""
    with open_volumes(base_disk) as volumes:
        root = volumes.root
        if root.find("/usr/bin/apt-get") is None:
            raise PackagesError(
                "the base has no apt-get, so no packages can be installed into it",
                "Leave image.packages empty, or use a base made from Debian packages.",
            )
        found = [SourceFile("sources.list", volumes.read_text("/etc/apt/sources.list"))]
        parts = root.find("/etc/apt/sources.list.d")
        names = sorted(root.list_directory(parts)) if parts is not None else []
        found += [
            SourceFile(f"sources.list.d/{name}", volumes.read_text(f"/etc/apt/sources.list.d/{name}"))
            for name in names
            if name.endswith((".list", ".sources"))
        ]
    found = [one for one in found if find_uris([one])]
    if not found:
        raise PackagesError(
            "the base has no apt sources, so nothing says where its packages come from",
            "Add /etc/apt/sources.list.d/… with an overlay and build that as a base of its own.",
        )
    return found


def _reachable(sources: Sequence[SourceFile], request: PackageRequest) -> list[SourceFile]:
    """The sources on the addresses that this machine uses."""
    try:
        replaced = parse_replacements(request.access.replacements)
    except ValueError as exc:
        raise PackagesError(
            f"BRAMBLE_APT_MIRRORS: {exc}",
            "Write it like 'http://ports.ubuntu.com/ubuntu-ports=http://mirror.example.org/ubuntu-ports'.",
        ) from exc
    return with_replacements(sources, {**_debian_mirror(request.access.mirror), **replaced})


def _debian_mirror(given: str | None) -> Mapping[str, str]:
    try:
        mirror = mirrors.find_mirror(given)
    except mirrors.MirrorError:
        if given is not None:
            raise
        return {}  # the host is no Debian: the image's own addresses it is
    return debian_replacements(mirror.main, mirror.security)


def _make(
    request: PackageRequest,
    key: str,
    sources: Sequence[SourceFile],
    into: Path,
    progress: Callable[[str, float], None],
) -> None:
    require_tools(*TOOLS)
    require_room(into, ROOM_FACTOR * request.base_disk.stat().st_blocks * 512)
    _require_sandbox()
    with workspace(into / "work") as work:
        disk = _write_inputs(request, sources, work)
        reader = InstallProgress(len(request.packages))
        log: list[str] = []

        def on_line(line: str) -> None:
            log.append(line)
            if step := reader.read(line):
                progress(*step)

        # debugfs is called by the file's name, from its directory: '?' in a path would start its options.
        script = [str(HERE / "install.sh"), str(work), disk, sys.executable, str(HERE / "capture.py")]
        try:
            stream(
                sandboxed(["sh", *script]),
                on_line=on_line,
                cwd=request.base_disk.parent,
                timeout_s=TIMEOUT_S,
            )
        except CommandFailed as exc:
            raise _explained(exc, log, find_uris(sources)) from exc
        layer = _collect(request, key, work)
        require_placeable(layer)
        (work / "layer" / CONTENTS).rename(into / CONTENTS)
        (into / FILE_NAME).write_text(layer.render())
        progress("packages installed", 1.0)


def _require_sandbox() -> None:
    try:
        require_sandbox()
    except SandboxError as exc:
        raise SandboxError(
            f"image.packages: apt cannot run for the image on this machine.\n{exc.message}",
            f"{exc.hint}\n{WAYS_AROUND}",
        ) from exc


def _write_inputs(request: PackageRequest, sources: Sequence[SourceFile], work: Path) -> str:
    """Write what install.sh reads; the base's root filesystem as debugfs takes it."""
    inherited = [line for line in mirrors.inherited_settings() if "Auto-Detect" not in line]
    (work / "apt.conf").write_text("".join(f"{line}\n" for line in (*inherited, *APT_SETTINGS)))
    (work / "packages").write_text("".join(f"{name}\n" for name in sorted(set(request.packages))))
    resolv = Path("/etc/resolv.conf")
    (work / "resolv.conf").write_text(resolv.read_text() if resolv.exists() else "")
    (work / "sources.list.d").mkdir()
    for source in sources:
        (work / "sources.list.d" / source.flat_name).write_text(source.text)
    boot = work / "boot"
    boot.mkdir()
    with open_volumes(request.base_disk) as volumes:
        for entry in volumes.boot.walk():
            place = boot / entry.path.lstrip("/")
            if entry.is_directory:
                place.mkdir()
            else:
                place.write_bytes(volumes.boot.read(entry.path))
        return f"{request.base_disk.name}?offset={volumes.root.offset}"


def _collect(request: PackageRequest, key: str, work: Path) -> Layer:
    """The layer's values from what install.sh left."""
    changes = json.loads((work / "layer" / "changes.json").read_text())
    entries = parse_entries(changes["entries"])
    status = next((entry.sha256 for entry in entries if entry.path == STATUS_PATH), None)
    after = (work / "layer" / CONTENTS / status).read_text() if status else ""
    with open_volumes(request.base_disk) as volumes:
        before = volumes.read_text(STATUS_PATH)
    archives = (line.split("  ", 1) for line in (work / "archives").read_text().splitlines())
    return Layer(
        key=key,
        packages=tuple(sorted(set(request.packages))),
        installed=changed_versions(before, after),
        archives={name: digest for digest, name in archives},
        epoch=int((work / "epoch").read_text()),
        entries=entries,
        removed=tuple(changes["removed"]),
    )


def _explained(exc: CommandFailed, log: Sequence[str], uris: Sequence[str]) -> ImageBuilderError:
    """The failure in words that say what to do, where its cause is known."""
    words = "\n".join(f"  | {line}" for line in _telling(log))
    unknown = [line.rpartition(" ")[2] for line in log if line.startswith("E: Unable to locate package")]
    no_candidate = [
        line.split("'")[1] for line in log if "has no installation candidate" in line and "'" in line
    ]
    if unknown or no_candidate:
        names = ", ".join(repr(name) for name in [*unknown, *no_candidate])
        return PackagesError(
            f"image.packages: the base's archives have no package {names}; asked were {', '.join(uris)}",
            "Correct the name (packages.debian.org has a search), or add the archive that has it to the "
            "base.",
        )
    if any(line.startswith("E: ") and any(mark in line for mark in UNPROVEN) for line in log):
        return PackagesError(
            f"image.packages: nothing proves what an archive says, so nothing was taken from it:\n{words}",
            f"The archives are {', '.join(uris)}; their keys are those in the base. A mirror has to serve "
            "them unchanged (BRAMBLE_APT_MIRRORS, BRAMBLE_MIRROR), this machine's clock has to be right, and "
            "a base that is older than a change of keys has to be fetched anew.",
        )
    if any(line.startswith("E: ") and ("fetch" in line or "resolv" in line) for line in log) and not any(
        line.startswith("bramble: capture") for line in log
    ):
        return PackagesError(
            f"image.packages: the archives cannot be reached or their files do not verify:\n{words}",
            f"They are {', '.join(uris)}. Check this machine's network and proxy (apt's settings and "
            "http_proxy count), or name another mirror: BRAMBLE_MIRROR for Debian's, "
            f"BRAMBLE_APT_MIRRORS='FROM=TO …' for others. {WAYS_AROUND}",
        )
    if any("dpkg: error processing" in line or "maintainer script" in line for line in log):
        return PackagesError(
            f"image.packages: a package does not install in the image:\n{words}",
            f"Its maintainer script may need a running system. {WAYS_AROUND}",
        )
    return CommandFailed(exc.argv, exc.returncode, "\n".join(log), hint=WAYS_AROUND)


def _telling(log: Sequence[str]) -> list[str]:
    marks = ("E: ", "Err:", "dpkg: error", "bramble: ", "W: ")
    found = [line for line in log if line.startswith(marks) and not line.startswith("bramble: install")]
    return found[-12:] or list(log[-12:])
