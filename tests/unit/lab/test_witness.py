"""The witness in the initramfs: what it adds, what is read back, and which consoles are hopeless."""

from __future__ import annotations

import pytest

from lab.witness import Report, complaints, find_dead_end, parse_report, report_end, witness_files

NONCE = "0123456789abcdef"
CONSOLE = f"""\
[    1.0] something
{NONCE}|hostname|pi4-agent
pi4-agent login: {NONCE}|user|lost, because a prompt stood before it
{NONCE}|user|pi /bin/bash
{NONCE}|user|ubuntu /bin/bash
ffffffffffffffff|user|of another boot
{NONCE}|log|a | b
{NONCE}|end|
"""


def test_a_report_is_read_from_between_other_lines() -> None:
    report = parse_report(CONSOLE, NONCE)
    assert report.one("hostname") == "pi4-agent"
    assert report.all("user") == ("pi /bin/bash", "ubuntu /bin/bash")
    assert report.one("log") == "a | b"
    assert (report.one("absent"), report.all("absent")) == ("", ())
    assert parse_report("", NONCE) == Report()


def test_only_the_report_of_this_boot_ends_the_wait() -> None:
    import re

    assert re.search(report_end(NONCE), CONSOLE, re.M)
    assert not re.search(report_end("f" * 16), CONSOLE, re.M)


def test_the_files_carry_the_nonce_and_change_nothing_outside_of_run() -> None:
    files = witness_files(NONCE)
    assert sorted(files) == ["bramble-witness/report", "bramble-witness/unit", "conf/param.conf"]
    hook = files["conf/param.conf"].decode()
    assert all("/run/" in line for line in hook.splitlines() if ">" in line or "mkdir" in line)
    report = files["bramble-witness/report"].decode()
    assert NONCE in report
    assert "@" not in report.replace("@.", "")
    assert "After=" not in files["bramble-witness/unit"].decode(), "a boot that never ends is reported too"


@pytest.mark.parametrize("nonce", ["", "short", "a b c d e f g h", "$(reboot)12", "a" * 65])
def test_a_nonce_that_a_shell_could_take_for_something_else_is_refused(nonce: str) -> None:
    with pytest.raises(ValueError, match="nonce"):
        witness_files(nonce)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[ 3.1] Kernel panic - not syncing: VFS: Unable to mount root fs\n", "panicked"),
        ("You are in emergency mode. After logging in", "emergency"),
        ("Give root password for maintenance\n", "root password"),
        ("ALERT!  PARTUUID=00000000-02 does not exist.  Dropping to a shell!", "did not find the root"),
        ("\n(initramfs) ", "its shell"),
        ("first boot (stand-in) failed: no boot partition\n", "stock first boot"),
    ],
)
def test_a_boot_that_will_not_end_is_seen_at_once(text: str, words: str) -> None:
    found = find_dead_end("[ 1.0] fine\n" + text)
    assert found is not None
    assert words in found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pi4-agent login: ",
        "[  OK  ] Reached target emergency.target - Emergency Mode.",
        "Command line: panic=-1",
        "Failed to start foo.service",
    ],
)
def test_an_ordinary_console_is_not_hopeless(text: str) -> None:
    assert find_dead_end(text) is None


def test_complaints_of_systemd_are_collected_once() -> None:
    line = "[FAILED] Failed to start k3s.service - Lightweight Kubernetes."
    assert complaints(f"{line}\n[  OK  ] Started a.\n{line}\n[DEPEND] Dependency failed for b.mount\n") == (
        line,
        "[DEPEND] Dependency failed for b.mount",
    )
