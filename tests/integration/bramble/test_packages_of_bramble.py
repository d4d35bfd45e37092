"""Bramble as people install it: its wheel in a clean environment, its Debian package by dpkg.

Neither asks the network: the wheels are repacked from what is installed here. dpkg works on a copy of this
system that is in memory only (overlays in a user namespace).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from installed_wheels import repack, runtime_requirements

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]
BUILD = ROOT / "deploy" / "debian" / "build.py"
SCRIPT = ROOT / "tests" / "support" / "install_deb.sh"
EXAMPLE = ROOT / "examples" / "demo.yaml"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
CLEAN = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "SOURCE_DATE_EPOCH": "1700000000"}


def run(*argv: str | Path, env: Mapping[str, str] = CLEAN, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        [os.fspath(word) for word in argv],
        cwd=cwd,
        env={**env, "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`<python>/*.whl` of all that Bramble needs."""
    folder = tmp_path_factory.mktemp("wheels")
    repack(runtime_requirements(ROOT / "pyproject.toml"), folder / PYTHON)
    return folder


@dataclass(frozen=True)
class Packages:
    old: Path
    new: Path


@pytest.fixture(scope="module")
def packages(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Packages:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not installed (dpkg)")
    out = tmp_path_factory.mktemp("packages")
    old = build(wheels, out)
    # Another version of the same files.
    run("dpkg-deb", "--raw-extract", old, out / "new")
    control = out / "new/DEBIAN/control"
    control.write_text(control.read_text().replace("Version: 0.9.0", "Version: 0.9.1~rc1"))
    run("dpkg-deb", "--root-owner-group", "-Znone", "--build", out / "new", out / "new.deb")
    shutil.rmtree(out / "new")
    return Packages(old, out / "new.deb")


def build(wheels: Path, out: Path) -> Path:
    """The package of this machine's architecture and Python, uncompressed."""
    arch = run("dpkg", "--print-architecture").strip()
    run(
        *(sys.executable, BUILD, "--arch", arch, "--python", PYTHON, "--wheels", wheels, "--output", out),
        *("--compression", "none", "--version", "0.9.0"),
        env={**CLEAN, "PATH": os.environ["PATH"]},
    )
    return out / f"bramble_0.9.0_{arch}.deb"


def test_the_wheel_runs_in_a_clean_environment(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hatchling.build import build_wheel

    monkeypatch.chdir(ROOT)  # hatchling builds what the current directory holds
    wheel = tmp_path / build_wheel(str(tmp_path))
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
    assert "bramble/_data/examples/demo.yaml" in names
    assert not [name for name in names if name.startswith("tests/")]
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    pip = (tmp_path / "venv/bin/python", "-m", "pip", "install", "--quiet", "--no-index", "--no-compile")
    run(*pip, "--find-links", wheels / PYTHON, wheel)
    bramble = tmp_path / "venv/bin/bramble"
    assert run(bramble, "--version", cwd=tmp_path).startswith("bramble ")
    assert "0 errors" in run(bramble, "check", EXAMPLE, cwd=tmp_path)
    unit = run(bramble, "service", "install", EXAMPLE, "--dry-run", cwd=tmp_path)
    assert f"ExecStart={bramble} serve {EXAMPLE}" in unit
    assert "bramble" in run(bramble, "completion", "bash", cwd=tmp_path)


@pytest.fixture(scope="module")
def said(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Step → what it printed, of a package's whole life."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed (util-linux)")
    work = tmp_path_factory.mktemp("system")
    namespace = ("unshare", "--user", "--map-root-user", "--mount")
    output = run(*namespace, SCRIPT, work, packages.new, packages.old, EXAMPLE)
    steps: dict[str, str] = {}
    name = ""
    for line in output.splitlines(keepends=True):
        if line.startswith("== "):
            name = line[3:].strip()
            steps[name] = ""
        else:
            steps[name] += line
    assert "end" in steps
    return steps


def test_the_package_installs_runs_and_checks_a_file(said: dict[str, str]) -> None:
    assert "Setting up bramble (0.9.0)" in said["install"]
    assert "bramble " in said["run"]
    assert "0 errors" in said["run"]
    assert "ExecStart=/usr/lib/bramble/python" in said["run"]


def test_the_service_has_its_user_and_starts_with_the_machine(said: dict[str, str]) -> None:
    assert said["user"].split(":")[5:] == ["/var/lib/bramble", "/usr/sbin/nologin\n"]
    assert said["enabled"].strip().endswith("bramble.service")
    assert said["preset"].strip().endswith("bramble.service")
    assert said["unit"] == ""


def test_every_file_is_dpkgs_and_as_it_was_packed(said: dict[str, str]) -> None:
    assert said["verify"] == ""
    assert said["compiled"].strip().endswith(".pyc")


def test_it_goes_to_another_version_and_back(said: dict[str, str]) -> None:
    assert said["upgrade"].splitlines()[-1] == "0.9.1~rc1"
    assert said["downgrade"].splitlines()[-1] == "0.9.0"


def test_a_purge_leaves_the_keys_and_nothing_else(said: dict[str, str]) -> None:
    assert said["left"].split() == ["/var/lib/bramble", "/var/lib/bramble/attic"]


def test_the_same_sources_give_the_same_package(packages: Packages, wheels: Path, tmp_path: Path) -> None:
    build(wheels, tmp_path)
    assert (tmp_path / packages.old.name).read_bytes() == packages.old.read_bytes()


def test_a_machine_with_another_python_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "bramble"
    text = (ROOT / "deploy/debian/bramble.sh").read_text().replace("@PYTHONS@", "3.11 3.12")
    script.write_text(text.replace("/usr/lib/bramble/", f"{tmp_path}/"))
    done = subprocess.run(["sh", script], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert "is for Python 3.11 3.12; this machine has python3" in done.stderr
