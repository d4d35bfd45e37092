"""Counters count, and nobody on the network can make more of them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

from fakes_diagnosis import PI5
from prometheus_client import CollectorRegistry, generate_latest

from pxe.boot.identity import BoardIdentity
from pxe.diagnosis.catalogue import RULES
from pxe.diagnosis.finding import Diagnosis, Evidence, Finding, Severity
from pxe.events import (
    BoardEvent,
    BootFile,
    BootFileMissing,
    ConsoleLine,
    ContentRefused,
    DhcpAck,
    DhcpDiscover,
    TransferDone,
    TransferFailed,
)
from pxe.metrics import DHCP, TFTP, PxeMetrics

BOARD = PI5.board


def page(*events: BoardEvent) -> str:
    registry = CollectorRegistry()
    metrics = PxeMetrics(registry)
    for event in events:
        metrics.count(event)
    return generate_latest(registry).decode()


def series(text: str) -> set[str]:
    return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}


def test_what_happened_is_counted() -> None:
    text = page(
        DhcpDiscover(at=0, board=BOARD, node=None),
        DhcpAck(at=0, board=BOARD, node=None, address=IPv4Address("10.0.0.2"), lease_s=1, boots=True),
        BootFile(at=0, board=BOARD, node=None, name="a", size_bytes=1000, seconds=0.2),
        BootFileMissing(at=0, board=BOARD, node=None, name="b", reason="x"),
        TransferFailed(at=0, board=BOARD, node=None, name="c", sent_bytes=0, size_bytes=1, reason="x"),
        TransferDone(at=0, board=BOARD, node=None, name="d", sent_bytes=5, seconds=1),
        ContentRefused(at=0, board=BOARD, node=None, name="e", reason="x"),
        ConsoleLine(at=0, board=BOARD, node=None, line="x"),
    )
    for line in (
        'bramble_dhcp_messages_total{outcome="received",type="discover"} 1.0',
        'bramble_dhcp_messages_total{outcome="sent",type="ack"} 1.0',
        'bramble_tftp_requests_total{outcome="sent"} 1.0',
        'bramble_tftp_requests_total{outcome="not_found"} 1.0',
        'bramble_tftp_requests_total{outcome="failed"} 1.0',
        "bramble_tftp_sent_bytes_total 1000.0",
        'bramble_tftp_transfer_seconds_bucket{le="0.3"} 1.0',
        'bramble_http_files_total{outcome="sent"} 1.0',
        'bramble_http_files_total{outcome="refused"} 1.0',
        "bramble_http_sent_bytes_total 5.0",
        "bramble_console_lines_total 1.0",
    ):
        assert line in text


def test_a_diagnosis_is_counted_by_its_rule() -> None:
    finding = Finding(rule="pi3", severity=Severity.ERROR, cause="c", mend="m", evidence=(Evidence(0, "x"),))
    assert 'bramble_diagnoses_total{rule="pi3"} 1.0' in page(
        Diagnosis(at=0, board=BOARD, node=None, finding=finding)
    )


def test_every_series_is_there_before_anything_happens() -> None:
    text = page()
    assert text.count("bramble_diagnoses_total{") == len(RULES)
    assert text.count("bramble_tftp_requests_total{") == len(TFTP)
    assert text.count("bramble_dhcp_messages_total{") == len(set(DHCP.values()))


def test_hostile_names_serials_and_addresses_make_no_series() -> None:
    events: list[BoardEvent] = []
    for number in range(500):
        board = replace(BOARD, serial_low=number + 1)
        name = f'{number}"\n}} evil{{x="1"}} \x1b[2J'
        events += [
            DhcpDiscover(at=0, board=board, node=name),
            BootFileMissing(at=0, board=board, node=None, name=name, reason=name),
            BootFile(at=0, board=board, node=None, name=name, size_bytes=1, seconds=0.1),
            ConsoleLine(at=0, board=BoardIdentity(), node=name, line=name),
            ContentRefused(at=0, board=board, node=None, name=name, reason=name),
        ]
    calm = series(
        page(
            TransferDone(at=0, board=BOARD, node=None, name="d", sent_bytes=5, seconds=1),
            ContentRefused(at=0, board=BOARD, node=None, name="e", reason="x"),
        )
    )
    text = page(*events)
    assert series(text) <= calm
    assert "evil" not in text
