"""Join tokens and node passwords against recorded constants."""

from __future__ import annotations

import base64
import hashlib

import pytest

from lab.k3s_sim.node import node_password, tokens
from lab.k3s_sim.node.tokens import JoinToken, TokenError, ca_hash, format_token, parse_token, require_pin

PEM = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
ROOT = b"-----BEGIN CERTIFICATE-----\nBBBB\n-----END CERTIFICATE-----\n"
PIN = "e" * 64
HASH_OF_SECRET = (
    "$1:0001020304050607:15:8:1:"
    "ONqssPL/bYQkODLt01q2p+fduiF2AzGDPrWB6+Cm3n4UKpt4FRTvC1rsEBw75tpwiE/tthQI0NZXu1IclrI1oQ"
)
"""scrypt of the password `secret`, computed by `openssl kdf` (3.0), not by the code under test."""
CHEAP_HASH_OF_SECRET = (
    "$1:0001020304050607:10:8:1:"
    "0A7hGwjGZzMVU/iS2ZcrTiRNdNPmD0a7iziKqFe1zYDx7Z9avbtkYU+iDyTq/sDy1SCg1HLkvl4U2yDrMlFNfA"
)


@pytest.mark.parametrize(
    ("text", "token"),
    [
        (f"K10{PIN}::server:pw", JoinToken(PIN, "server", "pw")),
        (f"K10{PIN}::node:p:w", JoinToken(PIN, "node", "p:w")),
        (f"K10{PIN}::abcdef.0123456789abcdef", JoinToken(PIN, bootstrap="abcdef.0123456789abcdef")),
        ("password", JoinToken("", "", "password")),
        ("abcdef.0123456789abcdef", JoinToken("", bootstrap="abcdef.0123456789abcdef")),
        ("K10::node:pw", JoinToken("", "node", "pw")),
    ],
)
def test_every_form_of_a_token_is_read(text: str, token: JoinToken) -> None:
    assert parse_token(text) == token


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "token must not be empty"),
        ("K10abc::server:pw", "invalid token CA hash length"),
        (f"K10{PIN}::server", "invalid token format"),
        (f"K10{PIN}::server:", "invalid token format"),
        ("K10nothing", "invalid token format"),
    ],
)
def test_a_malformed_token_is_refused_in_the_words_of_k3s(text: str, says: str) -> None:
    with pytest.raises(TokenError) as caught:
        parse_token(text)
    assert str(caught.value) == says


def test_agents_speak_as_node_whatever_the_token_says() -> None:
    header = parse_token(f"K10{PIN}::server:pw").for_user("node").authorization()
    assert header == "Basic " + base64.b64encode(b"node:pw").decode()


def test_a_bootstrap_token_is_a_bearer() -> None:
    token = parse_token("abcdef.0123456789abcdef").for_user("node")
    assert token.authorization() == "Bearer abcdef.0123456789abcdef"
    assert tokens.NO_TOKEN.authorization() == ""


def test_the_pin_is_the_hash_of_the_literal_bytes_of_one_certificate() -> None:
    assert ca_hash(PEM) == hashlib.sha256(PEM).hexdigest()
    assert ca_hash(PEM) != ca_hash(PEM.replace(b"\n", b"\r\n"))


def test_the_pin_of_a_bundle_is_the_hash_of_its_root_in_der() -> None:
    assert ca_hash(PEM + ROOT) == hashlib.sha256(base64.b64decode("BBBB")).hexdigest()


def test_a_foreign_ca_is_refused_in_the_words_of_k3s() -> None:
    require_pin(parse_token(format_token(PEM, "node", "pw")), PEM)
    require_pin(parse_token("pw"), ROOT)
    with pytest.raises(TokenError) as caught:
        require_pin(parse_token(f"K10{PIN}::node:pw"), PEM)
    expected = f"token CA hash does not match the Cluster CA certificate hash: {PIN} != {ca_hash(PEM)}"
    assert str(caught.value) == expected


def test_no_secret_shows_in_a_repr() -> None:
    assert "pw" not in repr(parse_token(f"K10{PIN}::server:pw"))
    assert "0123456789abcdef" not in repr(parse_token("abcdef.0123456789abcdef"))


def test_a_node_password_hashes_to_the_recorded_value() -> None:
    assert node_password.create_hash("secret", bytes(range(8))) == HASH_OF_SECRET


def test_only_the_right_node_password_is_accepted() -> None:
    for stored in (HASH_OF_SECRET, CHEAP_HASH_OF_SECRET):
        node_password.verify_hash(stored, "secret")
        with pytest.raises(node_password.HashMismatchError, match=r"^hash does not match$"):
            node_password.verify_hash(stored, "Secret")


@pytest.mark.parametrize("stored", ["", "$2:00:15:8:1:AAAA", "$1:00:30:8:1:AAAA", "$1:00:0:8:1:AAAA"])
def test_an_unknown_hash_is_refused_without_being_computed(stored: str) -> None:
    with pytest.raises(node_password.HashMismatchError, match=r"^hash format invalid$"):
        node_password.verify_hash(stored, "secret")


def test_the_secret_of_a_node_is_in_lower_case() -> None:
    assert node_password.secret_name("Pi-1") == "pi-1.node-password.k3s"
