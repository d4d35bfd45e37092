"""The controller over a real store: the way of a node from blank to Ready, and what must not happen on it."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from fakes_fleet import (
    AgentKey,
    Fleet,
    certificate_serial,
    cluster_spec,
    hardware_of,
    status_report,
)
from fleet_story import (
    AGENT,
    SERVER,
    ask_to_install,
    complete,
    enrol,
    install,
    intent_of,
    kube_ready,
    prove_ticket,
    renew,
    require_token,
    see,
    state_of,
    texts,
)

from agent.proofs import fingerprint
from agent.protocol import (
    InstallProgress,
    InstallStep,
    K3sState,
    Outcome,
)
from fleet.boots import BootStage
from fleet.lifecycle import MAX_ATTEMPTS, State
from fleet.refusal import RefusedError
from fleet.store.database import StoreError
from fleet.views import fleet_view, timeline_view

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("backend")]


def test_a_blank_board_becomes_ready(fleet: Fleet) -> None:
    assert intent_of(fleet, SERVER) == 1
    install(fleet, SERVER)
    assert state_of(fleet, SERVER) is State.FIRST_BOOT
    assert intent_of(fleet, SERVER) is None
    certificate = enrol(fleet, SERVER)
    report = status_report(
        hardware_of(SERVER), 1, k3s=K3sState.RUNNING, version="k3s version v1.33.5+k3s1 (simulator)"
    )
    fleet.controller.joins.status(certificate, report)
    assert fleet.controller.joins.desired(certificate).join
    assert fleet.controller.joins.join_material(certificate).unit == "k3s.service"
    fleet.controller.watch.apply_kubernetes(kube_ready(SERVER))
    assert state_of(fleet, SERVER) is State.READY
    view = fleet_view(fleet.store).nodes[1]
    assert (view.name, view.k3s) == ("pi5-1", "v1.33.5+k3s1 (simulator)")
    assert "(simulator)" in texts(fleet, "pi5-1")[-1]


def test_second_power_on_boots_from_disk_and_is_told(fleet: Fleet) -> None:
    install(fleet, SERVER)
    certificate = enrol(fleet, SERVER)
    fleet.controller.joins.status(certificate, status_report(hardware_of(SERVER), 1))
    see(fleet, SERVER)
    see(fleet, SERVER, BootStage.KERNEL)
    assert intent_of(fleet, SERVER) is None
    fleet.controller.joins.status(certificate, status_report(hardware_of(SERVER), 1, boot_id="boot-3"))
    assert texts(fleet, "pi5-1")[-1] == "came back from its own disk (boot 2)"
    assert state_of(fleet, SERVER) is State.JOINING


def test_agent_that_lost_its_numbers_is_told_the_one_to_go_on_from(fleet: Fleet) -> None:
    install(fleet, SERVER)
    certificate = enrol(fleet, SERVER)
    joins, hardware = fleet.controller.joins, hardware_of(SERVER)
    assert joins.status(certificate, status_report(hardware, 4711)).sequence == 4711
    lost = status_report(hardware, 1, k3s=K3sState.FAILED)
    assert joins.status(certificate, lost).sequence == 4711
    with fleet.store.read() as reader:
        assert (reader.require_node("pi5-1").status or {})["k3s"] == K3sState.ABSENT, "it was not taken"
    again = status_report(hardware, 1, boot_id="boot-9")
    assert joins.status(certificate, again).sequence == 1, "with a new boot they begin anew"


def test_complete_may_be_repeated_and_changes_nothing(fleet: Fleet) -> None:
    see(fleet, AGENT)
    token = require_token(ask_to_install(fleet, AGENT))
    plan = fleet.controller.installs.plan(token)
    fleet.controller.installs.complete(token, complete(plan))
    before = texts(fleet, "pi4-1")
    fleet.controller.installs.complete(token, complete(plan))
    assert texts(fleet, "pi4-1") == before


def test_plan_asked_twice_is_the_same_plan(fleet: Fleet) -> None:
    token = require_token(ask_to_install(fleet, AGENT))
    first, second = fleet.controller.installs.plan(token), fleet.controller.installs.plan(token)
    assert first == second
    assert len(set(fleet.images.tickets["pi4-1"])) == 1


def test_ticket_shown_by_another_key_waits_for_a_person_with_alarm(fleet: Fleet) -> None:
    """A thief; or the node itself, whose key was damaged before it could remove its ticket."""
    install(fleet, AGENT)
    certificate = enrol(fleet, AGENT, AgentKey())
    other = AgentKey()
    verdict = prove_ticket(fleet, AGENT, other)
    assert (verdict.outcome, verdict.certificate_pem) == (Outcome.PENDING, None)
    timeline = timeline_view(fleet.store, "pi4-1")
    assert timeline is not None
    told = timeline.events[-1]
    assert told.kind == "alarm"
    assert "used before" in told.text
    assert "bramble approve pi4-1" in told.hint
    assert "somebody copied it" in told.hint
    (node,) = [one for one in fleet_view(fleet.store).nodes if one.name == "pi4-1"]
    assert node.fingerprint == fingerprint(other.sha256)
    assert fleet.controller.joins.desired(certificate).generation >= 1, "the node's own certificate holds"
    fleet.controller.people.approve("pi4-1", node.fingerprint)
    assert prove_ticket(fleet, AGENT, AgentKey()).outcome is Outcome.PENDING
    again = prove_ticket(fleet, AGENT, other)
    assert (again.outcome, again.reason) == (Outcome.ENROLLED, "approved by a person")
    with pytest.raises(RefusedError, match="client certificate"):
        fleet.controller.joins.desired(certificate)


def test_agent_whose_answer_was_lost_gets_a_certificate_again(fleet: Fleet) -> None:
    install(fleet, AGENT)
    key = AgentKey()
    first = enrol(fleet, AGENT, key)
    second = enrol(fleet, AGENT, key)
    assert first != second
    with pytest.raises(RefusedError, match="client certificate"):
        fleet.controller.joins.desired(first)
    assert fleet.controller.joins.desired(second).generation >= 1


def test_renewal_whose_answer_was_lost_can_be_repeated_until_the_new_certificate_was_used(
    fleet: Fleet,
) -> None:
    install(fleet, AGENT)
    first = enrol(fleet, AGENT)
    for _ in range(3):
        answer = renew(fleet, AGENT, first)
        assert answer.outcome is Outcome.ENROLLED
        fleet.controller.joins.desired(first)
    assert answer.certificate_pem is not None
    fleet.controller.joins.desired(certificate_serial(answer.certificate_pem))
    assert renew(fleet, AGENT, first).outcome is Outcome.REJECTED
    with pytest.raises(RefusedError, match="client certificate"):
        fleet.controller.joins.desired(first)


def test_ticket_of_an_earlier_attempt_is_void(fleet: Fleet) -> None:
    see(fleet, AGENT, BootStage.KERNEL)
    fleet.controller.installs.plan(require_token(ask_to_install(fleet, AGENT)))
    old = fleet.images.tickets["pi4-1"][-1].reveal()
    fleet.clock.advance(60)
    see(fleet, AGENT, BootStage.KERNEL)
    fleet.controller.installs.plan(require_token(ask_to_install(fleet, AGENT)))
    assert fleet.images.tickets["pi4-1"][-1].reveal() != old
    assert prove_ticket(fleet, AGENT, AgentKey(), ticket=old).outcome is Outcome.REJECTED
    assert prove_ticket(fleet, AGENT, AgentKey()).outcome is Outcome.ENROLLED


def test_power_cut_between_commit_and_complete_still_ends_in_joining(fleet: Fleet) -> None:
    token = require_token(ask_to_install(fleet, AGENT))
    fleet.controller.installs.plan(token)
    enrol(fleet, AGENT)
    assert state_of(fleet, AGENT) is State.JOINING
    assert intent_of(fleet, AGENT) is None


def test_token_of_an_earlier_boot_opens_nothing(fleet: Fleet) -> None:
    see(fleet, AGENT, BootStage.KERNEL)
    token = require_token(ask_to_install(fleet, AGENT))
    fleet.clock.advance(60)
    see(fleet, AGENT, BootStage.KERNEL)
    with pytest.raises(RefusedError, match="not admitted"):
        fleet.controller.installs.plan(token)


@pytest.mark.parametrize("token", ["", "00" * 32])
def test_plan_without_a_valid_token_is_refused(fleet: Fleet, token: str) -> None:
    with pytest.raises(RefusedError) as refused:
        fleet.controller.installs.plan(token)
    assert refused.value.status == 401


def test_boots_without_an_end_quarantine_the_node_until_a_person_says_otherwise(fleet: Fleet) -> None:
    for _ in range(MAX_ATTEMPTS + 1):
        see(fleet, AGENT, BootStage.KERNEL)
        fleet.clock.advance(120)
    assert state_of(fleet, AGENT) is State.QUARANTINED
    assert intent_of(fleet, AGENT) is None
    assert ask_to_install(fleet, AGENT).outcome is Outcome.REJECTED
    fleet.controller.people.approve("pi4-1")
    assert intent_of(fleet, AGENT) == 2
    assert ask_to_install(fleet, AGENT, intent=2).outcome is Outcome.ADMITTED


def test_kernel_asked_for_twice_in_one_boot_is_one_attempt(fleet: Fleet) -> None:
    for _ in range(5):
        see(fleet, AGENT, BootStage.KERNEL)
        fleet.clock.advance(0.5)
    with fleet.store.read() as reader:
        assert reader.require_node("pi4-1").standing.attempt == 1


def test_failure_is_told_with_its_hint_and_the_next_attempt_works(fleet: Fleet) -> None:
    see(fleet, AGENT, BootStage.KERNEL)
    token = require_token(ask_to_install(fleet, AGENT))
    failure = InstallProgress(1, InstallStep.FIND_DISK, 0, "no nvme disk", failed=True, hint="Put one in.")
    fleet.controller.installs.progress(token, failure)
    assert state_of(fleet, AGENT) is State.FAILED_IMAGING
    timeline = timeline_view(fleet.store, "pi4-1")
    assert timeline is not None
    assert (timeline.events[-1].hint, "no nvme disk" in timeline.events[-1].text) == ("Put one in.", True)
    fleet.clock.advance(60)
    see(fleet, AGENT, BootStage.KERNEL)
    assert ask_to_install(fleet, AGENT).outcome is Outcome.ADMITTED


def test_progress_shows_percent_without_filling_the_timeline(fleet: Fleet) -> None:
    token = require_token(ask_to_install(fleet, AGENT))
    for percent in range(100):
        fleet.clock.advance(2)
        fleet.controller.installs.progress(token, InstallProgress(1, InstallStep.WRITE, float(percent)))
    assert fleet_view(fleet.store).nodes[0].detail == "write 99 %"
    assert sum("installer: write" in text for text in texts(fleet, "pi4-1")) == 1


def test_cluster_yaml_that_can_not_be_recorded_is_not_in_force_by_half(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object) -> None:
        raise sa.exc.OperationalError("INSERT", None, Exception("disk is full"))

    controller, told = fleet.controller, list[object]()
    before = controller.spec
    controller.set_declare_listener(told.append)
    with monkeypatch.context() as patch:
        patch.setattr("fleet.controller.release_declared", fail)
        with pytest.raises(StoreError, match="disk is full"):
            controller.declare(cluster_spec(SERVER))
    assert controller.spec is before
    assert [state.name for state in controller.boot_states()] == ["pi5-1", "pi4-1"]
    assert told == []
    controller.declare(smaller := cluster_spec(SERVER))
    assert (controller.spec, told) == (smaller, [smaller])
    assert [state.name for state in controller.boot_states()] == ["pi5-1"]
