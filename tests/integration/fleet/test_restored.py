"""A record from a backup that is an hour old: the world went on, and nothing is destroyed on its word."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import fakes_fleet
import pytest
from fakes_fleet import (
    AgentKey,
    Clock,
    Fleet,
    cluster_spec,
    hardware_of,
    node_spec,
    open_fleet,
    status_report,
)
from fleet_story import (
    AGENT,
    KEY,
    SERVER,
    ask_to_install,
    complete,
    enrol,
    install,
    intent_of,
    kube_ready,
    prove_ticket,
    require_token,
    see,
    state_of,
    texts,
)

from agent.protocol import InstallProgress, InstallStep, K3sState, Occupant, Outcome
from fleet.backup import make_backup, restore_backup
from fleet.boots import BootStage
from fleet.lifecycle import State
from fleet.power.debts import OWED_S, History
from fleet.refusal import RefusedError
from fleet.restored import GAP, epoch_of, require_observed
from fleet.spec.model import FirstBoot, Role
from fleet.updates.desk import Archive

pytestmark = pytest.mark.integration

SECOND = node_spec("pi5-2", 3, role=Role.SERVER)
SPEC = cluster_spec(SERVER, AGENT, SECOND)


@dataclass
class Story:
    """A fleet that can be saved and, later, put back."""

    directory: Path
    fleet: Fleet

    def save(self) -> Path:
        """Take a backup of now."""
        file = self.directory / "saved.bramble"
        make_backup("attic", self.directory / "state-0", self.fleet.store.place, file, clock=self.fleet.clock)
        return file

    def lose_and_restore(
        self, file: Path, *, revoked: tuple[str, ...] = (), after_s: float = 3600.0
    ) -> Fleet:
        """After a while the disk is gone, and the backup is all that there is."""
        spec, clock = self.fleet.controller.spec, self.fleet.clock
        self.fleet.store.close()
        clock.advance(after_s)
        state = self.directory / "state-1"
        place = fakes_fleet.store_place(state)
        restore_backup("attic", file, state, place, clock=clock, revoked=revoked)
        images = self.fleet.images
        self.fleet = open_fleet(state, spec, clock)
        self.fleet.images.tickets |= images.tickets
        return self.fleet


@pytest.fixture
def story(tmp_path: Path, backend: str) -> Story:
    (tmp_path / "state-0").mkdir()
    return Story(tmp_path, open_fleet(tmp_path / "state-0", SPEC, Clock()))


@pytest.fixture(autouse=True)
def _closed(story: Story) -> object:
    yield
    story.fleet.store.close()


def begin(fleet: Fleet) -> str:
    see(fleet, AGENT)
    see(fleet, AGENT, BootStage.KERNEL)
    return require_token(ask_to_install(fleet, AGENT))


def test_an_installation_of_the_lost_hour_is_not_overwritten_though_its_own_intent_made_it(
    story: Story,
) -> None:
    token = begin(story.fleet)
    plan = story.fleet.controller.installs.plan(token)
    file = story.save()
    story.fleet.controller.installs.complete(token, complete(plan))
    fleet = story.lose_and_restore(file)
    with pytest.raises(RefusedError, match="is over: the record was restored from a backup"):
        fleet.controller.installs.plan(token)
    see(fleet, AGENT, BootStage.KERNEL)
    number = intent_of(fleet, AGENT)
    token = require_token(ask_to_install(fleet, AGENT, intent=number))
    found = Occupant(plan.cluster, plan.node, plan.image.image_id, plan.installation)
    with pytest.raises(RefusedError, match="holds pi4-1 of cluster attic"):
        ask_about_disk(fleet, token, number or 0, found)
    assert state_of(fleet, AGENT) is State.PENDING


def ask_about_disk(fleet: Fleet, token: str, number: int, found: Occupant | None) -> None:

    question = InstallProgress(number, InstallStep.FIND_DISK, 0.0, "looked", occupant=found)
    fleet.controller.installs.progress(token, question)


def test_a_blank_board_installs_and_its_installer_is_what_observes_it(story: Story) -> None:
    fleet = story.lose_and_restore(story.save())
    see(fleet, AGENT, BootStage.KERNEL)
    number = intent_of(fleet, AGENT)
    assert number is not None
    assert number > GAP
    token = require_token(ask_to_install(fleet, AGENT, intent=number))
    with fleet.store.read() as reader, pytest.raises(RefusedError, match="was not heard of since"):
        require_observed(reader, "pi4-1")
    ask_about_disk(fleet, token, number, None)
    with fleet.store.read() as reader:
        require_observed(reader, "pi4-1")
    assert any("its installer has looked at the disk" in text for text in texts(fleet, "pi4-1"))


def test_no_ticket_of_the_lost_hour_is_minted_again(story: Story) -> None:
    file = story.save()
    install(story.fleet, AGENT)
    lost = story.fleet.images.tickets["pi4-1"][-1]
    fleet = story.lose_and_restore(file)
    see(fleet, AGENT, BootStage.KERNEL)
    fleet.controller.installs.plan(
        require_token(ask_to_install(fleet, AGENT, intent=intent_of(fleet, AGENT)))
    )
    assert fleet.images.tickets["pi4-1"][-1] != lost


def test_an_approval_does_not_outlive_the_backup(tmp_path: Path, story: Story) -> None:
    story.fleet.store.close()
    fakes_fleet.lose_store(tmp_path / "state-0")
    spec = cluster_spec(SERVER, server_policy=FirstBoot.APPROVE)
    story.fleet = open_fleet(tmp_path / "state-0", spec, Clock())
    see(story.fleet, SERVER, BootStage.KERNEL)
    ask_to_install(story.fleet, SERVER)
    story.fleet.controller.people.approve("pi5-1")
    fleet = story.lose_and_restore(story.save())
    see(fleet, SERVER, BootStage.KERNEL)
    verdict = ask_to_install(fleet, SERVER, key=KEY, intent=intent_of(fleet, SERVER))
    assert (verdict.token, "waits for approval" in verdict.reason) == (None, True)


def test_orders_go_on_above_what_a_node_has_carried_out(story: Story) -> None:
    install(story.fleet, SERVER)
    certificate = enrol(story.fleet, SERVER)
    fleet = story.lose_and_restore(story.save())

    report = replace(status_report(hardware_of(SERVER), 1), generation=10 * GAP)
    accepted = fleet.controller.joins.status(certificate, report)
    assert accepted.generation == 10 * GAP  # the next one is above it


def test_a_server_that_founded_the_cluster_in_the_lost_hour_stays_its_founder(story: Story) -> None:
    for node in (SERVER, SECOND):
        install(story.fleet, node)
    first, second = enrol(story.fleet, SERVER), enrol(story.fleet, SECOND)
    file = story.save()
    assert story.fleet.controller.joins.desired(first).join  # and it founds the cluster, in the lost hour
    fleet = story.lose_and_restore(file)
    joins = fleet.controller.joins
    joins.status(second, status_report(hardware_of(SECOND), 1))
    desired = joins.desired(second)
    assert (desired.join, "pi5-1, not seen since, may have founded" in desired.reason) == (False, True)
    joins.status(first, status_report(hardware_of(SERVER), 1, k3s=K3sState.RUNNING))
    assert joins.desired(first).join
    assert not joins.desired(second).join
    fleet.controller.watch.apply_kubernetes(kube_ready(SERVER))
    assert state_of(fleet, SERVER) is State.READY
    assert joins.desired(second).join
    settings = "".join(file.content for file in joins.join_material(second).files)
    assert "server: https://10.77.0.11:6443" in settings
    assert "cluster-init" not in settings


def test_firmware_is_not_written_before_the_node_was_heard_of(story: Story) -> None:
    install(story.fleet, SERVER)
    certificate = enrol(story.fleet, SERVER)
    fleet = story.lose_and_restore(story.save())
    order = {"BOOT_ORDER": "0xf62"}
    with pytest.raises(RefusedError, match="was not heard of since") as refused:
        fleet.controller.eeprom.order("pi5-1", order)
    assert (refused.value.status, refused.value.code) == (409, "unobserved")
    fleet.controller.joins.status(certificate, status_report(hardware_of(SERVER), 1))
    assert f"order {GAP + 1} " in fleet.controller.eeprom.order("pi5-1", order)
    assert f"order {GAP + 2} " in fleet.controller.eeprom.order("pi5-1", order)


def test_orders_of_the_lost_hour_do_not_hide_the_next_ones(story: Story) -> None:
    install(story.fleet, SERVER)
    certificate = enrol(story.fleet, SERVER)
    file = story.save()
    fleet = story.lose_and_restore(file)
    release = Archive("9.9.9", b"a release")
    fleet.controller.updates.set_source(lambda: release)
    report = replace(status_report(hardware_of(SERVER), 1), agent_version="0.1.0")
    fleet.controller.joins.status(certificate, report)
    assert f"order {GAP + 1}:" in fleet.controller.updates.order(["pi5-1"])


def test_a_power_cycle_of_long_ago_switches_no_board_on(story: Story) -> None:
    now = story.fleet.clock()
    with story.fleet.store.write() as tx:
        for name, cut_at in (("pi4-1", now - OWED_S / 2), ("pi5-1", now), ("pi5-2", now - 3 * 86400.0)):
            History(cuts=(now - 4 * 86400.0, cut_at)).lend("a server of before").save(tx, name)
        History(cuts=(now - OWED_S,)).save(tx, "gone")
    power = story.lose_and_restore(story.save(), after_s=OWED_S / 2).controller.power
    power._resume(at_start=True)
    assert [name for name in ("pi4-1", "pi5-1", "pi5-2") if power.is_busy(name)] == ["pi5-1"]
    assert any("under way 60 min ago" in text for text in texts(story.fleet, "pi4-1"))
    assert any("under way 3 d ago" in text for text in texts(story.fleet, "pi5-2"))
    assert not any("under way" in text for text in texts(story.fleet, "pi5-1"))
    with story.fleet.store.read() as reader:
        assert [len(History.load(reader, name).cuts) for name in ("pi4-1", "gone")] == [2, 1]


def test_each_restore_is_a_new_epoch(tmp_path: Path, story: Story) -> None:
    fleet = story.lose_and_restore(story.save())
    with fleet.store.read() as reader:
        assert epoch_of(reader) == 1
    again = tmp_path / "again.bramble"
    manifest = make_backup("attic", tmp_path / "state-1", fleet.store.place, again, clock=fleet.clock)
    assert manifest.epoch == 1
    state = tmp_path / "state-2"
    restore_backup("attic", again, state, fakes_fleet.store_place(state), clock=fleet.clock)
    fleet.store.close()
    story.fleet = open_fleet(state, SPEC, fleet.clock)
    with story.fleet.store.read() as reader:
        assert epoch_of(reader) == 2


def test_node_that_was_revoked_in_the_lost_hour_is_revoked_by_the_restore(story: Story) -> None:
    install(story.fleet, SERVER)
    certificate = enrol(story.fleet, SERVER)
    file = story.save()
    story.fleet.controller.people.revoke("pi5-1")
    fleet = story.lose_and_restore(file, revoked=("pi5-1", "pi5-1"))
    with pytest.raises(RefusedError) as refused:
        fleet.controller.joins.status(certificate, status_report(hardware_of(SERVER), 1))
    assert (refused.value.status, refused.value.code) == (401, "certificate")
    with fleet.store.read() as reader:
        assert reader.is_refused("pi5-1")
        assert not reader.is_refused("pi4-1")
    assert texts(fleet, "pi5-1")[-1].startswith("revoked by a person")
    assert prove_ticket(fleet, SERVER, AgentKey()).outcome is Outcome.REJECTED


def test_restore_that_names_a_node_that_is_none_restores_nothing(tmp_path: Path, story: Story) -> None:
    file = story.save()
    state = tmp_path / "state-1"
    place = fakes_fleet.store_place(state)
    with pytest.raises(RefusedError, match="no node 'pi9', 'pi8'"):
        restore_backup("attic", file, state, place, revoked=("pi9", "pi4-1", "pi8"))
    assert not state.exists()
    fleet = story.lose_and_restore(file, revoked=("pi4-1",))
    with fleet.store.read() as reader:
        assert reader.is_refused("pi4-1")
