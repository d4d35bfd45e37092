"""Who is held to the contract: the simulator always, and the real k3s in the directory that K3S names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from k3s_hosts import Hosts, hosts_of
from k3s_release import Release, given_release, real_release, simulated_release

GIVEN = given_release()
collect_ignore = [] if GIVEN and (GIVEN / "k3s-arm64").exists() else ["test_k3s_boards.py"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was not run is said, not left out."""
    if GIVEN is None:
        terminalreporter.write_line(
            "real k3s: skipped, K3S names no directory with a release's files; the simulator was held to the "
            "contract (make test-k3s K3S=DIR)"
        )
    elif collect_ignore:
        terminalreporter.write_line(f"real agent on a board: skipped, there is no {GIVEN / 'k3s-arm64'}")


@pytest.fixture(scope="module", params=["simulator", *(["real"] if GIVEN else [])])
def release(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Release:
    if request.param == "simulator":
        return simulated_release(tmp_path_factory.mktemp("release"))
    assert GIVEN is not None
    return real_release(GIVEN)


@pytest.fixture(scope="module")
def hosts(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """A cluster of one server, s1, on key material that was made before."""
    with hosts_of(release, tmp_path_factory.mktemp("hosts")) as made:
        made.start_first()
        yield made
