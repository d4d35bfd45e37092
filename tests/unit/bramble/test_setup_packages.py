"""What scripts/setup-system installs for users, and what for the tests only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from imagebuilder import runner
from lab.runner import _PACKAGES as LAB_PACKAGES

ROOT: Final = Path(__file__).parents[3]
SCRIPT: Final = (ROOT / "scripts/setup-system").read_text("utf-8")
ESSENTIAL: Final = frozenset({"apt", "util-linux"})
FOREIGN: Final = frozenset({"bmap-tools"})
"""Named in runner's table for a hint; only tests and benchmarks run it, as a peer."""


def listed(name: str) -> tuple[str, ...]:
    """The words of a bash array, without its comments."""
    (body,) = re.findall(rf"^{name}=\(\n(.*?)^\)", SCRIPT, re.DOTALL | re.MULTILINE)
    return tuple(word for line in body.splitlines() for word in line.partition("#")[0].split())


@pytest.mark.parametrize("table", [runner.PACKAGES, LAB_PACKAGES], ids=["builder", "lab"])
def test_a_user_gets_every_package_whose_program_bramble_runs(table: dict[str, str]) -> None:
    assert set(table.values()) - ESSENTIAL - FOREIGN - set(listed("packages")) == set()


def test_nothing_is_installed_for_users_that_only_tests_run() -> None:
    user, tests = listed("packages"), listed("tests")
    assert not set(user) & set(tests)
    assert len({*user, *tests}) == len(user) + len(tests), "named twice"
    assert {"chromium", "cloud-init", "postgresql", "prometheus", "snmpd"} <= set(tests)


def test_make_installs_the_tests_packages_for_tests_and_for_nothing_else() -> None:
    rules = re.findall(r"^([a-z0-9-]+):([^#\n]*)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    with_tests = {target for target, needs in rules if "setup-tests" in needs.split()}
    assert with_tests == {"test", "test-k3s", "test-tutorial", "test-machine"}
    assert {target for target, needs in rules if "setup" in needs.split()} == {"base", "deb", "demo", "wheel"}
