"""The service's units as systemd reads them, and a server that runs with no more than they grant."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from in_namespace import need, told_by

from bramble.service.unit import BUILD_UNIT, UNIT, ServiceSpec, render_build_unit, render_unit
from pxe.boot.clients import ClientBook
from pxe.boot.table import BootTable
from pxe.web.content import ContentServer

pytestmark = pytest.mark.integration

MOST_EXPOSED = 2.0
"""systemd's own score from 0 (nothing) to 10 (everything). 0.5 of it is for having a network."""
CAP_NET_BIND_SERVICE, CAP_NET_RAW = 10, 13
"""Source: capabilities(7), linux/capability.h."""


@pytest.fixture
def units(tmp_path: Path) -> Path:
    spec = ServiceSpec(program=Path(sys.executable), cluster=Path("/srv/my cluster/100%/cluster.yaml"))
    (tmp_path / UNIT).write_text(render_unit(spec))
    (tmp_path / BUILD_UNIT).write_text(render_build_unit(spec))
    return tmp_path


def test_systemd_finds_nothing_to_complain_of(units: Path) -> None:
    need("systemd-analyze")
    done = subprocess.run(
        ["systemd-analyze", "verify", units / UNIT, units / BUILD_UNIT],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "bramble" not in done.stderr


def test_systemd_counts_the_server_as_little_exposed(units: Path) -> None:
    need("systemd-analyze")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", units / UNIT],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    found = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) <= MOST_EXPOSED


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    need("setpriv")
    result: dict[str, Any] = told_by("service_in_sandbox.py", tmp_path_factory.mktemp("service"))
    return result


def test_two_capabilities_and_no_new_privileges_are_enough(served: dict[str, Any]) -> None:
    granted = 1 << CAP_NET_BIND_SERVICE | 1 << CAP_NET_RAW
    assert served["held"]["NoNewPrivs"] == "1"
    for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
        assert int(served["held"][name], 16) == granted, name


def test_systemd_is_told_when_it_is_ready_and_that_it_lives(served: dict[str, Any]) -> None:
    assert served["said"].count("READY=1") == 1
    assert "WATCHDOG=1" in served["said"]
    assert served["said"][-1] == "STOPPING=1"
    assert served["code"] == 0


@pytest.mark.asyncio
async def test_a_server_without_its_record_is_alive_and_not_ready() -> None:
    content = ContentServer(BootTable, ClientBook(), lambda _event: None, is_ready=lambda: False)
    runner = web.AppRunner(content.make_app())
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        at = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession() as session:
            answers = [await session.get(at + path) for path in ("/healthz", "/readyz")]
            assert [(each.status, await each.text()) for each in answers] == [
                (200, "ok\n"),
                (503, "not ready\n"),
            ]
    finally:
        await runner.cleanup()


def test_probes_are_answered_and_say_nothing_else(served: dict[str, Any]) -> None:
    assert served["alive"] == [200, "ok\n"]
    assert served["ready"] == [200, "ok\n"]
