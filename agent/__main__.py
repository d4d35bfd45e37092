"""`python3 agent.pyz install | service | facts | smart | --version`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from agent import __version__
from agent.errors import AgentError

STATE_DIRECTORY = Path("/var/lib/bramble")
RELEASE_VARIABLE = "BRAMBLE_RELEASE"


def run(arguments: Sequence[str]) -> int:
    """Run one command; the exit status is 0 ok, 1 failed, 2 usage."""
    try:
        # Imported where it is used: the service carries no installer and no parser of options in memory.
        if list(arguments) == ["service"]:
            from agent.spare import spare_memory

            spare_memory()
            _launch_release()
            from agent.service import main as serve

            return serve()
        return _run_other(arguments)
    except AgentError as exc:
        print(f"error: {exc.message}", file=sys.stderr)
        if exc.hint:
            print(f"  {exc.hint}", file=sys.stderr)
        return 1


def _launch_release() -> None:
    """Become the release in force, where there is one and this is the agent of the image."""
    if RELEASE_VARIABLE in os.environ or not (STATE_DIRECTORY / "agent/current").is_symlink():
        return
    from agent.commands import run as run_command
    from agent.update import launch

    def execute(path: Path, sha256: str) -> None:
        os.environ[RELEASE_VARIABLE] = sha256
        os.execv(sys.executable, [sys.executable, "-I", "-S", str(path), "service"])  # noqa: S606 - same program, newer

    launch(STATE_DIRECTORY, run_command, execute)


def _expire_trial() -> int:
    from agent.commands import run as run_command
    from agent.update import Releases

    if Releases(STATE_DIRECTORY).expire():
        run_command(["systemctl", "restart", "--no-block", "bramble-agent.service"])
    return 0


def _run_other(arguments: Sequence[str]) -> int:
    import argparse
    import json

    parser = argparse.ArgumentParser(prog="bramble-agent", description="Bramble on the node.")
    parser.add_argument("--version", action="version", version=f"bramble-agent {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install", help="install this board (runs as process 1 of the installer)")
    commands.add_parser("service", help="enrol, report, join (runs under systemd)")
    commands.add_parser("facts", help="print what this board says of itself, as JSON")
    commands.add_parser("smart", help="print the SMART values of its NVMe disks, as JSON (needs root)")
    commands.add_parser("expire-trial", help="give up a release that was not heard (run by a timer)")
    command = parser.parse_args(arguments).command
    if command == "install":
        from agent.installer.run import main as install

        return install()
    if command == "expire-trial":
        return _expire_trial()
    if command == "smart":
        from agent.nvme import read_smart_logs

        print(json.dumps(read_smart_logs()))
    else:
        from agent.facts import collect_facts

        print(json.dumps(collect_facts(), indent=2))
    return 0


def main() -> None:
    """Entry point of the zipapp; exits with the command's status."""
    raise SystemExit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
