"""EFI programs of Debian's arm64 packages, as peers: systemd's stub and iPXE, unpacked into the user's cache.

Debian 12 has an iPXE without arm64, and a server that is no arm64 machine can not install the stub. Both are
downloaded once by apt with a configuration of its own; nothing is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from imagebuilder.bases.mirror import KEYRING, find_mirror

SUITE = "trixie"
PACKAGES = ("ipxe", "systemd-boot-efi")
STUB = Path("usr/lib/systemd/boot/efi/linuxaa64.efi.stub")
IPXE = Path("usr/lib/ipxe/ipxe-arm64.efi")
TIMEOUT_S = 180


def efi_peers() -> Path:
    """The directory that holds `STUB` and `IPXE`."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bramble-tests" / f"efi-{SUITE}"
    if not (cache / STUB).is_file() or not (cache / IPXE).is_file():
        work = cache.with_name(f"{cache.name}.{os.getpid()}")
        shutil.rmtree(work, ignore_errors=True)
        _download(work)
        shutil.rmtree(cache, ignore_errors=True)
        (work / "tree").rename(cache)
        shutil.rmtree(work)
    return cache


def _download(work: Path) -> None:
    for directory in ("state/lists/partial", "cache/archives/partial", "debs", "tree"):
        (work / directory).mkdir(parents=True)
    (work / "status").touch()
    source = f"deb [signed-by={KEYRING}] {find_mirror(None).main} {SUITE} main\n"
    (work / "sources.list").write_text(source, "utf-8")
    settings = {
        "Dir::State": work / "state",
        "Dir::State::status": work / "status",
        "Dir::Cache": work / "cache",
        "Dir::Etc::sourcelist": work / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    for command in ("update", "download"):
        words = PACKAGES if command == "download" else ()
        subprocess.run(
            ["apt-get", "-qq", *options, command, *words],
            cwd=work / "debs",
            check=True,
            timeout=TIMEOUT_S,
        )
    for package in (work / "debs").glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, work / "tree"], check=True, timeout=TIMEOUT_S)
