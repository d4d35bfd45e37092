"""Reads a device's password where cluster.yaml says that it is, each time that it is needed.

So a password that was changed counts at once, and none stays in memory. The environment is handed in: only
the command reads the process's own.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from typing import Final

from fleet.power.driver import PowerError
from fleet.secret import Secret
from fleet.spec.power import SecretPlace

MAX_SECRET_BYTES: Final = 1024


def read_secret(place: SecretPlace, environ: Mapping[str, str]) -> Secret:
    """The password; white space around it is none of it.

    Raises:
        PowerError: It is not there, is empty, or others can read the file.
    """
    if place.variable is not None:
        text = environ.get(place.variable, "")
        if not text.strip():
            raise PowerError(
                f"the variable {place.variable} is not set in the environment of 'bramble serve'",
                "Set it where the server is started, or name a file in cluster.yaml instead.",
            )
        return Secret(text.strip())
    if place.file is None:
        raise PowerError("no place is declared for the password", "Name a file in cluster.yaml.")
    try:
        mode = place.file.stat().st_mode
        with place.file.open("rb") as file:
            content = file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise PowerError(
            f"{place.file} can not be read: {error.strerror}",
            "The user who runs 'bramble serve' must be able to read it.",
        ) from error
    if mode & (stat.S_IRWXO):
        raise PowerError(
            f"{place.file} can be read by everybody on this machine (mode {stat.S_IMODE(mode):04o})",
            f"'chmod 600 {place.file}', and change the password if that was so for long.",
        )
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        text = ""
    if not text or len(content) > MAX_SECRET_BYTES or "\n" in text or not text.isprintable():
        raise PowerError(
            f"{place.file} does not hold one line with a password",
            "Write the password alone into it, as one line.",
        )
    return Secret(text)
