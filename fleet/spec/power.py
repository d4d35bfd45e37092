"""How a board is switched, as cluster.yaml declares it: frozen values, one for each driver. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

DEFAULT_OFF_S = 5
"""Between off and on: long enough for the capacitors of a board's supply to run empty."""
DEFAULT_COMMAND_TIMEOUT_S = 20


@dataclass(frozen=True, slots=True)
class SecretPlace:
    """Where a password is read from when it is needed: a file, or a variable of the server's environment."""

    file: Path | None = None
    variable: str | None = None


@dataclass(frozen=True, slots=True)
class ManualPower:
    """A person switches the board."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandPower:
    """Commands of the user, as argument lists that no shell sees; `{node}` in them became the node's name.

    Attributes:
        status: Prints `on` or `off`; without a word exit code 0 is on, and 1 is off.
        pass_env: Variables of the server's environment that the commands see, beside PATH, HOME and LANG.
        timeout_s: For each of them.
        off_s: Between off and on.
    """

    on: tuple[str, ...]
    off: tuple[str, ...]
    status: tuple[str, ...] | None
    pass_env: tuple[str, ...] = ()
    timeout_s: int = DEFAULT_COMMAND_TIMEOUT_S
    off_s: int = DEFAULT_OFF_S


@dataclass(frozen=True, slots=True, kw_only=True)
class TasmotaPower:
    """A Tasmota plug; `output` counts from 1."""

    url: str
    output: int
    password: SecretPlace | None = None
    user: str = "admin"
    off_s: int = DEFAULT_OFF_S


@dataclass(frozen=True, slots=True, kw_only=True)
class ShellyPower:
    """A Shelly plug or relay; `channel` counts from 0. `user` is for the first generation: later ones know
    only 'admin'."""

    url: str
    channel: int
    password: SecretPlace | None = None
    user: str = "admin"
    off_s: int = DEFAULT_OFF_S


class SnmpAuth(StrEnum):
    """How SNMPv3 proves who speaks (RFC 3414, RFC 7860)."""

    MD5 = "md5"
    SHA = "sha"
    SHA256 = "sha256"
    SHA512 = "sha512"


class SnmpPrivacy(StrEnum):
    """How SNMPv3 encrypts (RFC 3414, RFC 3826; 256 bits as in most switches, draft-reeder)."""

    DES = "des"
    AES = "aes"
    AES256 = "aes256"


@dataclass(frozen=True, slots=True, kw_only=True)
class SnmpUser:
    """A user of SNMPv3; without `privacy` messages are proved and not encrypted."""

    name: str
    auth: SnmpAuth
    auth_password: SecretPlace
    privacy: SnmpPrivacy | None = None
    privacy_password: SecretPlace | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SnmpPoePower:
    """A PoE switch port by its RFC 3621 indices (`pethPsePortAdminEnable.<group>.<port>`).

    Attributes:
        community: SNMP version 2c; one of it and `user` is set.
        user: SNMP version 3.
        udp_port: Of the switch's agent.
    """

    host: str
    group: int
    port: int
    community: SecretPlace | None = None
    user: SnmpUser | None = None
    udp_port: int = 161
    off_s: int = DEFAULT_OFF_S


PowerSpec = ManualPower | CommandPower | TasmotaPower | ShellyPower | SnmpPoePower


def secret_places(power: PowerSpec | None) -> tuple[SecretPlace, ...]:
    """Where this outlet's passwords are."""
    places: tuple[SecretPlace | None, ...]
    match power:
        case TasmotaPower() | ShellyPower():
            places = (power.password,)
        case SnmpPoePower():
            user = power.user
            of_user = () if user is None else (user.auth_password, user.privacy_password)
            places = (power.community, *of_user)
        case _:
            places = ()
    return tuple(place for place in places if place is not None)
