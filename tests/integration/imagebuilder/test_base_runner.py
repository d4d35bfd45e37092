from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.errors import CommandFailed, MissingTool
from imagebuilder.runner import run, stream

pytestmark = pytest.mark.integration


def _wait_until(condition: Callable[[], bool], deadline_s: float = 60) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.01)


def _is_gone(pid: int) -> bool:
    """Ended, if not yet collected by whoever adopted it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except FileNotFoundError:
        return True


def test_both_streams_and_the_exit_code_come_back() -> None:
    done = run(["sh", "-c", "cat; echo err >&2; exit 4"], input=b"in", check=False)
    assert (done.stdout, done.stderr, done.returncode) == (b"in", b"err\n", 4)


def test_arguments_reach_the_program_unchanged() -> None:
    assert run(["printf", "%s|", "a b", "$HOME", ";true", "*"]).stdout == b"a b|$HOME|;true|*|"


def test_more_output_than_a_pipe_holds_blocks_nobody() -> None:
    script = "head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2"
    done = run(["sh", "-c", script], timeout_s=30)
    assert (len(done.stdout), len(done.stderr)) == (3_000_000, 3_000_000)


def test_failure_carries_the_last_lines_of_stderr() -> None:
    with pytest.raises(CommandFailed) as caught:
        run(["sh", "-c", "seq 100 >&2; exit 3"])
    assert caught.value.returncode == 3
    assert caught.value.last_lines == tuple(str(number) for number in range(81, 101))


def test_missing_program_names_its_package() -> None:
    with pytest.raises(MissingTool, match="apt install no-such-tool"):
        run(["no-such-tool", "--help"])


def test_environment_is_added_and_messages_are_english() -> None:
    done = run(["sh", "-c", 'echo "$EXTRA $LC_ALL"; command -v mke2fs'], env={"EXTRA": "x"})
    first, mke2fs = done.stdout.decode().split("\n")[:2]
    assert first == "x C.UTF-8"
    assert mke2fs.endswith("/mke2fs")


def test_timeout_ends_the_command_and_its_children(tmp_path: Path) -> None:
    script = f"sleep 60 & echo $! > {tmp_path}/pid; wait"
    with pytest.raises(CommandFailed, match=r"did not end within 2 s"):
        run(["sh", "-c", script], timeout_s=2.0)
    _wait_until(lambda: _is_gone(int((tmp_path / "pid").read_text())))


def test_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    script = f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.1; done"
    with pytest.raises(CommandFailed):
        run(["sh", "-c", script], timeout_s=2.0)
    _wait_until(lambda: _is_gone(int((tmp_path / "pid").read_text())))


def test_stream_hands_over_lines_while_the_command_runs(tmp_path: Path) -> None:
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    seen: list[str] = []

    def on_line(line: str) -> None:
        seen.append(line)
        if line == "first":  # the command waits for this: the line came before its end
            fifo.write_text("go\n")

    stream(
        ["sh", "-c", f"echo first; read x < {fifo}; echo err >&2; printf '10%%\\r20%%\\rlast'"],
        on_line=on_line,
    )
    assert seen == ["first", "err", "10%", "20%", "last"]


def test_stream_failure_carries_the_last_lines() -> None:
    with pytest.raises(CommandFailed) as caught:
        stream(["sh", "-c", "seq 30; exit 2"], on_line=lambda _line: None)
    assert caught.value.last_lines[-1] == "30"
    assert len(caught.value.last_lines) == 20


def test_stream_times_out_on_a_silent_command() -> None:
    with pytest.raises(CommandFailed, match=r"did not end within 0\.3 s"):
        stream(["sleep", "60"], on_line=lambda _line: None, timeout_s=0.3)


def test_error_in_the_reader_ends_the_command(tmp_path: Path) -> None:
    def on_line(line: str) -> None:
        raise ValueError(line)

    script = f"echo $$ > {tmp_path}/pid; echo line; exec sleep 60"
    with pytest.raises(ValueError, match="line"):
        stream(["sh", "-c", script], on_line=on_line)
    _wait_until(lambda: _is_gone(int((tmp_path / "pid").read_text())))


def test_keyboard_interrupt_ends_the_command(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = f"""
import signal
from imagebuilder.runner import run
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit it ignored
try:
    run(["sh", "-c", "echo $$ > {pid_file}; exec sleep 60"])
except KeyboardInterrupt:
    print("interrupted")
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        _wait_until(lambda: pid_file.exists() and pid_file.read_text().strip() != "")
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=60)
    assert out == "interrupted\n"
    _wait_until(lambda: _is_gone(int(pid_file.read_text())))


def test_commands_run_side_by_side_from_threads() -> None:
    results: list[bytes] = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(run(["echo", str(n)]).stdout)) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(results) == [f"{n}\n".encode() for n in range(8)]
