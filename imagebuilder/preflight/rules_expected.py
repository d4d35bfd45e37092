"""Rules over what cluster.yaml wants: it stands in the image, in whichever way this image takes it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from imagebuilder.preflight.documents import parse_yaml
from imagebuilder.preflight.evidence import Evidence, Expected
from imagebuilder.preflight.finding import Finding, error, note

MEND = "Build the image again: it was made from another cluster.yaml."


def check_expected(evidence: Evidence) -> Iterator[Finding]:
    """User, keys, time zone and (of a node's image) host name are those of cluster.yaml."""
    expected = evidence.expected
    if expected is None:
        return
    if evidence.facts.dialect.has_cloud_init:
        yield from _in_seed(evidence, expected)
    else:
        yield from _in_place(evidence, expected)


def _in_seed(evidence: Evidence, expected: Expected) -> Iterator[Finding]:
    place = "boot:/user-data"
    value = _mapping(evidence.boot.text("/user-data"))
    accounts = [user for user in value.get("users") or [] if isinstance(user, dict)]
    if isinstance(value.get("user"), dict):
        accounts.append(value["user"])
    account = next((user for user in accounts if user.get("name") == expected.user), None)
    if account is None:
        have = ", ".join(str(user.get("name")) for user in accounts) or "nobody"
        yield error("user", place, f"it makes {have}, cluster.yaml wants {expected.user!r}", MEND)
    else:
        keys = account.get("ssh_authorized_keys") or []
        yield from _keys(keys if isinstance(keys, list) else [str(keys)], expected, place)
    if value.get("timezone") != expected.timezone:
        yield error(
            "timezone", place, f"timezone is {value.get('timezone')!r}, expected {expected.timezone!r}", MEND
        )
    meta = _mapping(evidence.boot.text("/meta-data"))
    yield from _name(meta.get("local-hostname"), expected, "boot:/meta-data")


def _in_place(evidence: Evidence, expected: Expected) -> Iterator[Finding]:
    accounts = {
        line.split(":")[0]: line.split(":") for line in (evidence.root.text("/etc/passwd") or "").splitlines()
    }
    account = accounts.get(expected.user)
    if account is None or len(account) < 7:
        yield error("user", "root:/etc/passwd", f"there is no user {expected.user!r}", MEND)
    else:
        path = f"{account[5]}/.ssh/authorized_keys"
        yield from _keys((evidence.root.text(path) or "").splitlines(), expected, f"root:{path}")
        if account[6].endswith(("nologin", "false")):
            yield error("user", "root:/etc/passwd", f"{expected.user!r} has the shell {account[6]}", MEND)
    link = evidence.root.find("/etc/localtime", False)
    if link is None or not (link.target or "").endswith(f"zoneinfo/{expected.timezone}"):
        target = None if link is None else link.target
        yield error(
            "timezone", "root:/etc/localtime", f"it is {target!r}, expected {expected.timezone!r}", MEND
        )
    name = (evidence.root.text("/etc/hostname") or "").strip()
    yield from _name(name, expected, "root:/etc/hostname")


def _keys(found: list[str], expected: Expected, place: str) -> Iterator[Finding]:
    have = {key.strip() for key in found}
    for key in expected.ssh_authorized_keys:
        if key.strip() not in have:
            yield error("ssh-key", place, f"the key {key[:30]!r}… of {expected.user!r} is missing", MEND)


def _name(found: Any, expected: Expected, place: str) -> Iterator[Finding]:
    if expected.node is None:
        return
    if found in (expected.node, expected.fqdn):
        return
    if found in (None, "", "raspberrypi", "ubuntu"):
        yield note(
            "node",
            place,
            f"this is the image of the whole cluster; {expected.node}'s own values are put in while it is "
            "written",
        )
    else:
        yield error("node", place, f"the host name is {found!r}, expected {expected.fqdn!r}", MEND)


def _mapping(text: str | None) -> dict[str, Any]:
    value = parse_yaml(text or "").value
    return value if isinstance(value, dict) else {}
