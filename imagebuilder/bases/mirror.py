"""Which Debian archive to install from: what the host's own apt uses, or what the user names.

Reads apt's configuration through apt's own tools, so every file format, drop-in directory and proxy setting
counts as it does for apt itself. ``parse_*`` and ``choose_*`` are pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imagebuilder.errors import CommandFailed, ImageBuilderError
from imagebuilder.runner import run

KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
"""Of the package debian-archive-keyring, on the host and in the image alike."""

APT_HELPER: Final = "/usr/lib/apt/apt-helper"
_FORMAT: Final = "$(REPO_URI)\t$(ORIGIN)\t$(LABEL)\t$(RELEASE)"

# The parts of Acquire:: that say how to reach an archive on this network. What to download is not among them.
_INHERITED: Final = (
    "Acquire::http",
    "Acquire::https",
    "Acquire::Retries",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
    "Acquire::Max-FutureTime",
    "Acquire::ForceIPv4",
    "Acquire::ForceIPv6",
    "Acquire::Queue-Mode",
    "Acquire::By-Hash",
)


class MirrorError(ImageBuilderError):
    """There is no Debian archive to install from."""


@dataclass(frozen=True, slots=True)
class AptSource:
    """One archive that the host's apt knows; origin and label are empty until ``apt-get update`` ran."""

    uri: str
    origin: str
    label: str
    release: str


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where the packages come from: the archive, and the one of security updates where it is known."""

    main: str
    security: str | None


def parse_indextargets(text: str) -> list[AptSource]:
    """Read ``apt-get indextargets`` in our tab-separated format."""
    rows = (line.split("\t") for line in text.splitlines())
    return [AptSource(*(word.strip() for word in row)) for row in rows if len(row) == 4]


def choose_mirror(sources: Iterable[AptSource], distribution: str) -> Mirror | None:
    """The http(s) Debian archive that most of the host's sources use.

    Args:
        sources: the host's, from ``parse_indextargets``.
        distribution: ID of /etc/os-release. Where apt has not read its archives yet, it tells whose they are.
    """
    main: Counter[str] = Counter()
    security: Counter[str] = Counter()
    for source in sources:
        if not source.uri.startswith(("http://", "https://")):
            continue
        if (source.origin or {"debian": "Debian"}.get(distribution)) != "Debian":
            continue
        uri = source.uri.rstrip("/")
        if source.label == "Debian-Security" or source.release.endswith("-security"):
            security[uri] += 1
        elif source.label in ("Debian", ""):
            main[uri] += 1
    if not main:
        return None
    return Mirror(main.most_common(1)[0][0], security.most_common(1)[0][0] if security else None)


def parse_acquire(text: str) -> list[str]:
    """The lines of ``apt-config dump`` that say how to reach an archive, as lines for an apt.conf."""
    kept = []
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        wanted = any(name == prefix or name.startswith(f"{prefix}::") for prefix in _INHERITED)
        if wanted and value not in ('"";', ""):
            kept.append(line)
    return kept


def parse_os_id(text: str) -> str:
    """ID from the text of /etc/os-release; empty if there is none."""
    for line in text.splitlines():
        if line.startswith("ID="):
            return line.removeprefix("ID=").strip().strip('"').lower()
    return ""


def render_sources(mirror: Mirror, suite: str, extra_suites: Iterable[str], components: Iterable[str]) -> str:
    """The deb822 text of the sources: ``suite`` and those of ``extra_suites`` that the archives have.

    A suite whose name ends in ``-security`` is taken from the security archive.
    """
    extra = list(extra_suites)
    stanzas = [(mirror.main, [suite, *(s for s in extra if not s.endswith("-security"))])]
    if mirror.security:
        stanzas.append((mirror.security, [s for s in extra if s.endswith("-security")]))
    return "\n".join(
        f"Types: deb\nURIs: {uri}/\nSuites: {' '.join(suites)}\nComponents: {' '.join(components)}\n"
        f"Signed-By: {KEYRING}\n"
        for uri, suites in stanzas
        if suites
    )


def find_mirror(given: str | None) -> Mirror:
    """``given`` (the archive's URL), or what the host's apt uses.

    Raises:
        MirrorError: the URL is not http(s), or the host has no Debian archive configured.
    """
    if given is not None:
        if not given.startswith(("http://", "https://")):
            raise MirrorError(
                f"--mirror: {given!r} does not start with http:// or https://",
                "Give the address of a Debian archive, as in --mirror http://mirror.example.org/debian",
            )
        main = given.rstrip("/")
        # Archives are mirrored side by side under these two names; whether this one is there gets checked.
        return Mirror(main, f"{main}-security")
    release = Path("/etc/os-release")
    distribution = parse_os_id(release.read_text()) if release.is_file() else ""
    listed = run(["apt-get", "indextargets", "--format", _FORMAT, "Created-By: Packages"]).stdout.decode()
    mirror = choose_mirror(parse_indextargets(listed), distribution)
    if mirror is None:
        raise MirrorError(
            "this machine's apt has no Debian archive configured over http or https",
            "Name one: --mirror http://mirror.example.org/debian, or BRAMBLE_MIRROR (on Ubuntu always).",
        )
    return mirror


def find_suites(mirror: Mirror, wanted: Iterable[str], scratch: Path, apt_conf: Path) -> list[str]:
    """Those of ``wanted`` that the archives have.

    Args:
        wanted: names like trixie-updates, trixie-security.
        scratch: an existing directory for the downloaded file.
        apt_conf: file with the settings for reaching the archives.
    """
    found = []
    for suite in wanted:
        archive = mirror.security if suite.endswith("-security") else mirror.main
        if archive is None:
            continue
        try:
            run(
                [APT_HELPER, "download-file", f"{archive}/dists/{suite}/InRelease", scratch / "InRelease"],
                env={"APT_CONFIG": str(apt_conf)},
                timeout_s=60,
            )
        except CommandFailed:
            continue  # the release itself is enough; base.json says which suites were used
        found.append(suite)
    return found


def inherited_settings() -> list[str]:
    """The host's settings for reaching archives (proxies, retries, clock checks), as apt.conf lines."""
    return parse_acquire(run(["apt-config", "dump"]).stdout.decode())
