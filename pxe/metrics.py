"""What the netboot server counts, for Prometheus.

Every label has a fixed list of values, from this program's own text and never from the network: whoever sends
packets can make counters grow, not their number. Boards and files have their place in timelines and logs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from pxe.diagnosis.catalogue import RULES
from pxe.diagnosis.finding import Diagnosis
from pxe.events import (
    AddressConflict,
    AddressDeclined,
    AddressReleased,
    BoardEvent,
    BootFile,
    BootFileMissing,
    BootFileProbed,
    ConsoleLine,
    ContentRefused,
    DhcpAck,
    DhcpDiscover,
    DhcpNak,
    DhcpOffer,
    ForeignAck,
    ForeignNak,
    ForeignOffer,
    ForeignServerChosen,
    NoAddressLeft,
    NoProgram,
    TransferDone,
    TransferFailed,
)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter tells nobody anything

DHCP: Final[dict[type[BoardEvent], tuple[str, str]]] = {
    DhcpDiscover: ("discover", "received"),
    DhcpOffer: ("offer", "sent"),
    DhcpAck: ("ack", "sent"),
    DhcpNak: ("nak", "sent"),
    AddressDeclined: ("decline", "received"),
    AddressReleased: ("release", "received"),
    NoAddressLeft: ("discover", "no_address_left"),
    NoProgram: ("discover", "no_program"),
    AddressConflict: ("offer", "address_in_use"),
    ForeignServerChosen: ("request", "for_another_server"),
    ForeignOffer: ("offer", "of_another_server"),
    ForeignAck: ("ack", "of_another_server"),
    ForeignNak: ("nak", "of_another_server"),
}
"""Event → labels `type` and `outcome`."""
TFTP: Final[dict[type[BoardEvent], str]] = {
    BootFile: "sent",
    BootFileProbed: "probed",
    BootFileMissing: "not_found",
    TransferFailed: "failed",
}
SECONDS: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 20.0, 30.0, 60.0)
"""A bootloader gives a file 30 s."""


class PxeMetrics:
    """Counters of one server.

    Args:
        registry: where they are registered; one for each server.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._dhcp = Counter(
            "bramble_dhcp_messages",
            "DHCP messages of boards, by type and what became of them.",
            ("type", "outcome"),
            registry=registry,
        )
        self._tftp = Counter(
            "bramble_tftp_requests", "TFTP read requests, by outcome.", ("outcome",), registry=registry
        )
        self._tftp_bytes = Counter(
            "bramble_tftp_sent_bytes", "Bytes of files that arrived over TFTP.", registry=registry
        )
        self._tftp_again = Counter(
            "bramble_tftp_retransmitted_packets", "TFTP packets that were sent again.", registry=registry
        )
        self._tftp_seconds = Histogram(
            "bramble_tftp_transfer_seconds",
            "How long files took over TFTP.",
            buckets=SECONDS,
            registry=registry,
        )
        self._http = Counter(
            "bramble_http_files", "Files over HTTP, by outcome.", ("outcome",), registry=registry
        )
        self._http_bytes = Counter("bramble_http_sent_bytes", "Bytes sent over HTTP.", registry=registry)
        self._console = Counter(
            "bramble_console_lines", "Lines of boards' network consoles.", registry=registry
        )
        self._diagnoses = Counter(
            "bramble_diagnoses", "Problems that were recognised, by rule.", ("rule",), registry=registry
        )
        for kind, outcome in DHCP.values():  # a series that is missing can not be told from one that is zero
            self._dhcp.labels(kind, outcome)
        for outcome in TFTP.values():
            self._tftp.labels(outcome)
        for rule in RULES:
            self._diagnoses.labels(rule.id)

    def count(self, event: BoardEvent) -> None:
        """Count an event; every one passes here, repeats as well."""
        labels = DHCP.get(type(event))
        if labels is not None:
            self._dhcp.labels(*labels).inc()
        outcome = TFTP.get(type(event))
        if outcome is not None:
            self._tftp.labels(outcome).inc()
        match event:
            case BootFile(size_bytes=size, seconds=seconds, retransmitted=again):
                self._tftp_bytes.inc(size)
                self._tftp_seconds.observe(seconds)
                self._tftp_again.inc(again)
            case TransferDone(sent_bytes=sent):
                self._http.labels("sent").inc()
                self._http_bytes.inc(sent)
            case ContentRefused():
                self._http.labels("refused").inc()
            case ConsoleLine():
                self._console.inc()
            case Diagnosis(finding=finding):
                self._diagnoses.labels(finding.rule).inc()

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Show a number that somebody else keeps, as it is when it is asked for."""
        Gauge(f"bramble_{name}", text, registry=self._registry).set_function(read)

    def watch_outcomes(
        self, name: str, text: str, outcomes: Sequence[str], read: Callable[[str], float]
    ) -> None:
        """The same for one number for each of a fixed list of outcomes."""
        gauge = Gauge(f"bramble_{name}", text, ("outcome",), registry=self._registry)
        for outcome in outcomes:
            gauge.labels(outcome.lower().replace(" ", "_")).set_function(partial(read, outcome))
