"""The shape of `power` in cluster.yaml: one section for each driver, told apart by `driver`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from fleet.spec import values
from fleet.spec.power import SnmpAuth, SnmpPrivacy
from fleet.spec.section import Port, Section, Text, Url


class ManualSection(Section):
    driver: Literal["manual"]


OffFor = Annotated[int, Field(ge=1, le=120), BeforeValidator(values.parse_duration)]
_OFF_FOR = "How long it stays off when it is power-cycled, 1s to 2m."
Variable = Annotated[str, BeforeValidator(values.parse_variable)]
_VARIABLE = "The same in a variable of the server's environment."


class CommandSection(Section):
    driver: Literal["command"]
    on: list[Text | None] | None = Field(
        default=None,
        description="Program and arguments that switch the board on; `{node}` becomes its name, no shell.",
    )
    off: list[Text | None] | None = Field(default=None, description="The same for switching it off.")
    status: list[Text | None] | None = Field(
        default=None,
        description="The same for asking: it prints `on` or `off`, or ends with 0 for on and 1 for off.",
    )
    pass_env: list[Variable | None] | None = Field(
        default=None, description="Variables of the server's environment that the commands see."
    )
    timeout: Annotated[int, Field(ge=1, le=60), BeforeValidator(values.parse_duration)] | None = Field(
        default=None, description="How long each of them may take, 1s to 60s."
    )
    off_for: OffFor | None = Field(default=None, description=_OFF_FOR)


class TasmotaSection(Section):
    driver: Literal["tasmota"]
    url: Url | None = Field(default=None, description="Address of the plug, like `http://192.168.86.60`.")
    output: Annotated[int, Field(ge=1, le=32)] | None = Field(
        default=None, description="Which output, counted from 1."
    )
    user: Text | None = Field(default=None, description="The login of its web password; `admin`.")
    password_file: Text | None = Field(default=None, description="A file with the plug's password.")
    password_env: Variable | None = Field(default=None, description=_VARIABLE)
    off_for: OffFor | None = Field(default=None, description=_OFF_FOR)


class ShellySection(Section):
    driver: Literal["shelly"]
    url: Url | None = Field(default=None, description="Address of the plug or relay.")
    channel: Annotated[int, Field(ge=0, le=31)] | None = Field(
        default=None, description="Which channel, counted from 0."
    )
    user: Text | None = Field(
        default=None, description="The login of a device of the first generation; `admin`."
    )
    password_file: Text | None = Field(default=None, description="A file with the device's password.")
    password_env: Variable | None = Field(default=None, description=_VARIABLE)
    off_for: OffFor | None = Field(default=None, description=_OFF_FOR)


class SnmpPoeSection(Section):
    driver: Literal["snmp-poe"]
    host: Annotated[str, BeforeValidator(values.parse_host)] | None = Field(
        default=None, description="The switch."
    )
    group: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Group index of the port (RFC 3621, `pethPsePortGroupIndex`)."
    )
    port: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Index of the port in its group (`pethPsePortIndex`)."
    )
    udp_port: Port | None = Field(default=None, description="UDP port of the switch's SNMP agent; 161.")
    community_file: Text | None = Field(
        default=None, description="SNMP version 2c: a file with the community that may write."
    )
    community_env: Variable | None = Field(default=None, description=_VARIABLE)
    user: Text | None = Field(default=None, description="SNMP version 3: the user, instead of a community.")
    auth: Annotated[SnmpAuth, BeforeValidator(values.enum_parser(SnmpAuth))] | None = Field(
        default=None, description="Version 3: how it proves itself; `sha`."
    )
    auth_password_file: Text | None = Field(default=None, description="Version 3: a file with its password.")
    auth_password_env: Variable | None = Field(default=None, description=_VARIABLE)
    privacy: Annotated[SnmpPrivacy, BeforeValidator(values.enum_parser(SnmpPrivacy))] | None = Field(
        default=None, description="Version 3: how messages are encrypted; left out, they are not."
    )
    privacy_password_file: Text | None = Field(
        default=None, description="Version 3: a file with the password for encryption."
    )
    privacy_password_env: Variable | None = Field(default=None, description=_VARIABLE)
    off_for: OffFor | None = Field(default=None, description=_OFF_FOR)


PowerSection = ManualSection | CommandSection | TasmotaSection | ShellySection | SnmpPoeSection
