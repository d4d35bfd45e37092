"""The thin shells on a real kernel: DHCP in a network namespace, the disk layer, the packed program."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
from agent_nodes import make_node_root
from fakes_agent import ControlServer, running
from in_namespace import told_by

from agent.client import ControlClient, PinnedTrust, Refused, Unreachable
from agent.commands import CommandError, run
from agent.errors import AgentError
from agent.installer.device import TargetDisk
from agent.protocol import Desired

pytestmark = pytest.mark.integration

CHECKOUT = Path(__file__).parents[3]
DHCP = "dhcp_in_namespace.py"


def test_address_netmask_and_route_are_set_from_the_lease() -> None:
    result = told_by(DHCP)
    assert result["log"] == ["DISCOVER", "REQUEST", "DISCOVER", "REQUEST"]
    assert (result["running_before"], result["running"]) == (False, True)
    assert result["lease"] == result["address"] == "10.77.0.50"
    assert result["lease_s"] == 3600
    assert result["netmask"] == "255.255.255.0"
    assert result["route"] == "10.77.0.1"
    assert "nosuch0" in result["nosuch"]


def test_lost_discover_and_refused_request_are_survived() -> None:
    result = told_by(DHCP, "drop=1", "nak")
    assert result["log"][:5] == ["DISCOVER", "DISCOVER", "REQUEST", "DISCOVER", "REQUEST"]
    assert result["address"] == "10.77.0.50"


def test_silent_network_is_an_error_that_names_the_interface() -> None:
    assert "client0 (2c:cf:67:12:34:56)" in told_by(DHCP, "silent")["error"]


def test_disk_reads_back_what_was_written_at_any_alignment(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"\xff" * (1 << 20) + b"tail" * 128)
    with TargetDisk(path) as disk:
        assert disk.size_bytes == (1 << 20) + 512
        disk.write_at(4095, b"across a block")
        disk.write_at((1 << 20) + 500, b"last bytes!!")
        disk.flush()
        assert bytes(disk.read_back(4095, 14)) == b"across a block"
        assert bytes(disk.read_back(0, 4)) == b"\xff" * 4
        assert bytes(disk.read_back((1 << 20) + 500, 12)) == b"last bytes!!"
        with pytest.raises(AgentError, match="ends at"):
            disk.read_back((1 << 20) + 500, 13)


def test_disk_without_direct_io_is_read_too() -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm", prefix="bramble-test-") as file:
        file.write(bytes(8192))
        file.flush()
        with TargetDisk(Path(file.name)) as disk:
            disk.write_at(100, b"x" * 5000)
            disk.flush()
            assert bytes(disk.read_back(100, 5000)) == b"x" * 5000


def test_full_disk_is_an_error_with_a_place() -> None:
    with TargetDisk(Path("/dev/full")) as disk, pytest.raises(AgentError, match=r"/dev/full: writing at 0"):
        disk.write_at(0, b"x")


def test_absent_disk_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="can not be opened"):
        TargetDisk(tmp_path / "nosuch")


def test_command_errors_carry_the_messages_of_the_command() -> None:
    with pytest.raises(CommandError, match="ended with status 3:\nwhy") as caught:
        run(["sh", "-c", "echo why >&2; exit 3"])
    assert caught.value.returncode == 3
    assert run(["cat"], input_bytes=b"through").stdout == b"through"
    assert run(["false"], check=False).returncode == 1


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["no-such-program"], "not installed"),
        (["sleep", "30"], "did not end within"),
        (["sh", "-c", "kill -9 $$"], "was ended by signal 9"),
    ],
    ids=["missing", "timeout", "signal"],
)
def test_program_that_gave_no_verdict_has_no_status(argv: list[str], reason: str) -> None:
    with pytest.raises(CommandError, match=reason) as caught:
        run(argv, timeout_s=2.0)
    assert caught.value.returncode is None


def test_client_uses_the_endpoint_that_answers_and_reconnects(tmp_path: Path) -> None:
    control = ControlServer(tmp_path)
    with running(control):
        client = ControlClient(("https://127.0.0.1:1", control.url), PinnedTrust(control.pin))
        for _ in range(2):
            with pytest.raises(Refused) as caught:
                client.get("/v1/node/desired", Desired)
            assert (caught.value.status, caught.value.error) == (401, "no-certificate")
        control.stop()
        control.start()
        with pytest.raises(Refused):
            client.get("/v1/node/desired", Desired)
    with pytest.raises(Unreachable, match="can not be reached"):
        client.get("/v1/node/desired", Desired)
    client.close()


@pytest.fixture
def pyz(tmp_path: Path) -> Path:
    """The agent as one file, as the image factory packs it."""
    path = tmp_path / "agent.pyz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        start = "import runpy\n\nrunpy.run_module('agent', run_name='__main__', alter_sys=True)\n"
        archive.writestr("__main__.py", start)
        for source in sorted((CHECKOUT / "agent").rglob("*.py")):
            archive.write(source, source.relative_to(CHECKOUT))
    return path


def run_pyz(pyz: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-I", str(pyz), *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, cwd="/")


def test_packed_program_runs_without_anything_of_ours(pyz: Path) -> None:
    assert run_pyz(pyz, "--version").stdout.startswith("bramble-agent ")
    assert run_pyz(pyz, "no-such-command").returncode == 2


def test_installer_refuses_to_run_on_a_system_that_our_boot_files_did_not_start(pyz: Path) -> None:
    done = run_pyz(pyz, "install")
    assert done.returncode == 1
    assert "no bramble.control=" in done.stdout


def test_service_stays_small(tmp_path: Path, pyz: Path) -> None:
    """After its imports, a TLS context and a reading of the node; the limit is 25 MB on the node's Python."""
    root = make_node_root(tmp_path / "root")
    control = ControlServer(tmp_path)
    program = f"""
import sys
sys.path.insert(0, {str(pyz)!r})
from agent.spare import spare_memory
spare_memory()
import pathlib, agent.service
from agent.client import AuthorityTrust
from agent.health import read_health
from agent.hardware import read_hardware
root = pathlib.Path({str(root)!r})
read_health(root), read_hardware(root)
AuthorityTrust(ca_pem={control.authority.pem!r}).context()
unwanted = ("agent.installer", "agent.network", "agent.dhcp", "ast", "dis")
assert not [name for name in sys.modules if name.startswith(unwanted)]
print(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")))
import dataclasses
assert dataclasses.inspect.isfunction(read_health) and "ast" in sys.modules
assert sys.modules["inspect"].signature(read_health).parameters
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    kib = int(done.stdout.split()[1])
    assert kib < 32 * 1024, f"{kib} KiB"
