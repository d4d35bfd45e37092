"""Smart plugs: the drivers against devices that speak, refuse, hang and lie."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest
from power_devices import Fault, Plug, ShellyGen1, ShellyGen2, Tasmota, flood, hang, say, serving, trickle

from fleet.power import http_device
from fleet.power.driver import PowerDriver, PowerError, PowerState
from fleet.power.shelly import ShellyDriver
from fleet.power.tasmota import TasmotaDriver
from fleet.spec.power import SecretPlace, ShellyPower, TasmotaPower

pytestmark = pytest.mark.integration

PASSWORD = "s3cret word&=?"
ENVIRON: Mapping[str, str] = {"PLUG": PASSWORD, "OTHER": "wrong-one"}
KINDS: tuple[type[Plug], ...] = (Tasmota, ShellyGen1, ShellyGen2)


def driver_for(plug: Plug, url: str, *, number: int, variable: str | None = None) -> PowerDriver:
    password = SecretPlace(variable=variable) if variable else None
    if isinstance(plug, Tasmota):
        return TasmotaDriver(TasmotaPower(url=url, output=number, password=password), ENVIRON)
    return ShellyDriver(ShellyPower(url=url, channel=number, password=password), ENVIRON)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> type[Plug]:
    chosen: type[Plug] = request.param
    return chosen


@pytest.mark.parametrize("password", [None, PASSWORD], ids=["open", "password"])
def test_outlet_is_switched_and_asked_and_no_other_one_is_touched(
    kind: type[Plug], password: str | None
) -> None:
    first = 1 if kind is Tasmota else 0
    plug = kind({first: True, first + 1: True, first + 2: False}, password=password)
    mine = first + 1

    async def scene() -> None:
        async with serving(plug) as url:
            driver = driver_for(plug, url, number=mine, variable="PLUG" if password else None)
            assert await driver.state() is PowerState.ON
            await driver.off()
            assert await driver.state() is PowerState.OFF
            await driver.off()
            await driver.on()
            assert await driver.state() is PowerState.ON

    asyncio.run(scene())
    assert plug.switched == [(mine, False), (mine, False), (mine, True)]
    assert plug.outputs == {first: True, mine: True, first + 2: False}


def test_tasmota_with_one_output_leaves_its_number_out() -> None:
    plug = Tasmota({1: False})

    async def scene() -> PowerState:
        async with serving(plug) as url:
            driver = driver_for(plug, url, number=1)
            await driver.on()
            return await driver.state()

    assert asyncio.run(scene()) is PowerState.ON


@pytest.mark.parametrize("variable", [None, "OTHER"], ids=["no password", "wrong password"])
def test_refused_password_is_said_and_never_shown(kind: type[Plug], variable: str | None) -> None:
    plug = kind({1: True}, password=PASSWORD)
    error = _fails(plug, "off", variable=variable)
    assert "password" in error.message
    assert "wrong-one" not in str(error)
    assert PASSWORD not in str(error)
    assert plug.switched == []


def test_output_that_the_device_has_not_is_refused(kind: type[Plug]) -> None:
    plug = kind({1: True})
    error = _fails(plug, "off", number=7)
    assert "output" in str(error) or "channel" in str(error)
    assert plug.outputs == {1: True}


def test_relay_that_says_yes_and_does_nothing_is_noticed(kind: type[Plug]) -> None:
    plug = kind({1: True}, stuck=True)
    assert "says" in _fails(plug, "off").message


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (hang, "did not answer within"),
        (trickle, "did not answer within"),
        (flood, "more than 65536 bytes"),
        (say(302, b"", Location="http://elsewhere.example/steal?x=1"), "elsewhere.example"),
        (say(302, b"", Location="http://[none"), "no address"),
        (say(200, b"<html>router login</html>"), "no JSON object"),
        (say(200, b"[1, 2]"), "no JSON object"),
        (say(200, b'{"POWER1": "MAYBE", "gen": "two"}'), "says"),
        (say(200, b"{" * 50_000), "no JSON object"),
        (say(500, b'{"message": "out of memory"}'), "out of memory"),
        (say(204, b""), "status 204"),
        (say(403, b"no"), "password"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_answer_that_is_none_is_an_error_in_words(
    kind: type[Plug], fault: Fault, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_device, "TIMEOUT_S", 0.3 if fault in (hang, trickle) else 60.0)
    plug = kind({1: True}, fault=fault)
    error = _fails(plug, "off")
    assert words in error.message or "does not say" in error.message
    assert error.hint


def test_redirect_is_not_followed_with_the_password(kind: type[Plug]) -> None:
    caught = kind({1: True})
    plug = kind({1: True})

    async def scene() -> None:
        async with serving(caught) as elsewhere, serving(plug) as url:
            plug.fault = say(307, b"", Location=f"{elsewhere}/cm")
            with pytest.raises(PowerError):
                await driver_for(plug, url, number=1, variable="PLUG").on()

    asyncio.run(scene())
    assert caught.asked == []


def test_device_that_is_gone_is_an_error_that_names_it(kind: type[Plug]) -> None:
    plug = kind({1: True})

    async def scene() -> PowerError:
        async with serving(plug) as url:
            pass
        with pytest.raises(PowerError) as caught:
            await driver_for(plug, url, number=1, variable="PLUG").state()
        assert url in caught.value.message
        return caught.value

    error = asyncio.run(scene())
    assert "can not be reached" in error.message
    assert PASSWORD not in str(error)
    assert "s3cret" not in str(error)


def test_password_comes_from_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    plug = ShellyGen2({0: True}, password=PASSWORD)
    file = tmp_path / "plug"
    file.write_text(f"{PASSWORD}\n")
    file.chmod(0o600)

    async def scene() -> None:
        async with serving(plug) as url:
            driver = ShellyDriver(ShellyPower(url=url, channel=0, password=SecretPlace(file)), {})
            await driver.off()
            file.chmod(0o644)
            with pytest.raises(PowerError, match="chmod 600"):
                await driver.on()
            file.unlink()
            with pytest.raises(PowerError, match="No such file"):
                await driver.on()

    asyncio.run(scene())
    assert plug.outputs == {0: False}


def _fails(plug: Plug, what: str, *, number: int = 1, variable: str | None = None) -> PowerError:
    async def scene() -> PowerError:
        async with serving(plug) as url:
            driver = driver_for(plug, url, number=number, variable=variable)
            with pytest.raises(PowerError) as caught:
                await getattr(driver, what)()
            return caught.value

    return asyncio.run(scene())
