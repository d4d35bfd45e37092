"""When the node's private key is replaced: only on openssl's own verdict, and never thrown away."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.commands import CommandError, Completed
from agent.enrol import Identity


class Openssl:
    """Answers genpkey, and ends everything that reads a key or certificate with `failure`."""

    def __init__(self, failure: int | None) -> None:
        self._failure = failure

    def __call__(
        self,
        argv: Sequence[str],
        *,
        input_bytes: bytes = b"",
        timeout_s: float = 30.0,
        check: bool = True,
    ) -> Completed:
        if argv[1] == "genpkey":
            return Completed(tuple(argv), 0, b"fresh", "")
        raise CommandError(argv, "failed", returncode=self._failure)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "agent.key").write_bytes(b"the key")
    (tmp_path / "agent.crt").write_bytes(b"the certificate")
    return tmp_path


def test_key_survives_an_openssl_that_gives_no_verdict(directory: Path) -> None:
    identity = Identity(directory, Openssl(None))
    with pytest.raises(CommandError):
        identity.ensure_key()
    with pytest.raises(CommandError):
        identity.is_enrolled()
    assert identity.key.read_bytes() == b"the key"
    assert sorted(path.name for path in directory.iterdir()) == ["agent.crt", "agent.key"]


def test_key_that_openssl_refuses_is_put_aside(directory: Path) -> None:
    identity = Identity(directory, Openssl(1))
    assert not identity.is_enrolled()
    identity.ensure_key()
    assert identity.key.read_bytes() == b"fresh"
    assert (directory / "agent.key.damaged").read_bytes() == b"the key"
