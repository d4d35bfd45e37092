"""Addresses of stores: what is taken, and that a password is neither taken nor shown."""

from __future__ import annotations

import pytest

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
