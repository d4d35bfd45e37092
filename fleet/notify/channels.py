"""Sending: one function for each kind of channel. Whatever goes wrong is a ChannelError with a reason.

Secrets are read from their files for each message, so that a changed one counts at once. No redirect is
followed: where a message and its token go is what cluster.yaml says.
"""

from __future__ import annotations

import asyncio
import json
import smtplib
import ssl
import time
from collections.abc import Sequence
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from pathlib import Path
from typing import Final, assert_never
from urllib.parse import urlsplit, urlunsplit

import aiohttp
from aiohttp.connector import NEEDS_CLEANUP_CLOSED

from fleet.errors import FleetError
from fleet.notify import messages
from fleet.notify.ledger import Notice
from fleet.printable import printable
from fleet.secret import Secret
from fleet.spec.notify_model import MailChannel, MailTls, NotifyChannel, NtfyChannel, WebhookChannel

SEND_S: Final = 20.0
MAX_SECRET_BYTES: Final = 4096
NTFY_URGENT: Final = 5
NTFY_DEFAULT: Final = 3
"""Source: ntfy documentation, "Message priority"."""
USER_AGENT: Final = "bramble"


class ChannelError(FleetError):
    """A message was not taken. `retry_after_s`: how long the server wants to be left alone."""

    def __init__(self, message: str, hint: str = "", *, retry_after_s: float = 0.0) -> None:
        super().__init__(message, hint)
        self.retry_after_s = retry_after_s


async def send(
    channel: NotifyChannel, cluster: str, notices: Sequence[Notice], *, trust: ssl.SSLContext | None = None
) -> None:
    """Give notices to a channel as one message.

    Args:
        trust: Who vouches for its server; None: the machine's own list of authorities.

    Raises:
        ChannelError: It was not taken, or nobody knows whether it was.
    """
    context = trust or ssl.create_default_context()
    match channel:
        case WebhookChannel():
            await _webhook(channel, cluster, notices, context)
        case NtfyChannel():
            await _ntfy(channel, cluster, notices, context)
        case MailChannel():
            await asyncio.to_thread(_mail, channel, cluster, notices, context)
        case _:
            assert_never(channel)


def read_secret(path: Path, what: str) -> Secret:
    """The one line of a secret's file.

    Raises:
        ChannelError: It cannot be read, is empty, or anybody can read it.
    """
    try:
        with path.open("rb") as file:
            mode, raw = path.stat().st_mode, file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise ChannelError(f"{path}: the {what} cannot be read: {error.strerror}") from error
    if mode & 0o007:
        raise ChannelError(f"{path}: anybody can read the {what}", f"Run 'chmod o= {path}'.")
    line = raw.decode("utf-8", "replace").strip()
    if not line or len(raw) > MAX_SECRET_BYTES or not line.isprintable():
        raise ChannelError(f"{path}: found {len(raw)} bytes, expected the {what} on one line")
    return Secret(line)


async def _webhook(
    channel: WebhookChannel, cluster: str, notices: Sequence[Notice], context: ssl.SSLContext
) -> None:
    url = channel.url or (
        read_secret(channel.url_file, "webhook's address").reveal() if channel.url_file else ""
    )
    body = json.dumps(messages.document(cluster, notices)).encode()
    headers = {"Content-Type": "application/json", "X-Bramble-Id": notices[-1].id}
    if channel.secret_file is not None:
        key = read_secret(channel.secret_file, "webhook's key").reveal().encode()
        headers[messages.SIGNATURE_HEADER] = messages.sign(body, key, int(time.time()))
    await _post(channel.name, url, body, headers, context)


async def _ntfy(
    channel: NtfyChannel, cluster: str, notices: Sequence[Notice], context: ssl.SSLContext
) -> None:
    # As JSON to the server's root: a header cannot hold a line break or a word in another script.
    parts = urlsplit(channel.url)
    path, _, topic = parts.path.strip("/").rpartition("/")
    root = urlunsplit((parts.scheme, parts.netloc, f"/{path}", "", ""))
    urgent = messages.is_urgent(notices)
    body = json.dumps(
        {
            "topic": topic,
            "title": messages.title(cluster, notices),
            "message": messages.text(notices),
            "priority": NTFY_URGENT if urgent else NTFY_DEFAULT,
            "tags": ["rotating_light"] if urgent else [],
        }
    ).encode()
    headers = {"Content-Type": "application/json"}
    if channel.token_file is not None:
        token = read_secret(channel.token_file, "token").reveal()
        headers["Authorization"] = f"Bearer {token}"
    await _post(channel.name, root, body, headers, context)


async def _post(name: str, url: str, body: bytes, headers: dict[str, str], context: ssl.SSLContext) -> None:
    timeout = aiohttp.ClientTimeout(total=SEND_S)
    headers = {"User-Agent": USER_AGENT, **headers}
    connector = aiohttp.TCPConnector(enable_cleanup_closed=NEEDS_CLEANUP_CLOSED)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
            session.post(url, data=body, headers=headers, ssl=context, allow_redirects=False) as answer,
        ):
            status, wait = answer.status, answer.headers.get("Retry-After", "")
            said = printable((await answer.content.read(200)).decode("utf-8", "replace"), 120)
    except TimeoutError as error:
        raise ChannelError(f"{name}: no answer within {SEND_S:.0f} s") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        # The error of a URL that is none quotes it, and it may be a secret.
        reason = type(error).__name__ if isinstance(error, ValueError) else printable(str(error), 200)
        raise ChannelError(f"{name}: not sent: {reason}") from error
    if not 200 <= status < 300:
        hint = "Redirects are not followed: name the address itself." if 300 <= status < 400 else ""
        pause = float(wait) if wait.isdigit() and len(wait) < 6 else 0.0
        raise ChannelError(f"{name}: answered {status}: {said}", hint, retry_after_s=pause)


def _mail(channel: MailChannel, cluster: str, notices: Sequence[Notice], context: ssl.SSLContext) -> None:
    message = EmailMessage()
    message["From"] = channel.sender
    message["To"] = ", ".join(channel.recipients)
    message["Subject"] = messages.title(cluster, notices)
    message["Date"] = formatdate(localtime=False)
    message["Message-ID"] = make_msgid(idstring=notices[-1].id, domain=channel.sender.rpartition("@")[2])
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834 §5: no out-of-office answers
    if messages.is_urgent(notices):
        message["X-Priority"] = "1"
    message.set_content(messages.text(notices))
    password = read_secret(channel.password_file, "password") if channel.password_file else None
    try:
        with _connect(channel, context) as server:
            if channel.tls is MailTls.STARTTLS:
                server.starttls(context=context)
            if channel.user is not None and password is not None:
                server.login(channel.user, password.reveal())
            refused = server.send_message(message)
    except (OSError, smtplib.SMTPException) as error:
        raise ChannelError(f"{channel.name}: not sent: {_smtp_reason(error)}") from error
    if refused:
        raise ChannelError(f"{channel.name}: not taken for {', '.join(sorted(refused))}")


def _connect(channel: MailChannel, context: ssl.SSLContext) -> smtplib.SMTP:
    if channel.tls is MailTls.TLS:
        return smtplib.SMTP_SSL(channel.host, channel.port, timeout=SEND_S, context=context)
    return smtplib.SMTP(channel.host, channel.port, timeout=SEND_S)


def _smtp_reason(error: Exception) -> str:
    """The server's words; never those of a login, which some servers answer with what was sent."""
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return f"user or password refused ({error.smtp_code})"
    if isinstance(error, smtplib.SMTPResponseException):
        said = error.smtp_error
        words = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
        return f"{error.smtp_code} {printable(words, 120)}"
    return printable(str(error), 200) or type(error).__name__
