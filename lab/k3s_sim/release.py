"""Pack the simulator into a directory that looks like a k3s release for arm64 and says that it is not one."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import zipfile
from pathlib import Path

import zstandard

BINARY = "k3s-arm64"
AIRGAP_IMAGES = "k3s-airgap-images-arm64.tar.zst"
IMAGE_LIST = "k3s-images.txt"
CHECKSUMS = "sha256sum-arm64.txt"
MARKER = "SIMULATOR"
"""Its presence tells the image factory that this release is simulated."""

_VERSION = re.compile(r"v\d+\.\d+\.\d+\+k3s\d+")
_SHEBANG = b"#!/usr/bin/python3\n"
_NODE = Path(__file__).parent / "node"
_PACKAGE = "lab/k3s_sim/node"
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time a zip file can hold: same sources, same bytes."""

_ENTRY = """\
import sys

from lab.k3s_sim.node.cli import main

sys.exit(main(sys.argv, {version!r}))
"""
_MARKER_TEXT = """\
This is not k3s {version}. It is the k3s simulator of the Bramble lab.

{binary} is a Python program (Python >= 3.10, standard library, openssl command). It has the command line, the
join protocol and the error texts of k3s, and a Kubernetes API with nodes, secrets and namespaces. It runs no
containers: a pod with a port of its node answers HTTP there with its own name, and does nothing else. Nodes
that run it carry the label bramble.dev/simulator=true and a kubelet version that ends in "-simulator".
The air-gap archive holds no images.
"""


def build_release(directory: Path, version: str) -> None:
    """Write the files of release `version` (like v1.33.5+k3s1) into `directory`: same sources, same bytes.

    Raises:
        ValueError: `version` is not a k3s version.
    """
    if not _VERSION.fullmatch(version):
        raise ValueError(f"{version!r} is not a k3s version; expected one like v1.33.5+k3s1")
    directory.mkdir(parents=True, exist_ok=True)
    files = {BINARY: _program(version), AIRGAP_IMAGES: _airgap_images(version), IMAGE_LIST: b""}
    lines = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files.items())
    )
    files[CHECKSUMS] = lines.encode()
    files[MARKER] = _MARKER_TEXT.format(version=version, binary=BINARY).encode()
    for name, content in files.items():
        temporary = directory / f".{name}.new"
        temporary.write_bytes(content)
        temporary.chmod(0o755 if name == BINARY else 0o644)
        temporary.replace(directory / name)


def _program(version: str) -> bytes:
    """The zipapp. The package keeps its name, so that imports read the same here and in the archive."""
    members = {"__main__.py": _ENTRY.format(version=version).encode()}
    parents = _PACKAGE.split("/")
    for depth in range(1, len(parents)):
        members["/".join([*parents[:depth], "__init__.py"])] = b""
    for source in sorted(_NODE.glob("*.py")):
        members[f"{_PACKAGE}/{source.name}"] = source.read_bytes()
    archive = io.BytesIO()
    archive.write(_SHEBANG)
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for name, content in sorted(members.items()):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o100644 << 16
            packed.writestr(entry, content)
    return archive.getvalue()


def _airgap_images(version: str) -> bytes:
    """A .tar.zst in the shape of an image archive, with nothing to import in it."""
    manifest = {"simulated": True, "version": version, "images": []}
    content = json.dumps(manifest, indent=2).encode() + b"\n"
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        entry = tarfile.TarInfo("manifest.json")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return zstandard.ZstdCompressor(level=19, write_checksum=True).compress(plain.getvalue())
