"""What a release can do, and which versions go together."""

from __future__ import annotations

import pytest

from fleet.k3s.versions import Feature, K3sVersion, has, skew_between


def version(text: str) -> K3sVersion:
    found = K3sVersion.find(text)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("v1.33.5+k3s1", (1, 33, 5, 1)),
        ("k3s version v1.21.3+k3s1 (1d1f220f)", (1, 21, 3, 1)),
        ("k3s version v1.33.5+k3s1-simulator (Bramble)", (1, 33, 5, 1)),
        ("v1.34.1-rc2+k3s1", (1, 34, 1, 1)),
        ("v1.33.5", None),
        ("", None),
    ],
)
def test_version_is_found_in_what_k3s_says(text: str, expected: tuple[int, ...] | None) -> None:
    found = K3sVersion.find(text)
    assert (None if found is None else (found.major, found.minor, found.patch, found.build)) == expected


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("v1.21.3+k3s1", False),
        ("v1.23.16+k3s1", False),
        ("v1.23.17+k3s1", True),
        ("v1.25.6+k3s1", False),
        ("v1.25.7+k3s1", True),
        ("v1.26.1+k3s1", False),
        ("v1.26.2+k3s1", True),
        ("v1.27.0+k3s1", True),
        ("v1.33.5+k3s1", True),
    ],
)
def test_bootstrap_tokens_by_release(text: str, tokens: bool) -> None:
    assert has(version(text), Feature.BOOTSTRAP_TOKENS) is tokens


def test_unknown_release_has_nothing() -> None:
    assert not any(has(None, feature) for feature in Feature)


@pytest.mark.parametrize(
    ("joining", "servers", "is_server", "problem"),
    [
        ("v1.33.5+k3s1", [], False, None),
        ("v1.33.5+k3s1", ["v1.33.5+k3s1"], False, None),
        ("v1.33.5+k3s2", ["v1.33.5+k3s1"], False, None),
        ("v1.30.1+k3s1", ["v1.33.5+k3s1"], False, None),
        ("v1.29.9+k3s1", ["v1.33.5+k3s1"], False, "more than three minor"),
        ("v1.33.6+k3s1", ["v1.33.5+k3s1"], False, "newer than the server's"),
        ("v1.34.0+k3s1", ["v1.33.5+k3s1", "v1.34.0+k3s1"], False, "newer than the server's v1.33.5"),
        ("v1.34.0+k3s1", ["v1.33.5+k3s1"], True, None),
        ("v1.35.0+k3s1", ["v1.33.5+k3s1"], True, "leaves out a minor release"),
        ("v1.35.0+k3s1", ["v1.33.5+k3s1", "v1.34.0+k3s1"], True, "leaves out a minor release"),
        ("v1.32.9+k3s1", ["v1.33.5+k3s1"], True, "older than the server's"),
        ("v2.0.0+k3s1", ["v1.33.5+k3s1"], False, "different major"),
    ],
)
def test_skew(joining: str, servers: list[str], is_server: bool, problem: str | None) -> None:
    found = skew_between(version(joining), map(version, servers), is_server=is_server)
    assert (found is None) if problem is None else (found is not None and problem in found)
