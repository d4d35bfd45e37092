"""Run by tests inside a network namespace of its own: `bramble serve`, as the service of systemd runs it.

``unshare --user --map-root-user --net --mount python service_in_sandbox.py DIRECTORY``

Lays the network, then starts itself again with what the unit grants: two capabilities, no new privileges, no
memory that is writable and executable, and a socket for messages to systemd. Prints one JSON object: the
messages, what the probes were answered, and the capabilities of the server's process.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from cables import lay_cables
from serve_in_namespace import ADDRESS, WAIT_S

GRANTED = "net_bind_service,net_raw"
PR_SET_MDWE = 65
"""Source: prctl(2), Linux 6.3: what MemoryDenyWriteExecute= asks for."""


def probe(path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{ADDRESS}:7080{path}", timeout=WAIT_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def read_messages(listener: socket.socket, until: str) -> list[str]:
    """What the server tells systemd, up to a message that begins so."""
    deadline, said = time.monotonic() + WAIT_S, list[str]()
    while not any(line.startswith(until) for line in said):
        listener.settimeout(max(deadline - time.monotonic(), 0.01))
        said += listener.recv(4096).decode().splitlines()
    return said


def outer(directory: Path) -> None:
    lay_cables({"eth0": (ADDRESS,)})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(directory / "notify"))
        caps = ",".join(f"+{name}" for name in GRANTED.split(","))
        argv = [
            *("setpriv", "--no-new-privs", f"--bounding-set=-all,{caps}", f"--inh-caps=-all,{caps}"),
            *(f"--ambient-caps=-all,{caps}", sys.executable, __file__, str(directory), "inner"),
        ]
        watchdog = {"NOTIFY_SOCKET": str(directory / "notify"), "WATCHDOG_USEC": "300000"}
        with subprocess.Popen(argv, env={**os.environ, **watchdog}) as server:
            try:
                said = read_messages(listener, "READY=1")
                said += read_messages(listener, "WATCHDOG=1")
                status = Path(f"/proc/{server.pid}/status").read_text()
                alive, ready = probe("/healthz"), probe("/readyz")
                server.send_signal(signal.SIGTERM)
                said += read_messages(listener, "STOPPING=1")
                code = server.wait(WAIT_S)
            finally:
                server.kill()
    held = {
        line.split(":")[0]: line.split()[1]
        for line in status.splitlines()
        if line.startswith(("Cap", "NoNew"))
    }
    print(json.dumps({"said": said, "alive": alive, "ready": ready, "code": code, "held": held}))


def inner(directory: Path) -> None:
    from dataclasses import replace

    from click.testing import CliRunner  # noqa: F401 - the command's own imports are part of what is tried
    from fakes_bramble import FakeImageStore, make_image
    from fakes_fleet import cluster_spec, node_spec

    from agent.notify import parse_environment
    from bramble.paths import StateLayout
    from bramble.serve import Server, serve_until_signal
    from fleet.spec.model import DnsMode

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_MDWE, 1, 0, 0, 0) != 0 and ctypes.get_errno() != 22:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_MDWE)")
    image = make_image(directory / "image")
    image.installer_initramfs.parent.mkdir(parents=True, exist_ok=True)
    image.installer_initramfs.write_bytes(b"cpio")
    spec = cluster_spec(node_spec("one", 1))
    spec = replace(spec, network=replace(spec.network, dns_server=DnsMode.ZONE))
    manager = parse_environment(dict(os.environ))
    server = Server(spec, image, StateLayout(directory=directory / "state"), FakeImageStore())
    asyncio.run(serve_until_signal(server, lambda: manager.tell("READY=1"), manager))
    manager.tell("STOPPING=1")


if __name__ == "__main__":
    (inner if sys.argv[2:] == ["inner"] else outer)(Path(sys.argv[1]))
