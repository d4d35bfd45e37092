"""Where people are told, as declared: one value per channel. Secrets are named by their files, never held."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar


class Level(StrEnum):
    """What a channel gets: only what stands still or is about to, or everything that needs a person."""

    NOW = "now"
    ALL = "all"


class MailTls(StrEnum):
    """How the connection to a mail server is made private."""

    STARTTLS = "starttls"
    TLS = "tls"
    NONE = "none"


MAIL_PORTS = {MailTls.STARTTLS: 587, MailTls.TLS: 465, MailTls.NONE: 25}
"""Source: RFC 6409 §3.1, RFC 8314 §3.3, RFC 5321 §4.5.4.2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """What every channel has.

    Attributes:
        name: Unique among the channels.
        resolved: Whether it is told, too, that something is over.
    """

    name: str
    level: Level
    resolved: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookChannel(Channel):
    """JSON over HTTP. The address is in `url`, or where it is a secret itself in `url_file`; exactly one is
    set. With `secret_file`, each message is signed."""

    driver: ClassVar[str] = "webhook"
    url: str | None
    url_file: Path | None
    secret_file: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NtfyChannel(Channel):
    """A topic of ntfy; `url` is the topic's."""

    driver: ClassVar[str] = "ntfy"
    url: str
    token_file: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MailChannel(Channel):
    """E-mail through a server that takes it from us."""

    driver: ClassVar[str] = "email"
    host: str
    port: int
    tls: MailTls
    user: str | None
    password_file: Path | None
    sender: str
    recipients: tuple[str, ...]


NotifyChannel = WebhookChannel | NtfyChannel | MailChannel


def secret_files(channel: NotifyChannel) -> tuple[Path, ...]:
    """What a channel reads when it sends."""
    files: tuple[Path | None, ...]
    match channel:
        case WebhookChannel():
            files = (channel.url_file, channel.secret_file)
        case NtfyChannel():
            files = (channel.token_file,)
        case MailChannel():
            files = (channel.password_file,)
    return tuple(file for file in files if file is not None)


def channel_document(channel: NotifyChannel) -> dict[str, Any]:
    """A channel as it stands in cluster.yaml."""

    def text(path: Path | None) -> str | None:
        return None if path is None else str(path)

    common = {"name": channel.name, "level": channel.level.value, "resolved": channel.resolved}
    match channel:
        case WebhookChannel():
            return {
                "driver": channel.driver,
                **common,
                "url": channel.url,
                "url_file": text(channel.url_file),
                "secret_file": text(channel.secret_file),
            }
        case NtfyChannel():
            return {
                "driver": channel.driver,
                **common,
                "url": channel.url,
                "token_file": text(channel.token_file),
            }
        case MailChannel():
            return {
                "driver": channel.driver,
                **common,
                "host": channel.host,
                "port": channel.port,
                "tls": channel.tls.value,
                "user": channel.user,
                "password_file": text(channel.password_file),
                "sender": channel.sender,
                "recipients": list(channel.recipients),
            }
