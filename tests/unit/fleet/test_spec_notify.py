"""The key `notify` of cluster.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes_spec import changed, check

from fleet.spec import to_document
from fleet.spec.draft import PathKind
from fleet.spec.notify_model import Level, MailChannel, MailTls, NtfyChannel, WebhookChannel

WEBHOOK = {"driver": "webhook", "url": "https://hooks.example.org/a", "secret_file": "hook.key"}
NTFY = {"driver": "ntfy", "url": "https://ntfy.example.org/attic", "level": "now", "resolved": False}
MAIL = {
    "driver": "email",
    "name": "post",
    "host": "mail.example.org",
    "user": "bramble",
    "password_file": "mail.password",
    "sender": "bramble@example.org",
    "recipients": ["ops@example.org", "me@example.org"],
}
FILES = {"hook.key": PathKind.FILE, "mail.password": PathKind.FILE}


def problems(*channels: Any) -> list[tuple[str, str]]:
    return [(one.key, one.message) for one in check(changed(("notify", list(channels))), FILES).errors]


def test_each_driver_becomes_a_channel_with_its_defaults() -> None:
    spec = check(changed(("notify", [WEBHOOK, NTFY, MAIL])), FILES).spec
    assert spec is not None
    webhook, ntfy, mail = spec.notify
    assert webhook == WebhookChannel(
        name="webhook",
        level=Level.ALL,
        resolved=True,
        url="https://hooks.example.org/a",
        url_file=None,
        secret_file=Path("/clusters/hook.key"),
    )
    assert isinstance(ntfy, NtfyChannel)
    assert (ntfy.level, ntfy.resolved) == (Level.NOW, False)
    assert isinstance(mail, MailChannel)
    assert (mail.port, mail.tls) == (587, MailTls.STARTTLS)


@pytest.mark.parametrize(("tls", "port"), [("tls", 465), ("none", 25)])
def test_the_port_follows_from_how_the_connection_is_made_private(tls: str, port: int) -> None:
    plain = {key: value for key, value in MAIL.items() if key not in ("user", "password_file")}
    spec = check(changed(("notify", [{**plain, "tls": tls}])), FILES).spec
    assert spec is not None
    (mail,) = spec.notify
    assert isinstance(mail, MailChannel)
    assert mail.port == port


def test_a_spec_with_channels_is_read_back_the_same() -> None:
    spec = check(changed(("notify", [WEBHOOK, NTFY, MAIL])), FILES).spec
    assert spec is not None
    again = check(yaml.safe_dump(to_document(spec)), FILES).spec
    assert again is not None
    assert again.notify == spec.notify


@pytest.mark.parametrize(
    ("channel", "key", "message"),
    [
        pytest.param({"driver": "webhook"}, "notify[0].url", "has no 'url'", id="no url"),
        pytest.param({**WEBHOOK, "url": "hooks"}, "notify[0].url", "is not a URL", id="no url at all"),
        pytest.param({**WEBHOOK, "url_file": "hook.key"}, "notify[0].url_file", "one of them", id="two urls"),
        pytest.param(
            {**WEBHOOK, "secret_file": "gone"}, "notify[0].secret_file", "does not exist", id="no such file"
        ),
        pytest.param(
            {**NTFY, "url": "https://ntfy.example.org/"}, "notify[0].url", "names no topic", id="no topic"
        ),
        pytest.param({**MAIL, "recipients": []}, "notify[0].recipients", "has no 'recipients'", id="nobody"),
        pytest.param(
            {**MAIL, "recipients": ["a@b, c@d"]}, "notify[0].recipients[0]", "not a mail address", id="list"
        ),
        pytest.param(
            {**MAIL, "sender": "a@b\r\nBcc: c@d"}, "notify[0].sender", "not a mail address", id="header"
        ),
        pytest.param({**MAIL, "tls": "none"}, "notify[0].tls", "sent in clear", id="clear password"),
        pytest.param({**MAIL, "user": None}, "notify[0].user", "has no 'user'", id="password of nobody"),
        pytest.param({**MAIL, "password": "x"}, "notify[0].password", "in clear", id="password in the file"),
        pytest.param(
            {**WEBHOOK, "url": "https://a:b@h/"}, "notify[0].url", "password in a URL", id="password in url"
        ),
        pytest.param({**MAIL, "port": 70000}, "notify[0].port", "out of range", id="port"),
        pytest.param({"driver": "pager"}, "notify[0].driver", "not a driver of notify", id="driver"),
        pytest.param({"url": "https://x/y"}, "notify[0]", "'driver' is missing", id="no driver"),
        pytest.param({**NTFY, "level": "loud"}, "notify[0].level", "'loud' is not one of", id="level"),
        pytest.param({**NTFY, "topic": "x"}, "notify[0].topic", "not known here", id="unknown key"),
        pytest.param("ntfy", "notify[0]", "expected a mapping", id="a word"),
    ],
)
def test_a_fault_is_told_where_it_is(channel: Any, key: str, message: str) -> None:
    found = problems(channel)
    assert [place for place, _ in found] == [key], found
    assert message in found[0][1]


def test_two_channels_of_one_name_could_not_be_told_apart() -> None:
    assert problems(NTFY, NTFY) == [("notify[1].name", "two channels are called 'ntfy'")]


def test_every_fault_is_told_at_once() -> None:
    found = problems({"driver": "email"}, {"driver": "webhook"}, {"driver": "ntfy"})
    assert [key for key, _ in found] == [
        "notify[0].host",
        "notify[0].recipients",
        "notify[0].sender",
        "notify[1].url",
        "notify[2].url",
    ]
