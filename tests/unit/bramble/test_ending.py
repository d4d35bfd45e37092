"""SIGTERM ends a server that is still starting, and process 1 of a container."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import bramble.serve_command as command
from bramble.ending import ENDED, ended_by_sigterm, may_be_ended

CLUSTER = Path(__file__).parents[3] / "examples" / "first-node.yaml"


@pytest.fixture(autouse=True)
def _handler_is_put_back() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_server_that_starts_ends_well_and_what_it_holds_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = []

    def start(*_arguments: object, **_options: object) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            let_go.append("scratch")
        pytest.fail("it went on")

    monkeypatch.setattr(command, "_serve", start)
    before = signal.getsignal(signal.SIGTERM)
    assert CliRunner().invoke(command.serve, [str(CLUSTER)]).exit_code == 0
    assert let_go == ["scratch"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_signal_does_not_cut_the_clean_up_off() -> None:
    cleaned = []

    def start() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            cleaned.append("all of it")

    with pytest.raises(SystemExit), ended_by_sigterm():
        start()
    assert cleaned


def test_process_1_ends_though_the_kernel_has_no_default_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    may_be_ended()
    with pytest.raises(SystemExit) as ended:
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == ENDED == 143


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.default_int_handler])
def test_a_handler_that_is_there_stays(handler: signal._HANDLER, monkeypatch: pytest.MonkeyPatch) -> None:
    signal.signal(signal.SIGTERM, handler)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    may_be_ended()
    assert signal.getsignal(signal.SIGTERM) is handler


def test_any_other_process_dies_of_it_as_ever() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    may_be_ended()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
