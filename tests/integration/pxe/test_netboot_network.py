"""DHCP and TFTP on a real (virtual) cable: a server and its clients in network namespaces, no root needed."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from in_namespace import ENVIRONMENT, SUPPORT, command, need

pytestmark = pytest.mark.integration

MENU = "0601030a0400505845091400001152617370626572727920506920426f6f74ff"
WAIT_S = 60
SAY_HELLO = "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'hello\\n', ('10.77.0.1', 6666))"


class Site:
    """A running server on one end of a cable; commands run on the other end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._output: queue.Queue[str] = queue.Queue()
        self.events: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_until_ready(self) -> None:
        self._wait_for("ready")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def here(self) -> tuple[str, ...]:
        """What a command for the server's end begins with."""
        return ("nsenter", f"--net=/proc/{self._process.pid}/ns/net")

    def join(self) -> None:
        """Wait for the end of the output."""
        self._reader.join(WAIT_S)

    def run(self, *argv: str) -> str:
        """Run a command on the clients' end; its output."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(argv) + "\n")
        self._process.stdin.flush()
        result = self._wait_for("exit")
        assert result["exit"] == 0, result["output"]
        return str(result["output"])

    def boot(self) -> dict[str, Any]:
        """Let a Pi 4 boot; what it was told."""
        told: dict[str, Any] = json.loads(
            self.run(sys.executable, str(SUPPORT / "netboot_pi_client.py"), "c0")
        )
        return told

    def texts(self, kind: str) -> list[str]:
        return [event["text"] for event in self.events if event["event"] == kind]

    def wait_for_text(self, kind: str, having: str = "") -> str:
        """The first event of a kind whose text has these words in it."""
        return self.wait_for_texts(kind, 1, having)[0]

    def wait_for_texts(self, kind: str, count: int, having: str = "") -> list[str]:
        """So many events of a kind; a probe takes its time, and a worker reports by and by."""
        deadline = time.monotonic() + WAIT_S
        while len(found := [text for text in self.texts(kind) if having in text]) < count:
            self.events.append(self._next(deadline, f"event {kind!r}"))
        return found

    def _wait_for(self, key: str) -> dict[str, Any]:
        deadline = time.monotonic() + WAIT_S
        while key not in (record := self._next(deadline, repr(key))):
            self.events.append(record)
        return record

    def _next(self, deadline: float, what: str) -> dict[str, Any]:
        try:
            line = self._output.get(timeout=max(deadline - time.monotonic(), 0))
        except queue.Empty:
            line = ""
        assert line, f"no {what} from the server, but {self.events[-9:]}"
        record: dict[str, Any] = json.loads(line)
        return record

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._output.put(line)
        self._output.put("")


@contextmanager
def site(scenario: str, directory: Path) -> Iterator[Site]:
    need("unshare", "nsenter", "ip")
    process = subprocess.Popen(
        command("netboot_in_namespace.py", scenario, directory),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={**os.environ, **ENVIRONMENT},
    )
    running = Site(process)
    try:
        running.wait_until_ready()
        yield running
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(WAIT_S)
        finally:
            process.kill()
            process.wait()
            running.join()
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "start4.elf").write_bytes(b"s" * 2_000_000)
    (tree / "kernel8.img").write_bytes(b"k" * 3_000_000)
    (tree / "pieeprom.sig").write_bytes(b"never served")
    return tmp_path


def test_a_pi_4_boots_from_discover_to_the_kernel(directory: Path) -> None:
    with site("install", directory) as place:
        told = place.boot()
        assert (told["yiaddr"], told["siaddr"], told["tftp"]) == ("10.77.0.21", "10.77.0.1", "10.77.0.1")
        assert told["menu"] == MENU
        assert told["files"] == {
            "probe": ["probed", 2_000_000],
            "config": ["ok", 12],
            "kernel": ["ok", 3_000_000],
            "root": ["ok", 3_000_000],
            "update": ["error 1", 0],
            "missing": ["error 1", 0],
        }
        assert "Raspberry Pi 4 Model B 8 GB, serial …91cdf03d" in place.wait_for_text("dhcp-discover")
        assert place.wait_for_text("boot-file", "kernel8.img: sent 3.0 MB")
        assert len(place.wait_for_texts("boot-file-missing", 2)) == 2
        assert all(event["node"] == "pi4-worker-1" for event in place.events)


@pytest.mark.parametrize(
    ("scenario", "reason"), [("installed", "it boots its own disk: installed"), ("unknown", "it is held")]
)
def test_a_board_that_may_not_install_gets_an_address_and_no_file(
    directory: Path, scenario: str, reason: str
) -> None:
    with site(scenario, directory) as place:
        told = place.boot()
        assert told["tftp"] == "10.77.0.1"
        assert {status for status, _size in told["files"].values()} == {"error 1"}
        assert reason in place.wait_for_text("dhcp-offer")
        assert place.wait_for_text("boot-file-missing", "asked for nope")  # the last one
        assert all(reason in text for text in place.texts("boot-file-missing"))


def test_the_proxy_offers_a_boot_server_and_no_address(directory: Path) -> None:
    with site("proxy", directory) as place:
        told = place.boot()
        assert told == {
            "yiaddr": "0.0.0.0",
            "siaddr": "10.77.0.1",
            "menu": MENU,
            "tftp": "10.77.0.1",
            "ways": ["broadcast"],
        }


def test_replies_reach_a_client_without_an_address_with_and_without_raw_sockets(directory: Path) -> None:
    with site("install", directory) as place:
        assert place.boot()["ways"] == ["unicast", "unicast"]
    with site("no-raw", directory) as place:
        told = place.boot()
        assert told["ways"] == ["broadcast", "broadcast"]
        assert told["yiaddr"] == "10.77.0.21"


def test_a_server_hears_boards_again_when_its_interface_was_away(directory: Path) -> None:
    with site("install", directory) as place:
        assert place.boot()["yiaddr"] == "10.77.0.21"
        place.run("ip", "link", "delete", "c0")  # and with it the server's end
        cable = ("ip", "link", "add", "c0", "address", "e4:5f:01:09:02:f7", "type", "veth")
        place.run(*cable, "peer", "name", "s0", "netns", str(place.pid))
        place.run("ip", "link", "set", "c0", "up")
        place.run(*place.here, "ip", "link", "set", "s0", "up")
        place.run(*place.here, "ip", "address", "add", "10.77.0.1/24", "dev", "s0")
        assert place.boot()["files"]["kernel"] == ["ok", 3_000_000]
        place.run(sys.executable, "-c", SAY_HELLO)
        assert place.wait_for_text("console-line", "hello")


def test_a_server_hears_boards_again_when_its_address_was_away(directory: Path) -> None:
    with site("install", directory) as place:
        assert place.boot()["yiaddr"] == "10.77.0.21"
        for change, address in (("delete", 1), ("add", 9), ("delete", 9), ("add", 1)):
            place.run(*place.here, "ip", "address", change, f"10.77.0.{address}/24", "dev", "s0")
        assert place.boot()["files"]["kernel"] == ["ok", 3_000_000]


@pytest.mark.parametrize("scenario", ["unknown", "no-raw-unknown"])
def test_an_address_that_another_machine_uses_is_found_beside_the_exchange(
    directory: Path, scenario: str
) -> None:
    with site(scenario, directory) as place:
        place.run("ip", "link", "set", "c0", "address", "02:00:00:00:00:99")
        place.run("ip", "address", "add", "10.77.0.100/24", "dev", "c0")
        client = (sys.executable, str(SUPPORT / "netboot_pi_client.py"), "c0")
        # Whether the first client is refused at once depends on who is faster; the second gets the other one.
        place.run("sh", "-c", '"$@" || true', "sh", *client)
        conflict = place.wait_for_text("address-conflict")
        assert "10.77.0.100" in conflict
        assert "02:00:00:00:00:99" in conflict
        assert place.boot()["yiaddr"] == "10.77.0.101"


def test_what_another_server_says_to_a_board_is_heard(directory: Path) -> None:
    with site("install", directory) as place:
        place.run("ip", "address", "add", "10.77.0.254/24", "dev", "c0")
        place.run(sys.executable, str(SUPPORT / "dhcp_foreign_offer.py"), "c0")
        offer = place.wait_for_text("foreign-offer")
        assert "10.77.0.254, offers the address 10.77.0.200" in offer
        assert "names the boot server 10.77.0.250" in offer


def test_udhcpc_gets_a_lease_and_finds_it_again(directory: Path) -> None:
    need("udhcpc")
    udhcpc = ("udhcpc", "-i", "c0", "-n", "-q", "-f", "-t", "15", "-T", "2", "-s", "/bin/true")
    with site("unknown", directory) as place:
        assert "10.77.0.100" in place.run(*udhcpc)
        assert "10.77.0.100" in place.run(*udhcpc, "-r", "10.77.0.101")
    leases = (directory / "state" / "leases.jsonl").read_text(encoding="ascii").splitlines()
    assert [json.loads(line)["address"] for line in leases][-1] == "10.77.0.100"
    with site("unknown", directory) as place:
        assert "10.77.0.100" in place.run(*udhcpc)


# Asks at an address, says what came from where, and ends the transfer. Arguments: address, file.
ASK_AT = """
import json, socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
sock.settimeout(30)
sock.bind(("10.77.0.50", 0))
sock.sendto(b"\\0\\1" + sys.argv[2].encode() + b"\\0octet\\0tsize\\x000\\0", (sys.argv[1], 69))
data, peer = sock.recvfrom(2048)
sock.sendto(b"\\0\\5\\0\\0Early terminate\\0", peer)
print(json.dumps([data[1], peer[0]]))
"""


def test_tftp_answers_from_the_address_that_was_asked(directory: Path) -> None:
    first, second = "10.77.0.1", "10.77.0.2"
    with site("install", directory) as place:
        subprocess.run([*place.here, "ip", "address", "add", f"{second}/24", "dev", "s0"], check=True)
        place.run("ip", "address", "add", "10.77.0.50/24", "dev", "c0")
        for name, opcode in (("91cdf03d/kernel8.img", 6), ("91cdf03d/nope", 5)):
            for asked, answers in (
                (first, {first}),
                (second, {second}),
                ("10.77.0.255", {first, second}),
                ("255.255.255.255", {first, second}),
            ):
                told, source = json.loads(place.run(sys.executable, "-c", ASK_AT, asked, name))
                assert told == opcode, (asked, name)
                assert source in answers
