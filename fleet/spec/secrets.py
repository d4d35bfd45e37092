"""Find secrets that stand in clear in a cluster.yaml: reported, never quoted, and taken out first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from fleet.spec.document import Key
from fleet.spec.shape import Finding

# `etcd-s3-config-secret` is the name of a Kubernetes secret, not a secret.
_SECRET_KEY: Final = re.compile(
    r"(^|[-_.])(token|password|passwd|passphrase|(?<!config-)secret|(secret|access|private|api)[-_]?key|community)$",
    re.IGNORECASE,
)
# A k3s token with its CA hash; PEM, OpenSSH and PuTTY keys; user:password@ in a URL.
_SECRET_VALUES: Final = (
    (re.compile(r"\bK10[0-9a-f]{64}::"), "a k3s token"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----|PuTTY-User-Key-File"), "a private key"),
    (re.compile(r"://[^/\s:@]*:[^/\s@]+@"), "a password in a URL"),
)
_FREE_TEXT: Final = frozenset({"labels", "taints", "ssh_authorized_keys"})
"""Subtrees whose keys are the user's own words, or whose parser knows more about secrets than this module."""


def find_secrets(data: Any, key: Key = ()) -> Iterator[Finding]:
    """Walk plain data and report every value that is a secret by its key or by its form."""
    if isinstance(data, dict):
        for name, value in data.items():
            if name not in _FREE_TEXT:
                yield from find_secrets(value, (*key, name))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from find_secrets(value, (*key, index))
    elif isinstance(data, str) and data and (what := _recognise(data, key)):
        yield Finding(key, f"{what} stands in clear in this file (not shown here)", _mend(key))


def _recognise(text: str, key: Key) -> str | None:
    if key and isinstance(key[-1], str) and _SECRET_KEY.search(key[-1]):
        return f"the secret {key[-1]!r}"
    return next((what for pattern, what in _SECRET_VALUES if pattern.search(text)), None)


def _mend(key: Key) -> str:
    if key[:3] == ("cluster", "k3s", "registries"):
        return (
            "Put a registries.yaml with credentials into an overlay of your own, outside of version control."
        )
    if key[:3] == ("cluster", "k3s", "config"):
        return "Remove it: Bramble makes the cluster's tokens; other secrets belong in Kubernetes secrets."
    if key[:1] == ("notify",):
        return (
            "Put it in a file that only the server can read, and name that with 'url_file', 'secret_file', "
            "'token_file' or 'password_file'."
        )
    if "power" in key:
        return (
            "Put it in a file that only you can read, and name that with 'password_file' or 'community_file'."
        )
    return "Remove it, and change the secret if this file was ever shared: it is meant for version control."
