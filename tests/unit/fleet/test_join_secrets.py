"""Bootstrap tokens and node passwords as objects of the cluster."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from hypothesis import given
from hypothesis import strategies as st

from fleet.join.secrets import (
    accepts_password,
    bootstrap_token,
    bootstrap_token_object,
    expires_at,
    hash_password,
    node_password_name,
    node_password_object,
)
from fleet.k3s.versions import K3sVersion
from fleet.secret import Secret

KEY = Secret("K10" + "a" * 64 + "::server:pw")
PASSWORD = Secret("0123456789abcdef0123456789abcdef")
SALT = bytes.fromhex("00112233445566aa")
OLD, NEW = K3sVersion(1, 33, 5, 1), K3sVersion(1, 34, 2, 1)


def plain(value: dict[str, Any]) -> dict[str, str]:
    return {key: base64.b64decode(text).decode() for key, text in value["data"].items()}


@given(st.text(min_size=1), st.integers(0, 1 << 40))
def test_token_has_the_form_that_k3s_takes(uuid: str, material: int) -> None:
    token = bootstrap_token(KEY, uuid, material)
    assert len(token.id) == 6
    assert len(token.secret) == 16
    assert set(token.id + token.secret) <= set("abcdefghijklmnopqrstuvwxyz0123456789")


def test_token_is_the_same_for_the_same_material_and_another_for_everything_else() -> None:
    first = bootstrap_token(KEY, "uuid-1", 4)
    assert bootstrap_token(KEY, "uuid-1", 4) == first
    others = [
        bootstrap_token(KEY, "uuid-1", 5),
        bootstrap_token(KEY, "uuid-2", 4),
        bootstrap_token(Secret("another cluster"), "uuid-1", 4),
    ]
    assert len({first.id, *(other.id for other in others)}) == 4


def test_token_never_shows_its_secret() -> None:
    token = bootstrap_token(KEY, "uuid-1", 4)
    assert token.secret not in repr(token)
    assert token.secret not in str(token.text)


def test_token_object_lets_join_and_nothing_else_until_it_expires() -> None:
    token = bootstrap_token(KEY, "uuid-1", 4)
    made = bootstrap_token_object(token, "pi4-1", 1_800_000_600.0)
    assert made["metadata"]["name"] == f"bootstrap-token-{token.id}"
    assert made["metadata"]["namespace"] == "kube-system"
    assert made["type"] == "bootstrap.kubernetes.io/token"
    data = plain(made)
    assert data["expiration"] == "2027-01-15T08:10:00Z"
    assert data["usage-bootstrap-authentication"] == "true"
    assert "usage-bootstrap-signing" not in data
    assert data["auth-extra-groups"] == "system:bootstrappers:k3s:default-node-token"
    assert expires_at(made) == 1_800_000_600.0


@pytest.mark.parametrize(
    "secret", [{}, {"data": None}, {"data": {"expiration": "%%%"}}, {"data": {"expiration": "bm93"}}]
)
def test_expiry_that_can_not_be_read_counts_as_over(secret: dict[str, Any]) -> None:
    assert expires_at(secret) == 0.0


def hash_of(log_n: int) -> str:
    """In the form of k3s, by another scrypt than the one under test."""
    made = Scrypt(salt=SALT, length=64, n=1 << log_n, r=8, p=1).derive(PASSWORD.reveal().encode())
    return f"$1:00112233445566aa:{log_n}:8:1:{base64.b64encode(made).decode().rstrip('=')}"


def as_secret(text: str) -> dict[str, Any]:
    return {"data": {"hash": base64.b64encode(text.encode()).decode()}}


def test_hash_is_what_another_scrypt_makes_in_the_form_of_k3s() -> None:
    assert hash_password(PASSWORD, SALT) == hash_of(10)


@pytest.mark.parametrize("log_n", [10, 15], ids=["ours", "of-k3s-and-of-older-releases"])
def test_password_is_accepted_by_hashes_of_both_costs(log_n: int) -> None:
    assert accepts_password(as_secret(hash_of(log_n)), PASSWORD)
    assert not accepts_password(as_secret(hash_of(log_n)), Secret("another"))


def test_password_object_is_named_after_the_node_and_cannot_be_changed() -> None:
    made = node_password_object("Pi4-1", PASSWORD, SALT, OLD)
    assert made["metadata"]["name"] == "pi4-1.node-password.k3s" == node_password_name("Pi4-1")
    assert made["immutable"] is True
    assert PASSWORD.reveal() not in str(made)


@pytest.mark.parametrize(
    ("version", "kind"), [(OLD, "Opaque"), (None, "Opaque"), (NEW, "k3s.cattle.io/node-password")]
)
def test_type_follows_the_release(version: K3sVersion | None, kind: str) -> None:
    assert node_password_object("pi4-1", PASSWORD, SALT, version)["type"] == kind


def test_only_the_right_password_is_accepted() -> None:
    made = node_password_object("pi4-1", PASSWORD, SALT, OLD)
    assert accepts_password(made, PASSWORD)
    assert not accepts_password(made, Secret("another"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "$1:00",
        "$2:00112233445566aa:15:8:1:x",
        "$1:zz:15:8:1:x",
        "$1:00:16:8:1:x",
        "$1:00:0:8:1:x",
        "$1:00:-1:8:1:x",
        "$1:00:15:8:16:x",
    ],
    ids=["empty", "short", "other-version", "no-hex", "costly-n", "no-n", "negative-n", "costly-p"],
)
def test_hash_of_an_unknown_form_accepts_nobody_and_costs_nothing(text: str) -> None:
    assert not accepts_password(as_secret(text), PASSWORD)
