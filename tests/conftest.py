"""What every test gets: Hypothesis profiles, a wall around the pure tests, and a module that cleans up."""

from __future__ import annotations

import gc
import logging
import socket
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import urllib3  # noqa: F401  (its first import binds a socket, which the wall below would take for the test's)
from hypothesis import HealthCheck, settings
from long_files import rank
from loop_watch import watched_loops

TESTS = Path(__file__).parent
PURE = (TESTS / "unit", TESTS / "protocol")

# The same examples in every run and at any speed of the machine: what fails is a change's fault. `make fuzz`
# tries new ones.
settings.register_profile(
    "default", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "fuzz",
    deadline=None,
    derandomize=False,
    max_examples=20_000,
    suppress_health_check=[HealthCheck.too_slow],
)


class OutsideWorldError(BaseException):
    """A pure test touched the outside world. Not an Exception, so that product code can not swallow it."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-tools",
        action="store_true",
        help="Fail a test that would be skipped because a tool is missing: after 'make setup-tests' none is.",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and item.config.getoption("--require-tools"):
        report.outcome = "failed"
        report.longrepr = f"skipped in spite of --require-tools: {report.longrepr}"
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: rank(item.path))


def pytest_collection_finish() -> None:
    """What is there by now stays: the collections below are quick when they need not look through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _what_a_module_leaves_open_fails_in_it(request: pytest.FixtureRequest) -> Iterator[None]:
    """Sockets, files and processes that were forgotten warn when the garbage is collected: here, and not in
    some later test of another module that has nothing to do with them."""
    if any(request.path.is_relative_to(folder) for folder in PURE):
        yield
        return
    with watched_loops() as left:
        yield
    assert not left, "left open when its loop was closed:\n" + "\n".join(left)
    gc.collect()


@pytest.fixture(autouse=True)
def _commands_set_up_no_log_but_their_own() -> Iterator[None]:
    """A command that a test types sets the log up for its process, in which many other tests run."""
    root = logging.getLogger()
    level, known = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    for handler in [each for each in root.handlers if each not in known]:
        if type(handler).__module__ == "bramble.logs":
            root.removeHandler(handler)


@pytest.fixture(autouse=True)
def _pure_tests_stay_inside(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unit and protocol tests start no process and open no connection."""
    if any(request.path.is_relative_to(folder) for folder in PURE):

        def forbid(what: str) -> object:
            def refuse(*_args: object, **_kwargs: object) -> NoReturn:
                raise OutsideWorldError(f"a pure test used {what}; it belongs in tests/integration")

            return refuse

        monkeypatch.setattr(subprocess.Popen, "__init__", forbid("subprocess"))
        monkeypatch.setattr(socket.socket, "connect", forbid("socket.connect"))
        monkeypatch.setattr(socket.socket, "bind", forbid("socket.bind"))
        monkeypatch.setattr(socket, "getaddrinfo", forbid("getaddrinfo"))
