"""SBOM, provenance and OS list: what their formats ask for, and the same bytes for the same image."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from fleet.boards import BoardModel
from imagebuilder.errors import NotUnderstood
from imagebuilder.manifest import BaseRecord, InputRecord, K3sRecord, Manifest
from imagebuilder.packages.dpkg import parse_status
from imagebuilder.seal.os_list import OsEntry, render_os_list
from imagebuilder.seal.provenance import (
    SignatureError,
    load_private_key,
    load_public_key,
    make_statement,
    parse_provenance,
    render_provenance,
)
from imagebuilder.seal.sbom import Component, Contents, installed_only, render_sbom
from imagebuilder.slots import Extent, Slot, SlotMap

STATUS = """\
Package: libstdc++6
Status: install ok installed
Maintainer: Debian GCC Maintainers <gcc@example.org>
Architecture: arm64
Source: gcc-14 (14.2.0-19)
Version: 14.2.0-19
Homepage: http://gcc.gnu.org/
Description: GNU Standard C++ Library v3

Package: libstdc--6
Status: install ok installed
Architecture: arm64
Version: 1:1~rc1+b1

Package: half
Status: install ok half-configured
Architecture: arm64
Version: 1
"""


def contents() -> Contents:
    return Contents(
        image_id="ab" * 20,
        cluster="attic",
        distribution="debian",
        release="trixie",
        base=Component(name="debian-trixie", version="debian-trixie-1", sha256="c" * 64, comment="x"),
        parts=(Component(name="k3s", version="v1.33.5+k3s1", sha256="d" * 64, comment="x"),),
        packages=installed_only(parse_status(STATUS)),
    )


def test_an_sbom_has_what_spdx_asks_of_every_element() -> None:
    document = json.loads(render_sbom(contents()))
    assert document["spdxVersion"] == "SPDX-2.3"
    assert document["dataLicense"] == "CC0-1.0"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", document["creationInfo"]["created"])
    assert "#" not in document["documentNamespace"]
    ids = [package["SPDXID"] for package in document["packages"]]
    assert len(set(ids)) == len(ids) == 5
    assert all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", one) for one in ids)
    for package in document["packages"]:
        assert package["filesAnalyzed"] is False
        assert package["downloadLocation"] == "NOASSERTION"
        assert package["name"]
    known = {*ids, document["SPDXID"]}
    for relationship in document["relationships"]:
        assert {relationship["spdxElementId"], relationship["relatedSpdxElement"]} <= known
    contained = {
        one["relatedSpdxElement"]
        for one in document["relationships"]
        if one["relationshipType"] == "CONTAINS"
    }
    assert contained == set(ids) - {"SPDXRef-Image", "SPDXRef-Base"}


def test_packages_are_found_by_their_url_and_components_by_their_digest() -> None:
    document = json.loads(render_sbom(contents()))
    packages = {package["name"]: package for package in document["packages"]}
    locators = {
        name: package["externalRefs"][0]["referenceLocator"]
        for name, package in packages.items()
        if "externalRefs" in package
    }
    assert locators == {
        "libstdc++6": "pkg:deb/debian/libstdc%2B%2B6@14.2.0-19?arch=arm64&distro=trixie",
        "libstdc--6": "pkg:deb/debian/libstdc--6@1%3A1~rc1%2Bb1?arch=arm64&distro=trixie",
    }
    assert packages["libstdc++6"]["sourceInfo"] == "built from gcc-14 14.2.0-19"
    assert packages["k3s"]["checksums"] == [{"algorithm": "SHA256", "checksumValue": "d" * 64}]
    assert "half" not in packages


def test_the_same_image_gives_the_same_sbom() -> None:
    assert render_sbom(contents()) == render_sbom(contents())
    other = replace(contents(), image_id="cd" * 20)
    one, two = (json.loads(render_sbom(each)) for each in (contents(), other))
    assert one["documentNamespace"] != two["documentNamespace"]


def manifest() -> Manifest:
    return Manifest(
        image_id="ab" * 20,
        cluster="attic",
        base=BaseRecord(id="b", name="debian-trixie", kernel="6.12", packages={}),
        k3s=K3sRecord(version="v1.33.5+k3s1", simulator=False, airgap_images=None),
        size_bytes=4096,
        mapped_bytes=4096,
        compressed_bytes=100,
        slots=SlotMap(disk_signature=Slot("disk signature", (Extent(440, 4),)), partuuids=(), files=()),
        tools={"zstd": "1.5.7"},
        changes=(),
        outputs=(),
        packages=("nfs-common",),
        inputs=(InputRecord(name="k3s", uri="pkg:github/k3s-io/k3s@v1", sha256="d" * 64),),
    )


def statement() -> dict[str, Any]:
    return make_statement(manifest(), [("b.zst", "2" * 64), ("a.json", "1" * 64)])


def test_a_manifest_keeps_its_inputs_and_reads_older_ones_without() -> None:
    assert Manifest.parse(manifest().render()) == manifest()
    body = json.loads(manifest().render())
    del body["inputs"], body["packages"]
    assert Manifest.parse(json.dumps(body)) == replace(manifest(), inputs=(), packages=())


def test_a_statement_names_subjects_and_dependencies_with_digests() -> None:
    made = parse_provenance(render_provenance(statement(), None))
    assert made["_type"] == "https://in-toto.io/Statement/v1"
    assert made["predicateType"] == "https://slsa.dev/provenance/v1"
    assert [one["name"] for one in made["subject"]] == ["a.json", "b.zst"]
    definition = made["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["packages"] == ["nfs-common"]
    assert definition["resolvedDependencies"][0]["digest"] == {"sha256": "d" * 64}
    assert made["predicate"]["runDetails"]["builder"]["id"]


ED25519 = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ECDSA = ec.derive_private_key(12345, ec.SECP256R1())


@pytest.mark.parametrize("key", [ED25519, ECDSA], ids=["ed25519", "ecdsa"])
def test_a_signature_proves_who_built_it(key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> None:
    text = render_provenance(statement(), key)
    assert parse_provenance(text, key.public_key()) == statement()
    stranger = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    with pytest.raises(SignatureError, match="signed by somebody else"):
        parse_provenance(text, stranger)
    envelope = json.loads(text)
    changed = json.loads(base64.b64decode(envelope["payload"]))
    changed["subject"][0]["digest"]["sha256"] = "9" * 64
    envelope["payload"] = base64.b64encode(json.dumps(changed).encode()).decode()
    with pytest.raises(SignatureError, match="or changed since"):
        parse_provenance(json.dumps(envelope), key.public_key())


def test_what_is_not_signed_does_not_pass_for_signed() -> None:
    with pytest.raises(SignatureError, match="is not signed"):
        parse_provenance(render_provenance(statement(), None), ED25519.public_key())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"_type": "x", "predicateType": "y"}',
        '{"payload": "%", "signatures": []}',
        "[" * 100_000,
    ],
)
def test_what_is_no_provenance_is_refused(text: str) -> None:
    with pytest.raises(NotUnderstood, match="is no provenance"):
        parse_provenance(text)


def pem(key: Any, password: bytes | None = None) -> bytes:
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    made: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)
    return made


def test_keys_of_other_kinds_are_refused_with_the_command_that_makes_one(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    for content in (b"", b"hello", pem(ED25519, b"secret"), pem(rsa.generate_private_key(65537, 2048))):
        path.write_bytes(content)
        with pytest.raises(SignatureError, match="openssl genpkey"):
            load_private_key(path)
        with pytest.raises(SignatureError, match="is no public key"):
            load_public_key(path)
    path.write_bytes(pem(ECDSA))
    assert isinstance(load_private_key(path), ec.EllipticCurvePrivateKey)


REQUIRED = {
    "name": str,
    "description": str,
    "icon": str,
    "url": str,
    "extract_size": int,
    "extract_sha256": str,
    "image_download_size": int,
    "release_date": str,
    "devices": list,
}
OPTIONAL = {
    "image_download_sha256": str,
    "init_format": str,
    "website": str,
    "architecture": str,
    "capabilities": list,
    "bmap_url": str,
    "random": bool,
    "tooltip": str,
    "enable_rpi_connect": bool,
}
INIT_FORMATS = {"", "none", "systemd", "cloudinit", "cloudinit-rpi", "rpi-preseed"}


def test_an_os_list_has_the_fields_of_the_imagers_schema() -> None:
    entry = OsEntry(
        name="attic node",
        description="d",
        url="https://example.org/attic.img.zst",
        bmap_url="https://example.org/attic.bmap",
        extract_size=4096,
        extract_sha256="a" * 64,
        download_size=100,
        download_sha256="b" * 64,
        release_date="2026-11-25",
        boards=(BoardModel.PI5, BoardModel.CM5, BoardModel.PI4),
    )
    document = json.loads(render_os_list([entry]))
    assert list(document) == ["os_list"], "other keys on top are not allowed"
    [made] = document["os_list"]
    for name, kind in REQUIRED.items():
        assert isinstance(made[name], kind), name
    for name, value in made.items():
        assert isinstance(value, {**REQUIRED, **OPTIONAL}[name]), name
    assert made["init_format"] in INIT_FORMATS
    assert made["architecture"] in {"armel", "armhf", "armv8"}
    assert made["devices"] == ["pi4-64bit", "pi5-64bit"]
