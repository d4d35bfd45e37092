from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from imagebuilder.runner import run
from imagebuilder.sandbox import SANDBOX_FAILED, require_sandbox, sandboxed
from imagebuilder.store import remove_tree

pytestmark = pytest.mark.integration


def test_command_is_root_of_its_own_namespaces() -> None:
    done = run(sandboxed(["sh", "-c", "id -u; readlink /proc/self/ns/user; echo $$"], arm64=False))
    uid, namespace, _pid = done.stdout.decode().split()
    assert uid == "0"
    assert namespace != Path("/proc/self/ns/user").readlink().name


def test_exit_code_and_input_pass_through() -> None:
    assert run(sandboxed(["sh", "-c", "exit 7"], arm64=False), check=False).returncode == 7
    assert run(sandboxed(["cat"], arm64=False), input=b"text").stdout == b"text"
    assert run(sandboxed(["sh", "-c", "kill -9 $$"], arm64=False), check=False).returncode == 128 + 9


def test_usage_error_is_not_taken_for_success() -> None:
    assert run(sandboxed([], arm64=False), check=False).returncode not in (0, SANDBOX_FAILED)


def test_mounts_stay_inside(tmp_path: Path) -> None:
    script = (
        f"mount -t tmpfs none {tmp_path} && touch {tmp_path}/inside && grep -c {tmp_path} /proc/self/mounts"
    )
    assert run(sandboxed(["sh", "-c", script], arm64=False)).stdout == b"1\n"
    assert list(tmp_path.iterdir()) == []
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def test_files_get_the_owners_they_ask_for_and_can_be_removed_again(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    script = (
        f"mkdir -m 700 {tree} && touch {tree}/file && chown -R 33:101 {tree} && stat -c %u:%g {tree}/file"
    )
    assert run(sandboxed(["sh", "-c", script], arm64=False)).stdout == b"33:101\n"
    remove_tree(tree)
    assert not tree.exists()


def test_arm64_programs_run_or_the_error_says_what_to_do() -> None:
    require_sandbox()
    entry = run(sandboxed(["cat", "/proc/sys/fs/binfmt_misc/qemu-aarch64"]), check=False).stdout
    if os.uname().machine not in ("aarch64", "arm64"):
        assert b"enabled" in entry


def test_host_is_not_changed_by_the_registration() -> None:
    before = sorted(path.name for path in Path("/proc/sys/fs/binfmt_misc").glob("*"))
    require_sandbox()
    assert sorted(path.name for path in Path("/proc/sys/fs/binfmt_misc").glob("*")) == before


def _running(marker: str) -> bool:
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:2] == [b"sleep", marker.encode()]:
            return True
    return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_ending_the_launcher_ends_everything_in_it(number: signal.Signals) -> None:
    marker = str(700_000 + os.getpid() % 100_000 + number)
    deadline = time.monotonic() + 60
    with subprocess.Popen(sandboxed(["sh", "-c", f"sleep {marker} & wait"], arm64=False)) as child:
        while not _running(marker):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        child.send_signal(number)
        child.wait(60)
    while _running(marker):
        assert time.monotonic() < deadline + 60, "a process outlived its sandbox"
        time.sleep(0.02)
