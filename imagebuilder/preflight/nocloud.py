"""Where cloud-init finds its seed: its own discovery, replayed over the files of an image. Pure.

In this order: the kernel command line (``ds=nocloud;…``), the settings under /etc/cloud, then a filesystem
with the label that they name. A seed counts only with both user-data and meta-data.

Source: cloud-init documentation 25.1, "NoCloud" and "Kernel command line"; behaviour observed with 25.1.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from imagebuilder.preflight.documents import parse_yaml
from imagebuilder.preflight.evidence import Evidence

DEFAULT_LABEL: Final = "cidata"
SETTINGS: Final = "/etc/cloud/cloud.cfg"
SETTINGS_DIR: Final = "/etc/cloud/cloud.cfg.d"
BOOT_MOUNTS: Final = ("/boot/firmware", "/boot")
REQUIRED: Final = ("user-data", "meta-data")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelWord:
    """``ds=`` of the command line: ``source`` is nocloud, nocloud-net, …; ``options`` its key=value pairs."""

    source: str
    options: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What /etc/cloud says. ``unreadable`` are files that are no YAML: (path, line, reason)."""

    sources: tuple[str, ...]
    nocloud: dict[str, Any]
    merged: dict[str, Any]
    unreadable: tuple[tuple[str, int, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """How the search ends.

    Attributes:
        found: whether the seed on the boot partition is used.
        reason: by which way, or why not; a clause for a sentence.
        remote: the seed's address, where it is not on the disk.
    """

    found: bool
    reason: str
    remote: str | None = None


def parse_kernel_word(cmdline: str) -> KernelWord | None:
    """The last ``ds=`` of a command line."""
    words = [word.removeprefix("ds=") for word in cmdline.split() if word.startswith("ds=")]
    if not words:
        return None
    source, *pairs = words[-1].split(";")
    names = {"i": "instance-id", "h": "local-hostname", "s": "seedfrom"}
    options = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    return KernelWord(
        source=source.lower(), options={names.get(key, key): value for key, value in options.items()}
    )


def read_settings(evidence: Evidence) -> Settings:
    """cloud.cfg, then the files of cloud.cfg.d in the order of their names; mappings add up."""
    merged: dict[str, Any] = {}
    unreadable = []
    paths = [SETTINGS] + [
        f"{SETTINGS_DIR}/{name}" for name in evidence.root.names(SETTINGS_DIR) if name.endswith(".cfg")
    ]
    for path in paths:
        document = parse_yaml(evidence.root.text(path) or "")
        if document.broken is not None:
            unreadable.append((path, document.broken.line, document.broken.text))
        elif isinstance(document.value, dict):
            merged = _merge(merged, document.value)
    sources = merged.get("datasource_list")
    nocloud = (merged.get("datasource") or {}).get("NoCloud") or {}
    return Settings(
        sources=tuple(map(str, sources)) if isinstance(sources, list) else (),
        nocloud=nocloud if isinstance(nocloud, dict) else {},
        merged=merged,
        unreadable=tuple(unreadable),
    )


def discover(evidence: Evidence, settings: Settings) -> Discovery:
    """Replay the search."""
    if evidence.root.has("/etc/cloud/cloud-init.disabled"):
        return Discovery(found=False, reason="/etc/cloud/cloud-init.disabled turns cloud-init off")
    if "cloud-init=disabled" in evidence.cmdline.split():
        return Discovery(found=False, reason="the command line says cloud-init=disabled")
    word = parse_kernel_word(evidence.cmdline)
    if word is not None and not word.source.startswith("nocloud"):
        return Discovery(found=False, reason=f"the command line says ds={word.source}")
    if word is None and settings.sources and "NoCloud" not in settings.sources:
        listed = ", ".join(settings.sources)
        return Discovery(found=False, reason=f"datasource_list is [{listed}], without NoCloud")
    missing = [name for name in REQUIRED if not evidence.boot.has(f"/{name}")]
    given = (word.options.get("seedfrom") if word else None) or settings.nocloud.get("seedfrom")
    if isinstance(given, str) and given.startswith(("http://", "https://", "ftp")):
        return Discovery(found=False, reason=f"the seed comes from {given}", remote=given)
    if missing:
        return Discovery(found=False, reason=f"the boot partition lacks {' and '.join(missing)}")
    if isinstance(given, str):
        return _from_directory(evidence, given.removeprefix("file://"))
    return _by_label(evidence, settings)


def _from_directory(evidence: Evidence, directory: str) -> Discovery:
    place = directory.rstrip("/")
    mounted = {
        reference.mount
        for reference in evidence.facts.references
        if reference.place == "/etc/fstab" and reference.partition == evidence.facts.boot.partition
    }
    if place not in BOOT_MOUNTS:
        return Discovery(found=False, reason=f"seedfrom is {directory}, which is not the boot partition")
    if place not in mounted:
        return Discovery(
            found=False, reason=f"seedfrom is {directory}, and fstab does not mount the boot partition there"
        )
    return Discovery(found=True, reason=f"seedfrom is {directory}, where fstab mounts the boot partition")


def _by_label(evidence: Evidence, settings: Settings) -> Discovery:
    label = settings.nocloud.get("fs_label", DEFAULT_LABEL)
    ours = evidence.facts.boot.label
    if label is None:
        return Discovery(
            found=False, reason="fs_label is null and no seedfrom is given: no place is searched"
        )
    # blkid compares as it is written, in lower and in upper case.
    if str(label).casefold() == ours.casefold():
        return Discovery(found=True, reason=f"the boot partition has the label {label!r}")
    return Discovery(
        found=False,
        reason=f"cloud-init looks for a filesystem labelled {label!r}, the boot partition is {ours!r}",
    )


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
