"""Runs inside a private network namespace: a small DHCP server in a second one, a cable, the agent here.

Prints one JSON object with what happened; the test judges it. Words: `drop=N` loses the first N datagrams of
the client, `nak` refuses the first request, `silent` never answers.
"""

from __future__ import annotations

import fcntl
import json
import socket
import struct
import subprocess
import sys
import time

from agent import network
from agent.addresses import read_address
from agent.dhcp import MessageType
from agent.errors import AgentError

SERVER, CLIENT = "10.77.0.1", "10.77.0.50"
MAC = "2c:cf:67:12:34:56"


def run(*argv: str) -> None:
    subprocess.run(argv, check=True)


def serve(words: list[str]) -> None:
    """The server's process: says that it is there, waits for its end of the cable, then answers."""
    print("here", flush=True)
    sys.stdin.readline()
    run("ip", "address", "add", f"{SERVER}/24", "dev", "server0")
    run("ip", "link", "set", "server0", "up")
    drops = next((int(word.split("=")[1]) for word in words if word.startswith("drop=")), 0)
    naks = 1 if "nak" in words else 0
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"server0")
    sock.bind(("", 67))
    print("ready", flush=True)
    while True:
        packet = sock.recv(2048)
        kind = packet[packet.index(b"\x35\x01", 240) + 2]
        print(MessageType(kind).name, flush=True)
        if drops > 0 or "silent" in words:
            drops -= 1
            continue
        answer = MessageType.OFFER if kind == MessageType.DISCOVER else MessageType.ACK
        if kind == MessageType.REQUEST and naks > 0:
            naks -= 1
            answer = MessageType.NAK
        options = bytes([53, 1, answer, 54, 4]) + socket.inet_aton(SERVER)
        options += (
            bytes([1, 4, 255, 255, 255, 0, 3, 4])
            + socket.inet_aton(SERVER)
            + bytes([51, 4])
            + b"\0\0\x0e\x10"
        )
        reply = (
            b"\x02\x01\x06\0" + packet[4:8] + bytes(2) + packet[10:12] + bytes(4) + socket.inet_aton(CLIENT)
        )
        reply += bytes(8) + packet[28:44] + bytes(192) + b"\x63\x82\x53\x63" + options + b"\xff"
        sock.sendto(reply, ("255.255.255.255", 68))


def default_route() -> str | None:
    with open("/proc/net/route") as table:  # noqa: PTH123
        for line in table.readlines()[1:]:
            words = line.split()
            if words[0] == "client0" and words[1] == "00000000":
                return socket.inet_ntoa(struct.pack("=I", int(words[2], 16)))
    return None


def netmask() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, 0x891B, struct.pack("16s24s", b"client0", b""))
    return socket.inet_ntoa(answer[20:24])


def main() -> None:
    words = sys.argv[1:]
    if words[:1] == ["serve"]:
        serve(words[1:])
        return
    argv = ["unshare", "--net", sys.executable, __file__, "serve", *words]
    server = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        result = be_client(server, words)
    finally:
        server.terminate()
        rest = server.communicate()[0]
    print(json.dumps({**result, "log": rest.split()}))


def settled(*, running: bool) -> bool:
    """What the kernel tells of the carrier, at most 5 s later: it notes a change up to a second late."""
    deadline = time.monotonic() + 5
    while network.is_running("client0") != running and time.monotonic() < deadline:
        time.sleep(0.01)
    return network.is_running("client0")


def be_client(server: subprocess.Popen[str], words: list[str]) -> dict[str, object]:
    if server.stdin is None or server.stdout is None:
        raise RuntimeError("no pipes")
    server.stdout.readline()
    run("ip", "link", "add", "client0", "address", MAC, "type", "veth", "peer", "name", "server0")
    run("ip", "link", "set", "server0", "netns", str(server.pid))
    network.set_link_up("client0")
    result: dict[str, object] = {"running_before": settled(running=False)}
    server.stdin.write("go\n")
    server.stdin.flush()
    server.stdout.readline()
    result["running"] = settled(running=True)
    try:
        if "silent" in words:
            network.acquire_lease("client0", MAC, 7, timeout_s=1.5)
        connection = network.Connection("client0", MAC)
        lease = connection.refresh(7)
        connection.refresh(8)  # a second lease on a configured interface
        result |= {"lease": str(lease.address), "lease_s": lease.lease_s}
        result |= {"address": str(read_address("client0"))}
        result |= {"netmask": netmask(), "route": default_route()}
    except AgentError as exc:
        result["error"] = exc.message
    try:
        network.set_link_up("nosuch0")
    except AgentError as exc:
        result["nosuch"] = exc.message
    return result


if __name__ == "__main__":
    main()
