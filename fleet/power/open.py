"""From what cluster.yaml declares to a driver, and to words about it without a secret."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import assert_never

from fleet.power.command import CommandDriver
from fleet.power.driver import PowerDriver
from fleet.power.manual import ManualDriver
from fleet.power.shelly import ShellyDriver
from fleet.power.snmp_poe import SnmpPoeDriver
from fleet.power.tasmota import TasmotaDriver
from fleet.spec.model import NodeSpec
from fleet.spec.power import (
    CommandPower,
    ManualPower,
    PowerSpec,
    ShellyPower,
    SnmpPoePower,
    TasmotaPower,
)


def open_driver(node: NodeSpec, environ: Mapping[str, str]) -> PowerDriver:
    """The driver of a node's own outlet; one without a declaration is switched by hand.

    Args:
        environ: Of `bramble serve`: for passwords, and for commands.
    """
    power = node.power
    match power:
        case None | ManualPower():
            return ManualDriver(node.name)
        case CommandPower():
            return CommandDriver(power, node.name, environ)
        case TasmotaPower():
            return TasmotaDriver(power, environ)
        case ShellyPower():
            return ShellyDriver(power, environ)
        case SnmpPoePower():
            return SnmpPoeDriver(power, environ)
        case _:
            assert_never(power)


def describe_outlet(power: PowerSpec | None) -> str:
    """What is switched, for a dry run and the timeline."""
    match power:
        case None | ManualPower():
            return "by hand"
        case CommandPower():
            return f"the commands '{shlex.join(power.on)}' and '{shlex.join(power.off)}'"
        case TasmotaPower():
            return f"output {power.output} of the Tasmota device at {power.url}"
        case ShellyPower():
            return f"channel {power.channel} of the Shelly device at {power.url}"
        case SnmpPoePower():
            version = "2c" if power.user is None else "3"
            return f"PoE port {power.group}.{power.port} of the switch {power.host}, SNMP {version}"
        case _:
            assert_never(power)


def is_switchable(power: PowerSpec | None) -> bool:
    """Whether a program can switch it."""
    return power is not None and not isinstance(power, ManualPower)
