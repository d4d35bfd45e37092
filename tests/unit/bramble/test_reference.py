"""The reference page says what the program says."""

from __future__ import annotations

import copy
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes_spec import check

from bramble.cli import bramble
from bramble.reference import WIDTH, render_keys, render_reference
from bramble.reference_keys import NO_DEFAULT, ONE_OF, REQUIRED, SMALLEST, KeyEntry, document_keys, kind_of
from fleet.spec import DhcpMode

PAGE = Path(__file__).parents[3] / "docs" / "reference.md"
ENTRIES = {entry.key: entry for entry in document_keys()}


def test_the_committed_page_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert render_reference(bramble) == PAGE.read_text("utf-8"), "run 'make docs' and commit the page"


def test_help_texts_keep_to_the_width() -> None:
    blocks = render_reference(bramble).split("```")[1::2]
    assert blocks
    assert max(len(line) for block in blocks for line in block.splitlines()) <= WIDTH


@pytest.mark.parametrize("key", ENTRIES, ids=str)
def test_every_key_is_explained(key: str) -> None:
    assert ENTRIES[key].kind
    assert ENTRIES[key].meaning.endswith((".", "?"))
    assert "|" not in ENTRIES[key].meaning


@pytest.mark.parametrize(
    "key", [entry.key for entry in ENTRIES.values() if entry.default == REQUIRED], ids=str
)
def test_the_check_asks_for_every_required_key(key: str) -> None:
    document: dict[str, Any] = copy.deepcopy(dict(SMALLEST))
    target: Any = document
    *parents, last = key.replace("[]", ".0").split(".")
    if key == "nodes[].disk.kind":
        parents, last = ["nodes", "0"], "disk"  # one word stands for the mapping
    for part in parents:
        target = target[int(part)] if isinstance(target, list) else target[part]
    del target[last]
    checked = check(yaml.safe_dump(document))
    assert checked.spec is None
    assert any(repr(last) in problem.message for problem in checked.errors)


def test_the_smallest_file_is_accepted_and_without_any_identity_it_is_not() -> None:
    document: dict[str, Any] = copy.deepcopy(dict(SMALLEST))
    assert check(yaml.safe_dump(document)).spec is not None
    for key in ONE_OF:
        assert ENTRIES[key].default == NO_DEFAULT
    del document["nodes"][0]["mac"]
    assert check(yaml.safe_dump(document)).spec is None


@pytest.mark.parametrize(
    ("key", "default"),
    [
        ("network.ports.control", "`7443`"),
        ("network.dhcp", "`proxy`"),
        ("cluster.domain", "`<cluster.name>.internal`"),
        ("cluster.k3s.airgap_images", "`true`"),
        ("network.gateway", NO_DEFAULT),
    ],
)
def test_defaults_are_those_in_force(key: str, default: str) -> None:
    assert ENTRIES[key].default == default


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        pytest.param(bool | None, "true or false", id="optional"),
        pytest.param(list[IPv4Address | None] | None, "list of IPv4 address", id="list"),
        pytest.param(DhcpMode, "`proxy`, `full`, `off`", id="choices"),
        pytest.param(dict[str, str], "mapping", id="mapping"),
    ],
)
def test_types_read_as_people_write_values(annotation: Any, words: str) -> None:
    assert kind_of(annotation) == words


def test_a_power_drivers_keys_name_their_driver() -> None:
    assert "nodes[].power.url (tasmota)" in ENTRIES
    assert "nodes[].power.driver" not in ENTRIES


def test_a_row_of_the_table() -> None:
    text = render_keys([KeyEntry("network.dns", "list of IPv4 address", "", "Name servers.")])
    assert text.endswith("| `network.dns` | list of IPv4 address | | Name servers. |\n")
