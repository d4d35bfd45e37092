"""Logs in both forms: every field is there, and nothing from the network can forge a line."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from bramble.logs import JsonFormatter, LogFormat, TextFormatter

HOSTILE = 'x"\n{"level":"error"}\x1b[2J\x07'


def record(message: str = "lease offered", **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("pxe.net.dhcp", logging.WARNING, "f.py", 1, message, (), None)
    made.__dict__.update(fields)
    return made


def test_a_json_line_has_time_level_logger_message_and_the_fields() -> None:
    line = json.loads(JsonFormatter().format(record(mac="aa", port=67, ok=True, none=None)))
    assert line["level"] == "warning"
    assert line["logger"] == "pxe.net.dhcp"
    assert line["message"] == "lease offered"
    assert line["time"].endswith("Z")
    assert (line["mac"], line["port"], line["ok"], line["none"]) == ("aa", 67, True, None)


def test_hostile_text_stays_one_json_line() -> None:
    text = JsonFormatter().format(record(HOSTILE, name_asked=HOSTILE))
    assert "\n" not in text
    assert text.isprintable()
    assert json.loads(text)["name_asked"] == HOSTILE


def test_a_field_can_not_replace_what_the_line_says_of_itself() -> None:
    line = json.loads(JsonFormatter().format(record(level="error", time="never")))
    assert line["level"] == "warning"
    assert line["time"] != "never"


def test_a_text_line_shows_the_fields_and_no_control_characters() -> None:
    text = TextFormatter().format(record(HOSTILE, name_asked=HOSTILE, empty="", plain="abc"))
    assert text.startswith("WARNING pxe.net.dhcp: ")
    assert text.isprintable()
    assert "plain=abc" in text
    assert "empty=''" in text


def test_endless_text_is_cut() -> None:
    assert len(JsonFormatter().format(record("x" * 100_000, more="y" * 100_000))) < 5_000
    assert len(TextFormatter().format(record("x" * 100_000, more="y" * 100_000))) < 5_000


def test_a_traceback_is_kept() -> None:
    try:
        raise ValueError("why")
    except ValueError:
        made = record()
        made.exc_info = sys.exc_info()
    assert "ValueError: why" in json.loads(JsonFormatter().format(made))["traceback"]
    assert "ValueError: why" in TextFormatter().format(made)


@pytest.mark.parametrize(
    ("chosen", "environment", "expected"),
    [
        (LogFormat.AUTO, {}, LogFormat.TEXT),
        (LogFormat.AUTO, {"JOURNAL_STREAM": "8:1"}, LogFormat.JSON),
        (LogFormat.TEXT, {"JOURNAL_STREAM": "8:1"}, LogFormat.TEXT),
        (LogFormat.JSON, {}, LogFormat.JSON),
    ],
)
def test_services_speak_json_and_terminals_text(
    chosen: LogFormat, environment: dict[str, str], expected: LogFormat
) -> None:
    assert chosen.resolve(environment) is expected
