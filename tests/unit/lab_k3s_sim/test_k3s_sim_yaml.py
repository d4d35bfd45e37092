"""The YAML subset: what k3s configuration files use is read, the rest is refused with its line."""

from __future__ import annotations

import contextlib

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lab.k3s_sim.node.yaml_subset import YamlError, parse_mapping

CONFIG = """\
---
# first server
cluster-init: true
token: "K10abc::server:pw#1"   # a comment
tls-san:
  - 10.77.0.10
  - 'it''s.example.org'
node-label: [a=b, "c=d,e"]
empty:
same-indent:
- one
nested: {a: 1, b: [x]}
block:
    key: value
    other: "with \\"quotes\\" and \\u00e9"
url: https://10.77.0.10:6443
"""


def test_a_configuration_reads_as_yaml_reads_it() -> None:
    assert parse_mapping(CONFIG, "config.yaml") == {
        "cluster-init": "true",
        "token": "K10abc::server:pw#1",
        "tls-san": ["10.77.0.10", "it's.example.org"],
        "node-label": ["a=b", "c=d,e"],
        "empty": "",
        "same-indent": ["one"],
        "nested": {"a": "1", "b": ["x"]},
        "block": {"key": "value", "other": 'with "quotes" and é'},
        "url": "https://10.77.0.10:6443",
    }


def test_a_json_document_is_understood() -> None:
    assert parse_mapping('{"cluster-init": true, "tls-san": ["a", 1], "x": null}', "f") == {
        "cluster-init": "true",
        "tls-san": ["a", "1"],
        "x": "",
    }


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_document_is_an_empty_mapping(text: str) -> None:
    assert parse_mapping(text, "f") == {}


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: 1\nb: &x 2\n", 2, "an anchor"),
        ("a: *x\n", 1, "an alias"),
        ("a: |\n  text\n", 1, "a block scalar"),
        ("a: !!str 1\n", 1, "a tag"),
        ("a:\n\t- b\n", 2, "a tab"),
        ("just words\n", 1, "expected 'key: value'"),
        ("a: 1\na: 2\n", 2, "a second time"),
        ("a: [1,\n  2]\n", 1, "ends on its line"),
        ("a: 'open\n", 1, "a quoted value must be all of the value"),
        ("a: b: c\n", 1, "quote it"),
        ("- a\n- b\n", 1, "at the top level"),
        ("a: 1\n  b: 2\n", 2, "indented differently"),
        ("{\n  bad\n}", 2, "not valid JSON"),
        ("a: 1\n---\nb: 2\n", 2, "a second document"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_line(text: str, line: int, says: str) -> None:
    with pytest.raises(YamlError, match=says) as caught:
        parse_mapping(text, "config.yaml")
    assert (caught.value.file, caught.value.line) == ("config.yaml", line)


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=20)
KEYS = st.from_regex(r"[a-z][a-z-]{0,8}", fullmatch=True)


@given(
    st.dictionaries(KEYS, st.one_of(WORDS, st.lists(WORDS, min_size=1, max_size=3)), min_size=1, max_size=4)
)
def test_what_pyyaml_writes_quoted_comes_back(document: dict[str, str | list[str]]) -> None:
    text = yaml.safe_dump(document, default_style='"', width=10_000, allow_unicode=True)
    assert parse_mapping(text, "f") == document


@given(st.text(max_size=60))
def test_any_text_parses_or_raises_the_error_of_this_module(text: str) -> None:
    with contextlib.suppress(YamlError):
        assert isinstance(parse_mapping(text, "f"), dict)


def test_absurd_nesting_is_an_error_of_this_module() -> None:
    with pytest.raises(YamlError, match="nested too deeply"):
        parse_mapping("a: " + "[" * 100_000, "f")


def test_a_drop_in_written_by_pyyaml_in_block_style_is_read() -> None:
    settings = {
        "agent-token-file": "/etc/rancher/k3s/bramble-agent-token",
        "cluster-init": True,
        "disable": ["traefik", "servicelb"],
        "kube-apiserver-arg": ["feature-gates=A=true", "audit-log-path=-"],
        "node-label": ["rack=1", "bramble.dev/board=pi5"],
        "node-name": "null",
        "node-taint": ["a=b:NoSchedule", "yes", "007", "", "- x", "k: v", "#1"],
        "tls-san": [],
    }
    text = "# Written by Bramble.\n" + yaml.safe_dump(settings, default_flow_style=False, width=1 << 16)
    assert parse_mapping(text, "50-bramble.yaml") == {**settings, "cluster-init": "true"}
