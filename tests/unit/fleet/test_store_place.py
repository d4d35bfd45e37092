"""Addresses of stores: what is taken, and that a password is neither taken nor shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fakes_fleet import cluster_spec
from fakes_spec import changed, check

from bramble.paths import state_layout
from fleet.cli.places import store_place
from fleet.spec.export import image_inputs, to_document
from fleet.spec.model import ControlSpec
from fleet.store_place import PlaceError, PostgresPlace, parse_postgres


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://bramble@db.attic.internal/bramble",
        "postgresql://bramble@db.attic.internal:5433/bramble?sslmode=verify-full&passfile=/etc/bramble/pgpass",
        "postgresql:///bramble?host=/run/postgresql",
        "postgresql://?service=bramble",
    ],
)
def test_urls_of_libpq_are_taken_as_they_are(text: str) -> None:
    assert parse_postgres(text) == PostgresPlace(text)


def test_the_short_scheme_is_the_long_one() -> None:
    assert parse_postgres("postgres://a@b/c").url == "postgresql://a@b/c"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mysql://db/bramble", "mysql"),
        ("bramble", "no scheme"),
        ("postgresql://db.attic.internal", "no database"),
        ("postgresql://db:99999/bramble", "Port out of range"),
        ("postgresql://db:0/bramble", "port 0"),
    ],
)
def test_what_is_no_postgresql_url_is_refused(text: str, words: str) -> None:
    with pytest.raises(PlaceError, match=words):
        parse_postgres(text)


@pytest.mark.parametrize(
    "text", ["postgresql://bramble:hunter2@db/bramble", "postgresql://bramble@db/bramble?password=hunter2"]
)
def test_a_password_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(PlaceError, match="holds a password") as refused:
        parse_postgres(text)
    assert "hunter2" not in str(refused.value)
    assert "PGPASSWORD" in refused.value.hint


def test_an_option_goes_before_the_environment_and_that_before_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = "postgresql://bramble@db/from-{}"
    monkeypatch.setenv("BRAMBLE_STATE_DIR", str(tmp_path))
    monkeypatch.delenv("BRAMBLE_STORE", raising=False)
    assert store_place(cluster_spec()) == tmp_path / "attic" / "control.db"
    spec = replace(cluster_spec(), control=ControlSpec(url.format("file")))
    assert store_place(spec) == PostgresPlace(url.format("file"))
    monkeypatch.setenv("BRAMBLE_STORE", url.format("environment"))
    assert store_place(spec) == PostgresPlace(url.format("environment"))
    assert store_place(spec, url.format("option")) == PostgresPlace(url.format("option"))
    assert state_layout(spec, url.format("option")).database == PostgresPlace(url.format("option"))
    monkeypatch.setenv("BRAMBLE_STORE", "postgresql://bramble:hunter2@db/x")
    with pytest.raises(PlaceError, match="holds a password"):
        store_place(spec)


def test_a_declared_store_is_read_and_shown_again() -> None:
    checked = check(changed(("cluster.control", {"store": "postgres://bramble@db/attic"})))
    assert checked.spec is not None
    assert checked.spec.control.store == "postgresql://bramble@db/attic"
    assert to_document(checked.spec)["cluster"]["control"]["store"] == "postgresql://bramble@db/attic"
    assert "control" not in image_inputs(checked.spec)
