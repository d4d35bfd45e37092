"""No secret leaves the node in a log line."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.redact import HIDDEN, redact, redact_lines

HASH = "0f" * 32


@pytest.mark.parametrize(
    ("line", "secret"),
    [
        (f"k3s agent --token K10{HASH}::server:5uperS3cret --server x", "5uperS3cret"),
        (f'level=info msg="joined with K10{HASH}::node:abc123def"', "abc123def"),
        ("bootstrap token abcdef.0123456789abcdef created", "0123456789abcdef"),
        ("Authorization: Bearer eyJhbGciOi.J9.x_y-z", "eyJhbGciOi"),
        ("proxy: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("GET https://admin:hunter2@registry.internal/v2/", "hunter2"),
        ("MYSQL_ROOT_PASSWORD=hunter2 started", "hunter2"),
        ('{"password": "hunter 2", "user": "x"}', "hunter 2"),
        ("datastore token: hunter2", "hunter2"),
        ("api_key='hunter2'", "hunter2"),
        (r'msg="got {\"token\":\"hunter2 x\",\"a\":1}"', "hunter2 x"),
        (r'{"log":"{\\\"password\\\": \\\"hunter2 x\\\"}"}', "hunter2 x"),
        (r'{"password": "my\"hunter2 x"}', "hunter2 x"),
        ("k3s agent --token hunter2 --server https://10.0.0.1:6443", "hunter2"),
        ("mysql --password 'hunter2 x' -h db", "hunter2 x"),
        ('argv ["--agent-token", "hunter2"]', "hunter2"),
        ("    client-key-data: LS0tLS1CRUdJTiBFQyBQUklWQVRF", "LS0tLS1C"),
        ('{"client-key-data":"LS0tLS1CRUdJTiBFQyBQUklWQVRF"}', "LS0tLS1C"),
        ('password="hunter2 and the line was cut', "hunter2"),
        ("a -----BEGIN EC PRIVATE KEY-----MHcCAQ-----END EC PRIVATE KEY----- b", "MHcCAQ"),
    ],
)
def test_secret_is_hidden(line: str, secret: str) -> None:
    (shown,) = redact_lines([line])
    assert secret not in shown
    assert HIDDEN in shown


@pytest.mark.parametrize(
    "line",
    [
        "Node password rejected, duplicate hostname or contents of '/etc/rancher/node/password' may differ",
        "Waiting to retrieve agent configuration; server is not ready: 401 Unauthorized",
        f"token CA hash does not match the Cluster CA certificate hash: {HASH}",
        "2026-11-26T00:00:00+0000 pi4-1 k3s[812]: I1126 00:00:00.1 server.go:1 kubelet v1.33.5+k3s1",
        "flag --token-file /etc/rancher/k3s/bramble-token, --node-name pi4-1",
        "    client-certificate-data: LS0tLS1CRUdJTiBDRVJU",
        "image registry.k8s.io/pause:3.9@sha256:abcdef0123456789 pulled in 1.5s",
    ],
)
def test_what_explains_a_failure_stays(line: str) -> None:
    assert redact(line) == line


def test_key_over_several_lines_is_left_out_and_the_rest_goes_on() -> None:
    lines = [
        "before",
        "-----BEGIN PRIVATE KEY-----",
        "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg",
        "-----END PRIVATE KEY-----",
        "after",
    ]
    assert list(redact_lines(lines)) == ["before", HIDDEN, "after"]
    assert list(redact_lines(lines[:3])) == ["before", HIDDEN]


def test_what_stands_behind_a_secret_stays() -> None:
    line = r'msg="got {\"token\":\"abc\",\"server\":\"pi-1\"} --password x --port 5" code=7'
    shown = r'msg="got {\"token\":[hidden],\"server\":\"pi-1\"} --password [hidden] --port 5" code=7'
    assert redact(line) == shown
    assert redact(shown) == shown


@pytest.mark.parametrize("piece", ["a-", "token-", "token=\\", 'token="', "-----BEGIN ", "://a:", "--token "])
def test_long_lines_take_no_longer_than_their_length(piece: str) -> None:
    started = time.process_time()
    redact(piece * (48 * 1024 // len(piece)))
    assert time.process_time() - started < 2.0


@given(st.lists(st.text(max_size=60), max_size=10))
def test_any_lines_are_lines_still(lines: list[str]) -> None:
    assert len(list(redact_lines(lines))) <= len(lines)
