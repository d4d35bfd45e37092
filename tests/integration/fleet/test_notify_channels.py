"""Messages as real servers get them: HTTP over TLS, ntfy's JSON, SMTP with STARTTLS and a login."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import hmac
import ipaddress
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from free_ports import free_port

from bramble.cli import bramble
from fleet.api.connections import Connections
from fleet.attention import Urgency
from fleet.notify import channels
from fleet.notify.channels import ChannelError, send
from fleet.notify.ledger import Kind, Notice
from fleet.spec.notify_model import (
    Level,
    MailChannel,
    MailTls,
    NotifyChannel,
    NtfyChannel,
    WebhookChannel,
)

pytestmark = pytest.mark.integration
NOTICE = Notice(
    id="1-1",
    kind=Kind.PROBLEM,
    key="lost/pi4",
    code="lost",
    subject="pi4",
    urgency=Urgency.NOW,
    text="pi4 does not report — since noon",
    hint="Is it on?",
    command="bramble show pi4",
    at=1.0,
)


@dataclass(frozen=True)
class Authority:
    """A certificate for 127.0.0.1 that vouches for itself."""

    certificate: Path
    key: Path

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate))

    @property
    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder = tmp_path_factory.mktemp("authority")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return Authority(folder / "crt", folder / "key")


@dataclass
class Receiver:
    """An HTTP server that writes down what it gets, and answers as it is told."""

    url: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        self.requests.append((request.path, dict(request.headers), await request.read()))
        return web.Response(status=self.status, text="said the server\x1b[2J", headers=self.headers)


@contextlib.asynccontextmanager
async def receiving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.take)
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    connections = Connections(runner)
    try:
        port = await connections.listen("127.0.0.1", 0, tls)
        receiver.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        yield receiver
    finally:
        await connections.end()


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def webhook(url: str | None, secret: Path | None = None, url_file: Path | None = None) -> WebhookChannel:
    return WebhookChannel(
        name="hook", level=Level.ALL, resolved=True, url=url, url_file=url_file, secret_file=secret
    )


def mail(port: int, tls: MailTls = MailTls.STARTTLS, password: Path | None = None) -> MailChannel:
    return MailChannel(
        name="post",
        level=Level.ALL,
        resolved=True,
        host="127.0.0.1",
        port=port,
        tls=tls,
        user="bramble" if password else None,
        password_file=password,
        sender="bramble@example.org",
        recipients=("ops@example.org", "me@example.org"),
    )


@pytest.mark.asyncio
async def test_a_webhook_gets_json_over_tls_and_can_check_who_sent_it(
    authority: Authority, tmp_path: Path
) -> None:
    key = private(tmp_path / "key", "correct horse\n")
    async with receiving(authority.server) as receiver:
        await send(webhook(f"{receiver.url}/in", key), "attic", [NOTICE], trust=authority.trust)
    ((path, headers, body),) = receiver.requests
    assert path == "/in"
    told = json.loads(body)
    assert told["notices"][0]["subject"] == "pi4"
    assert headers["X-Bramble-Id"] == "1-1"
    parts = dict(part.split("=", 1) for part in headers["X-Bramble-Signature"].split(","))
    expected = hmac.new(b"correct horse", f"{parts['t']}.".encode() + body, hashlib.sha256).hexdigest()
    assert parts["v1"] == expected
    assert abs(int(parts["t"]) - time.time()) < 60


@pytest.mark.asyncio
async def test_the_address_may_be_a_secret_and_is_never_told(tmp_path: Path) -> None:
    async with receiving() as receiver:
        file = private(tmp_path / "url", f"{receiver.url}/T0P/secret\n")
        await send(webhook(None, url_file=file), "attic", [NOTICE])
        assert receiver.requests[0][0] == "/T0P/secret"
        receiver.status = 500
        with pytest.raises(ChannelError) as caught:
            await send(webhook(None, url_file=file), "attic", [NOTICE])
    assert "T0P" not in str(caught.value)
    with pytest.raises(ChannelError) as caught:
        await send(webhook(None, url_file=private(tmp_path / "bad", "no url, T0P secret")), "attic", [NOTICE])
    assert "T0P" not in str(caught.value)


@pytest.mark.asyncio
async def test_a_server_that_nobody_vouches_for_gets_nothing(authority: Authority) -> None:
    async with receiving(authority.server) as receiver:
        with pytest.raises(ChannelError, match="not sent"):
            await send(webhook(receiver.url), "attic", [NOTICE])
    assert receiver.requests == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("status", "headers", "words", "pause"),
    [
        (500, {}, "answered 500", 0.0),
        (404, {}, "answered 404", 0.0),
        (429, {"Retry-After": "90"}, "answered 429", 90.0),
        (503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, "answered 503", 0.0),
        (302, {"Location": "http://127.0.0.1:1/"}, "Redirects are not followed", 0.0),
    ],
)
async def test_what_was_not_taken_is_an_error_with_the_reason(
    status: int, headers: dict[str, str], words: str, pause: float
) -> None:
    async with receiving() as receiver:
        receiver.status, receiver.headers = status, headers
        with pytest.raises(ChannelError) as caught:
            await send(webhook(receiver.url), "attic", [NOTICE])
    assert words in str(caught.value)
    assert caught.value.retry_after_s == pause
    assert "\x1b" not in str(caught.value)
    assert len(receiver.requests) == 1


@pytest.mark.asyncio
async def test_nobody_there_is_an_error() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        for channel in (webhook(f"http://127.0.0.1:{port}/"), mail(port)):
            with pytest.raises(ChannelError, match="not sent"):
                await send(channel, "attic", [NOTICE])


@pytest.mark.asyncio
async def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "SEND_S", 0.2)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        port = deaf.getsockname()[1]
        with pytest.raises(ChannelError, match=r"no answer within|not sent"):
            await send(webhook(f"http://127.0.0.1:{port}/"), "attic", [NOTICE])
        with pytest.raises(ChannelError, match="not sent"):
            await send(mail(port), "attic", [NOTICE])


@pytest.mark.asyncio
async def test_ntfy_gets_topic_title_and_priority(tmp_path: Path) -> None:
    token = private(tmp_path / "token", "tk_abc")
    async with receiving() as receiver:
        channel = NtfyChannel(
            name="ntfy", level=Level.ALL, resolved=True, url=f"{receiver.url}/attic", token_file=token
        )
        await send(channel, "attic", [NOTICE])
    ((path, headers, body),) = receiver.requests
    assert path == "/"
    assert headers["Authorization"] == "Bearer tk_abc"
    told = json.loads(body)
    assert (told["topic"], told["priority"]) == ("attic", 5)
    assert told["title"] == "attic: pi4 does not report — since noon"
    assert told["message"].endswith("$ bramble show pi4")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        ("token", 0o644, "anybody can read"),
        ("", 0o600, "expected the token"),
        ("two\nlines", 0o600, "expected the token"),
        ("x" * 5000, 0o600, "expected the token"),
        (None, 0, "cannot be read"),
    ],
)
async def test_a_secret_that_is_none_or_open_to_all_is_refused(
    content: str | None, mode: int, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    if content is not None:
        private(file, content).chmod(mode)
    channel = NtfyChannel(
        name="ntfy", level=Level.ALL, resolved=True, url="http://127.0.0.1:1/a", token_file=file
    )
    with pytest.raises(ChannelError, match=words):
        await send(channel, "attic", [NOTICE])


class Mailbox:
    """What a mail server took."""

    def __init__(self) -> None:
        self.mails: list[tuple[list[str], EmailMessage]] = []
        self.refusal = ""

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        if self.refusal:
            return self.refusal
        content = message_from_bytes(cast(bytes, envelope.content), policy=policy.default)
        self.mails.append((list(envelope.rcpt_tos), content))
        return "250 taken"


def _login(_server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, auth: Any) -> AuthResult:
    ok = isinstance(auth, LoginPassword) and (auth.login, auth.password) == (b"bramble", b"s3cret")
    return AuthResult(success=ok, handled=False)


@pytest.fixture
def mailbox(authority: Authority) -> Iterator[tuple[Mailbox, int]]:
    box = Mailbox()
    server = Controller(
        box,
        hostname="127.0.0.1",
        port=0,
        tls_context=authority.server,
        require_starttls=True,
        authenticator=_login,
        auth_required=True,
        ready_timeout=60.0,
    )
    # aiosmtpd's own start() connects to the port that it was given, which for 0 is none: take a free one.
    server.port = free_port()
    server.start()
    try:
        yield box, server.port
    finally:
        server.stop()


@pytest.mark.asyncio
async def test_mail_goes_over_starttls_with_a_login(
    authority: Authority, mailbox: tuple[Mailbox, int], tmp_path: Path
) -> None:
    box, port = mailbox
    channel = mail(port, password=private(tmp_path / "password", "s3cret\n"))
    await send(channel, "attic", [NOTICE], trust=authority.trust)
    ((recipients, message),) = box.mails
    assert recipients == ["ops@example.org", "me@example.org"]
    assert message["Subject"] == "attic: pi4 does not report — since noon"
    assert message["Auto-Submitted"] == "auto-generated"
    assert "$ bramble show pi4" in message.get_content()


@pytest.mark.asyncio
async def test_a_wrong_password_is_told_without_it(
    authority: Authority, mailbox: tuple[Mailbox, int], tmp_path: Path
) -> None:
    box, port = mailbox
    channel = mail(port, password=private(tmp_path / "password", "wr0ng"))
    with pytest.raises(ChannelError) as caught:
        await send(channel, "attic", [NOTICE], trust=authority.trust)
    assert "user or password refused (535)" in str(caught.value)
    assert "wr0ng" not in str(caught.value)
    assert box.mails == []


@pytest.mark.asyncio
async def test_a_password_never_goes_to_a_server_that_nobody_vouches_for(
    mailbox: tuple[Mailbox, int], tmp_path: Path
) -> None:
    channel = mail(mailbox[1], password=private(tmp_path / "password", "s3cret"))
    with pytest.raises(ChannelError, match="not sent"):
        await send(channel, "attic", [NOTICE])


@pytest.mark.asyncio
async def test_a_server_that_refuses_the_mail_is_quoted(
    authority: Authority, mailbox: tuple[Mailbox, int], tmp_path: Path
) -> None:
    box, port = mailbox
    box.refusal = "552 mailbox full"
    channel = mail(port, password=private(tmp_path / "password", "s3cret"))
    with pytest.raises(ChannelError, match="552 mailbox full"):
        await send(channel, "attic", [NOTICE], trust=authority.trust)


CLUSTER = Path(__file__).parents[3] / "examples" / "demo.yaml"


def test_the_command_tries_every_channel_and_says_which_one_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    async def fake(channel: NotifyChannel, _cluster: str, notices: list[Notice]) -> None:
        tried.append(channel.name)
        assert notices[0].kind is Kind.TEST
        if channel.name == "b":
            raise ChannelError("b: answered 500", "Look at it")

    monkeypatch.setattr(channels, "send", fake)
    file = tmp_path / "cluster.yaml"
    added = "notify:\n" + "".join(
        f"  - {{driver: ntfy, name: {name}, url: 'http://127.0.0.1:1/t'}}\n" for name in "ab"
    )
    file.write_text(CLUSTER.read_text() + added)
    result = CliRunner().invoke(bramble, ["notify", "test", "-c", str(file)])
    assert result.exit_code == 1
    assert tried == ["a", "b"]
    assert result.output == "a: sent\nb: b: answered 500. Look at it\n"
    one = CliRunner().invoke(bramble, ["notify", "test", "a", "-c", str(file), "--json"])
    assert one.exit_code == 0
    assert json.loads(one.output) == [{"channel": "a", "driver": "ntfy", "error": None}]
    nobody = CliRunner().invoke(bramble, ["notify", "test", "bb", "-c", str(file)])
    assert "has no channel 'bb'" in str(nobody.exception)
    listed = CliRunner().invoke(bramble, ["notify", "list", str(file)])
    assert listed.output.splitlines()[0] == "a  ntfy  all, also when it is over"
