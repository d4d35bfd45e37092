"""A TFTP worker without descriptors: it stays up, and no board is told that its files are not there."""

from __future__ import annotations

import contextlib
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes_pxe import LOOPBACK, udp_socket

from pxe.tftp.wire import Ack, Data, Error, ErrorCode, Request, parse_packet

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]
PREFIX = "91cdf03d"
CLIENTS = 8
WAIT_S = 60.0
RETRY_S = 0.2

# Arguments: boot tree · "bare" for a worker that knows of no limit, "bounded" for one that looks.
WORKER = """
import multiprocessing, os, resource, sys, threading
from ipaddress import IPv4Address
from pathlib import Path
from fakes_pxe import LOOPBACK, installing_node
from pxe.boot.table import BootTable, BootTree
from pxe.net.ports import bind_udp
from pxe.tftp.options import SessionLimits
from pxe.tftp.settings import WorkerSettings
from pxe.tftp.process import run_worker
from pxe.tftp.worker import TftpWorker

tree = Path(sys.argv[1])
boot_tree = BootTree(tree, {"memory": b"memory"}, {"joined": (tree / "file", tree / "file")})
table = BootTable((installing_node(boot_tree),))
sock = bind_udp(LOOPBACK, 0, "TFTP", interface=None)
ours, theirs = multiprocessing.Pipe()
settings = WorkerSettings(limits=SessionLimits())

def stop():
    sys.stdin.read()
    ours.send(None)

threading.Thread(target=stop, daemon=True).start()
if sys.argv[2] == "bare":
    worker = TftpWorker(sock, theirs, settings, table)
    in_use = len(os.listdir("/proc/self/fd")) - 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 6, in_use + 6))
    print(sock.getsockname()[1], flush=True)
    worker.run()
else:
    resource.setrlimit(resource.RLIMIT_NOFILE, (30, 70))
    print(sock.getsockname()[1], flush=True)
    run_worker(sock, theirs, settings, table)
"""


@contextlib.contextmanager
def worker_process(tree: Path, kind: str) -> Iterator[tuple[subprocess.Popen[str], tuple[str, int]]]:
    """A worker in a process of its own, which must end by itself when its input does."""
    tree.mkdir()
    (tree / "file").write_bytes(b"file")
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(tree), kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT / "tests" / "support")},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        try:
            yield process, (str(LOOPBACK), int(process.stdout.readline()))
            process.stdin.close()
            assert process.wait(WAIT_S) == 0
        finally:
            process.kill()


def received(sock: socket.socket, wait_s: float) -> Data | None:
    """The packet of data that a client got, if it got any; an error fails the test."""
    sock.settimeout(wait_s)
    try:
        data, peer = sock.recvfrom(65536)
    except (TimeoutError, BlockingIOError):
        return None
    packet = parse_packet(data)
    assert isinstance(packet, Data), packet
    sock.sendto(Ack(packet.block).encode(), peer)  # the whole file is one block
    return packet


def wait_until_heard(server: tuple[str, int]) -> None:
    """Return when the worker has seen everything that was sent before."""
    with udp_socket(CLIENTS) as probe:
        probe.sendto(b"\0\2x\0octet\0", server)
        answer = parse_packet(probe.recv(65536))
        assert isinstance(answer, Error)
        assert answer.code == ErrorCode.ACCESS_VIOLATION


@pytest.mark.parametrize("kind", ["bare", "bounded"])
@pytest.mark.parametrize(
    ("name", "content"), [("file", b"file"), ("memory", b"memory"), ("joined", b"filefile")]
)
def test_requests_beyond_the_descriptors_wait_for_their_turn(
    tmp_path: Path, name: str, content: bytes, kind: str
) -> None:
    request = Request(f"{PREFIX}/{name}", ()).encode()
    with contextlib.ExitStack() as stack:
        process, server = stack.enter_context(worker_process(tmp_path / "boot", kind))
        waiting = [stack.enter_context(udp_socket(number)) for number in range(CLIENTS)]
        for sock in waiting:
            sock.sendto(request, server)
        wait_until_heard(server)
        if kind == "bounded":
            assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (70, 70)
        first = {sock: packet for sock in waiting if (packet := received(sock, 0)) is not None}
        assert 0 < len(first) < CLIENTS
        assert {packet.payload for packet in first.values()} == {content}
        waiting = [sock for sock in waiting if sock not in first]
        deadline = time.monotonic() + WAIT_S
        while waiting and time.monotonic() < deadline:
            sock = waiting[0]
            sock.sendto(request, server)
            packet = received(sock, RETRY_S)
            if packet is not None:
                assert packet.payload == content
                waiting.remove(sock)
        assert not waiting
        assert process.poll() is None
