"""A PoE switch: net-snmp's own agent, with POWER-ETHERNET-MIB's port table behind it.

Run as a program it is the agent's `pass_persist` helper: it keeps the ports in a file, and lets
pethPsePortDetectionStatus follow pethPsePortAdminEnable. Source: snmpd.conf(5), "pass_persist".
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from free_ports import free_port

TABLE = ".1.3.6.1.2.1.105.1.1.1"
COMMUNITY, READ_ONLY = "write-secret-7", "read-only-7"
USER, AUTH, PRIVACY = "bramble", "auth-secret-7", "priv-secret-7"


@dataclass
class Switch:
    """A running agent. `ports`: "group.port" → [admin enable, detection status]."""

    port: int
    file: Path

    @property
    def ports(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = json.loads(self.file.read_text())
        return found

    def put(self, key: str, admin: int, detection: int) -> None:
        _keep(self.file, {**self.ports, key: [admin, detection]})


@contextlib.contextmanager
def running_switch(directory: Path) -> Iterator[Switch]:
    """The agent on a free port of loopback, with a community and a user of version 3 that may write."""
    program = shutil.which("snmpd") or "/usr/sbin/snmpd"
    file = directory / "ports.json"
    _keep(file, {"1.1": [1, 3], "1.2": [1, 3], "1.3": [2, 1]})
    port = free_port(socket.SOCK_DGRAM)
    helper = f"{sys.executable} {Path(__file__)} {file}"
    config = directory / "snmpd.conf"
    config.write_text(
        f"agentaddress udp:127.0.0.1:{port}\n"
        f"rwcommunity {COMMUNITY} 127.0.0.1\n"
        f"rocommunity {READ_ONLY} 127.0.0.1\n"
        f'createUser {USER} SHA-256 "{AUTH}" AES "{PRIVACY}"\n'
        f"rwuser {USER} priv\n"
        f"pass_persist {TABLE} {helper}\n"
    )
    environment = {"SNMP_PERSISTENT_DIR": str(directory), "PATH": "/usr/sbin:/usr/bin:/bin", "MIBS": ""}
    argv = [
        program,
        "-f",
        "-C",
        "-c",
        str(config),
        "-LE",
        "warning",
        "-p",
        str(directory / "pid"),
        "-I",
        "-smux",
    ]
    log = (directory / "snmpd.log").open("wb")
    process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)
    try:
        _await_listening(process, port, directory / "snmpd.log")
        yield Switch(port, file)
    finally:
        process.terminate()
        process.wait(60)
        log.close()


def _await_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    wanted = f"{port:04X}"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"snmpd ended: {log.read_text()}")
        lines = Path("/proc/net/udp").read_text().splitlines()[1:]
        if any(line.split()[1].endswith(f":{wanted}") for line in lines):
            return
        time.sleep(0.02)
    raise RuntimeError(f"snmpd does not listen: {log.read_text()}")


# --- the helper


def main(file: Path) -> None:
    """Answer the agent, line by line, until it closes the pipe."""
    for line in sys.stdin:
        match line.strip():
            case "PING":
                _say("PONG")
            case "get":
                _say(*_get(file, _read_line()))
            case "getnext":
                _read_line()
                _say("NONE")
            case "set":
                _say(_set(file, _read_line(), _read_line()))


def _get(file: Path, name: str) -> list[str]:
    column, key = _parse(name)
    row = json.loads(file.read_text()).get(key)
    if row is None or column not in (3, 6):
        return ["NONE"]
    return [name, "integer", str(row[0] if column == 3 else row[1])]


def _set(file: Path, name: str, value: str) -> str:
    column, key = _parse(name)
    kind, _, number = value.partition(" ")
    ports = json.loads(file.read_text())
    if key not in ports or column != 3:
        return "not-writable"
    if kind != "integer" or number not in ("1", "2"):
        return "wrong-value"
    if ports[key][1] != 4:  # a fault stays one
        ports[key] = [int(number), 3 if number == "1" else 1]
    _keep(file, ports)
    return "DONE"


def _keep(file: Path, ports: dict[str, list[int]]) -> None:
    """Whole, whenever the other process reads it."""
    new = file.with_suffix(".new")
    new.write_text(json.dumps(ports))
    new.replace(file)


def _parse(name: str) -> tuple[int, str]:
    column, _, key = name.removeprefix(f"{TABLE}.").partition(".")
    return (int(column) if column.isdigit() else 0), key


def _read_line() -> str:
    return sys.stdin.readline().strip()


def _say(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
