"""Log lines that fit, and commands that are not run."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence

import pytest
from agent_nodes import FakeSystem, Really
from hypothesis import given
from hypothesis import strategies as st

from agent.commands import Bounded, CommandError, Completed
from agent.errands import (
    LOGS,
    MAX_ARGUMENTS,
    MAX_LOG_BYTES,
    MAX_OUTPUT_BYTES,
    MAX_OUTPUT_JSON_BYTES,
    MAX_RUN_S,
    RUN,
    Errand,
    LogUpload,
    RunResult,
)
from agent.logs import MAX_LINE_CHARACTERS, collect, fit, split_cursor
from agent.plan import DoErrand, Observed, plan
from agent.remote_run import carry_out, find_objection
from agent.ring import RING_LINE_CHARACTERS, RING_LINES, Ring
from agent.wire import MAX_BODY_BYTES, decode, encode

JOURNAL = """\
2026-11-26T00:00:01+0000 pi-1 k3s[812]: Starting k3s v1.33.5+k3s1
2026-11-26T00:00:02+0000 pi-1 k3s[812]: token=K10abc
-- cursor: s=0639a6;i=4a;b=5f;m=1;t=2;x=3
"""


def test_journal_of_our_units_with_the_cursor_to_go_on_from() -> None:
    system = FakeSystem()
    system.journal = JOURNAL
    upload = collect(Errand(5, LOGS, lines=50, cursor="s=1;i=2"), system, Ring())
    assert upload.number == 5
    assert [line.partition("]: ")[2] for line in upload.lines] == [
        "Starting k3s v1.33.5+k3s1",
        "token=[hidden]",
    ]
    assert upload.cursor == "s=0639a6;i=4a;b=5f;m=1;t=2;x=3"
    assert upload.source == "journal"
    (call,) = system.calls
    assert "--after-cursor=s=1;i=2" in call
    assert "--lines=50" in call
    assert "--unit=k3s-agent.service" in call


def test_nothing_new_keeps_the_cursor() -> None:
    system = FakeSystem()
    system.journal = "-- No entries --\n"
    upload = collect(Errand(5, LOGS, cursor="s=1"), system, Ring())
    assert (upload.lines, upload.cursor) == ((), "s=1")
    assert split_cursor(["-- No entries --"]) == ([], "")


def test_line_is_cut_behind_its_secrets() -> None:
    system = FakeSystem()
    system.journal = "x" * (MAX_LINE_CHARACTERS - 10) + " abcdef.0123456789abcdef\n-- cursor: s=1\n"
    (line,) = collect(Errand(5, LOGS), system, Ring()).lines
    assert len(line) == MAX_LINE_CHARACTERS
    assert line.endswith(" abcdef.[h")
    ring = Ring()
    ring.emit(logging.makeLogRecord({"msg": "x" * (RING_LINE_CHARACTERS - 10) + " abcdef.0123456789abcdef"}))
    assert ring.lines[0].endswith(" abcdef.[h")


class NoJournal(FakeSystem):
    def instead(self, argv: list[str], really: Really) -> Completed | None:
        raise CommandError(argv, "could not start")


def test_without_a_journal_the_agents_own_last_lines_are_sent() -> None:
    ring, own = Ring(), logging.Logger("test")
    own.addHandler(ring)
    for number in range(RING_LINES + 50):
        own.warning("line %d token=x %s", number, "y" * 400)
    upload = collect(Errand(1, LOGS, lines=3), NoJournal(), ring)
    assert upload.source == "memory"
    assert [line.split()[1] for line in upload.lines] == ["247", "248", "249"]
    assert all("token=[hidden]" in line for line in upload.lines)
    assert len(ring.lines) == RING_LINES


@given(st.lists(st.text(max_size=3000), max_size=60))
def test_upload_fits_the_body_and_has_the_newest_lines(lines: list[str]) -> None:
    kept, dropped = fit(lines)
    assert kept == lines[dropped:]
    assert sum(len(json.dumps(line)) + 1 for line in kept) <= MAX_LOG_BYTES


@pytest.mark.parametrize("character", ["x", "\x01", "é", "\N{GRINNING FACE}"])
def test_largest_upload_is_below_the_largest_body(character: str) -> None:
    kept, _ = fit([character * MAX_LINE_CHARACTERS] * 100)
    assert kept
    assert len(encode(LogUpload(1, tuple(kept), "c" * 200))) < MAX_BODY_BYTES


@pytest.mark.parametrize(
    ("errand", "words"),
    [
        (Errand(1, RUN), "no command"),
        (Errand(1, RUN, argv=("", "x")), "no command"),
        (Errand(1, RUN, argv=("x",) * (MAX_ARGUMENTS + 1)), "arguments"),
        (Errand(1, RUN, argv=("x", "a\0b")), "NUL"),
        (Errand(1, RUN, argv=("x", "y" * 5000)), "bytes"),
        (Errand(1, RUN, argv=("x",), timeout_s=0.0), "time limit"),
        (Errand(1, RUN, argv=("x",), timeout_s=MAX_RUN_S + 1), "time limit"),
        (Errand(1, RUN, argv=("x",), timeout_s=-1.0), "time limit"),
    ],
)
def test_unsound_command_is_refused(errand: Errand, words: str) -> None:
    assert words in find_objection(errand, permitted=True)


def test_node_whose_image_does_not_permit_it_runs_nothing() -> None:
    result = carry_out(Errand(9, RUN, argv=("reboot",)), permitted=False)
    assert result == RunResult(9, refused="the image of this node says remote_run: off")


@pytest.mark.parametrize("piece", [b"y\n", b"\x01", b"\xff", "é".encode(), "\N{GRINNING FACE}".encode()])
def test_output_is_sent_whatever_it_is_made_of(monkeypatch: pytest.MonkeyPatch, piece: bytes) -> None:
    output = piece * (MAX_OUTPUT_BYTES // len(piece))
    ran: list[str] = []

    def run(argv: Sequence[str], *, timeout_s: float, limit_bytes: int) -> Bounded:
        ran.extend(argv)
        return Bounded(0, output, output, 5, False)

    monkeypatch.setattr("agent.remote_run.run_bounded", run)
    result = carry_out(Errand(9, RUN, argv=("cat", "x")), permitted=True)
    assert len(encode(result)) < MAX_BODY_BYTES
    text = output.decode("utf-8", "replace")
    assert text.startswith(result.stdout)
    assert result.dropped_bytes == 5 + 2 * len(text[len(result.stdout) :].encode())
    assert (result.dropped_bytes == 5) is (len(json.dumps(text)) <= MAX_OUTPUT_JSON_BYTES)
    assert len(json.dumps(result.stderr)) >= min(len(json.dumps(text)), MAX_OUTPUT_JSON_BYTES) - 12
    assert "--property=TimeoutStopSec=2" in ran


def test_errand_is_done_once() -> None:
    seen = Observed(enrolled=True, newest_errand=8, done_errand=7)
    assert plan(seen) == (DoErrand(8),)
    assert plan(dataclasses.replace(seen, done_errand=8)) == ()


def test_command_does_not_stand_in_the_representation() -> None:
    assert "hunter2" not in repr(Errand(1, RUN, argv=("login", "hunter2")))
    assert decode(RunResult, encode(RunResult(3, 0, "out", "err"))) == RunResult(3, 0, "out", "err")
