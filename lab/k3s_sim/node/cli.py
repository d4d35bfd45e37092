"""The command line: `k3s server`, `k3s agent`, `k3s kubectl`, and the links kubectl, crictl and ctr."""

from __future__ import annotations

import os
import platform
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from lab.k3s_sim.node import log
from lab.k3s_sim.node.errors import K3sError

USAGE = """\
NAME:
   k3s - Kubernetes, but small and simple (simulator: it joins and reports, it runs no containers)

USAGE:
   k3s server|agent [OPTIONS]
   k3s etcd-snapshot save|ls|delete|prune [OPTIONS]
   k3s kubectl get nodes [NAME] [-o wide|json]
   k3s --version
"""
_LINKS = ("kubectl", "crictl", "ctr")


def main(argv: Sequence[str], version: str) -> int:
    """Run one command and return the exit code.

    Args:
        argv: with the program's name first; its name decides when it is one of the links.
        version: the release that is simulated, like v1.33.5+k3s1.
    """
    name = Path(argv[0]).name
    command, *rest = [name, *argv[1:]] if name in _LINKS else [*argv[1:], ""][: max(1, len(argv) - 1)]
    try:
        if command in ("--version", "-v"):
            print(f"k3s version {version} (simulator)\npython version {platform.python_version()}")
        elif command in ("", "help", "--help", "-h"):
            print(USAGE, end="")
        elif command == "server":
            _run_server(rest, version)
        elif command == "agent":
            _run_agent(rest, version)
        elif command == "etcd-snapshot":
            from lab.k3s_sim.node import etcd_snapshot

            etcd_snapshot.run(rest, os.environ)
        elif command in _LINKS:
            _show(command, rest)
        else:
            raise K3sError(f"No help topic for '{command}' (simulator)")
    except K3sError as error:
        if command in _LINKS:
            print(error.message, file=sys.stderr)
        else:
            log.fatal(f"Error: {error.message}")
        return 1
    return 0


def _run_server(argv: Sequence[str], version: str) -> None:
    from lab.k3s_sim.node import settings
    from lab.k3s_sim.node.critical_config import critical_values
    from lab.k3s_sim.node.server import Server
    from lab.k3s_sim.node.simulation import simulation

    chosen = settings.load_options("server", argv, os.environ)
    for warning in chosen.warnings:
        log.warning(warning)
    log.info(f"Starting k3s {version} (simulator)")
    try:
        chosen_settings = settings.server_settings(chosen, critical_values(chosen))
        Server(chosen_settings, version, _stop_event(), simulation(os.environ)).run()
    except K3sError as error:
        raise K3sError(f"preparing server: {error.message}") from error


def _run_agent(argv: Sequence[str], version: str) -> None:
    from lab.k3s_sim.node import notify, settings
    from lab.k3s_sim.node.agent import Agent, require_startable

    chosen = settings.load_options("agent", argv, os.environ)
    for warning in chosen.warnings:
        log.warning(warning)
    agent = settings.agent_settings(chosen)
    require_startable(agent)
    log.info(f"Starting k3s agent {version} (simulator)")

    def announce(_server: object) -> None:
        log.info("k3s agent is up and running")
        notify.ready()

    Agent(agent, version, _stop_event(), announce).run()


def _show(command: str, argv: Sequence[str]) -> None:
    from lab.k3s_sim.node import kubectl

    if command != "kubectl":
        raise K3sError(f"this k3s is a simulator: there are no containers for {command} to show")
    print(kubectl.get_nodes(kubectl.parse_arguments(argv, os.environ)), end="")


def _stop_event() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
