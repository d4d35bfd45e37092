"""Whose file a broken cluster.yaml is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.spec.document import MAX_DOCUMENT_BYTES
from fleet.spec.glimpse import Glimpse, glimpse

HEAD = "cluster:\n  name: attic\n  k3s: {version: v1}\n"
STORE = "postgresql://bramble@db/bramble"


@pytest.mark.parametrize(
    "broken",
    ["nodes: [", "nodes:\n\t- {}", "nodes:\n  - a: b: c", "nodes: @", "cluster: {name: attic}\n  x", "k: *a"],
    ids=ascii,
)
def test_the_name_before_the_break_is_read(broken: str) -> None:
    assert glimpse(f"version: 1\n{HEAD}{broken}\n") == Glimpse("attic")


def test_a_file_with_wrong_values_only_is_read_whole() -> None:
    assert glimpse("version: 7\nnodes: [{naem: x, mac: [1, {name: y}]}]\n" + HEAD) == Glimpse("attic")


def test_where_the_record_is_counts_too() -> None:
    assert glimpse(f"{HEAD}  control: {{store: '{STORE}'}}\nnodes: [") == Glimpse("attic", STORE)
    assert glimpse(f"{HEAD}  control:\n    store: mysql://db/x\nnodes: [") == Glimpse("attic")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nodes: [\n" + HEAD,
        "- " + HEAD.replace("\n", "\n  "),
        "cluster: [{name: attic}]",
        "cluster: {k3s: {name: attic}}",
        "? {cluster: {name: attic}}\n: x",
        "? [cluster]\n: {name: attic}",
        "cluster: {? [name] : attic}",
        "cluster: {name: ../attic}",
        "cluster: {name: /etc}",
        "cluster: {name:}",
        "\x00" + HEAD,
        "\ud800",
        "#" * (MAX_DOCUMENT_BYTES + 1) + "\n" + HEAD,
    ],
    ids=lambda text: ascii(text[:30]),
)
def test_what_is_no_name_of_a_cluster_is_not_taken_for_one(text: str) -> None:
    assert glimpse(text).name is None


@given(st.text(alphabet="clusternm: {}[],-?&*!|>'\"%@`#\n\t\x00\ud800é", max_size=60))
def test_no_text_makes_it_raise(text: str) -> None:
    glimpse(text)
    glimpse(HEAD + text)
