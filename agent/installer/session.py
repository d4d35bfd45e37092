"""The installer's talk with the control server: be admitted, get the plan, say that it is done."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from agent.backoff import Backoff
from agent.client import ControlClient, Refused, Unreachable, Untrusted
from agent.device_key import ProveDevice, prove_nothing
from agent.errors import AgentError
from agent.proofs import fingerprint
from agent.protocol import (
    OCCUPIED,
    PROTOCOL_VERSION,
    Hardware,
    Hello,
    InstallComplete,
    InstallPlan,
    InstallProgress,
    Outcome,
    Proof,
    ProofKind,
    Stage,
    Verdict,
    Welcome,
)

_T = TypeVar("_T")

SESSION_LOST = "session"
"""Error code of a `prove` whose `hello` the server does not know any more."""
WAIT = frozenset({429, 503})
"""The server asks for patience: too many requests, or it can not keep its records for now."""
MIN_RETRY_S, MAX_RETRY_S = 1.0, 300.0
CONTROL_PATIENCE_S = 15 * 60.0
"""How long the installer tries to reach the control server; then it reboots, in case its network is another
one."""
COMPLETE_PATIENCE_S = 10 * 60.0


@dataclass(frozen=True, slots=True)
class SessionKey:
    """A random key of this power-on; its hash is what a person compares on the console."""

    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.secret).hexdigest()

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.sha256)


class InstallSession:
    """Owns the conversation, not the client.

    Args:
        say: prints a line on the board's console.
        sleep, clock: seconds; injected by tests.
        keep_address: called before each wait: an approval, or a server that is away, may take days.
        prove_device: has the board's firmware sign the conversation; None where it can not.
        boot_arg1: what the board was restarted with; None where it has no such register.
    """

    def __init__(
        self,
        client: ControlClient,
        hardware: Hardware,
        *,
        intent: int,
        boot_id: str,
        say: Callable[[str], None],
        sleep: Callable[[float], None],
        clock: Callable[[], float],
        backoff: Backoff | None = None,
        keep_address: Callable[[], None] = lambda: None,
        prove_device: ProveDevice = prove_nothing,
        boot_arg1: int | None = None,
    ) -> None:
        self._client = client
        self._hardware = hardware
        self._intent = intent
        self._boot_id = boot_id
        self._say = say
        self._sleep = sleep
        self._clock = clock
        self._backoff = backoff or Backoff(first_s=1.0, cap_s=20.0)
        self._keep_address = keep_address
        self._prove_device = prove_device
        self._boot_arg1 = boot_arg1
        self._key = SessionKey()

    def be_admitted(self) -> Verdict:
        """Ask until the server admits the board; the client carries its token from then on.

        Raises:
            AgentError: rejected, or the server is not reachable for `CONTROL_PATIENCE_S`.
        """
        said_waiting = False
        while True:
            verdict = self._persist(self._ask, CONTROL_PATIENCE_S)
            if verdict.outcome is Outcome.ADMITTED and verdict.token:
                self._client.token = verdict.token
                self._say(f"admitted as {verdict.node or 'a node'}: {verdict.reason}")
                return verdict
            if verdict.outcome is not Outcome.PENDING:
                raise AgentError(
                    f"the control server does not admit this board: {verdict.reason}",
                    "See 'bramble nodes'; this board's serial is " + self._hardware.serial + ".",
                )
            if not said_waiting:
                self._say(f"waiting for approval, fingerprint {self._key.fingerprint} ({verdict.reason})")
                self._say(f"approve with: bramble approve {verdict.node or self._hardware.serial}")
                said_waiting = True
            self._keep_address()
            self._sleep(min(max(verdict.retry_after_s, MIN_RETRY_S), MAX_RETRY_S))

    def fetch_plan(self) -> InstallPlan:
        """The plan of this board's intent.

        Raises:
            AgentError: the server closed the intent, or its plan is for another one.
        """
        plan = self._persist(lambda: self._client.get("/v1/install/plan", InstallPlan), CONTROL_PATIENCE_S)
        if plan.intent != self._intent:
            raise AgentError(
                f"the server's plan is for intent {plan.intent}, this board booted for {self._intent}",
                "The boot files are stale; the board starts again and gets new ones.",
            )
        return plan

    def may_overwrite(self, found: InstallProgress) -> bool:
        """Tell the server what the disk holds, and wait for its word: without one nothing is changed.

        Returns:
            False when a person must decide first; the board has to be admitted anew.

        Raises:
            AgentError: the install is over, or the server is not reachable for `CONTROL_PATIENCE_S`.
        """
        try:
            self._persist(lambda: self._client.send("/v1/install/progress", found), CONTROL_PATIENCE_S)
        except Refused as exc:
            if exc.error != OCCUPIED:
                raise
            self._say(f"the disk is left as it is: {exc.message}")
            self._say(exc.hint)
            return False
        return True

    def complete(self, report: InstallComplete) -> None:
        """Tell the server; one that refuses, is away or shows another key keeps no board from its disk."""
        try:
            self._persist(lambda: self._client.send("/v1/install/complete", report), COMPLETE_PATIENCE_S)
        except Refused as exc:
            self._say(f"the server did not take the completion report: {exc.message}")
        except (Unreachable, Untrusted) as exc:
            self._say(f"the server could not be told that the install is complete: {exc.message}")

    def _ask(self) -> Verdict:
        hello = Hello(
            protocol=PROTOCOL_VERSION,
            stage=Stage.INSTALLER,
            hardware=self._hardware,
            boot_id=self._boot_id,
            key_sha256=self._key.sha256,
            client_nonce=secrets.token_hex(32),
            intent=self._intent,
            boot_arg1=self._boot_arg1,
        )
        welcome = self._client.post("/v1/hello", hello, Welcome)
        proof = Proof(
            session=welcome.session,
            kind=ProofKind.NONE,
            installer_key=self._key.secret.hex(),
            device=self._prove_device(hello, welcome),
        )
        return self._client.post("/v1/prove", proof, Verdict)

    def _persist(self, call: Callable[[], _T], patience_s: float) -> _T:
        """Repeat a call while the server is away, tells us to slow down, or lost our session in a restart."""
        deadline = self._clock() + patience_s
        for delay_s in self._backoff.delays():
            try:
                return call()
            except (Unreachable, Refused) as exc:
                if isinstance(exc, Refused) and exc.status not in WAIT and exc.error != SESSION_LOST:
                    raise
                if self._clock() + delay_s > deadline:
                    raise
                self._say(f"{exc.message}; trying again in {delay_s:.0f} s")
                self._keep_address()
                self._sleep(delay_s)
        raise AgentError("the waiting times ended", "This is a bug of the installer.")
