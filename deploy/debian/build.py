"""Build the Debian package: `make deb`, or `python deploy/debian/build.py --help`.

What Bramble needs is newer than what Debian 12, 13 and Ubuntu 24.04, 26.04 package, so the package carries
it. It has one environment for each Python version that these have, laid out as `venv` does, and one
directory with all that is the same for them; nothing is downloaded or built on the machine where it is
installed. The wheels are those of requirements.lock, proved by its hashes.

    /usr/bin/bramble                      chooses the environment of this machine's Python
    /usr/lib/bramble/common/              what does not depend on the Python version
    /usr/lib/bramble/python3.X/           pyvenv.cfg, bin/, lib/python3.X/site-packages/: compiled parts

Same inputs, same bytes: times are clamped to SOURCE_DATE_EPOCH, owners are root.
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
HERE: Final = Path(__file__).resolve().parent
PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")
"""Debian 12 and Raspberry Pi OS bookworm; Ubuntu 24.04; Debian 13 and Raspberry Pi OS trixie; Ubuntu
26.04."""
MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
GLIBC: Final = range(36, 16, -1)
"""Minor versions that wheels may want: 2.36 is the oldest of those releases, 2.17 the oldest wheels name."""
SHELLS: Final = {
    "bash": "usr/share/bash-completion/completions/bramble",
    "zsh": "usr/share/zsh/vendor-completions/_bramble",
    "fish": "usr/share/fish/vendor_completions.d/bramble.fish",
}
DEPENDS: Final = (
    "ca-certificates",
    "dosfstools",
    "e2fsprogs (>= 1.47)",
    "fdisk",
    "init-system-helpers",
    "iproute2",
    "mtools",
    "passwd",
    "xz-utils",
    "zstd",
)
RECOMMENDS: Final = (
    "arch-test",
    "debian-archive-keyring",
    "gpgv",
    "mmdebstrap",
    "qemu-user-static",
    "uidmap",
)
"""For bases made here and for image.packages; Ubuntu 26.04 and Debian 14 call the emulator otherwise."""
SUGGESTS: Final = ("age", "postgresql", "prometheus")


def run(argv: Sequence[str | Path], **env: str) -> str:
    """A command to its end; what it printed."""
    done = subprocess.run(
        [os.fspath(word) for word in argv],
        cwd=ROOT,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def version() -> str:
    """Of pyproject.toml, as Debian writes it: 1.0.0rc1 is before 1.0.0."""
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return re.sub(r"(a|b|rc|\.dev)(\d+)", r"~\1\2", found)


def source_date() -> int:
    """SOURCE_DATE_EPOCH, else the time of the commit."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    return int(given or run(["git", "log", "-1", "--format=%ct"]).strip())


def runtime_requirements(work: Path) -> Path:
    """The part of requirements.lock that a user needs, with its hashes."""
    file = work / "runtime.txt"
    compiler = (sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes")
    run(
        [
            *(*compiler, "--python-version", PYTHONS[0], "--no-header", "--no-annotate"),
            *("--constraint", ROOT / "requirements.lock", ROOT / "pyproject.toml", "--output-file", file),
        ]
    )
    return file


def _platforms(arch: str) -> list[str]:
    """pip's options for wheels that run there, the newest kind first."""
    tags = [*(f"manylinux_2_{minor}" for minor in GLIBC), "manylinux2014"]
    return [word for tag in tags for word in ("--platform", f"{tag}_{MACHINES[arch]}")]


def download(requirements: Path, arch: str, python: str, target: Path) -> None:
    """Wheels of one architecture and Python; one that is not in the lock is refused."""
    platforms = _platforms(arch)
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps")
    chosen = ("--only-binary", ":all:", "--implementation", "cp", "--python-version", python)
    run([*pip, "--require-hashes", *chosen, *platforms, "--dest", target, "--requirement", requirements])


def own_wheel(target: Path) -> None:
    """Bramble's own."""
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps")
    run([*pip, "--no-build-isolation", "--wheel-dir", target, ROOT], SOURCE_DATE_EPOCH=str(source_date()))


def unpack(wheels: Iterable[Path], arch: str, python: str, target: Path) -> None:
    """Install wheels into a directory, without running anything of theirs."""
    chosen = list(wheels)
    if not chosen:
        return
    platforms = _platforms(arch)
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index")
    kind = ("--no-deps", "--no-compile", "--only-binary", ":all:", "--implementation", "cp")
    names = ["==".join(wheel.name.split("-")[:2]) for wheel in chosen]
    folders = [word for folder in {wheel.parent for wheel in chosen} for word in ("--find-links", folder)]
    run([*pip, *kind, "--python-version", python, *platforms, *folders, "--target", target, *names])
    shutil.rmtree(target / "bin", ignore_errors=True)  # scripts that name the Python of this machine


def lay_out(root: Path, arch: str, wheels: dict[str, list[Path]]) -> None:
    """Everything below /usr/lib/bramble."""
    library = root / "usr/lib/bramble"
    sets = [{wheel.name for wheel in found} for found in wheels.values()]
    shared = set.intersection(*sets)
    first = next(iter(wheels))
    unpack((wheel for wheel in wheels[first] if wheel.name in shared), arch, first, library / "common")
    for python, found in wheels.items():
        place = library / f"python{python}"
        site = place / "lib" / f"python{python}" / "site-packages"
        site.mkdir(parents=True)
        unpack((wheel for wheel in found if wheel.name not in shared), arch, python, site)
        (site / "bramble-common.pth").write_text("../../../../common\n")
        (place / "pyvenv.cfg").write_text(
            f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {python}\n"
        )
        (place / "bin").mkdir()
        (place / "bin" / "python3").symlink_to(f"/usr/bin/python{python}")
        _write(
            place / "bin" / "bramble",
            f"#!/usr/lib/bramble/python{python}/bin/python3 -P\nfrom bramble.cli import main\n\nmain()\n",
            0o755,
        )


PRESET: Final = """\
# Debian 13 asks presets whether what a package brings is enabled. This one comes before 00-bramble.preset,
# with which a node's image disables all that it does not name.
enable {unit}
"""


def lay_the_rest(root: Path, pythons: Sequence[str]) -> None:
    """Command, units, user, completion, documents."""
    _write(
        root / "usr/bin/bramble",
        (HERE / "bramble.sh").read_text().replace("@PYTHONS@", " ".join(pythons)),
        0o755,
    )
    _write(root / "usr/lib/sysusers.d/bramble.conf", 'u bramble - "Bramble" /var/lib/bramble\n')
    sys.path.insert(0, str(ROOT))
    from bramble.service.unit import BUILD_UNIT, CLUSTER, UNIT, ServiceSpec, render_build_unit, render_unit

    spec = ServiceSpec(program=Path("/usr/bin/bramble"), cluster=CLUSTER)
    for name, text in ((UNIT, render_unit(spec)), (BUILD_UNIT, render_build_unit(spec))):
        note = text.replace("# Written by 'bramble service install'.", "# From the Debian package.")
        _write(root / "usr/lib/systemd/system" / name, note)
    _write(root / "usr/lib/systemd/system-preset/00-bramble-server.preset", PRESET.format(unit=UNIT))
    for shell, place in SHELLS.items():
        _write(root / place, run([sys.executable, "-m", "bramble.cli", "completion", shell]))
    documents = root / "usr/share/doc/bramble"
    for name in ("README.md", "docs", "examples", "deploy/monitoring"):
        source, target = ROOT / name, documents / Path(name).name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            _write(target, source.read_text())
    _write(documents / "copyright", (HERE / "copyright").read_text())
    with (documents / "changelog.gz").open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write((ROOT / "CHANGELOG.md").read_bytes())


def control(root: Path, arch: str, number: str, pythons: Sequence[str]) -> None:
    """DEBIAN/: what dpkg reads."""
    size_kib = sum(file.lstat().st_size for file in root.rglob("*") if file.is_file()) // 1024
    major, minor = pythons[-1].split(".")
    python = (f"python3 (>= {pythons[0]})", f"python3 (<< {major}.{int(minor) + 1})")
    fields = {
        "Package": "bramble",
        "Version": number,
        "Architecture": arch,
        "Maintainer": "The Bramble developers <bramble@localhost>",
        "Installed-Size": str(size_kib),
        "Depends": ", ".join((*python, *DEPENDS)),
        "Recommends": ", ".join(RECOMMENDS),
        "Suggests": ", ".join(SUGGESTS),
        "Section": "admin",
        "Priority": "optional",
        "Description": "network boot, installation and care of Raspberry Pi k3s nodes\n"
        " Power on a Raspberry Pi that nobody ever touched, and it becomes a node of\n"
        " your k3s cluster: image factory, netboot server and control server.",
    }
    text = "".join(f"{name}: {value}\n" for name, value in fields.items())
    _write(root / "DEBIAN/control", text)
    for script in ("postinst", "prerm", "postrm"):
        _write(root / "DEBIAN" / script, (HERE / f"{script}.sh").read_text(), 0o755)


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def clamp(root: Path, at: int) -> None:
    """One time and plain modes for everything, so that the same sources give the same bytes."""
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            is_program = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if is_program else 0o644)
        os.utime(path, (at, at), follow_symlinks=False)


def build(
    arch: str,
    pythons: Sequence[str],
    output: Path,
    wheels: Path | None,
    number: str,
    compression: str = "xz",
) -> Path:
    """The package of one architecture.

    Args:
        wheels: A directory with `<python>/*.whl` that were downloaded before; None: download them.
    """
    with tempfile.TemporaryDirectory(prefix="bramble-deb-") as name:
        work, found = Path(name), dict[str, list[Path]]()
        if wheels is None:
            wheels = work / "wheels"
            requirements = runtime_requirements(work)
            for python in pythons:
                download(requirements, arch, python, wheels / python)
        own_wheel(work / "own")
        own = sorted((work / "own").glob("*.whl"))
        for python in pythons:
            found[python] = [*sorted((wheels / python).glob("*.whl")), *own]
        root = work / "root"
        lay_out(root, arch, found)
        lay_the_rest(root, pythons)
        control(root, arch, number, pythons)
        at = source_date()
        clamp(root, at)
        output.mkdir(parents=True, exist_ok=True)
        package = output / f"bramble_{number}_{arch}.deb"
        packer = ("dpkg-deb", "--root-owner-group", "--uniform-compression", f"-Z{compression}", "--build")
        run([*packer, root, package], SOURCE_DATE_EPOCH=str(at))
        return package


def main() -> None:
    parser = argparse.ArgumentParser(description="Build Bramble's Debian package.")
    parser.add_argument("--arch", choices=sorted(MACHINES), action="append", help="default: both")
    parser.add_argument("--python", choices=PYTHONS, action="append", help="default: all")
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    parser.add_argument("--wheels", type=Path, help="<python>/*.whl that were downloaded before")
    parser.add_argument("--version", default=version(), help="default: that of pyproject.toml")
    parser.add_argument("--compression", choices=("xz", "none"), default="xz", help="default: xz")
    options = parser.parse_args()
    for arch in options.arch or sorted(MACHINES):
        package = build(
            arch,
            options.python or PYTHONS,
            options.output.absolute(),
            options.wheels,
            options.version,
            options.compression,
        )
        print(f"{package}  {package.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
