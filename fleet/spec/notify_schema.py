"""The key `notify` of cluster.yaml: its shape, its checks, and its way to `fleet.spec.notify_model`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from fleet.spec import values
from fleet.spec.notify_model import (
    MAIL_PORTS,
    Level,
    MailChannel,
    MailTls,
    NotifyChannel,
    NtfyChannel,
    WebhookChannel,
)


def _text(value: Any) -> str:
    return values.expect_text(value, "a text")


def parse_mail_address(value: Any) -> str:
    """`name@host`, nothing else: what is written here becomes a header and a command of SMTP."""
    text = values.expect_text(value, "a mail address")
    local, at, domain = text.rpartition("@")
    sound = at and local and domain and text.isascii() and text.isprintable()
    if not sound or any(sign in text for sign in ' ,;<>"()[]:\\'):
        raise values.ValueFault(f"{text!r} is not a mail address", "Write it plain, like ops@example.org.")
    return text


Text = Annotated[str, BeforeValidator(_text)]
Url = Annotated[str, BeforeValidator(values.parse_http_url)]
MailAddress = Annotated[str, BeforeValidator(parse_mail_address)]


class _ChannelSection(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    name: Annotated[str, BeforeValidator(values.parse_label)] | None = Field(
        default=None, description="What the channel is called; left out: as its driver."
    )
    level: Annotated[Level, BeforeValidator(values.enum_parser(Level))] | None = Field(
        default=None,
        description="`now`: only what stands still or is one failure from it; `all`: everything that needs a "
        "person, which holds where it is left out.",
    )
    resolved: bool | None = Field(
        default=None, description="Whether it is told, too, that something is over; `true` unless given."
    )


class WebhookSection(_ChannelSection):
    driver: Literal["webhook"]
    url: Url | None = Field(default=None, description="Where JSON is posted to.")
    url_file: Text | None = Field(
        default=None, description="A file with that address, where the address itself is a secret."
    )
    secret_file: Text | None = Field(
        default=None, description="A file with the key that signs each message (HMAC-SHA256)."
    )


class NtfySection(_ChannelSection):
    driver: Literal["ntfy"]
    url: Url | None = Field(
        default=None, description="The topic's address, like `https://ntfy.example.org/attic`."
    )
    token_file: Text | None = Field(default=None, description="A file with an access token of the server.")


class MailSection(_ChannelSection):
    driver: Literal["email"]
    host: Annotated[str, BeforeValidator(values.parse_host)] | None = Field(
        default=None, description="The mail server."
    )
    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        default=None, description="Its port; left out: 587, 465 with `tls`, 25 with `none`."
    )
    tls: Annotated[MailTls, BeforeValidator(values.enum_parser(MailTls))] | None = Field(
        default=None,
        description="How the connection is made private, `starttls` unless given; its certificate counts.",
    )
    user: Text | None = Field(default=None, description="Who logs in there; left out: nobody does.")
    password_file: Text | None = Field(default=None, description="A file with that user's password.")
    sender: MailAddress | None = Field(default=None, description="Who it is from.")
    recipients: list[MailAddress | None] | None = Field(default=None, description="Who gets it.")


NotifySection = Annotated[WebhookSection | NtfySection | MailSection, Field(discriminator="driver")]
_FILES = ("url_file", "secret_file", "token_file", "password_file")


def named_files(section: Any) -> Iterator[tuple[str, str]]:
    """The keys of a channel that name files, with what they name."""
    for name in _FILES:
        path = getattr(section, name, None)
        if path is not None:
            yield name, path


def channel_problems(
    sections: Sequence[Any], is_faulty: Callable[[tuple[str | int, ...]], bool]
) -> Iterator[tuple[tuple[str | int, ...], str, str]]:
    """Key, message and hint of what cannot work; what is faulty by itself was told before."""
    seen: dict[str, int] = {}
    for index, section in enumerate(sections):
        if section is None:
            continue
        key: tuple[str | int, ...] = ("notify", index)
        name = section.name or section.driver
        if seen.setdefault(name, index) != index:
            hint = "Give each a 'name' of its own."
            yield (*key, "name"), f"two channels are called {name!r}", hint
        for wanted, why in _missing(section):
            if not is_faulty((*key, wanted)):
                yield (*key, wanted), f"channel {name!r} ({section.driver}) has no {wanted!r}", why
        match section:
            case WebhookSection(url=str(), url_file=str()):
                yield (*key, "url_file"), "found 'url' and 'url_file', expected one of them", "Remove one."
            case NtfySection(url=str(url)) if len(urlsplit(url).path.strip("/").split("/")[-1]) == 0:
                hint = "Add it: https://ntfy.example.org/attic."
                yield (*key, "url"), f"{url!r} names no topic", hint
            case MailSection(tls=MailTls.NONE, password_file=str()):
                hint = "Use 'tls: starttls' or 'tls: tls', or a server that needs no password."
                yield (*key, "tls"), "the password would be sent in clear", hint
            case _:
                pass


def _missing(section: Any) -> Iterator[tuple[str, str]]:
    match section:
        case WebhookSection(url=None, url_file=None):
            yield "url", "Say where to post to: 'url: https://…', or 'url_file' where that is a secret."
        case NtfySection(url=None):
            yield "url", "Say which topic: 'url: https://ntfy.example.org/attic'."
        case MailSection():
            if section.host is None:
                yield "host", "Name the mail server."
            if section.sender is None:
                yield "sender", "Write whose address it comes from, 'sender: bramble@example.org'."
            if not section.recipients:
                yield "recipients", "Write who gets it, 'recipients: [ops@example.org]'."
            if section.user is not None and section.password_file is None:
                yield "password_file", "Name the file with the user's password, or remove 'user'."
            if section.user is None and section.password_file is not None:
                yield "user", "Say whose password it is, or remove 'password_file'."
        case _:
            pass


def build_channels(sections: Iterable[Any], resolve: Callable[[str], Path]) -> tuple[NotifyChannel, ...]:
    """The channels of a document that passed the checks."""
    return tuple(_build(section, resolve) for section in sections if section is not None)


def _build(section: Any, resolve: Callable[[str], Path]) -> NotifyChannel:
    def file(path: str | None) -> Path | None:
        return None if path is None else resolve(path)

    common = {
        "name": section.name or section.driver,
        "level": section.level or Level.ALL,
        "resolved": True if section.resolved is None else section.resolved,
    }
    match section:
        case WebhookSection():
            return WebhookChannel(
                **common,
                url=section.url,
                url_file=file(section.url_file),
                secret_file=file(section.secret_file),
            )
        case NtfySection(url=str(url)):
            return NtfyChannel(**common, url=url, token_file=file(section.token_file))
        case MailSection(host=str(host), sender=str(sender)):
            tls = section.tls or MailTls.STARTTLS
            return MailChannel(
                **common,
                host=host,
                port=section.port or MAIL_PORTS[tls],
                tls=tls,
                user=section.user,
                password_file=file(section.password_file),
                sender=sender,
                recipients=tuple(one for one in section.recipients or () if one is not None),
            )
        case _:
            raise ValueError("a channel that passed the checks lacks a required value")
