"""The `command` driver: real programs that succeed, fail, hang, flood and leave children behind."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import pytest

from fleet.power.command import CommandDriver
from fleet.power.driver import PowerError, PowerState
from fleet.spec.power import CommandPower

pytestmark = pytest.mark.integration

ENVIRON = {"PATH": os.environ["PATH"], "PDU_TOKEN": "t0ken", "SECRET": "not for the command"}


def python(code: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code, *arguments)


def driver(
    on: tuple[str, ...], *, status: tuple[str, ...] | None = None, timeout_s: int = 20
) -> CommandDriver:
    power = CommandPower(on=on, off=on, status=status, pass_env=("PDU_TOKEN",), timeout_s=timeout_s)
    return CommandDriver(power, "pi-1", ENVIRON)


def test_command_gets_its_words_and_a_small_environment_and_no_shell(tmp_path: Path) -> None:
    file = tmp_path / "said"
    code = "import json,os,sys; open(sys.argv[1],'w').write(json.dumps([sys.argv[2:], dict(os.environ)]))"
    asyncio.run(driver(python(code, str(file), "$(reboot)", "a b; c")).off())
    words, environment = json.loads(file.read_text())
    assert words == ["$(reboot)", "a b; c"]
    assert environment.pop("LC_CTYPE", "C.UTF-8")  # Python's own
    assert environment == {
        "PATH": ENVIRON["PATH"],
        "PDU_TOKEN": "t0ken",
        "BRAMBLE_NODE": "pi-1",
        "BRAMBLE_POWER": "off",
    }


@pytest.mark.parametrize(
    ("code", "word", "state"),
    [
        (0, "", PowerState.ON),
        (0, "ON", PowerState.ON),
        (0, "off", PowerState.OFF),
        (1, "", PowerState.OFF),
        (1, "off", PowerState.OFF),
    ],
)
def test_status_command_tells_by_a_word_or_by_its_exit_code(code: int, word: str, state: PowerState) -> None:
    found = driver(("true",), status=python(f"print({word!r}); raise SystemExit({code})"))
    assert asyncio.run(found.state()) is state


def test_without_a_status_command_nobody_knows() -> None:
    assert asyncio.run(driver(("true",)).state()) is PowerState.UNKNOWN


@pytest.mark.parametrize("code", [0, 1, 3])
def test_status_command_that_fails_is_not_taken_for_off(code: int) -> None:
    failing = driver(("true",), status=python(f"print('no route to the PDU'); raise SystemExit({code})"))
    with pytest.raises(PowerError, match=rf"status {code};[\s\S]*no route to the PDU"):
        asyncio.run(failing.state())


def test_failure_shows_the_command_and_its_last_words() -> None:
    with pytest.raises(PowerError, match=r"ended with status 4[\s\S]*outlet is locked"):
        asyncio.run(driver(python("import sys; print('outlet is locked'); sys.exit(4)")).on())


def test_program_that_is_not_there_is_an_error() -> None:
    with pytest.raises(PowerError, match="could not be started: No such file"):
        asyncio.run(driver(("/nonexistent/pdu", "on")).on())


def test_command_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    child = "import time; time.sleep(600)"
    code = (
        "import subprocess,sys; p=subprocess.Popen([sys.executable,'-c',sys.argv[2]]);"
        "open(sys.argv[1],'w').write(str(p.pid)); p.wait()"
    )
    started = time.monotonic()
    with pytest.raises(PowerError, match="did not end within 4 s"):
        asyncio.run(driver(python(code, str(file), child), timeout_s=4).off())
    assert time.monotonic() - started < 60
    pid = int(file.read_text())
    deadline = time.monotonic() + 60
    while _runs(pid):
        assert time.monotonic() < deadline, "the child outlived its command"
        time.sleep(0.02)


def test_flood_of_output_is_bounded() -> None:
    code = "import sys\nfor _ in range(2000): sys.stdout.write('x' * 10000)\nsys.exit(5)"
    with pytest.raises(PowerError) as caught:
        asyncio.run(driver(python(code)).on())
    assert "status 5" in caught.value.message
    assert len(caught.value.message) < 40_000


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
