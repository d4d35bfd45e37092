"""The witness's scripts, run by a real shell: its syntax, and a report that the host makes of itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lab.witness import SERIAL, parse_report, witness_files

pytestmark = pytest.mark.integration

NONCE = "0123456789abcdef"


@pytest.mark.parametrize("name", ["bramble-witness/report", "conf/param.conf"])
def test_a_shell_can_read_the_script(name: str) -> None:
    subprocess.run(["sh", "-n"], input=witness_files(NONCE)[name], check=True)


def test_a_report_comes_to_its_end_wherever_it_runs(tmp_path: Path) -> None:
    """On a machine without systemd, cloud-init or a device tree most facts are empty, and none stops the
    others."""
    serial = tmp_path / "serial"
    script = witness_files(NONCE, settle_s=0)["bramble-witness/report"].decode()
    script = (
        script.replace(f"> {SERIAL}", f">> {serial}")
        .replace("dmesg -n 1", ":")
        .replace("timeout 600", "timeout 1")
    )
    subprocess.run(["sh"], input=script.encode(), check=True, capture_output=True, timeout=60)
    report = parse_report(serial.read_text(), NONCE)
    assert report.one("hostname")
    assert report.one("kernel")
    assert int(report.one("page-bytes")) >= 4096
    assert "end" in report.facts
