"""k3s as this node's service manager and journal see it."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.commands import CommandError, Runner
from agent.membership import KUBELET, loads
from agent.protocol import K3sState, Problem
from agent.redact import redact_lines, redact_pairs

BINARY = Path("usr/local/bin/k3s")
UNITS = {"server": "k3s.service", "agent": "k3s-agent.service"}
JOURNAL_LINES = 50
MAX_LINE = 300
"""So much of a line's end is reported: the cause stands there, and 50 lines fit into a report."""
VERSION_TIMEOUT_S = 30.0
"""The k3s binary unpacks itself on its first run; on an SD card that takes a while."""
MAX_VERSION_FAILURES = 3
BELIEVED_S = 60.0


@dataclass(frozen=True, slots=True)
class _Rule:
    """A join failure class: how the journal tells it, and what to do. Texts: k3s and etcd sources, facts §1
    and §2."""

    code: str
    pattern: re.Pattern[str]
    message: str
    hint: str


def _rule(code: str, pattern: str, message: str, hint: str) -> _Rule:
    return _Rule(code, re.compile(pattern, re.IGNORECASE), message, hint)


RULES = (
    _rule(
        "clock",
        r"x509: certificate has expired or is not yet valid|certificate is not yet valid",
        "certificates are not valid at this node's time",
        "Let the node reach a time server (UDP port 123); joining goes on by itself.",
    ),
    _rule(
        "ca_mismatch",
        r"CA hash does not match|invalid token CA hash length|CA cert validation failed"
        r"|certificate signed by unknown authority",
        "the server at the join address belongs to another cluster, or someone is in between",
        "Stop and find out who answers at the join address; no credentials were sent.",
    ),
    # Before the token rules: a transport error is often wrapped in "failed to validate token".
    _rule(
        "unreachable",
        r"connection refused|no route to host|network is unreachable|i/o timeout|context deadline exceeded"
        r"|Client\.Timeout|TLS handshake timeout|connection reset by peer|no such host|\bEOF\b"
        r"|503 Service Unavailable",
        "the join address can not be reached",
        "Is the first server up, and is tcp port 6443 open between the nodes?",
    ),
    _rule(
        "node_password",
        # Not the server's own "unable to verify hash for node 'X'": there X is some other node.
        r"Node password rejected",
        "the cluster knows another password for this node's name",
        "Two nodes share a name, or /etc/rancher/node/password was changed; re-image the node.",
    ),
    _rule(
        "duplicate_member",
        r"duplicate node name found",
        "etcd still has a member of this node's name",
        "Remove the stale member, then the node joins by itself.",
    ),
    _rule(
        "removed_member",
        r"permanently removed from the cluster|data-dir used by this member must be removed",
        "this node's etcd member was removed from the cluster, but its data is still here",
        "The control server lets it join anew with empty data. Nobody else has to remove anything.",
    ),
    _rule(
        "ip_changed",
        r"is a not a member of the etcd cluster|is not a member of the etcd cluster",
        "etcd does not know this node at its present address",
        "The node's address changed; give it back its old one (reservation), or re-image it.",
    ),
    _rule(
        "too_many_learners",
        r"too many learner members",
        "another server is joining etcd at this moment",
        "Nothing to do: servers join one after the other.",
    ),
    _rule(
        "unhealthy_cluster",
        r"etcdserver: unhealthy cluster|Waiting for other members to finish joining etcd cluster",
        "etcd is not healthy enough to take a new member",
        "If it lasts, look for a dead server and remove it from the cluster.",
    ),
    _rule(
        "config_mismatch",
        r"critical configuration value mismatch|failed to validate server configuration",
        "this server's configuration differs from the cluster's where it must not",
        "Compare cluster.k3s.config in cluster.yaml with the running servers (CIDRs, DNS, disabled parts).",
    ),
    _rule(
        "cgroup_memory",
        r"failed to find memory cgroup|memory cgroup (is )?(missing|disabled)",
        "the memory cgroup is off",
        "Add 'cgroup_enable=memory' to /boot/firmware/cmdline.txt and reboot; 'bramble build' does it.",
    ),
    _rule(
        "snapshotter",
        r"snapshotter cannot be enabled|upper fs missing required features",
        "containerd can not use overlayfs on this filesystem",
        "/var/lib/rancher must be on ext4 or xfs, not on NFS or an overlay.",
    ),
    _rule(
        "token_rejected",
        r"encrypted with different token|401 Unauthorized|403 Forbidden|not authorized|invalid token"
        r"|failed to validate token|token is not valid",
        "the cluster rejected the join token",
        "The control server makes a new one; if it is rejected too, compare the cluster with its records.",
    ),
    _rule(
        "token_rejected",
        # Where its settings name the file and the file is gone, it waits for that for ever and says no more.
        r"--token is required|K3S_TOKEN is required to join a cluster"
        r"|Waiting for \S*/bramble-token to be available",
        "k3s has no token, and no certificate with which it could do without",
        "The control server gives it a new one, and it joins again by itself.",
    ),
    _rule(
        "version_skew",
        r"server version is lower than determined cluster version|cluster cannot be downgraded",
        "this node's k3s is older than the cluster",
        "Build the image with the version that the cluster runs (cluster.k3s.version); re-image the node.",
    ),
    _rule(
        "disk_slow",
        r"slow fdatasync|overloaded likely from slow disk",
        "the disk is too slow for etcd",
        "Use an NVMe or USB SSD for servers; SD cards can not carry etcd.",
    ),
)

_OWN_PARTS = re.compile(
    r"(?:127\.0\.0\.1|localhost|\[::1\]):(?!6444\b|\d+->)\d+"
    r"|dial tcp (?:127\.0\.0\.1|\[::1\]):6444: connect: connection refused"
    r'|"caller":"(?:rafthttp|embed)/|Failed to test data store connection|error in remotedialer server'
)
"""k3s speaks to itself: its etcd (2379), its API and its kubelet, which are not up in the first seconds. What
an agent cannot reach it is told by its own load balancer (6444), which listens, and ends what it cannot pass
on. Nor are the other members of etcd (2380) the join address. Source: seen at starts of k3s v1.21.3."""


_LAST_WORDS = re.compile(
    r"^panic: |^fatal error: |^F\d{4} \d\d:|\blevel=(?:fatal|panic)\b"
    r"|^k3s(?:-agent)?\.service: .*(?:OOM killer|code=(?:killed|dumped))"
)
"""With which k3s ends: Go's runtime, klog's header of a fatal line, logrus; or systemd says what ended it. A
trace of thousands of lines may come after them, so the journal is asked for them too."""
_START = re.compile(r"^Starting k3s(?:-agent)?\.service")
_SYSTEMD = re.compile(
    r"^k3s(?:-agent)?\.service: |^(?:Started|Stopping|Stopped|Failed to start) k3s(?:-agent)?\.s"
)
"""What the service manager says in the unit's journal around k3s's own lines."""


def _tells(rule: _Rule, line: str) -> bool:
    """Whether a line tells this class: a part of k3s that is not up yet is no join address."""
    found = rule.pattern.search(line) is not None
    return found and not (rule.code == "unreachable" and _OWN_PARTS.search(line))


def classify(lines: Sequence[str]) -> Problem | None:
    """The class of the newest journal line that tells one; None when no line does."""
    # Found in the line as it is: what is hidden behind "token:" may be the first word of the cause.
    for line, shown in reversed(tuple(redact_pairs(lines))):
        for rule in RULES:
            if _tells(rule, line):
                quoted = shown.strip()[-MAX_LINE:]
                return Problem(code=rule.code, message=f"{rule.message}: {quoted}", hint=rule.hint)
    return None


def explain_failure(lines: Sequence[str]) -> Problem:
    """Like `classify`; with the newest lines themselves, and k3s's last words, when no class fits."""
    told = [line.strip() for line in redact_lines(lines) if line.strip()]
    return classify(lines) or Problem(
        code="unknown",
        message=f"k3s does not run; its last line: {_last_words(told)[-MAX_LINE:]}",
        hint="Read 'journalctl -u k3s -u k3s-agent' on the node.",
        lines=tuple(line[-MAX_LINE:] for line in told[-JOURNAL_LINES:]),
    )


def _last_words(lines: Sequence[str]) -> str:
    """The line with which the newest start ended, else the newest line of k3s, else the service manager's."""
    own = []
    for line in reversed(lines):
        if _LAST_WORDS.search(line):
            return line
        if _START.search(line):
            break
        if not _SYSTEMD.search(line):
            own.append(line)
    return (own or lines[-1:] or ["the journal is empty"])[0]


def parse_unit(text: str) -> K3sState:
    """From `systemctl show -p LoadState,ActiveState,SubState,NRestarts`: lines of key=value."""
    properties = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    if properties.get("LoadState") in (None, "not-found"):
        return K3sState.ABSENT
    active = properties.get("ActiveState")
    if active in ("active", "reloading"):
        return K3sState.RUNNING
    if active == "failed" or properties.get("SubState") == "auto-restart":
        return K3sState.FAILED
    return K3sState.STARTING if active == "activating" else K3sState.INACTIVE


def _read_link(path: Path) -> str | None:
    try:
        return str(path.readlink())
    except OSError:
        return None


class K3s:
    """Reads the state of this node's k3s. Starts commands, changes nothing."""

    def __init__(
        self, role: str, run: Runner, root: Path, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.unit = UNITS[role]
        self._run = run
        self._monotonic = monotonic
        self._invocation = root / "run/systemd/units" / f"invocation:{self.unit}"
        self._running: tuple[str, float] | None = None
        self._binary = root / BINARY
        self._root = root
        self._version: tuple[int, str | None] | None = None
        self._version_failures = 0
        self._known: K3sState | None = None
        self.trouble: Problem | None = None
        """Why the state is an old one."""

    def state(self) -> K3sState:
        """ABSENT without binary or unit.

        What runs is believed to run on for a minute while it is the same invocation: systemd links to its id
        for as long as the unit is up, and reading a link costs a thousandth of starting systemctl.

        Where systemd does not answer, as it last was; `trouble` has the reason.

        Raises:
            CommandError: it never answered yet.
        """
        with contextlib.suppress(OSError):  # of a disk that fails: systemd knows what runs all the same
            if not self._binary.exists():
                return K3sState.ABSENT
        invocation, now = _read_link(self._invocation), self._monotonic()
        if self._running is not None and invocation == self._running[0] and now < self._running[1]:
            return K3sState.RUNNING
        try:
            state = self._known = self._ask()
            self.trouble = None
        except CommandError as exc:
            if self._known is None:
                raise
            state = self._known
            self.trouble = Problem(
                code="systemd",
                message=f"systemd does not answer, k3s was {state.value} before: {exc.message}",
                hint="Look at the disk ('dmesg'): systemd ends like that when it can not read its own files. "
                "Restart the board.",
            )
        is_known = state is K3sState.RUNNING and invocation is not None
        self._running = (invocation or "", now + BELIEVED_S) if is_known else None
        return state

    def _ask(self) -> K3sState:
        argv = ["systemctl", "show", "-p", "LoadState,ActiveState,SubState,NRestarts", self.unit]
        return parse_unit(self._run(argv).text)

    def has_joined(self) -> bool:
        """Whether a server of a cluster has given this node its kubelet's certificate, and it is sound.

        k3s asks for it with the join token and the node's password, on servers and agents alike.
        """
        return loads(self._root, KUBELET)

    def version(self) -> str | None:
        """First line of `k3s --version`, asked once per binary; None when it does not run (tried a few
        times)."""
        try:
            changed_at = self._binary.stat().st_mtime_ns
        except OSError:
            return None
        if self._version is None or self._version[0] != changed_at:
            if self._version_failures >= MAX_VERSION_FAILURES:
                return None
            try:
                text = self._run([str(self._binary), "--version"], timeout_s=VERSION_TIMEOUT_S).text
            except CommandError:
                self._version_failures += 1
                return None
            self._version = (changed_at, (text.splitlines() or [""])[0].strip() or None)
        return self._version[1]

    def problem(self, state: K3sState, *, since: float = 0.0) -> Problem | None:
        """Why k3s is not running yet, from its journal; while it starts only a recognised cause counts.

        Args:
            since: UTC seconds; what was written before is of an earlier attempt.
        """
        if state not in (K3sState.STARTING, K3sState.FAILED):
            return None
        has_failed = state is K3sState.FAILED
        try:
            lines = self._journal(since, f"--lines={JOURNAL_LINES}")
            if has_failed and not any(map(_LAST_WORDS.search, lines)):
                lines = [*self._ending(since), *lines]
        except CommandError as exc:
            if not has_failed:
                return None
            return Problem(
                code="unknown",
                message=f"k3s does not run, and its journal can not be read: {exc.message}",
                hint="Look at the disk ('dmesg').",
            )
        return explain_failure(lines) if has_failed else classify(lines)

    def _ending(self, since: float) -> list[str]:
        """The line with which the newest start ended, or that start where none is told."""
        pattern = f"{_LAST_WORDS.pattern}|{_START.pattern}"
        return self._journal(since, "--lines=1", "--case-sensitive=true", f"--grep={pattern}")

    def _journal(self, since: float, *options: str) -> list[str]:
        argv = ["journalctl", "--unit", self.unit, "--boot", "--output", "cat", "--no-pager"]
        return self._run([*argv, f"--since=@{max(0, int(since))}", *options], check=False).text.splitlines()
