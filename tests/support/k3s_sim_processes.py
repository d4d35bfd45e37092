"""The k3s simulator as real processes on loopback, for integration tests."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WAIT_S = 90.0
"""Every wait here: far above what a loaded machine needs."""
ANSWER_S = 30.0
"""For one answer of an API."""


def wait_until(condition: Callable[[], object], what: str, deadline_s: float = WAIT_S) -> None:
    """Poll until `condition` is true; fail with `what` after the deadline.

    Whoever does not answer a question of `condition` is asked again.
    """
    deadline = time.monotonic() + deadline_s
    while True:
        why = ""
        try:
            if condition():
                return
        except OSError as error:
            why = f", {error!r}"
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {deadline_s:.0f} s: {what}{why}")
        time.sleep(0.05)


@dataclass
class Simulated:
    """One `k3s` process: its log, and the socket on which it tells systemd that it is ready."""

    process: subprocess.Popen[bytes]
    log_file: Path
    notify: socket.socket

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def wait_for_log(self, text: str, deadline_s: float = WAIT_S) -> None:
        try:
            wait_until(lambda: text in self.log, f"{text!r} in the log", deadline_s)
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{self.log}") from None

    def wait_ready(self, deadline_s: float = WAIT_S) -> None:
        self.notify.settimeout(deadline_s)
        try:
            assert self.notify.recv(100) == b"READY=1\n"
        except TimeoutError:
            raise AssertionError(f"no READY=1; the log:\n{self.log}") from None

    def wait_exit(self) -> int:
        return self.process.wait(WAIT_S)


@dataclass
class Lab:
    """A directory with the packed program, and the processes started from it."""

    directory: Path
    program: Path
    running: list[Simulated] = field(default_factory=list)

    def start(
        self,
        name: str,
        *argv: str,
        environ: Mapping[str, str] | None = None,
        inside: Sequence[str] = (),
    ) -> Simulated:
        """Start `k3s ARGV` with a data directory named after the node, which survives restarts.

        `inside` comes before the command, to run it somewhere else.
        """
        number = len(self.running)
        address = self.directory / f"notify-{number}"
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(str(address))
        log_file = self.directory / f"{name}-{number}.log"
        command, *rest = argv
        full = [*inside, sys.executable, str(self.program), command, "--rootless"]
        full += ["--data-dir", str(self.data(name))]
        full += ["--node-name", name, "--config", str(self.config(name)), *rest]
        full += [] if "--node-ip" in rest else ["--node-ip", "127.0.0.1"]
        clean = {"PATH": os.environ["PATH"], "NOTIFY_SOCKET": str(address), **(environ or {})}
        with log_file.open("wb") as stream:
            process = subprocess.Popen(full, stdout=stream, stderr=stream, env=clean)
        simulated = Simulated(process, log_file, notify)
        self.running.append(simulated)
        return simulated

    def server(self, name: str, port: int, *argv: str) -> Simulated:
        kubeconfig = str(self.kubeconfig(name))
        return self.start(
            name, "server", "--https-listen-port", str(port), "--write-kubeconfig", kubeconfig, *argv
        )

    def stop(self, simulated: Simulated) -> None:
        """End one process, hard if it does not end by itself."""
        simulated.process.terminate()
        try:
            simulated.process.wait(10)
        except subprocess.TimeoutExpired:
            simulated.process.kill()
            simulated.process.wait()
        simulated.notify.close()

    def data(self, name: str) -> Path:
        return self.directory / name

    def kubeconfig(self, name: str) -> Path:
        return self.directory / f"{name}.kubeconfig"

    def config(self, name: str) -> Path:
        """The configuration file of a node; empty unless the test writes it."""
        path = self.directory / f"{name}.yaml"
        path.touch()
        return path

    def token(self, name: str, kind: str = "token") -> str:
        return (self.data(name) / "server" / kind).read_text().strip()

    def tls(self, name: str) -> Path:
        return self.data(name) / "server" / "tls"

    def kubectl(self, server: str, *argv: str) -> str:
        environ = {"PATH": os.environ["PATH"], "KUBECONFIG": str(self.kubeconfig(server))}
        done = subprocess.run(
            [sys.executable, str(self.program), "kubectl", *argv],
            env=environ,
            capture_output=True,
            check=True,
        )
        return done.stdout.decode()


@contextmanager
def running_lab(directory: Path, program: Path) -> Iterator[Lab]:
    """A lab whose processes all end with it."""
    lab = Lab(directory, program)
    try:
        yield lab
    finally:
        for simulated in lab.running:  # at once: nobody wants their data, or to see a leader elected
            simulated.process.kill()
        for simulated in lab.running:
            lab.stop(simulated)


@dataclass(frozen=True)
class Admin:
    """Calls of the Kubernetes API with a client certificate."""

    port: int
    ca: Path
    certificate: Path | None = None
    key: Path | None = None
    host: str = "127.0.0.1"
    dial: Callable[[str, int], socket.socket] | None = None
    """Where the host is in another network: how to get a connection to it."""

    def call(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """Status and body (parsed if it is JSON)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.ca)
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        connection = http.client.HTTPSConnection(self.host, self.port, timeout=ANSWER_S, context=context)
        try:
            if self.dial is not None:
                channel = self.dial(self.host, self.port)
                connection.sock = context.wrap_socket(channel, server_hostname=self.host)
            content = None if body is None else json.dumps(body)
            given = {"Content-Type": "application/merge-patch+json", **(headers or {})}
            connection.request(method, path, content, given)
            response = connection.getresponse()
            raw = response.read()
        finally:
            connection.close()
        is_json = response.headers.get_content_type() == "application/json"
        return response.status, json.loads(raw) if is_json else raw

    def ready(self, node: str) -> str:
        """Status of the node's Ready condition; "absent" if there is no such node."""
        status, value = self.call("GET", f"/api/v1/nodes/{node}")
        if status != 200:
            return "absent"
        return next(str(item["status"]) for item in value["status"]["conditions"] if item["type"] == "Ready")
