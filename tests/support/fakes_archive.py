"""A small Debian archive on loopback: packages made with dpkg-deb, indices by hand, an HTTP server."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imagebuilder.runner import run

SUITE = "local"


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Deb:
    """A package to build. ``files``: path → (mode, content); a content that starts with '-> ' is a link."""

    name: str
    version: str = "1.0"
    fields: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, tuple[int, bytes]] = field(default_factory=dict)
    hard_links: Mapping[str, str] = field(default_factory=dict)
    scripts: Mapping[str, str] = field(default_factory=dict)


def build_archive(root: Path, packages: list[Deb]) -> Path:
    """Build the packages and the index of ``dists/local/main/binary-arm64`` below ``root``."""
    pool = root / "pool"
    pool.mkdir(parents=True)
    stanzas = []
    for package in packages:
        file = pool / f"{package.name}_{package.version}_arm64.deb"
        control = _build(package, file, root / "work" / package.name)
        content = file.read_bytes()
        stanzas.append(
            f"{control}Filename: pool/{file.name}\nSize: {len(content)}\n"
            f"SHA256: {hashlib.sha256(content).hexdigest()}\n"
        )
    index = root / "dists" / SUITE / "main" / "binary-arm64" / "Packages"
    index.parent.mkdir(parents=True)
    index.write_text("\n".join(stanzas))
    listed = index.read_bytes()
    (root / "dists" / SUITE / "Release").write_text(
        f"Origin: tests\nSuite: {SUITE}\nCodename: {SUITE}\nArchitectures: arm64\nComponents: main\n"
        "Date: Sat, 01 Aug 2026 12:00:00 UTC\nSHA256:\n"
        f" {hashlib.sha256(listed).hexdigest()} {len(listed)} main/binary-arm64/Packages\n"
    )
    return root


def _build(package: Deb, target: Path, work: Path) -> str:
    for path, (mode, content) in package.files.items():
        place = work / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if content.startswith(b"-> "):
            place.symlink_to(content.removeprefix(b"-> ").decode())
        else:
            place.write_bytes(content)
            place.chmod(mode)
    for path, first in package.hard_links.items():
        (work / path.lstrip("/")).hardlink_to(work / first.lstrip("/"))
    fields = {
        "Package": package.name,
        "Version": package.version,
        "Architecture": "arm64",
        "Maintainer": "Tests <tests@example.org>",
        "Description": "made by a test",
        **package.fields,
    }
    control = "".join(f"{name}: {value}\n" for name, value in fields.items())
    (work / "DEBIAN").mkdir(parents=True)
    (work / "DEBIAN" / "control").write_text(control)
    for name, text in package.scripts.items():
        script = work / "DEBIAN" / name
        script.write_text(text)
        script.chmod(0o755)
    run(["dpkg-deb", "--root-owner-group", "--build", work, target])
    return control


@contextlib.contextmanager
def serving(root: Path) -> Iterator[str]:
    """The archive's address while the block runs."""
    handler = functools.partial(_Handler, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
