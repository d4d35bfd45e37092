"""The agent on disk: observe, plan, apply, report; for ever.

The loop has one thread and no state of its own beyond what `agent.state` keeps and the last answer of the
server. A control server that is away changes nothing on the node: k3s runs on, the loop asks again with
growing pauses.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

from agent.actions import adopt, configure, finish_join, place_material, require_own, start_unit
from agent.backoff import Backoff
from agent.client import AuthorityTrust, ControlClient, Refused, Unreachable, Untrusted
from agent.device_key import DeviceKey
from agent.duties import RESTORE_INTERVAL_S, Duties, Place
from agent.enrol import Applicant, Identity, ask, read_boot_id
from agent.errors import AgentError
from agent.files import disk_errors
from agent.hardware import read_hardware
from agent.health import Places, read_health
from agent.host import RELEASE_VARIABLE, Host, own_digest
from agent.join_gates import find_gates
from agent.k3s import K3s
from agent.membership import put_damaged_aside
from agent.notes import Notes
from agent.notify import ServiceManager, parse_environment
from agent.orders import DESIRED, SignedOrder
from agent.plan import (
    Action,
    Adopt,
    Configure,
    DoErrand,
    Enrol,
    FetchDesired,
    FinishJoin,
    ForgetTicket,
    Join,
    MarkDone,
    Observed,
    Reboot,
    Renew,
    StartK3s,
    Update,
    WriteEeprom,
    newer,
    plan,
    problem_code,
)
from agent.proofs import fingerprint
from agent.protocol import (
    NOT_JOINING,
    Desired,
    JoinMaterial,
    K3sState,
    Outcome,
    Problem,
    ProofKind,
    StatusAccepted,
    Verdict,
)
from agent.reports import Reports
from agent.state import JoinRecord, NodeConfig, StateStore, forget_ticket, load_node_config
from agent.timekeeper import Timekeeper
from agent.trusted import TrustedAuthorities
from agent.verify import OrderVerifier

log = logging.getLogger("bramble.agent")

MAX_INTERVAL_S = 300.0
MAX_RETRY_S = 60.0
"""Between two attempts while no server answers: so long after one is back it has heard of this node."""
REJECTED_PAUSE_S = 120.0
RENEWAL_RETRY_S = 3600.0
REREAD_S = 60.0
"""Between two readings of an order that this disk can not follow: the server may have thought anew."""
MAX_ROUNDS = 8
"""Rounds of plan and apply before a report goes out: one order leads to the next without waiting an
interval."""
MAX_HURRIED = 8
"""Turns without a pause: one order leads to the next, but no server has so many."""
CERTIFICATE_UNKNOWN = 401
"""The server does not know the certificate (any more): enrol again, with what proof there is."""


class _Waiting(AgentError):
    """Nothing more can be done now; `delay_s` says when to look again."""

    def __init__(self, message: str, delay_s: float) -> None:
        super().__init__(message)
        self.delay_s = delay_s


class Service:
    """The loop. Owns the client, the identity and the state file."""

    def __init__(
        self, config: NodeConfig, host: Host, manager: ServiceManager, *, backoff: Backoff | None = None
    ) -> None:
        self._config = config
        self._host = host
        self._manager = manager
        self._backoff = backoff or Backoff(first_s=2.0, cap_s=MAX_RETRY_S)
        self._delays: Iterator[float] | None = None
        self._hurries: Iterator[float] | None = None
        self._store = StateStore(host.state_directory)
        self._identity = Identity(host.state_directory, host.run)
        self._device_key = DeviceKey(host.run)
        self._authorities = TrustedAuthorities(host.state_directory, config.ca_pem)
        self._client = ControlClient(config.control_urls, AuthorityTrust(ca_pem=self._authorities.pem))
        self._k3s = K3s(config.role, host.run, host.root)
        self._boot_id = read_boot_id(host.root)
        self._hardware = read_hardware(host.root)
        self._reports = Reports(config, host, self._k3s, hardware=self._hardware, boot_id=self._boot_id)
        self._notes = Notes()
        self._duties = Duties(
            OrderVerifier(host.run, self._authorities, config.node),
            self._client,
            self._store,
            Place(
                host.state_directory,
                host.run,
                self._hardware,
                host.release,
                config.remote_run,
                host.ring,
                host.root,
            ),
            self._notes.add,
        )
        self._enrolled = False
        self._renew_at = float("inf")
        self._renew_again_at = float("-inf")
        self._newest_generation = 0
        self._newest_eeprom = 0
        self._newest_update = 0
        self._newest_errand = 0
        self._newest_reboot = 0
        self._timekeeper = Timekeeper(host, self._client, self._notes.add)
        self._places = Places.find(host.root)
        self._reread_at = 0.0
        self._stop = threading.Event()

    def stop(self) -> None:
        """End the loop after the call that is under way. Safe in a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Serve until `stop`."""
        self._start()
        self._manager.tell("READY=1", "STATUS=starting")
        try:
            while not self._stop.is_set():
                self._wait(self._turn())
        finally:
            self._manager.tell("STOPPING=1")
            self._client.close()

    def _start(self) -> None:
        with contextlib.suppress(OSError):
            self._host.state_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._store.load()
        if self._store.damaged:
            self._notes.add(
                "state_damaged", "state.json was damaged, an older copy is used", "Check the disk (dmesg)."
            )
        self._duties.begin()
        self._note_identity()

    def _note_identity(self) -> None:
        self._enrolled = self._identity.is_enrolled()
        self._renew_at = self._identity.renewal_due_at() if self._enrolled else float("inf")

    def _turn(self) -> float:
        """One pass: returns the seconds until the next."""
        delay_s = self._try_work()
        if delay_s > 0:
            self._hurries = None
            return delay_s
        # A server that contradicts itself, or forgets whom it has let in, is not asked without a pause.
        hurries = self._hurries = self._hurries or itertools.chain(
            [0.0] * MAX_HURRIED, self._backoff.delays()
        )
        return next(hurries)

    def _try_work(self) -> float:
        self._manager.tell("WATCHDOG=1")
        try:
            with disk_errors():
                delay_s = self._work()
        except _Waiting as exc:
            self._status(exc.message)
            return exc.delay_s
        except AgentError as exc:
            if isinstance(exc, Refused) and exc.status == CERTIFICATE_UNKNOWN and self._enrolled:
                self._enrolled = False
                self._status(f"{exc.message}; enrolling again")
                return 0.0
            self._delays = self._delays or self._backoff.delays()
            delay_s = next(self._delays)
            self._status(f"{exc.message}; trying again in {delay_s:.0f} s")
            return delay_s
        self._delays = None
        return delay_s

    def _work(self) -> float:
        self._renew_trust()
        problems: list[Problem] = []
        waiting: _Waiting | None = None
        for _ in range(MAX_ROUNDS):
            observed = self._observe()
            actions = plan(observed)
            if not actions or self._stop.is_set():
                break
            try:
                if not self._apply_all(actions, problems):
                    break
            except _Waiting as exc:
                if not self._enrolled:
                    raise
                waiting = exc  # the server is to hear of this node all the same
                break
            self._manager.tell("WATCHDOG=1")
        observed = self._observe()
        accepted = self._report(observed, problems)
        self._timekeeper.compare()
        behind = self._store.count_on_from(accepted.sequence)  # the report went unheard: say it again
        behind |= accepted.generation > (observed.desired.generation if observed.desired else 0)
        self._newest_generation = max(self._newest_generation, accepted.generation)
        behind |= accepted.eeprom > self._store.state.eeprom
        self._newest_eeprom = accepted.eeprom
        behind |= accepted.update > self._store.state.update
        self._newest_update = accepted.update
        behind |= accepted.errand > self._duties.done_errand
        self._newest_errand = accepted.errand
        behind |= accepted.reboot > self._store.state.reboot
        self._newest_reboot = accepted.reboot
        self._duties.restart_if_due(accepted.reboot)
        if waiting is not None:
            raise waiting
        self._status(
            f"{self._config.node}: k3s {observed.k3s.value}, order {self._store.state.generation} done"
        )
        if behind and not problems:
            return 0.0
        return min(max(accepted.interval_s, self._host.min_interval_s), MAX_INTERVAL_S)

    def _observe(self) -> Observed:
        state = self._store.state
        wrong_clock = self._timekeeper.find_problem()
        k3s = self._k3s.state()
        waits = k3s is not K3sState.RUNNING and state.desired is not None and state.desired.join
        return Observed(
            enrolled=self._enrolled,
            has_ticket=self._config.ticket is not None,
            renewal_due=self._is_renewal_due() and wrong_clock is None,
            k3s=k3s,
            gates=self._gates(wrong_clock) if waits else (),
            desired=state.desired,
            newest_generation=self._newest_generation,
            done_generation=state.generation,
            newest_eeprom=self._newest_eeprom,
            done_eeprom=state.eeprom,
            newest_update=self._newest_update,
            done_update=state.update,
            newest_errand=self._newest_errand,
            done_errand=self._duties.done_errand,
            newest_reboot=self._newest_reboot,
            done_reboot=state.reboot,
            join=state.join,
            has_joined=state.join is None and self._k3s.has_joined(),
            reread_due=self._host.monotonic() >= self._reread_at,
        )

    def _is_renewal_due(self) -> bool:
        return self._host.now() >= self._renew_at and self._host.monotonic() >= self._renew_again_at

    def _apply_all(self, actions: tuple[Action, ...], problems: list[Problem]) -> bool:
        """Carry the actions out; False when one failed and planning again would only repeat it.

        A call that fails is a problem to report like others: only the report itself tells whether the server
        is away. Neither what a person ordered beside the desired state nor a used ticket that a read-only
        disk keeps holds up what is behind it.
        """
        done = True
        for action in actions:
            self._manager.tell("WATCHDOG=1")
            try:
                with disk_errors():
                    self._apply(action)
            except (_Waiting, Untrusted):
                raise
            except AgentError as exc:
                if isinstance(exc, Unreachable) and isinstance(action, Enrol | Renew):
                    raise
                log.error("%s failed: %s", type(action).__name__, exc.message)
                problems.append(Problem(problem_code(action), exc.message, exc.hint))
                if isinstance(action, Enrol):
                    raise
                done = False
                if not isinstance(action, ForgetTicket | WriteEeprom | DoErrand | Reboot):
                    break
        return done

    def _apply(self, action: Action) -> None:
        log.info("doing %s", type(action).__name__)
        state = self._store.state
        if isinstance(action, Enrol):
            self._enrol()
        elif isinstance(action, ForgetTicket):
            forget_ticket(self._host.node_file)
            self._config = dataclasses.replace(self._config, ticket=None)
        elif isinstance(action, Renew):
            self._renew()
        elif isinstance(action, WriteEeprom):
            self._duties.write_eeprom()
        elif isinstance(action, Reboot):
            self._duties.reboot()
        elif isinstance(action, DoErrand):
            self._duties.do_errand(action.number)
        elif isinstance(action, Update):
            if self._duties.update():
                self._status("another release of the agent takes over")
                self._stop.set()
        elif isinstance(action, FetchDesired):
            self._reread_at = self._host.monotonic() + REREAD_S
            signed = self._client.get("/v1/node/desired", SignedOrder)
            offered = self._duties.orders.open(signed, DESIRED, Desired)
            known = state.desired
            is_same = known is not None and known.generation == offered.generation
            kept = offered if action.again and is_same else newer(known, offered)
            if kept != known:
                self._store.save(dataclasses.replace(state, desired=kept))
            self._newest_generation = offered.generation
        elif isinstance(action, Join):
            material = self._fetch_material()
            require_own(material, self._config.node, self._k3s.unit)
            put_damaged_aside(self._host.root)
            record = place_material(self._host.root, self._host.run, material, restart=action.restart)
            # The order's number, not the material's: a server that lags behind must not make us join twice.
            record = dataclasses.replace(record, generation=action.generation)
            waits = self._duties.restore(material.restore, self._host.root)
            if waits:
                raise _Waiting(waits, RESTORE_INTERVAL_S)
            self._start_k3s(record)
        elif isinstance(action, Adopt):
            record = adopt(self._host.root, self._k3s.unit, action.generation, action.files)
            self._store.save(dataclasses.replace(state, join=record))
        elif isinstance(action, StartK3s):
            self._start_k3s(action.record)
        elif isinstance(action, FinishJoin):
            finish_join(self._host.root, action.record)
            cleaned = dataclasses.replace(action.record, cleaned=True, files_after_ready=(), pending="")
            self._store.save(dataclasses.replace(state, join=cleaned))
        elif isinstance(action, Configure) and state.join is not None:
            configure(self._host.root, self._host.run, state.join, action.files, restart=action.restart)
        elif isinstance(action, MarkDone):
            self._store.save(dataclasses.replace(state, generation=action.generation))

    def _fetch_material(self) -> JoinMaterial:
        try:
            return self._client.post("/v1/node/join-material", None, JoinMaterial)
        except Refused as exc:
            if exc.error == NOT_JOINING:  # the order is of before the node was Ready: read the present one
                self._store.save(dataclasses.replace(self._store.state, desired=None))
            raise

    def _start_k3s(self, record: JoinRecord) -> None:
        """Noted before and after: a record that is not on the disk is a join that would be begun again."""
        record = dataclasses.replace(record, started_at=self._host.now())
        self._store.save(dataclasses.replace(self._store.state, join=record))
        start_unit(self._host.run, record)
        record = dataclasses.replace(record, pending="")
        self._store.save(dataclasses.replace(self._store.state, join=record))

    def _enrol(self) -> None:
        ticket = self._config.ticket
        verdict = self._ask(ProofKind.TICKET if ticket else ProofKind.NONE, ticket)
        if verdict.outcome is not Outcome.ENROLLED:
            # A certificate that the server did not know may be known again (restored database): try it first.
            self._note_identity()
        if verdict.outcome is Outcome.PENDING:
            shown = fingerprint(self._identity.key_sha256())
            pause_s = min(max(verdict.retry_after_s, self._host.min_interval_s), MAX_INTERVAL_S)
            raise _Waiting(f"waiting for approval, fingerprint {shown}: {verdict.reason}", pause_s)
        if verdict.outcome is not Outcome.ENROLLED:
            raise _Waiting(f"the control server rejects this node: {verdict.reason}", REJECTED_PAUSE_S)
        self._note_identity()
        if not self._enrolled:
            raise AgentError("the new certificate can not be used", "Is openssl installed on the node?")
        self._renew_trust()

    def _renew(self) -> None:
        # Not by the clock that is compared with the certificate's: it may be set back by years.
        self._renew_again_at = self._host.monotonic() + RENEWAL_RETRY_S
        verdict = self._ask(ProofKind.PREVIOUS, None)
        if verdict.outcome is not Outcome.ENROLLED:
            raise AgentError(
                f"the certificate was not renewed: {verdict.reason}", "It is tried again in an hour."
            )
        self._note_identity()

    def _ask(self, kind: ProofKind, ticket: str | None) -> Verdict:
        applicant = Applicant(self._config.node, self._hardware, self._boot_id, self._reports.image_id)
        return ask(
            self._client,
            self._identity,
            applicant,
            kind=kind,
            ticket=ticket,
            on_server_time=self._timekeeper.compare,
            prove_device=self._device_key.prove,
            authorities=self._authorities,
        )

    def _report(self, observed: Observed, problems: list[Problem]) -> StatusAccepted:
        found = self._reports.find_problems(observed)
        try:
            sequence = self._store.next_sequence()
        except AgentError as exc:
            sequence = self._store.sequence
            found.append(Problem("state_not_saved", exc.message, exc.hint))
        status, noted = self._reports.compose(
            observed,
            self._store.state,
            self._notes,
            (*found, *problems),
            sequence=sequence,
            behind_s=self._timekeeper.behind_s,
        )
        self._manager.tell("WATCHDOG=1")  # a disk that hangs, and servers that do, would be too much together
        accepted = self._client.post("/v1/node/status", status, StatusAccepted)
        self._notes.told(noted)
        self._duties.was_heard()
        return accepted

    def _gates(self, wrong_clock: Problem | None) -> tuple[Problem, ...]:
        throttled = read_health(self._host.root, self._places).throttled
        return find_gates(self._host.root, wrong_clock, throttled)

    def _renew_trust(self) -> None:
        """The certificate once there is one; dates are checked as soon as the clock can be believed."""
        identity = self._identity if self._enrolled else None
        self._client.trust(
            AuthorityTrust(
                ca_pem=self._authorities.pem,
                certificate=identity.certificate if identity else None,
                key=identity.key if identity else None,
                check_time=self._timekeeper.is_trusted(),
            )
        )

    def _status(self, text: str) -> None:
        log.info("%s", text)
        self._manager.tell("WATCHDOG=1", f"STATUS={text.splitlines()[0] if text else ''}")

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        ping_s = self._manager.ping_interval_s
        while not self._stop.is_set():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return
            self._stop.wait(left_s if ping_s is None else min(left_s, ping_s))
            self._manager.tell("WATCHDOG=1")


def main() -> int:
    """Run under systemd until SIGTERM."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    host = Host(release=os.environ.get(RELEASE_VARIABLE) or own_digest())
    host.ring.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(host.ring)
    service = Service(load_node_config(host.node_file), host, parse_environment(dict(os.environ)))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    service.run()
    return 0
