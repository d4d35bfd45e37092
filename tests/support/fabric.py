"""Hosts on one cable: network namespaces on a bridge, joined by addresses, that can be cut from each other.
Each has a host name of its own: old releases of k3s name their etcd member after it.

Needs no root: without it the namespaces are inside a user namespace. The test itself stays where it is;
`dial` hands it a connection that begins inside the fabric.

    holder namespace (10.99.0.254)  ── side-a ── host 10.99.0.1, 10.99.0.2, …
                                       side-b ── hosts that were moved to the other side
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

PREFIX = "10.99.0"
GATEWAY = f"{PREFIX}.254"
DIAL_S = 10.0

_DOOR = """\
import socket, sys
door = socket.socket(fileno=int(sys.argv[1]))
door.send(b"open")
while True:
    wanted = door.recv(200).decode()
    if not wanted:
        break
    host, port = wanted.split()
    try:
        with socket.create_connection((host, int(port)), timeout=10) as channel:
            socket.send_fds(door, [b"ok"], [channel.fileno()])
    except OSError as error:
        door.send(f"{error.errno or 0} {error}".encode())
"""


class Fabric:
    """Use `laid` to make one."""

    def __init__(self) -> None:
        self._hosts: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self._door, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._door.settimeout(DIAL_S + 5)
        user = ["--user", "--map-root-user"] if os.geteuid() else []
        with inner:
            argv = ["unshare", *user, "--net", sys.executable, "-c", _DOOR, str(inner.fileno())]
            self._holder = subprocess.Popen(argv, pass_fds=[inner.fileno()])

    def lay(self) -> None:
        """Make the bridges."""
        assert self._door.recv(200) == b"open", "no network namespace can be made here"
        for number, bridge in enumerate(("side-a", "side-b")):
            # Else it takes the lowest address of its ports, and another one with a host that is added.
            self._ip("link", "add", bridge, "address", f"02:00:00:00:00:0{number}", "type", "bridge")
            self._ip("link", "set", bridge, "up")
        self._ip("address", "add", f"{GATEWAY}/24", "dev", "side-a")
        self._ip("link", "set", "lo", "up")

    def add(self, name: str, address: str) -> None:
        """Plug a host in."""
        naming = ["sh", "-c", 'hostname "$0" && exec cat', name]
        argv = [*self.inside(None), "unshare", "--net", "--uts", *naming]
        host = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._hosts[name] = host
        assert host.stdin is not None
        assert host.stdout is not None
        host.stdin.write(b"\n")
        host.stdin.flush()
        host.stdout.readline()  # cat runs, so its namespace is there
        self._ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(host.pid))
        self._ip("link", "set", name, "master", "side-a", "up")
        for command in (
            f"ip address add {address}/24 dev eth0",
            "ip link set eth0 up",
            "ip link set lo up",
            f"ip route add default via {GATEWAY}",
        ):
            subprocess.run([*self.inside(name), *command.split()], check=True)

    def has(self, name: str) -> bool:
        """Whether a host is plugged in."""
        return name in self._hosts

    def inside(self, name: str | None) -> list[str]:
        """What to put before a command that is to run on a host (None: in the holder's namespace)."""
        pid = self._holder.pid if name is None else self._hosts[name].pid
        user = [f"--user=/proc/{self._holder.pid}/ns/user", "--preserve-credentials"]
        own = [] if name is None else [f"--uts=/proc/{pid}/ns/uts"]
        return ["nsenter", *(user if os.geteuid() else ()), *own, f"--net=/proc/{pid}/ns/net"]

    def split(self, names: Sequence[str]) -> None:
        """Move hosts to the other side: they reach each other and nobody else."""
        for name in names:
            self._ip("link", "set", name, "master", "side-b")

    def heal(self) -> None:
        """Everybody is on one side again."""
        for name in self._hosts:
            self._ip("link", "set", name, "master", "side-a")

    def dial(self, host: str, port: int) -> socket.socket:
        """A connection from the holder's namespace.

        Raises:
            OSError: as the holder saw it.
        """
        with self._lock:
            self._door.send(f"{host} {port}".encode())
            said, descriptors, _, _ = socket.recv_fds(self._door, 200, 1)
        if not descriptors:
            number, _, text = said.decode().partition(" ")
            raise OSError(int(number), text)
        channel = socket.socket(fileno=descriptors[0])
        channel.settimeout(DIAL_S)
        return channel

    def _ip(self, *argv: str) -> None:
        subprocess.run([*self.inside(None), "ip", *argv], check=True)

    def close(self) -> None:
        """Every namespace ends with its process."""
        for process in (*self._hosts.values(), self._holder):
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
        self._door.close()


@contextmanager
def laid() -> Iterator[Fabric]:
    """A fabric that is gone afterwards."""
    fabric = Fabric()
    try:
        fabric.lay()
        yield fabric
    finally:
        fabric.close()
