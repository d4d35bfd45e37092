"""YAML with positions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.spec.document import MAX_DOCUMENT_BYTES, dotted, parse_document


def test_scalars_stay_as_they_were_written() -> None:
    document = parse_document(
        "mac: 10:20:30:40:50:60\nserial: 1000000012345678\ndhcp: off\nport: 0080\nnone:\n"
    )
    assert document.data == {
        "mac": "10:20:30:40:50:60",
        "serial": "1000000012345678",
        "dhcp": "off",
        "port": "0080",
        "none": None,
    }
    assert not document.faults


def test_k3s_pass_through_is_typed_as_k3s_reads_it() -> None:
    text = "cluster: {k3s: {config: {etcd-expose-metrics: true, v: 4, name: '5', disable: [traefik]}}}"
    config = parse_document(text).data["cluster"]["k3s"]["config"]
    assert config == {"etcd-expose-metrics": True, "v": 4, "name": "5", "disable": ["traefik"]}


def test_each_key_knows_its_line() -> None:
    document = parse_document("version: 1\nnodes:\n  - {name: a}\n  -\n    name: b\n    board: pi5\n")
    assert document.line(("nodes",)) == 2
    assert document.line(("nodes", 1, "board")) == 6
    assert document.line(("nodes", 1, "mac")) == 5, "what is absent is looked for where it should stand"
    assert document.has(("nodes", 0, "name"))
    assert document.value(("nodes", 0, "name")) == "a"


@pytest.mark.parametrize(
    ("text", "line", "complaint"),
    [
        ("a: 1\na: 2\n", 2, "the key 'a' is given twice, first on line 1"),
        ("a:\n\tb: 1\n", 2, "indented with a tab"),
        ("a: [1, 2\nb: 3\n", 2, "a '[' above has no ']'"),
        ("a: {x: 1\nb: 3\n", 2, "a '{' above has no '}'"),
        ("nodes:\n  - {name: a}\n- {name: b}\n", 3, "item begins in another column"),
        ("nodes:\n- {name: a}\n  - {name: b}\n", 3, "item begins in another column"),
        ("nodes:\n  - name: a\n    role: x\n   board: y\n", 4, "a key begins in another column"),
        ("name: attic\n  domain: x\n", 2, "stands where there can be none"),
        ("name: the: attic\n", 1, "stands where there can be none"),
        ("name: @attic\n", 1, "a character of YAML's own"),
        ("a: 'x\n", 2, "cannot be read"),
        ("a: *nowhere\n", 1, "undefined alias"),
        ("a: 1\n---\nb: 2\n", 2, "cannot be read"),
        ("a: \x00\n", 1, "cannot be read"),
        ("a: &x [*x]\n", 1, "contains itself"),
        ("base: &b {c: 1}\nd:\n  <<: *b\n", 3, "merge key"),
        ("[a, b]: 1\n", 1, "a key is a list or a mapping"),
        ("a:\n  - x\n  -\n", 3, "list item is empty"),
        ("", 1, "the file is empty"),
        ("# only a comment\n", 1, "the file is empty"),
        ("[" * 1500, 1, "nested too deeply"),
        ("a" * (MAX_DOCUMENT_BYTES + 1), 1, "larger than"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_fault_in_the_yaml_is_told_with_its_line(text: str, line: int, complaint: str) -> None:
    (fault,) = parse_document(text).faults
    assert fault.line == line
    assert complaint in fault.message


def test_aliases_that_unfold_without_end_are_stopped() -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for outer, inner in zip("bcdefgh", "abcdefg", strict=True):
        bomb += f"{outer}: &{outer} [{', '.join(['*' + inner] * 9)}]\n"
    faults = parse_document(bomb).faults
    assert [fault.message for fault in faults] == ["the document has too many values"]


@given(st.text(max_size=60))
def test_any_text_is_read_or_faulted(text: str) -> None:
    document = parse_document(text)
    assert document.faults or document.data is not None or text.strip()


def test_places_are_written_as_people_write_them() -> None:
    assert dotted(("nodes", 3, "mac")) == "nodes[3].mac"
    assert dotted(()) == ""
