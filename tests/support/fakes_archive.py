"""A small Debian archive on loopback: packages made with dpkg-deb, indices by hand, an HTTP server."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imagebuilder.runner import run

SUITE = "local"


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        if isinstance(self.server, _Server):
            self.server.asked.append(self.path)


class _Server(http.server.ThreadingHTTPServer):
    """Notes the paths that it is asked for."""

    asked: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deb:
    """A package to build. ``files``: path → (mode, content); a content that starts with '-> ' is a link."""

    name: str
    version: str = "1.0"
    fields: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, tuple[int, bytes]] = field(default_factory=dict)
    hard_links: Mapping[str, str] = field(default_factory=dict)
    scripts: Mapping[str, str] = field(default_factory=dict)


def build_archive(
    root: Path,
    packages: list[Deb],
    *,
    suites: Sequence[str] = (SUITE,),
    components: Sequence[str] = ("main",),
    sign: Callable[[bytes], bytes] | None = None,
) -> Path:
    """Build the packages and the indices ``dists/SUITE/COMPONENT/binary-arm64`` below ``root``.

    The packages are in the first suite's first component; the other indices are empty, as a release's are on
    its first day. ``sign`` makes a signed InRelease of a Release's text.
    """
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
    for suite in suites:
        listed = []
        for component in components:
            first = (suite, component) == (suites[0], components[0])
            index = root / "dists" / suite / component / "binary-arm64" / "Packages"
            index.parent.mkdir(parents=True)
            index.write_text("\n".join(stanzas) if first else "")
            content = index.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            listed.append(f" {digest} {len(content)} {component}/binary-arm64/Packages\n")
        release = root / "dists" / suite / "Release"
        release.write_text(
            f"Origin: tests\nSuite: {suite}\nCodename: {suite.partition('-')[0]}\nArchitectures: arm64\n"
            f"Components: {' '.join(components)}\n"
            f"Date: Sat, 01 Aug 2026 12:00:00 UTC\nSHA256:\n{''.join(listed)}"
        )
        if sign is not None:
            release.with_name("InRelease").write_bytes(sign(release.read_bytes()))
            release.unlink()
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
def serving(root: Path, asked: list[str] | None = None) -> Iterator[str]:
    """The archive's address while the block runs; ``asked`` gets the paths that were asked for."""
    handler = functools.partial(_Handler, directory=str(root))
    with _Server(("127.0.0.1", 0), handler) as server:
        server.asked = [] if asked is None else asked
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
