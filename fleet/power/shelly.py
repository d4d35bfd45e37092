"""Shelly plugs and relays, of the first generation and of later ones.

    GET /shelly                               who it is; without a password on all of them
    gen 1   GET /relay/<n>[?turn=on|off]      {"ison": true, …}                 HTTP basic
    gen 2+  GET /rpc/Switch.Set?id=<n>&on=…   {"was_on": …}                     HTTP digest, SHA-256, RFC 7616
            GET /rpc/Switch.GetStatus?id=<n>  {"id": n, "output": true, …}

Source: Shelly API documentation, "Gen1, /relay" and "Gen2+, Switch", "Authentication"; read 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp

from fleet.power.driver import PowerError, PowerState
from fleet.power.http_device import HttpDevice
from fleet.power.secrets import read_secret
from fleet.spec.power import ShellyPower

GEN2_USER: Final = "admin"


@dataclass(frozen=True, slots=True)
class _Kind:
    is_rpc: bool
    wants_password: bool


class ShellyDriver:
    """One channel of a Shelly device."""

    def __init__(self, power: ShellyPower, environ: Mapping[str, str]) -> None:
        self._power = power
        self._environ = environ
        self._device = HttpDevice(power.url, f"the Shelly device at {power.url}")

    async def on(self) -> None:
        await self._switch(is_on=True)

    async def off(self) -> None:
        await self._switch(is_on=False)

    async def state(self) -> PowerState:
        return await self._state(await self._find_kind())

    async def _switch(self, *, is_on: bool) -> None:
        kind, channel = await self._find_kind(), self._power.channel
        if kind.is_rpc:
            query = {"id": str(channel), "on": str(is_on).lower()}
            await self._ask(kind, "/rpc/Switch.Set", query)
        else:
            await self._ask(kind, f"/relay/{channel}", {"turn": "on" if is_on else "off"})
        found = await self._state(kind)
        if found is not (PowerState.ON if is_on else PowerState.OFF):
            raise PowerError(
                f"{self._device.what} was told to switch channel {channel} {'on' if is_on else 'off'} and "
                f"says that it is {found}",
                "Did it trip (overpower, overtemperature)? Its own page says so.",
            )

    async def _state(self, kind: _Kind) -> PowerState:
        channel = self._power.channel
        if kind.is_rpc:
            found = (await self._ask(kind, "/rpc/Switch.GetStatus", {"id": str(channel)})).get("output")
        else:
            found = (await self._ask(kind, f"/relay/{channel}", {})).get("ison")
        if not isinstance(found, bool):
            raise PowerError(
                f"{self._device.what} does not say whether channel {channel} is on",
                "Does it have this channel? They count from 0.",
            )
        return PowerState.ON if found else PowerState.OFF

    async def _find_kind(self) -> _Kind:
        """Asked each time: an address may be another device's tomorrow."""
        told = await self._device.get("/shelly")
        generation = told.get("gen", 1 if isinstance(told.get("type"), str) else None)
        if not isinstance(generation, int) or isinstance(generation, bool):
            raise PowerError(
                f"{self._device.what} does not say that it is one",
                "Something else has its address; check 'url'.",
            )
        return _Kind(generation >= 2, bool(told.get("auth_en") or told.get("auth")))

    async def _ask(self, kind: _Kind, path: str, query: Mapping[str, str]) -> dict[str, object]:
        if self._power.password is None:
            if kind.wants_password:
                raise PowerError(
                    f"{self._device.what} wants a password, and none is declared",
                    "Add 'password_file' or 'password_env' to 'power' in cluster.yaml.",
                )
            return await self._device.get(path, query)
        password = read_secret(self._power.password, self._environ).reveal()
        if kind.is_rpc:
            digest = aiohttp.DigestAuthMiddleware(GEN2_USER, password)
            return await self._device.get(path, query, middlewares=(digest,))
        basic = aiohttp.encode_basic_auth(self._power.user, password)
        return await self._device.get(path, query, headers={"Authorization": basic})
