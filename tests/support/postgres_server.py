"""A real PostgreSQL of Debian's package, for the tests: on a unix socket of its own, gone afterwards.

It runs as an ordinary user, because `initdb` and `postgres` refuse root: as root the tests hand it to the
package's own user.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from fleet.store_place import PostgresPlace

START_S = 60.0
SERVER_USER = "postgres"


def find_programs() -> Path | None:
    """Where `initdb` and `postgres` are; Debian keeps them off PATH, one folder per version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    return found[-1].parent if found else None


@dataclass
class PostgresServer:
    """One running server; each database of it is a test's own."""

    directory: Path
    programs: Path
    process: subprocess.Popen[bytes] | None = None
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def new_database(self, encoding: str = "UTF8") -> PostgresPlace:
        name = f"fleet{next(self.numbers)}"
        with self.connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")  # type: ignore[call-overload, unused-ignore]
        return self.place(name)

    def place(self, name: str) -> PostgresPlace:
        return PostgresPlace(f"postgresql://{SERVER_USER}@/{name}?host={self.directory}")

    def connect(self, database: str) -> psycopg.Connection:
        place = f"host={self.directory} user={SERVER_USER} dbname={database}"
        return psycopg.connect(place, autocommit=True)

    def start(self) -> None:
        settings = {
            "unix_socket_directories": str(self.directory),
            "listen_addresses": "",
            "shared_buffers": "16MB",
            # Tests kill clients and servers, not the machine: what the kernel has is not lost.
            "fsync": "off",
        }
        options = [item for key, value in settings.items() for item in ("-c", f"{key}={value}")]
        program = [str(self.programs / "postgres"), "-D", str(self.directory / "data")]
        command = [*as_server_user(), *program, *options]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while True:
            try:
                self.connect("postgres").close()
                return
            except psycopg.OperationalError:
                log_text = (self.directory / "log").read_text("utf-8", "replace")
                assert self.process.poll() is None, log_text
                assert time.monotonic() < deadline, log_text
                time.sleep(0.05)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: break the connections off and stop in order. SIGQUIT: as if it crashed."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(START_S)
            self.process = None


def as_server_user() -> list[str]:
    """What goes before a command so that it runs as an ordinary user, and ends with this process."""
    dies_with_us = ["setpriv", "--pdeathsig=INT"]
    if os.geteuid() != 0:
        return dies_with_us
    user = pwd.getpwnam(SERVER_USER)
    return [*dies_with_us, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


@contextmanager
def running_postgres(programs: Path) -> Iterator[PostgresServer]:
    """A new, empty server while the block runs."""
    # Not below pytest's folder: its path is too long for a socket, and closed to the server's user.
    directory = Path(tempfile.mkdtemp(prefix="bramble-pg-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(directory, SERVER_USER)
        directory.chmod(0o700)
        subprocess.run(
            [
                *as_server_user(),
                programs / "initdb",
                "--pgdata",
                directory / "data",
                f"--username={SERVER_USER}",
                "--auth=trust",
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C",
            ],
            check=True,
            capture_output=True,
            timeout=START_S,
        )
        server = PostgresServer(directory, programs)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory)
