"""Where an image came from: an in-toto statement with SLSA's provenance predicate, signed if a key is given.

Pure, but for reading a key. Without a signature it is a record; with one, an envelope of DSSE that proves
who built the image, whatever way it took since.

Source: in-toto attestation framework, statement v1; SLSA provenance v1; DSSE 1.0 (what is signed).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from imagebuilder.errors import ImageBuilderError, NotUnderstood
from imagebuilder.manifest import Manifest

FILE_NAME: Final = "provenance.json"
STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "https://slsa.dev/provenance/v1"
PAYLOAD: Final = "application/vnd.in-toto+json"
BUILD_TYPE: Final = "urn:bramble:image-build:1"
"""Parameters: the cluster's name, the package names; dependencies: the manifest's inputs."""
BUILDER: Final = "urn:bramble:builder:local"

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey


class SignatureError(ImageBuilderError):
    """A key that cannot be used, or a signature that does not hold."""


def make_statement(manifest: Manifest, subjects: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The statement for a manifest's image.

    Args:
        manifest: what is known of the image.
        subjects: (file name, SHA-256) of what was handed out.
    """
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(subjects)],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "cluster": manifest.cluster,
                    "base": manifest.base.name,
                    "k3s": manifest.k3s.version,
                    "packages": sorted(manifest.packages),
                },
                "internalParameters": {"tools": dict(manifest.tools)},
                "resolvedDependencies": [
                    {"name": one.name, "uri": one.uri, "digest": {"sha256": one.sha256}}
                    for one in manifest.inputs
                ],
            },
            "runDetails": {
                "builder": {"id": BUILDER},
                "metadata": {"invocationId": manifest.image_id},
            },
        },
    }


def render_provenance(statement: Mapping[str, Any], key: PrivateKey | None) -> str:
    """The statement as JSON text; with a key, inside of a signed envelope."""
    if key is None:
        return json.dumps(statement, indent=1, sort_keys=True) + "\n"
    payload = json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
    envelope = {
        "payloadType": PAYLOAD,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [
            {"keyid": key_id(key.public_key()), "sig": base64.b64encode(_sign(key, payload)).decode()}
        ],
    }
    return json.dumps(envelope, indent=1, sort_keys=True) + "\n"


def parse_provenance(text: str, key: PublicKey | None = None) -> dict[str, Any]:
    """The statement in a provenance file.

    Args:
        text: the file.
        key: who must have signed it; None: a signature is not looked at.

    Raises:
        NotUnderstood: it is no provenance.
        SignatureError: it is not signed by ``key``, or was changed since.
    """
    try:
        body = json.loads(text)
        if "payload" in body:
            payload = base64.b64decode(body["payload"], validate=True)
            signatures = [base64.b64decode(one["sig"], validate=True) for one in body["signatures"]]
            statement = json.loads(payload)
        else:
            payload, signatures, statement = b"", [], body
        if statement["_type"] != STATEMENT or statement["predicateType"] != PREDICATE:
            raise ValueError(f"it is {statement['_type']!r} with {statement['predicateType']!r}")
    except (ValueError, KeyError, TypeError, binascii.Error, RecursionError) as exc:
        raise NotUnderstood(
            f"{FILE_NAME} is no provenance of an image: {exc}",
            "Take the whole directory from its source again.",
        ) from exc
    if key is not None and not any(_is_signed_by(key, payload, one) for one in signatures):
        state = "was signed by somebody else, or changed since" if signatures else "is not signed"
        raise SignatureError(
            f"{FILE_NAME} {state}; expected was a signature of the key {key_id(key)[:16]}…",
            "Do not use these files unless you know why. Ask who built them for the right key.",
        )
    return dict(statement)


def load_private_key(path: Path) -> PrivateKey:
    """An Ed25519 or ECDSA key from a PEM file without a password.

    Raises:
        SignatureError: it is none.
    """
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise _bad_key(path, "private key", exc) from exc
    if not isinstance(key, ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey):
        raise _bad_key(path, "private key", "it is of another kind")
    return key


def load_public_key(path: Path) -> PublicKey:
    """An Ed25519 or ECDSA public key from a PEM file.

    Raises:
        SignatureError: it is none.
    """
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise _bad_key(path, "public key", exc) from exc
    if not isinstance(key, ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey):
        raise _bad_key(path, "public key", "it is of another kind")
    return key


def key_id(key: PublicKey) -> str:
    """SHA-256 of the key in DER: a name that needs no registry."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def _encoded(payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding, which binds the type to the payload."""
    kind = PAYLOAD.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _sign(key: PrivateKey, payload: bytes) -> bytes:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(_encoded(payload))
    return key.sign(_encoded(payload), ec.ECDSA(hashes.SHA256()))


def _is_signed_by(key: PublicKey, payload: bytes, signature: bytes) -> bool:
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, _encoded(payload))
        else:
            key.verify(signature, _encoded(payload), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _bad_key(path: Path, what: str, why: object) -> SignatureError:
    return SignatureError(
        f"{path} is no {what} that can be used (Ed25519 or ECDSA, PEM, without a password): {why}",
        "Make one with: openssl genpkey -algorithm ed25519 -out key.pem; its public half with: "
        "openssl pkey -in key.pem -pubout -out key.pub",
    )
