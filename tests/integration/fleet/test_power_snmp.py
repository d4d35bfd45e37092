"""PoE ports of a switch: the driver against net-snmp's agent, SNMP version 2c and 3."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from snmp_switch import AUTH, COMMUNITY, PRIVACY, READ_ONLY, USER, Switch, running_switch

from fleet.power import snmp_poe
from fleet.power.driver import PowerError, PowerState
from fleet.power.snmp_poe import SnmpPoeDriver
from fleet.spec.power import SecretPlace, SnmpAuth, SnmpPoePower, SnmpPrivacy, SnmpUser

pytestmark = pytest.mark.integration

ENVIRON = {
    **{"COMMUNITY": COMMUNITY, "READ_ONLY": READ_ONLY, "WRONG": "wrong-secret-7"},
    **{"AUTH": AUTH, "PRIVACY": PRIVACY},
}
V3 = SnmpUser(
    name=USER,
    auth=SnmpAuth.SHA256,
    auth_password=SecretPlace(variable="AUTH"),
    privacy=SnmpPrivacy.AES,
    privacy_password=SecretPlace(variable="PRIVACY"),
)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Switch]:
    with running_switch(tmp_path_factory.mktemp("switch")) as running:
        yield running


@pytest.fixture
def switch(agent: Switch) -> Switch:
    for key, row in {"1.1": (1, 3), "1.2": (1, 3), "1.3": (2, 1)}.items():
        agent.put(key, *row)
    return agent


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the agent's helper, a Python program, takes its time to start."""
    monkeypatch.setattr(snmp_poe, "TIMEOUT_S", 20.0)


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is going to answer."""
    monkeypatch.setattr(snmp_poe, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(snmp_poe, "RETRIES", 1)


SILENT = pytest.mark.usefixtures("_patient", "_impatient")


def power_of(switch: Switch, *, port: int = 2, community: str | None = "COMMUNITY") -> SnmpPoePower:
    place = SecretPlace(variable=community) if community else None
    return SnmpPoePower(
        host="127.0.0.1",
        group=1,
        port=port,
        udp_port=switch.port,
        community=place,
        user=None if community else V3,
    )


@pytest.mark.parametrize("community", ["COMMUNITY", None], ids=["version 2c", "version 3"])
def test_port_is_switched_and_no_other_one_is_touched(switch: Switch, community: str | None) -> None:
    async def scene() -> None:
        driver = SnmpPoeDriver(power_of(switch, community=community), ENVIRON)
        assert await driver.state() is PowerState.ON
        await driver.off()
        assert await driver.state() is PowerState.OFF
        assert switch.ports == {"1.1": [1, 3], "1.2": [2, 1], "1.3": [2, 1]}
        await driver.on()
        assert await driver.state() is PowerState.ON

    asyncio.run(scene())
    assert switch.ports == {"1.1": [1, 3], "1.2": [1, 3], "1.3": [2, 1]}


def test_port_that_is_disabled_and_still_delivers_is_not_off_yet(switch: Switch) -> None:
    switch.put("1.2", 2, 3)
    assert asyncio.run(SnmpPoeDriver(power_of(switch), ENVIRON).state()) is PowerState.ON


def test_enabled_port_without_a_board_counts_as_on(switch: Switch) -> None:
    switch.put("1.2", 1, 2)
    assert asyncio.run(SnmpPoeDriver(power_of(switch), ENVIRON).state()) is PowerState.ON


def test_port_with_a_fault_is_told_of(switch: Switch) -> None:
    switch.put("1.2", 1, 4)
    assert "a fault" in _fails(power_of(switch), "state").message


def test_write_that_changes_nothing_is_noticed(switch: Switch) -> None:
    """A port in a fault takes the order and stays as it is."""
    switch.put("1.2", 1, 4)

    async def scene() -> None:
        driver = SnmpPoeDriver(power_of(switch), ENVIRON)
        await driver.off()
        with pytest.raises(PowerError):
            await driver.state()

    asyncio.run(scene())


@SILENT
def test_wrong_community_is_a_switch_that_does_not_answer(switch: Switch) -> None:
    error = _fails(power_of(switch, community="WRONG"), "off")
    assert "did not answer" in error.message
    assert "community is wrong" in error.message
    assert "wrong-secret-7" not in str(error)
    assert switch.ports["1.2"] == [1, 3]


def test_community_that_may_only_read_can_not_switch(switch: Switch) -> None:
    error = _fails(power_of(switch, community="READ_ONLY"), "off")
    assert "does not let it be switched" in error.message
    assert "write access" in error.hint
    assert switch.ports["1.2"] == [1, 3]


@pytest.mark.parametrize(
    "user",
    [
        replace(V3, auth_password=SecretPlace(variable="WRONG")),
        replace(V3, privacy_password=SecretPlace(variable="WRONG")),
        replace(V3, name="nobody"),
        replace(V3, auth=SnmpAuth.SHA),
        replace(V3, privacy=None, privacy_password=None),
    ],
    ids=["auth password", "privacy password", "user", "auth protocol", "no privacy"],
)
def test_user_that_the_switch_does_not_take_is_said(switch: Switch, user: SnmpUser) -> None:
    error = _fails(replace(power_of(switch, community=None), user=user), "off")
    assert "user" in error.message or "does not let" in error.message
    assert "secret" not in str(error)
    assert switch.ports["1.2"] == [1, 3]


def test_port_that_is_none_is_refused(switch: Switch) -> None:
    assert "port" in str(_fails(power_of(switch, port=9), "state"))
    assert "port" in str(_fails(power_of(switch, port=9), "off"))


@SILENT
def test_host_that_is_not_there_is_an_error(switch: Switch) -> None:
    assert "did not answer" in _fails(replace(power_of(switch), udp_port=9), "state").message


def test_password_file_of_the_community(switch: Switch, tmp_path: Path) -> None:
    file = tmp_path / "community"
    file.write_text(f"{COMMUNITY}\n")
    file.chmod(0o600)
    power = replace(power_of(switch), community=SecretPlace(file))
    assert asyncio.run(SnmpPoeDriver(power, {}).state()) is PowerState.ON


def _fails(power: SnmpPoePower, what: str) -> PowerError:
    with pytest.raises(PowerError) as caught:
        asyncio.run(getattr(SnmpPoeDriver(power, ENVIRON), what)())
    return caught.value
