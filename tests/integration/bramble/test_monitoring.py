"""The files for Prometheus and Grafana name what this server exports, and the rules do what they say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes_fleet import cluster_spec, node_spec, open_fleet

from bramble.health_metrics import READINGS
from bramble.metrics import make_metrics
from fleet.notify.desk import NotifyDesk
from fleet.spec.model import Role
from pxe.server import PxeConfig, PxeServer

pytestmark = pytest.mark.integration

FILES = Path(__file__).parents[3] / "deploy" / "monitoring"
NAME = re.compile(r"\b((?:bramble|process|python)_[a-z0-9_]+)\b")
SELECTOR = re.compile(r"\b(bramble_[a-z0-9_]+)\{([^}]*)\}")
FROM_PROMETHEUS = {"job", "instance"}
"""Labels that whoever scrapes adds."""
NOT_YET = {"bramble_snapshot_age_seconds"}
"""Absent while there is no snapshot; `bramble.snapshot_metrics` has it."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Name → labels of every series that a server has, with one node that has reported everything."""
    state = tmp_path_factory.mktemp("state")
    spec = cluster_spec(node_spec("one", 1, role=Role.SERVER))
    fleet = open_fleet(state, spec)
    health: dict[str, Any] = dict.fromkeys(READINGS, 1.0)
    health["pressure_some_avg10"] = {"cpu": 1.0, "io": 1.0, "memory": 1.0}
    health["disks"] = [{"write_latency_ms": 1.0}]
    with fleet.store.write() as tx:
        tx.update_node(tx.require_node("one"), status={"health": health})
    pxe = PxeServer(PxeConfig.from_spec(spec.network, spec.domain, state, boards=1), lambda _event: None)
    notify = NotifyDesk(fleet.store, lambda: spec, "a")
    page = make_metrics(fleet.store, pxe, fleet.controller, notify).render().decode()
    fleet.store.close()
    found: dict[str, set[str]] = {}
    for line in page.splitlines():
        if line.startswith("# TYPE "):
            found.setdefault(line.split()[2], set())
        elif not line.startswith("#"):
            name, _, rest = line.partition("{") if "{" in line else (line.split()[0], "", "")
            found.setdefault(name, set()).update(re.findall(r'(\w+)="', rest))
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression of the files, and where it stands."""
    rules = yaml.safe_load((FILES / "alerts.yml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    dashboard = json.loads((FILES / "grafana-dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


EXPRESSIONS = list(expressions())


@pytest.mark.parametrize(("place", "expression"), EXPRESSIONS, ids=[place for place, _ in EXPRESSIONS])
def test_every_name_and_label_is_exported(place: str, expression: str, exported: dict[str, set[str]]) -> None:
    names = set(NAME.findall(expression)) - NOT_YET
    assert names <= exported.keys(), f"{place} names what nobody exports"
    for name, matchers in SELECTOR.findall(expression):
        labels = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", matchers)) - FROM_PROMETHEUS
        assert name in NOT_YET or labels <= exported[name], f"{place} asks {name} for a label that it has not"


def test_what_is_named_as_a_value_of_a_label_exists(exported: dict[str, set[str]]) -> None:
    from fleet.health.conditions import Condition
    from fleet.lifecycle import State

    for place, expression in EXPRESSIONS:
        for state in re.findall(r'state="([^"]+)"', expression):
            assert state in set(State), place
        for condition in re.findall(r'condition=~?"([^"]+)"', expression):
            assert set(condition.split("|")) <= set(Condition), place


def test_every_alert_says_what_to_do() -> None:
    rules = yaml.safe_load((FILES / "alerts.yml").read_text())["groups"][0]["rules"]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule["annotations"]) == {"summary", "description"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
        ("check", "config", "prometheus.yml"),
    ],
    ids=["rules", "their tests", "configuration"],
)
def test_prometheus_takes_the_files(arguments: tuple[str, ...]) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (prometheus)")
    done = subprocess.run(
        ["promtool", *arguments], cwd=FILES, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_two_panels_lie_over_each_other() -> None:
    panels = json.loads((FILES / "grafana-dashboard.json").read_text())["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)
