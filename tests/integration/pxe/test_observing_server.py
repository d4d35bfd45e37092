"""The running server explains, counts and hears: over real sockets on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
import requests
from fakes_pxe import LOOPBACK, installing_node, running, udp_socket
from prometheus_client import CollectorRegistry, generate_latest

from fleet.boards import Serial
from fleet.spec.model import DhcpMode
from pxe.boot.clients import Learn
from pxe.boot.identity import BoardIdentity
from pxe.boot.table import BootTable, BootTree, NodeBootState
from pxe.diagnosis.finding import Diagnosis
from pxe.events import BoardEvent, ConsoleLine
from pxe.metrics import PxeMetrics
from pxe.net.netconsole import bind_console
from pxe.server import PxeConfig, PxeServer

pytestmark = pytest.mark.integration

WAIT_S = 60.0
RRQ = b"\0\1%s\0octet\0"


@contextlib.asynccontextmanager
async def serving(
    table: BootTable, state: Path, events: list[BoardEvent], **settings: object
) -> AsyncIterator[PxeServer]:
    config = PxeConfig(
        server_address=LOOPBACK,
        subnet=IPv4Network("127.0.0.0/8"),
        dhcp=DhcpMode.OFF,
        state_dir=state,
        tftp_port=0,
        http_port=0,
        netconsole_port=0,
        grace_s=1.0,
    )
    changed = replace(config, **settings)  # type: ignore[arg-type]
    async with running(PxeServer(changed, events.append, table)) as server:
        yield server


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110  (a value that another process brings about has no event)
            await asyncio.sleep(0.02)


async def get(server: PxeServer, path: str) -> requests.Response:
    url = f"http://{LOOPBACK}:{server.ports.http}{path}"
    return await asyncio.to_thread(requests.get, url, timeout=WAIT_S)


@pytest.mark.asyncio
async def test_a_board_with_a_wrong_prefix_is_explained(tmp_path: Path) -> None:
    node = NodeBootState(name="one", serial=Serial.parse("91cdf03d"), install_intent=1)
    events: list[BoardEvent] = []
    async with serving(BootTable((node,)), tmp_path, events) as server:
        server._learn(Learn(LOOPBACK + 5, BoardIdentity(serial_low=0x91CDF03D, is_pi=True)))  # as DHCP does
        with contextlib.closing(udp_socket(5)) as board:
            board.sendto(RRQ % b"labconfig.txt", (str(LOOPBACK), server.ports.tftp))
            answer = await asyncio.to_thread(board.recv, 600)
            assert answer[:4] == b"\0\5\0\1"
        await until(lambda: any(isinstance(event, Diagnosis) for event in events))
        (found,) = [event for event in events if isinstance(event, Diagnosis)]
        assert found.finding.rule == "missing-slash"
        assert found.node == "one"
        assert "asked for labconfig.txt" in found.finding.evidence[0].text


@pytest.mark.asyncio
async def test_console_lines_reach_the_timeline_of_their_board_and_no_other(tmp_path: Path) -> None:
    node = NodeBootState(name="one", address=LOOPBACK + 5, serial=Serial.parse("91cdf03d"))
    events: list[BoardEvent] = []
    async with serving(BootTable((node,)), tmp_path, events) as server:
        assert server.ports.console is not None
        with contextlib.closing(udp_socket(5)) as board, contextlib.closing(udp_socket(6)) as stranger:
            for sock, text in (
                (stranger, b"I am nobody\n"),
                (board, b"NETBOOT init\x1b[2J fai"),
                (board, b"led\r\n"),
            ):
                sock.sendto(text, (str(LOOPBACK), server.ports.console))
            await until(lambda: any(isinstance(event, ConsoleLine) for event in events))
        lines = [event for event in events if isinstance(event, ConsoleLine)]
        assert [(line.line, line.node) for line in lines] == [("NETBOOT init?[2J failed", "one")]
        assert server.console is not None
        assert server.console.unknown == 1


def test_a_console_port_that_is_taken_costs_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as taken:
        taken.bind(("0.0.0.0", 0))
        with caplog.at_level(logging.WARNING):
            assert bind_console(None, taken.getsockname()[1]) is None
    assert "not heard" in caplog.text


@pytest.mark.asyncio
async def test_metrics_are_for_this_machine_and_for_whom_the_configuration_names(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    metrics = PxeMetrics(registry)
    tree = BootTree(rendered={"config.txt": b"arm_64bit=1\n"})
    async with serving(BootTable((installing_node(tree),)), tmp_path, []) as server:
        assert (await get(server, "/metrics")).status_code == 404  # nobody has set it up
        server.observer.count, server.metrics = metrics.count, lambda: generate_latest(registry)
        with contextlib.closing(udp_socket()) as board:
            board.sendto(RRQ % b"91cdf03d/nothing", (str(LOOPBACK), server.ports.tftp))
            await asyncio.to_thread(board.recv, 600)
        await until(lambda: b'requests_total{outcome="not_found"} 1.0' in generate_latest(registry))
        page = await get(server, "/metrics")
        assert page.status_code == 200
        assert page.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert 'bramble_tftp_requests_total{outcome="not_found"} 1.0' in page.text


@pytest.mark.parametrize(
    ("reader", "allowed"),
    [
        ("127.0.0.9", True),
        ("10.7.0.1", True),
        ("10.8.0.77", True),
        ("10.7.0.2", False),
        ("8.8.8.8", False),
        ("::1", False),
        ("", False),
    ],
)
def test_who_may_read_metrics(tmp_path: Path, reader: str, allowed: bool) -> None:
    config = PxeConfig(
        server_address=IPv4Address("10.7.0.1"),
        subnet=IPv4Network("10.7.0.0/24"),
        dhcp=DhcpMode.OFF,
        state_dir=tmp_path,
        metrics_from=(IPv4Network("10.8.0.0/24"),),
    )
    server = PxeServer(config, lambda _event: None)
    server.metrics = lambda: b"page"
    assert (server._metrics_for(reader) is not None) is allowed


@pytest.mark.asyncio
async def test_a_fault_in_a_rule_stops_no_board(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree = BootTree(rendered={"config.txt": b"arm_64bit=1\n"})
    events: list[BoardEvent] = []
    async with serving(BootTable((installing_node(tree),)), tmp_path, events) as server:

        def fault(_event: BoardEvent) -> None:
            raise OSError(errno.EIO, "a bug")

        server.observer.count = fault
        with contextlib.closing(udp_socket()) as board, contextlib.closing(udp_socket()) as again:
            board.sendto(RRQ % b"91cdf03d/config.txt", (str(LOOPBACK), server.ports.tftp))
            assert (await asyncio.to_thread(board.recv, 600))[4:] == b"arm_64bit=1\n"
            again.sendto(RRQ % b"91cdf03d/nothing", (str(LOOPBACK), server.ports.tftp))
            await until(lambda: any(event.kind == "boot-file-missing" for event in events))
    assert "fault in the diagnosis" in caplog.text
