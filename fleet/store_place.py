"""Where a cluster's record is kept: a SQLite file of the state directory, or a PostgreSQL database.

Pure: parsing and showing of addresses only. A password never stands in an address: `cluster.yaml` is under
version control, and arguments are shown by `ps`. libpq takes it from PGPASSWORD, from ~/.pgpass, or from the
file that `?passfile=` names. Source: PostgreSQL documentation, "Connection Strings" and "The Password File".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from fleet.errors import InputError

SCHEMES: Final = ("postgresql", "postgres")
EXAMPLE: Final = "postgresql://bramble@db.attic.internal/bramble"
_PASSWORD_HINT: Final = (
    "Take it out, and give it in $PGPASSWORD, in ~/.pgpass, or in a file: '?passfile=/etc/bramble/pgpass'."
)


class PlaceError(InputError):
    """An address of a store that cannot be one."""


@dataclass(frozen=True, slots=True)
class PostgresPlace:
    """A PostgreSQL database by its URL, which holds no password."""

    url: str

    def __str__(self) -> str:
        return self.url


Place = Path | PostgresPlace


def parse_postgres(text: str) -> PostgresPlace:
    """`postgresql://[user@]host[:port]/database[?setting=value…]`; an empty host is the local socket.

    Raises:
        PlaceError: Another scheme, no database, a port that is none, or a password.
    """
    try:
        parts = urlsplit(text)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError as error:
        raise PlaceError(f"the store's URL cannot be read: {error}", f"It looks like {EXAMPLE}.") from error
    if parts.scheme not in SCHEMES:
        shown = parts.scheme or "no scheme"
        raise PlaceError(
            f"the store's URL has {shown}, it can be PostgreSQL only",
            f"It looks like {EXAMPLE}. Leave it out to keep the record in the state directory.",
        )
    settings = parse_qsl(parts.query, keep_blank_values=True)
    if parts.password is not None or any(key == "password" for key, _value in settings):
        raise PlaceError("the store's URL holds a password (not shown here)", _PASSWORD_HINT)
    names = {key for key, _value in settings}
    if not (unquote(parts.path.strip("/")) or names & {"dbname", "service"}):
        raise PlaceError("the store's URL names no database", f"It looks like {EXAMPLE}.")
    if not port_is_valid:
        raise PlaceError("the store's URL has port 0", f"It looks like {EXAMPLE}.")
    return PostgresPlace(f"postgresql{text[len(parts.scheme) :]}")
