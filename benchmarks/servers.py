"""The servers that are measured: Bramble's boot server and its peers, each serving one directory."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.boot_server import SERIAL
from benchmarks.errors import BenchmarkError
from benchmarks.processes import LOOPBACK, accepts_tcp, free_port, server
from benchmarks.programs import Program

PROBE: Final = f"{SERIAL}/config.txt"
"""A small file that every TFTP server has, to ask whether it is there."""
PROBE_TIMEOUT_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A server that answers."""

    name: str
    pid: int
    tftp: int | None = None
    http: int | None = None


@contextlib.contextmanager
def bramble_server(root: Path, work: Path, *, boards: int = 1, port: int = 0) -> Iterator[Running]:
    """Bramble's boot server: TFTP and HTTP content in one.

    Args:
        root: the files.
        work: for its log.
        boards: how many there are, of consecutive serials; all boot the same tree.
        port: for TFTP; 0 for any.
    """
    log = work / "bramble.log"
    argv = [sys.executable, "-m", "benchmarks.boot_server", str(root), str(work), str(boards), str(port)]
    with server(argv, log=log, answers=lambda: log.read_bytes().endswith(b"}\n")) as pid:
        ports = json.loads(log.read_text("utf-8").splitlines()[-1])
        yield Running(name="bramble", pid=pid, tftp=ports["tftp"], http=ports["http"])


@contextlib.contextmanager
def tftp_peer(program: Program, root: Path, work: Path) -> Iterator[Running]:
    """One of the TFTP servers in `TFTP_ARGUMENTS`."""
    # dnsmasq knows no other port; the private network has no other user of it.
    port = 69 if program.name == "dnsmasq" else free_port(socket.SOCK_DGRAM)
    argv = [str(program.path), *TFTP_ARGUMENTS[program.name](root, port)]
    log = work / f"{program.name}.log"
    with server(
        argv, log=log, answers=lambda: tftp_options(port, {}) is not None, environment=program.environment
    ) as pid:
        yield Running(name=program.name, pid=pid, tftp=port)


def _atftpd(root: Path, port: int) -> list[str]:
    account = _account()
    return [
        "--daemon",
        "--no-fork",
        "--port",
        str(port),
        "--bind-address",
        LOOPBACK,
        "--user",
        f"{account}.{_group()}",
        "--logfile",
        "-",
        str(root),
    ]


def _in_tftpd(root: Path, port: int) -> list[str]:
    return [
        "--foreground",
        "--ipv4",
        "--address",
        f"{LOOPBACK}:{port}",
        "--user",
        _account(),
        "--secure",
        str(root),
    ]


def _dnsmasq(root: Path, _port: int) -> list[str]:
    return [
        "--no-daemon",
        "--conf-file=/dev/null",
        "--port=0",
        "--enable-tftp",
        "--tftp-max=1024",  # 50 are too few for the cases with 64 clients
        f"--tftp-root={root}",
        f"--listen-address={LOOPBACK}",
        "--bind-interfaces",
        f"--user={_account()}",
        f"--group={_group()}",
        "--pid-file=",
    ]


TFTP_ARGUMENTS: Final[dict[str, Callable[[Path, int], list[str]]]] = {
    "atftpd": _atftpd,
    "dnsmasq": _dnsmasq,
    "in.tftpd": _in_tftpd,
}
"""Program → its arguments for a directory and a port of the loopback address, in the foreground."""


@contextlib.contextmanager
def python_http(root: Path, work: Path) -> Iterator[Running]:
    """The HTTP server of Python's library."""
    port = free_port(socket.SOCK_STREAM)
    argv = [sys.executable, "-m", "http.server", "--bind", LOOPBACK, "--directory", str(root), str(port)]
    with server(argv, log=work / "http.server.log", answers=lambda: accepts_tcp(port)) as pid:
        yield Running(name="python3 -m http.server", pid=pid, http=port)


NGINX_CONFIG: Final = """\
daemon off;
{user}
worker_processes 1;
pid {work}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    sendfile on;
    client_body_temp_path {work}/body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    server {{ listen {address}:{port}; root {root}; }}
}}
"""


@contextlib.contextmanager
def nginx(program: Program, root: Path, work: Path) -> Iterator[Running]:
    """nginx with one worker and sendfile."""
    port = free_port(socket.SOCK_STREAM)
    user = f"user {_account()} {_group()};" if os.geteuid() == 0 else ""
    config = work / "nginx.conf"
    config.write_text(
        NGINX_CONFIG.format(user=user, work=work, root=root, address=LOOPBACK, port=port), "utf-8"
    )
    argv = [str(program.path), "-p", str(work), "-e", "stderr", "-c", str(config)]
    with server(
        argv,
        log=work / "nginx.log",
        answers=lambda: accepts_tcp(port),
        environment=program.environment,
    ) as pid:
        yield Running(name="nginx", pid=pid, http=port)


def tftp_options(port: int, options: dict[str, str]) -> dict[str, str] | None:
    """The options that a server grants for the probe file; None where it does not answer.

    The transfer is then broken off with an error packet. Source: RFC 1350 §5, RFC 2347.
    """
    words = [PROBE, "octet", *(word for pair in options.items() for word in pair)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PROBE_TIMEOUT_S)
        sock.sendto(
            struct.pack("!H", 1) + b"".join(word.encode() + b"\0" for word in words), (LOOPBACK, port)
        )
        try:
            reply, peer = sock.recvfrom(2048)
        except OSError:
            return None
        sock.sendto(struct.pack("!HH", 5, 0) + b"enough\0", peer)
    opcode = int.from_bytes(reply[:2], "big")
    if opcode == 5:
        raise BenchmarkError(f"a TFTP server refuses the probe: {reply[4:].decode('ascii', 'replace')!r}")
    granted = reply[2:].decode("ascii").split("\0")[:-1] if opcode == 6 else []
    return {name.lower(): value for name, value in zip(granted[::2], granted[1::2], strict=True)}


def _account() -> str:
    """Who the servers run as: whoever runs them, so that they may read the files."""
    return pwd.getpwuid(os.geteuid()).pw_name


def _group() -> str:
    return grp.getgrgid(os.getegid()).gr_name
