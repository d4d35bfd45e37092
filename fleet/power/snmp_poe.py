"""PoE switches: the port's power over SNMP (RFC 3621, POWER-ETHERNET-MIB).

    1.3.6.1.2.1.105.1.1.1.3.<group>.<port>  pethPsePortAdminEnable      true(1), false(2); written
    1.3.6.1.2.1.105.1.1.1.6.<group>.<port>  pethPsePortDetectionStatus  disabled(1), searching(2),
                                            deliveringPower(3), fault(4), test(5), otherFault(6); read

A port counts as off when it is disabled and delivers nothing: some switches answer the write before the
relay opens. One that is enabled counts as on, whether or not a board draws power yet.

pysnmp is imported when a port is asked for the first time: it takes 24 MB that other servers do not need.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from fleet.power.driver import PowerError, PowerState
from fleet.power.secrets import read_secret
from fleet.spec.power import SnmpAuth, SnmpPoePower, SnmpPrivacy, SnmpUser

PORT_ENTRY: Final = (1, 3, 6, 1, 2, 1, 105, 1, 1, 1)
ADMIN_ENABLE: Final = 3
DETECTION_STATUS: Final = 6
TRUE, FALSE = 1, 2
"""TruthValue of SNMPv2-TC (RFC 2579)."""
DELIVERING_POWER: Final = 3
TIMEOUT_S: Final = 2.0
RETRIES: Final = 2
"""UDP: a lost datagram is no answer. Neither asking nor setting a value again changes anything."""
DEADLINE_S: Final = 10.0
"""For one question with its retries, and SNMPv3's discovery before it."""
_FAULTS: Final = {4: "a fault", 6: "a fault of another kind"}


class SnmpPoeDriver:
    """One port of one switch."""

    def __init__(self, power: SnmpPoePower, environ: Mapping[str, str]) -> None:
        self._power = power
        self._environ = environ
        self._what = f"the switch {power.host}, port {power.group}.{power.port}"

    async def on(self) -> None:
        await self._set(TRUE)

    async def off(self) -> None:
        await self._set(FALSE)

    async def state(self) -> PowerState:
        admin, detection = await self._ask(ADMIN_ENABLE, None), await self._ask(DETECTION_STATUS, None)
        if admin not in (TRUE, FALSE):
            raise PowerError(
                f"{self._what}: pethPsePortAdminEnable is {admin}, 1 or 2 was expected",
                "The switch does not keep to RFC 3621; use another driver.",
            )
        if detection in _FAULTS:
            raise PowerError(
                f"{self._what} reports {_FAULTS[detection]}: it gives no power whatever it is told",
                "Look at the cable, the board's PoE HAT, and the switch's power budget.",
            )
        is_off = admin == FALSE and detection != DELIVERING_POWER
        return PowerState.OFF if is_off else PowerState.ON

    async def _set(self, value: int) -> None:
        found = await self._ask(ADMIN_ENABLE, value)
        if found != value:
            raise PowerError(
                f"{self._what}: pethPsePortAdminEnable was set to {value} and is {found}",
                "Is the port governed by something else, like a power budget or a schedule?",
            )

    async def _ask(self, column: int, value: int | None) -> int:
        """GET a column of the port's row, or SET it where `value` is given; the integer of the answer."""
        from pysnmp import error as snmp_error
        from pysnmp.hlapi.v3arch import asyncio as snmp

        power = self._power
        name = snmp.ObjectIdentity((*PORT_ENTRY, column, power.group, power.port))
        binding = snmp.ObjectType(name) if value is None else snmp.ObjectType(name, snmp.Integer32(value))
        who = self._credentials(snmp)
        engine = snmp.SnmpEngine()
        try:
            async with asyncio.timeout(DEADLINE_S):
                place = await snmp.UdpTransportTarget.create(
                    (power.host, power.udp_port), timeout=TIMEOUT_S, retries=RETRIES
                )
                call = snmp.get_cmd if value is None else snmp.set_cmd
                failure, status, _index, bindings = await call(
                    engine, who, place, snmp.ContextData(), binding, lookupMib=False
                )
        except TimeoutError as error:
            raise self._silent() from error
        except (snmp_error.PySnmpError, OSError) as error:
            # Its text may hold what was sent.
            raise PowerError(
                f"{self._what} can not be asked: {type(error).__name__}",
                "Check 'host' and 'udp_port' in cluster.yaml; passwords of SNMP users have 8 signs or more.",
            ) from None
        finally:
            engine.close_dispatcher()
        if failure is not None:
            raise self._failed(type(failure).__name__)
        if int(status):
            raise self._refused(status.prettyPrint(), is_write=value is not None)
        found = bindings[0][1]
        try:
            return int(found)
        except (TypeError, ValueError, AttributeError):
            raise PowerError(
                f"{self._what} does not know pethPsePort column {column} ({type(found).__name__})",
                "Is it a PoE port, and is 'group' right? Many switches have one group, a stack has several.",
            ) from None

    def _credentials(self, snmp: Any) -> Any:
        power = self._power
        if power.user is not None:
            return self._user(snmp, power.user)
        if power.community is None:
            raise PowerError(f"{self._what} has neither community nor user", "Add one in cluster.yaml.")
        community = read_secret(power.community, self._environ)
        return snmp.CommunityData(community.reveal(), mpModel=1)

    def _user(self, snmp: Any, user: SnmpUser) -> Any:
        auth = {
            SnmpAuth.MD5: snmp.USM_AUTH_HMAC96_MD5,
            SnmpAuth.SHA: snmp.USM_AUTH_HMAC96_SHA,
            SnmpAuth.SHA256: snmp.USM_AUTH_HMAC192_SHA256,
            SnmpAuth.SHA512: snmp.USM_AUTH_HMAC384_SHA512,
        }
        privacy = {
            SnmpPrivacy.DES: snmp.USM_PRIV_CBC56_DES,
            SnmpPrivacy.AES: snmp.USM_PRIV_CFB128_AES,
            SnmpPrivacy.AES256: snmp.USM_PRIV_CFB256_AES_BLUMENTHAL,
        }
        words: dict[str, Any] = {
            "authKey": read_secret(user.auth_password, self._environ).reveal(),
            "authProtocol": auth[user.auth],
        }
        if user.privacy is not None and user.privacy_password is not None:
            words["privKey"] = read_secret(user.privacy_password, self._environ).reveal()
            words["privProtocol"] = privacy[user.privacy]
        return snmp.UsmUserData(user.name, **words)

    def _silent(self) -> PowerError:
        secret = "the community" if self._power.user is None else "the user"
        return PowerError(
            f"{self._what} did not answer: SNMP is off there, {secret} is wrong, or this machine may not ask",
            "Switches drop what they do not accept without a word: look at its SNMP settings.",
        )

    def _failed(self, kind: str) -> PowerError:
        if kind == "RequestTimedOut":
            return self._silent()
        return PowerError(
            f"{self._what} refuses the SNMP user: {kind}",
            "Check 'user', 'auth', 'privacy' and the two passwords against the switch's.",
        )

    def _refused(self, status: str, *, is_write: bool) -> PowerError:
        if is_write:
            return PowerError(
                f"{self._what} does not let it be switched ({status})",
                "The community or user needs write access to POWER-ETHERNET-MIB.",
            )
        return PowerError(
            f"{self._what} does not tell ({status})", "Is it a PoE port? Check 'group' and 'port'."
        )
