"""`python3 agent.pyz install | service | facts | smart | --version`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from agent import __version__
from agent.errors import AgentError


def run(arguments: Sequence[str]) -> int:
    """Run one command; the exit status is 0 ok, 1 failed, 2 usage."""
    try:
        # Imported where it is used: the service carries no installer and no parser of options in memory.
        if list(arguments) == ["service"]:
            from agent.service import main as serve

            return serve()
        return _run_other(arguments)
    except AgentError as exc:
        print(f"error: {exc.message}", file=sys.stderr)
        if exc.hint:
            print(f"  {exc.hint}", file=sys.stderr)
        return 1


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
    command = parser.parse_args(arguments).command
    if command == "install":
        from agent.installer.run import main as install

        return install()
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
