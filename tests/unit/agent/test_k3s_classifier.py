"""Join failure classes from journal lines as k3s and etcd print them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from agent_nodes import FakeSystem, make_node_root

from agent.commands import Completed
from agent.k3s import (
    BELIEVED_S,
    JOURNAL_LINES,
    MAX_LINE,
    RULES,
    K3s,
    classify,
    explain_failure,
    parse_unit,
)
from agent.protocol import MEMBERSHIP_LOST, K3sState
from agent.wire import MAX_BODY_BYTES, encode
from fleet.join.failures import FAILURES

WAITING = "Waiting to retrieve agent configuration; server is not ready: "


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (
            'level=info msg="' + WAITING + "failed to retrieve configuration from server: "
            'https://127.0.0.1:6444/v1-k3s/config: 401 Unauthorized"',
            "token_rejected",
        ),
        (
            'level=error msg="failed to get CA certs: Get \\"https://10.0.0.1:6443/cacerts\\": dial tcp '
            '10.0.0.1:6443: connect: connection refused"',
            "unreachable",
        ),
        (
            'level=fatal msg="Error: preparing server: failed to validate token: failed to get CA certs: Get '
            '\\"https://10.0.0.1:6443/cacerts\\": context deadline exceeded"',
            "unreachable",
        ),
        (
            'level=fatal msg="token CA hash does not match the Cluster CA certificate hash: aa != bb"',
            "ca_mismatch",
        ),
        ('msg="CA cert validation failed: Get \\"https://10.0.0.1/cacerts\\": x509: bad"', "ca_mismatch"),
        (
            "x509: certificate has expired or is not yet valid: current time 1970-01-01T00:00:09Z is before",
            "clock",
        ),
        (
            'level=info msg="' + WAITING + "Node password rejected, duplicate hostname or contents of "
            "'/etc/rancher/node/password' may not match server node-passwd entry, try enabling a unique node "
            'name with the --with-node-id flag"',
            "node_password",
        ),
        (
            "etcd cluster join failed: duplicate node name found, please use a unique name for this node",
            "duplicate_member",
        ),
        (
            "the member has been permanently removed from the cluster; the data-dir used by this member "
            "must be removed",
            "removed_member",
        ),
        ("etcdserver: too many learner members in cluster", "too_many_learners"),
        ("etcdserver: unhealthy cluster", "unhealthy_cluster"),
        (
            'msg="Waiting for other members to finish joining etcd cluster: too many learner members"',
            "too_many_learners",
        ),
        ('level=fatal msg="critical configuration value mismatch between servers"', "config_mismatch"),
        (
            'level=fatal msg="failed to find memory cgroup, you may need to add \\"cgroup_memory=1 '
            'cgroup_enable=memory\\" to your linux cmdline"',
            "cgroup_memory",
        ),
        (
            '\\"overlayfs\\" snapshotter cannot be enabled for \\"/var/lib/rancher/k3s/agent/containerd\\"',
            "snapshotter",
        ),
        ("bootstrap data already found and encrypted with different token", "token_rejected"),
        ('level=fatal msg="Error: --token is required"', "token_rejected"),
        ('level=info msg="Waiting for /etc/rancher/k3s/bramble-token to be available\\n"', "token_rejected"),
        ("starting kubernetes: preparing server: K3S_TOKEN is required to join a cluster", "token_rejected"),
        ("this server is a not a member of the etcd cluster. Found [a b], expect: c", "ip_changed"),
        (
            "leader failed to send out heartbeat on time; took too long, leader is overloaded likely from "
            "slow disk",
            "disk_slow",
        ),
        ('msg="slow fdatasync" took=7.4s', "disk_slow"),
        (WAITING + "https://127.0.0.1:6444/v1-k3s/readyz: 503 Service Unavailable", "unreachable"),
        ("invalid token CA hash length", "ca_mismatch"),
        ("CA cert validation failed: x509: certificate signed by unknown authority", "ca_mismatch"),
        (
            "cluster cannot be downgraded (current version: 3.5.9 is lower than determined cluster "
            "version: 3.6)",
            "version_skew",
        ),
        (
            "Waiting for other members to finish joining etcd cluster: etcdserver: unhealthy cluster",
            "unhealthy_cluster",
        ),
        ("etcdserver: the member has been permanently removed from the cluster", "removed_member"),
        ("overlayfs: upper fs missing required features", "snapshotter"),
        ("Get https://10.0.0.1:6443/cacerts: dial tcp: connect: no route to host", "unreachable"),
    ],
)  # fmt: skip
def test_cause_is_recognised(line: str, code: str) -> None:
    problem = classify(["level=info msg=starting", line, "level=info msg=retrying"])
    assert problem is not None
    assert problem.code == code
    assert problem.hint


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (
            '{"level":"warn","msg":"grpc: addrConn.createTransport failed to '
            "connect to {https://127.0.0.1:2379  <nil> 0 <nil>}. Err :connection error: desc = "
            'Error while dialing dial tcp 127.0.0.1:2379: connect: connection refused. Reconnecting..."}',
            None,
        ),
        ('msg="dial tcp 127.0.0.1:6444: connect: connection refused"', None),
        ('msg="Get https://127.0.0.1:6443/version: dial tcp 127.0.0.1:6443: i/o timeout"', None),
        ('msg="failed to get CA certs: Get https://127.0.0.1:6444/cacerts: EOF"', "unreachable"),
        (
            'msg="Get https://127.0.0.1:6444/cacerts: read tcp 127.0.0.1:4242->127.0.0.1:6444: read: '
            'connection reset by peer"',
            "unreachable",
        ),
        ('msg="x509: certificate is not yet valid" target="127.0.0.1:2379"', "clock"),
        (
            '{"level":"warn","caller":"rafthttp/stream.go:436","msg":"lost TCP streaming connection with '
            'remote peer","error":"EOF"}',
            None,
        ),
        ("level=error msg=\"unable to verify hash for node 'a2': hash does not match\"", None),
        ('level=info msg="Failed to test data store connection: context deadline exceeded"', None),
        ('level=info msg="error in remotedialer server [400]: websocket: close 1006: unexpected EOF"', None),
    ],
)
def test_what_a_sound_k3s_says_of_itself_and_of_others_is_no_failure_to_join(
    line: str, code: str | None
) -> None:
    found = classify([line])
    assert (found.code if found else None) == code


def test_every_class_of_the_table_is_answered_by_the_server_and_has_one_thing_to_do() -> None:
    codes = {rule.code for rule in RULES} | {"under_voltage", "unknown", MEMBERSHIP_LOST}
    assert codes == set(FAILURES)
    assert all(rule.hint.endswith((".", "?")) for rule in RULES)
    alarming = {code for code, failure in FAILURES.items() if failure.alarms}
    assert alarming == {"ca_mismatch", "node_password", MEMBERSHIP_LOST}


def test_tokens_are_not_reported() -> None:
    pinned, short = "K10" + "ab" * 32 + "::server:deadbeef", "abcdef.0123456789abcdef"
    problem = explain_failure([f"level=info msg=x token={pinned}", f"panic: odd {short} {pinned}"])
    shown = problem.message + "".join(problem.lines)
    assert "deadbeef" not in shown
    assert "0123456789abcdef" not in shown
    assert f"panic: odd abcdef.[hidden] K10{'ab' * 32}::[hidden]" in problem.message
    known = classify([f"connection refused with {pinned}"])
    assert known is not None
    assert "deadbeef" not in known.message


def test_other_secrets_of_the_journal_are_not_reported_and_hide_no_cause() -> None:
    key = ["-----BEGIN EC PRIVATE KEY-----", "MHcCAQ", "-----END EC PRIVATE KEY-----"]
    problem = explain_failure([*key, "datastore password=hunter2", "panic: odd --token hunter2"])
    assert problem.code == "unknown"
    assert "hunter2" not in problem.message + "".join(problem.lines)
    assert "MHcCAQ" not in "".join(problem.lines)
    wrapped = classify(["failed to validate token: x509: certificate has expired or is not yet valid: now"])
    assert wrapped is not None
    assert wrapped.code == "clock"


def test_newest_lines_go_with_an_unknown_cause_and_are_bounded() -> None:
    problem = explain_failure([f"line {number} " + "x" * 1000 for number in range(200)])
    assert len(problem.lines) == JOURNAL_LINES
    assert max(map(len, problem.lines)) <= MAX_LINE
    assert len(encode(problem)) < MAX_BODY_BYTES // 2


def test_newest_cause_counts() -> None:
    problem = classify(["dial tcp: connect: connection refused", "https://…/v1-k3s/config: 401 Unauthorized"])
    assert problem is not None
    assert problem.code == "token_rejected"


def test_quiet_journal_has_no_cause() -> None:
    assert classify(["level=info msg=starting", ""]) is None


def test_failed_unit_without_a_known_cause_quotes_its_last_line() -> None:
    problem = explain_failure(["level=info msg=x", "panic: something new", "", " "])
    assert problem.code == "unknown"
    assert "panic: something new" in problem.message
    assert "journalctl" in problem.hint
    assert "empty" in explain_failure([]).message


STARTED = "Starting k3s.service - Lightweight Kubernetes, server..."
TRACE = ["goroutine 1 [running]:", *("\t/go/src/k3s/main.go:55 +0x644",) * 80]
ENDED = [
    "k3s.service: Main process exited, code=exited, status=2/INVALIDARGUMENT",
    "k3s.service: Failed with result 'exit-code'.",
    "Failed to start k3s.service - Lightweight Kubernetes, server.",
    "k3s.service: Consumed 45.829s CPU time, 170.9M memory peak.",
]
KILLED = "k3s.service: Main process exited, code=killed, status=9/KILL"
LONG = f'level=fatal msg="{"x" * MAX_LINE} at last"'


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["panic: nil pointer", *TRACE, *ENDED], "panic: nil pointer"),
        ([STARTED, LONG, *ENDED], 'at last"'),
        (["F1126 18:25:00.174446     740 hooks.go:203] unable to initialize roles", *TRACE, *ENDED], "roles"),
        (["panic: an earlier start", *ENDED, STARTED, "I am the newest", *ENDED], "I am the newest"),
        (["panic: an earlier start", STARTED, "I am the newest", KILLED, *ENDED[1:]], "status=9/KILL"),
        (ENDED, "170.9M memory peak."),
    ],
    ids=["panic", "long", "klog", "last start", "killed", "nothing of k3s"],
)
def test_an_unknown_cause_is_told_by_the_line_with_which_k3s_ended(lines: list[str], told: str) -> None:
    """And not by systemd's account of the processor time. Seen on a real k3s v1.21.3."""
    assert explain_failure(lines).message.endswith(told)


def test_last_words_before_a_trace_of_thousands_of_lines_are_asked_for(tmp_path: Path) -> None:
    """klog ends with the stacks of all goroutines: seen on a real k3s v1.21.3."""
    fatal = "F1126 18:42:59.455719     580 csi_plugin.go:309] Failed to initialize CSINode after retrying"
    calls: list[Sequence[str]] = []

    def run(argv: Sequence[str], **_options: object) -> Completed:
        calls.append(argv)
        asks = [re.compile(word.removeprefix("--grep=")) for word in argv if word.startswith("--grep=")]
        journal = [STARTED, fatal, *TRACE, *ENDED]
        found = [line for line in journal if all(pattern.search(line) for pattern in asks)]
        (count,) = [int(word.removeprefix("--lines=")) for word in argv if word.startswith("--lines=")]
        return Completed(tuple(argv), 0, "\n".join(found[-count:]).encode(), "")

    k3s = K3s("server", run, tmp_path)
    problem = k3s.problem(K3sState.FAILED)
    assert problem is not None
    assert problem.message.endswith(fatal)
    assert len(problem.lines) == JOURNAL_LINES
    assert k3s.problem(K3sState.STARTING) is None
    assert len(calls) == 3, "what starts is not asked how it ended"


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("LoadState=not-found\nActiveState=inactive\nSubState=dead\n", K3sState.ABSENT),
        ("", K3sState.ABSENT),
        ("LoadState=loaded\nActiveState=inactive\nSubState=dead\nNRestarts=0\n", K3sState.INACTIVE),
        ("LoadState=loaded\nActiveState=activating\nSubState=start\nNRestarts=0\n", K3sState.STARTING),
        ("LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nNRestarts=4\n", K3sState.FAILED),
        ("LoadState=loaded\nActiveState=failed\nSubState=failed\n", K3sState.FAILED),
        ("LoadState=loaded\nActiveState=active\nSubState=running\n", K3sState.RUNNING),
        ("LoadState=loaded\nActiveState=deactivating\nSubState=stop-sigterm\n", K3sState.INACTIVE),
    ],
)
def test_unit_states(text: str, state: K3sState) -> None:
    assert parse_unit(text) is state


def test_systemctl_is_asked_once_a_minute_while_the_same_k3s_runs(tmp_path: Path) -> None:
    root, system, now = make_node_root(tmp_path), FakeSystem(), [0.0]
    link = root / "run/systemd/units/invocation:k3s-agent.service"
    link.parent.mkdir(parents=True)
    k3s = K3s("agent", system, root, monotonic=lambda: now[0])
    assert [k3s.state() for _ in range(3)] == [K3sState.INACTIVE] * 3
    assert len(system.calls) == 3
    system.active = "active"
    link.symlink_to("0123456789abcdef0123456789abcdef")
    assert [k3s.state() for _ in range(5)] == [K3sState.RUNNING] * 5
    assert len(system.calls) == 4
    system.active, system.sub = "activating", "auto-restart"
    assert k3s.state() is K3sState.RUNNING  # not known yet
    link.unlink()
    assert k3s.state() is K3sState.FAILED
    system.active = "active"
    link.symlink_to("fedcba9876543210fedcba9876543210")
    assert k3s.state() is K3sState.RUNNING
    system.active = "failed"
    now[0] += BELIEVED_S
    assert k3s.state() is K3sState.FAILED
