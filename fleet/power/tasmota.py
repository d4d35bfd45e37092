"""Tasmota plugs: the `cm` command of their web server.

GET /cm?user=…&password=…&cmnd=Power<n> [On|Off] answers `{"POWER<n>": "ON"}`; a device with one output
leaves the number out. Without the right password it answers 401, or 200 with `{"WARNING": …}` in older
releases.

Source: Tasmota documentation, "Commands, with web requests" and "Power"; read 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fleet.power.driver import PowerError, PowerState
from fleet.power.http_device import HttpDevice
from fleet.power.secrets import read_secret
from fleet.spec.power import TasmotaPower

_STATES: Final = {"ON": PowerState.ON, "OFF": PowerState.OFF}


class TasmotaDriver:
    """One output of a Tasmota device."""

    def __init__(self, power: TasmotaPower, environ: Mapping[str, str]) -> None:
        self._power = power
        self._environ = environ
        self._device = HttpDevice(power.url, f"the Tasmota device at {power.url}")

    async def on(self) -> None:
        await self._switch("On", PowerState.ON)

    async def off(self) -> None:
        await self._switch("Off", PowerState.OFF)

    async def state(self) -> PowerState:
        return await self._command("")

    async def _switch(self, word: str, wanted: PowerState) -> None:
        found = await self._command(f" {word}")
        if found is not wanted:
            raise PowerError(
                f"{self._device.what} was told {word!r} and says that output {self._power.output} is {found}",
                "Is the output locked (PowerLock, interlock, a rule of the device)?",
            )

    async def _command(self, argument: str) -> PowerState:
        number = self._power.output
        query = {"cmnd": f"Power{number}{argument}"}
        if self._power.password is not None:
            password = read_secret(self._power.password, self._environ)
            query = {"user": self._power.user, "password": password.reveal(), **query}
        answer = await self._device.get("/cm", query)
        if "WARNING" in answer:
            raise PowerError(
                f"{self._device.what} refuses: the password is wrong, or it wants one",
                "Put its password into the file or the variable that 'power' in cluster.yaml names.",
            )
        names = (f"POWER{number}", "POWER") if number == 1 else (f"POWER{number}",)
        found = next((answer[name] for name in names if name in answer), None)
        if found not in _STATES:
            raise PowerError(
                f"{self._device.what} says nothing of output {number}",
                "Does it have this output, and is it a Tasmota device? Check 'output' and 'url'.",
            )
        return _STATES[found]
