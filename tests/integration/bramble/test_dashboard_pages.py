"""The dashboard's pages: small, nothing inline, no secret, and what boards say is text."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from dashboard_client import PAGES, Browser
from dashboard_rack import Rack, live_rack, report
from fakes_fleet import cluster_spec, node_spec
from fleet_story import enrol, install

from fleet.attention import EtcdFault

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_below_100_kb_and_holds_nothing_inline(admin: Browser, path: str) -> None:
    answer = admin.get(path)
    assert answer.status == 200
    assert len(answer.body) < 100_000
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", answer.text)
    for script in re.findall(r"<script[^>]*>", answer.text):
        assert 'src="/static/' in script
    # Nothing of another site: every address is a path of this one, or the name space of SVG.
    assert not re.findall(r'(?:src|href|action)="(?!/|#)', answer.text)


def test_settings_are_shown_without_what_logs_in(tmp_path: Path) -> None:
    spec = cluster_spec(node_spec("pi-1", 1))
    spec = replace(spec, k3s=replace(spec.k3s, source="https://me:hunter2@mirror.invalid/k3s"))
    with live_rack(tmp_path, spec) as own:
        admin = Browser(own)
        admin.log_in()
        page = admin.get("/settings").text
    assert "mirror.invalid" in page
    assert "hunter2" not in page


@pytest.mark.parametrize(
    "path",
    [
        "/nodes/%00",
        "/nodes/" + "x" * 5000,
        "/nodes/<script>alert(1)</script>",
        "/nodes/nobody",
        "/events?before=99999999999999999999&kind=%27&node=%25&q=%5F%25",
        "/events?q=%00%ff",
        "/nodes?page=-1&group=none&q=%22%3E%3Cscript%3E",
        "/nodes?page=99999",
        "/audit?before=x",
        "/static/../../etc/passwd",
        "/static/%2e%2e/app.css",
        "/enter/x",
        "/nodes/pi5-master-1/confirm/explode",
    ],
)
def test_odd_addresses_are_answered_and_nothing_of_them_runs(admin: Browser, path: str) -> None:
    answer = admin.get(path)
    assert answer.status in (200, 400, 404, 410, 414)
    assert "<script>" not in answer.text


def test_what_a_board_says_is_text_in_a_page(tmp_path: Path) -> None:
    with live_rack(tmp_path, cluster_spec(node_spec("pi-1", 1))) as own:
        attack = '<img src=x onerror="alert(1)">'

        def act() -> None:
            install(own.fleet, own.node("pi-1"))
            certificate = enrol(own.fleet, own.node("pi-1"))
            told = report(own.node("pi-1"), 1)
            hardware = told.hardware.__class__(**{**vars(told.hardware), "model": attack})
            own.fleet.controller.joins.status(
                certificate, told.__class__(**{**vars(told), "hardware": hardware})
            )

        own.do(act)
        admin = Browser(own)
        admin.log_in()
        page = admin.get("/nodes/pi-1").text
        assert "<img" not in page
        assert "&lt;img" in page


def test_what_is_wrong_with_etcd_is_said_on_the_first_page(rack: Rack, admin: Browser) -> None:
    fault = EtcdFault(subject="", text="etcd has no leader", hint="Look at the servers' network.")
    watch = rack.fleet.controller.etcd_watch
    rack.do(lambda: setattr(watch, "faults", (fault,)))
    try:
        assert "Etcd has no leader." in admin.get("/").text
    finally:
        rack.do(lambda: setattr(watch, "faults", ()))
    assert "Etcd has no leader." not in admin.get("/").text


def test_no_page_holds_a_secret(admin: Browser) -> None:
    fleet = admin.rack.fleet
    with fleet.store.read() as reader:
        secrets = [node.node_password.reveal() for node in reader.nodes()]
        secrets += [token.sha256 for token in reader.all_tokens()]
    secrets += [ticket.reveal() for tickets in fleet.images.tickets.values() for ticket in tickets]
    pages = "".join(admin.get(path).text for path in (*PAGES, "/nodes/pi5-worker-2", "/nodes/pi4-worker-3"))
    assert len(secrets) > 8
    assert not [secret for secret in secrets if secret in pages]


def test_files_are_packed_and_kept_for_ever(admin: Browser) -> None:
    (address,) = re.findall(r'href="(/static/[0-9a-f]{12}/app\.css)"', admin.get("/").text)
    answer = Browser(admin.rack).get(address, Accept_Encoding="gzip")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert "immutable" in answer.headers["Cache-Control"]
    assert len(answer.body) < 10_000
