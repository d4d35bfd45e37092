"""Reports of many nodes in one transaction: the same outcome as one by one, durable before the answer."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fakes_fleet import Clock, Fleet, cluster_spec, hardware_of, node_spec, open_fleet, status_report

from agent.protocol import K3sState, Problem, Status, StatusAccepted
from fleet.health.conditions import BAD_SAMPLES, Condition
from fleet.health.desk import Held, held_by
from fleet.refusal import RefusedError
from fleet.secret import Secret
from fleet.spec.model import Role
from fleet.store.batch import BatchTransaction
from fleet.store.database import Store, StoreError
from fleet.store.documents import Document
from fleet.store.records import NodeRecord
from fleet.store.tables import nodes
from fleet.store.transaction import Transaction

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("backend")]

STATES = ("ready", "degraded", "lost", "joining", "failed-joining", "joining")
SERVERS = [node_spec(f"pi5-{number}", number, role=Role.SERVER) for number in (1, 2, 3)]
AGENTS = [node_spec(f"pi4-{number}", number) for number in range(4, 16)]
NODES = [*SERVERS, *AGENTS]
SPEC = cluster_spec(*NODES)


def enrolled(state: Path) -> Fleet:
    """Nodes in every state in which an agent reports, without the way there."""
    fleet = open_fleet(state, SPEC, Clock())
    now = fleet.clock()
    with fleet.store.write() as tx:
        for number, node in enumerate(NODES):
            values: dict[str, Any] = {
                "state": "ready" if node is SERVERS[0] else STATES[number % len(STATES)],
                "certificate": f"c{number}",
                "since": now,
                "progressed_at": now,
                "join_allowed": number % 3 == 0,
            }
            if number % 4 == 1:
                values["previous_certificate"] = f"old{number}"
            tx.connection.execute(sa.update(nodes).where(nodes.c.name == node.name).values(**values))
        tx.put_value("k3s.founder", SERVERS[0].name)
        tx.put_value("k3s.founded", SERVERS[0].name)
        tx.put_value(f"eeprom.{AGENTS[0].name}", '{"number": 3, "settings": {}}')
    return fleet


def rounds(seed: int) -> list[list[tuple[str, Status]]]:
    """What nodes send, round by round: most steady, some restarted, ill, repeating, or strangers."""
    dice = random.Random(seed)
    found = []
    for sequence in range(1, 7):
        reports = []
        for number, node in enumerate(NODES):
            report = status_report(
                hardware_of(node),
                dice.choice([sequence, sequence, sequence - 1]),
                boot_id=dice.choice(["boot-2", "boot-2", "boot-2", "boot-3"]),
                k3s=dice.choice([K3sState.RUNNING, K3sState.RUNNING, K3sState.FAILED]),
            )
            if dice.random() < 0.2:
                problem = Problem(dice.choice(["clock", "unreachable"]), "it is so", "mend it")
                report = replace(report, problems=(problem,))
            certificate = f"old{number}" if number % 4 == 1 and dice.random() < 0.3 else f"c{number}"
            reports.append(("nobody" if dice.random() < 0.1 else certificate, report))
        # One node twice in one batch: the second sees what the first left.
        again = dice.choice(reports)
        found.append([*reports, (again[0], replace(again[1], sequence=again[1].sequence + 1))])
    return found


def outcome(call: Callable[[], StatusAccepted]) -> object:
    try:
        return call()
    except RefusedError as error:
        return error.status, error.code


async def send(fleet: Fleet, reports: list[tuple[str, Status]]) -> list[object]:
    found = await asyncio.gather(
        *(fleet.controller.heartbeats.submit(*report) for report in reports), return_exceptions=True
    )
    return [(one.status, one.code) if isinstance(one, RefusedError) else one for one in found]


def everything(fleet: Fleet) -> dict[str, object]:
    with fleet.store.read() as reader:
        read = reader.connection.exec_driver_sql
        timeline = read("SELECT at, node, board, kind, text, hint FROM events ORDER BY id").all()
        values = read("SELECT key, value FROM kv ORDER BY key").all()
        records = [replace(node, uuid="", node_password=Secret("")) for node in reader.nodes()]
        return {"nodes": records, "events": list(timeline), "kv": list(values)}


@pytest.mark.parametrize("seed", range(6))
def test_a_batch_does_what_its_reports_would_have_done_one_by_one(tmp_path: Path, seed: int) -> None:
    single, batched = enrolled(tmp_path / "single"), enrolled(tmp_path / "batched")
    try:
        for reports in rounds(seed):
            one_by_one = [
                outcome(lambda report=report: single.controller.joins.status(*report))  # type: ignore[misc]
                for report in reports
            ]
            assert asyncio.run(send(batched, reports)) == one_by_one
            for fleet in (single, batched):
                fleet.clock.advance(5.0)
        assert everything(batched) == everything(single)
    finally:
        single.store.close()
        batched.store.close()


@pytest.fixture
def fleet(tmp_path: Path) -> Any:
    opened = enrolled(tmp_path / "state")
    yield opened
    opened.store.close()


def report_of(number: int, sequence: int = 1) -> tuple[str, Status]:
    return f"c{number}", status_report(hardware_of(NODES[number]), sequence, k3s=K3sState.RUNNING)


def sequences(fleet: Fleet) -> list[int]:
    with fleet.store.read() as reader:
        return [reader.require_node(node.name).status_sequence for node in NODES]


def test_reports_share_a_commit_that_is_durable_when_they_are_answered(fleet: Fleet) -> None:
    begun = []
    write_batch = fleet.store.write_batch

    def counted() -> Any:
        begun.append(1)
        return write_batch()

    fleet.store.write_batch = counted  # type: ignore[method-assign]
    other = Store.open_readonly(fleet.store.place)

    async def tell(number: int) -> None:
        await fleet.controller.heartbeats.submit(*report_of(number))
        with other.read() as reader:
            assert reader.require_node(NODES[number].name).status_sequence == 1

    async def tell_all() -> None:
        await asyncio.gather(*(tell(number) for number in range(len(NODES))))

    try:
        asyncio.run(tell_all())
    finally:
        other.close()
    assert len(begun) == 1


def test_a_full_disk_refuses_all_and_keeps_nothing(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object) -> None:
        raise sa.exc.OperationalError("COMMIT", None, Exception("disk is full"))

    with monkeypatch.context() as patch:
        patch.setattr("fleet.store.batch.BatchTransaction.flush", fail)
        answers = asyncio.run(send(fleet, [report_of(number) for number in range(5)]))
        assert [type(answer) for answer in answers] == [StoreError] * 5
    assert set(sequences(fleet)) == {0}
    assert all(
        isinstance(one, StatusAccepted) for one in asyncio.run(send(fleet, [report_of(0), report_of(1)]))
    )


def test_a_mistake_with_one_report_does_not_cost_the_others_theirs(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = fleet.controller.joins.take_status

    def fail_for_one(tx: Any, certificate: str, status: Status) -> Any:
        answer = take(tx, certificate, status)
        if certificate == "c2":
            raise RuntimeError("a mistake")
        return answer

    monkeypatch.setattr(fleet.controller.joins, "take_status", fail_for_one)
    answers = asyncio.run(send(fleet, [report_of(number) for number in range(5)]))
    assert [isinstance(answer, StatusAccepted) for answer in answers] == [True, True, False, True, True]
    assert sequences(fleet)[:6] == [1, 1, 0, 1, 1, 0]


def test_a_caller_that_goes_away_takes_nothing_with_it(fleet: Fleet) -> None:
    async def leave() -> None:
        intake = fleet.controller.heartbeats
        gone = asyncio.create_task(intake.submit(*report_of(0)))
        kept = asyncio.create_task(intake.submit(*report_of(1)))
        await asyncio.sleep(0)
        gone.cancel()
        assert isinstance(await kept, StatusAccepted)

    asyncio.run(leave())
    assert sequences(fleet)[:2] == [1, 1]


def test_more_reports_than_a_batch_holds_are_all_taken(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.health.heartbeats.MAX_BATCH", 4)
    answers = asyncio.run(send(fleet, [report_of(number) for number in range(len(NODES))]))
    assert len([one for one in answers if isinstance(one, StatusAccepted)]) == len(NODES)
    assert set(sequences(fleet)) == {1}


@pytest.mark.parametrize("name", ["sequence", "generation", "material"])
@pytest.mark.parametrize("number", [-1, 2**53 + 1, 2**63 - 1, 2**64])
def test_number_that_no_node_counts_to_is_refused(fleet: Fleet, name: str, number: int) -> None:
    with fleet.store.write() as tx:
        tx.put_value(f"unobserved.{NODES[0].name}", '{"epoch": 1, "backup_at": 0.0, "restored_at": 0.0}')
    certificate, report = report_of(0)
    value: dict[str, Any] = {name: number}
    wrong = replace(report, **value)
    assert asyncio.run(send(fleet, [(certificate, wrong)])) == [(400, "message")]
    with fleet.store.read() as reader:
        assert reader.require_node(NODES[0].name).generation == 0
    fleet.controller.joins.settings.reconcile()


def test_reports_that_wait_for_their_turn_read_the_nodes_once(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fleet.store.write() as tx:
        waits = {"state": "joining", "join_allowed": False}
        tx.connection.execute(sa.update(nodes).where(nodes.c.name != SERVERS[0].name).values(**waits))
    read = Transaction.nodes
    times: list[int] = []

    def counted(tx: Transaction) -> list[NodeRecord]:
        times.append(1)
        return read(tx)

    monkeypatch.setattr(Transaction, "nodes", counted)
    answers = asyncio.run(send(fleet, [report_of(number) for number in range(1, len(NODES))]))
    assert all(isinstance(one, StatusAccepted) for one in answers)
    assert len(times) == 1
    with fleet.store.write_batch() as batch:
        batch.fetch(["c5"], ())
        batch.update_node(batch.require_node(NODES[5].name), detail="changed")
        assert batch.nodes() == batch.nodes()
        batch.update_node(batch.require_node(NODES[7].name), detail="changed as well")
        kept = batch.nodes()
        assert kept == read(batch)
    assert [node.detail for node in kept if node.detail.startswith("changed")] == [
        "changed",
        "changed as well",
    ]


def fail_to_flush(batch: BatchTransaction) -> None:
    if batch._changes or batch._events:
        raise sa.exc.OperationalError("COMMIT", None, Exception("disk is full"))


def test_what_a_lost_transaction_taught_is_learned_again(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report that makes a brown-out of some comes while the disk is full, and once more afterwards."""
    certificate, report = report_of(0)
    ill = replace(report, health=replace(report.health, throttled=0x50001, under_voltage=True))

    def tell(sequence: int) -> list[object]:
        fleet.clock.advance(10)
        return asyncio.run(send(fleet, [(certificate, replace(ill, sequence=sequence))]))

    def conditions() -> tuple[Held, ...]:
        with fleet.store.read() as reader:
            return held_by(reader, NODES[0].name)

    for sequence in range(1, BAD_SAMPLES):
        tell(sequence)
    with monkeypatch.context() as patch:
        patch.setattr("fleet.store.batch.BatchTransaction.flush", fail_to_flush)
        assert [type(one) for one in tell(BAD_SAMPLES)] == [StoreError]
    assert conditions() == ()
    tell(BAD_SAMPLES)
    assert [held.condition for held in conditions()] == [Condition.UNDER_VOLTAGE]


@pytest.mark.parametrize("kind", ["copy", "problem"])
def test_alarm_is_not_lost_with_its_transaction(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    certificate, report = report_of(0)
    asyncio.run(send(fleet, [(certificate, report)]))
    changed = {
        "copy": replace(report, boot_id="boot-9", hardware=hardware_of(NODES[1])),
        "problem": replace(report, sequence=2, problems=(Problem("clock", "it is so", "mend it"),)),
    }
    with monkeypatch.context() as patch:
        patch.setattr("fleet.store.batch.BatchTransaction.flush", fail_to_flush)
        asyncio.run(send(fleet, [(certificate, changed[kind])]))
    fleet.clock.advance(10)
    asyncio.run(send(fleet, [(certificate, changed[kind])]))
    with fleet.store.read() as reader:
        told = [event.text for event in reader.timeline(node=NODES[0].name)]
    words = {"copy": "suspended", "problem": "it is so"}
    assert [text for text in told if words[kind] in text] != []


def test_report_whose_values_the_database_refuses_does_not_cost_the_others_theirs(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = fleet.controller.joins.take_status

    def refuse_one(tx: Any, certificate: str, status: Status) -> Any:
        if certificate == "c2":
            raise sa.exc.DataError("UPDATE", None, Exception("invalid input syntax for type json"))
        return take(tx, certificate, status)

    monkeypatch.setattr(fleet.controller.joins, "take_status", refuse_one)
    answers = asyncio.run(send(fleet, [report_of(number) for number in range(4)]))
    assert [type(one) for one in answers] == [StatusAccepted, StatusAccepted, StoreError, StatusAccepted]
    assert sequences(fleet)[:5] == [1, 1, 0, 1, 0]


def test_value_that_only_the_database_refuses_costs_only_its_own_report(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL's json knows no infinity. The decoder lets none in; here it is not asked."""
    certificate, report = report_of(2)
    endless = replace(report, health=replace(report.health, load1=math.inf))

    def as_python_writes_it(message: Status) -> Document:
        return Document(json.dumps(asdict(message)))

    monkeypatch.setattr(Document, "of", as_python_writes_it)
    answers = asyncio.run(send(fleet, [report_of(0), (certificate, endless), report_of(1)]))
    assert isinstance(answers[1], StatusAccepted if isinstance(fleet.store.place, Path) else StoreError)
    assert sequences(fleet)[:2] == [1, 1]
