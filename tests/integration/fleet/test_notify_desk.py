"""The desk over a real store: told once, tried again, kept over a restart, by one server of several."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from fakes_fleet import Clock, Fleet, cluster_spec, node_spec, open_fleet

from fleet.lifecycle import Happening
from fleet.notify.channels import ChannelError
from fleet.notify.desk import BETWEEN_MESSAGES_S, LEASE_S, NotifyDesk
from fleet.notify.ledger import SETTLE_S, Kind, Notice
from fleet.spec.model import ClusterSpec
from fleet.spec.notify_model import Level, NotifyChannel, WebhookChannel
from fleet.timeline import Entry
from fleet.timeline import Kind as EventKind

pytestmark = pytest.mark.integration


def hook(name: str = "hook") -> WebhookChannel:
    return WebhookChannel(
        name=name, level=Level.ALL, resolved=True, url="http://x/", url_file=None, secret_file=None
    )


SPEC = replace(cluster_spec(node_spec("one", 1), node_spec("two", 2)), notify=(hook(),))


@dataclass
class Post:
    """Takes messages, or fails as often as it is told."""

    fails: int = 0
    pause_s: float = 0.0
    messages: list[tuple[str, list[Notice]]] = field(default_factory=list)
    gate: asyncio.Event | None = None
    called: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, channel: NotifyChannel, _cluster: str, notices: Sequence[Notice]) -> None:
        self.called.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.fails:
            self.fails -= 1
            raise ChannelError("no answer", retry_after_s=self.pause_s)
        self.messages.append((channel.name, list(notices)))

    @property
    def told(self) -> list[tuple[Kind, str]]:
        return [(notice.kind, notice.subject) for _, notices in self.messages for notice in notices]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = open_fleet(tmp_path, SPEC)
    yield made
    made.store.close()


def desk(
    fleet: Fleet, post: Post, spec: Callable[[], ClusterSpec] = lambda: SPEC, owner: str = "a"
) -> NotifyDesk:
    return NotifyDesk(fleet.store, spec, owner, clock=fleet.clock, monotonic=fleet.clock, send=post)


async def turn(desk: NotifyDesk) -> None:
    """One round, until nothing is being sent."""
    desk.look()
    desk.start_sending()
    tasks = [line.task for line in desk._lines.values() if line.task is not None]
    await asyncio.gather(*tasks)


async def settle(desk: NotifyDesk, clock: Clock, seconds: float = SETTLE_S) -> None:
    await turn(desk)
    clock.advance(seconds)
    await turn(desk)


def quarantine(fleet: Fleet, name: str = "one") -> None:
    with fleet.store.write() as tx:
        node = tx.require_node(name)
        node = tx.move(node, Happening.POWERED_ON, Entry(kind=EventKind.BOOT, text="on"), fleet.clock())
        tx.move(node, Happening.EXHAUSTED, Entry(kind=EventKind.STATE, text="no more"), fleet.clock())


def alarm(fleet: Fleet, name: str = "one", kind: EventKind = EventKind.ALARM, text: str = "copied") -> None:
    with fleet.store.write() as tx:
        tx.add_event(Entry(kind=kind, text=text, hint="Look"), fleet.clock(), node=name)


@pytest.mark.asyncio
async def test_what_lasts_is_told_once_and_what_is_over_too(fleet: Fleet) -> None:
    post = Post()
    one = desk(fleet, post)
    await turn(one)
    quarantine(fleet)
    await settle(one, fleet.clock)
    await settle(one, fleet.clock, 600)
    assert post.told == [(Kind.PROBLEM, "one")]
    with fleet.store.write() as tx:
        tx.move(
            tx.require_node("one"),
            Happening.RELEASED,
            Entry(kind=EventKind.STATE, text="again"),
            fleet.clock(),
        )
    await settle(one, fleet.clock)
    assert post.told == [(Kind.PROBLEM, "one"), (Kind.RESOLVED, "one")]
    assert one.sent["webhook"] == 2


@pytest.mark.asyncio
async def test_what_no_channel_foresaw_is_tried_again_and_tells_no_secret(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    post, faults = Post(), [UnicodeError("label of s3cret is too long")]

    async def send(channel: NotifyChannel, cluster: str, notices: Sequence[Notice]) -> None:
        if faults:
            raise faults.pop()
        await post(channel, cluster, notices)

    one = NotifyDesk(fleet.store, lambda: SPEC, "a", clock=fleet.clock, monotonic=fleet.clock, send=send)
    quarantine(fleet)
    await settle(one, fleet.clock)
    assert (one.failed["webhook"], post.told) == (1, [])
    assert "hook: not sent: UnicodeError" in caplog.text
    assert "s3cret" not in caplog.text
    fleet.clock.advance(60)
    await turn(one)
    assert post.told == [(Kind.PROBLEM, "one")]


@pytest.mark.asyncio
async def test_a_mistake_in_a_look_ends_nothing(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.notify.desk.LOOK_EVERY_S", 0.001)
    looks, twice = 0, asyncio.Event()

    def spec() -> ClusterSpec:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise RuntimeError("a mistake")
        twice.set()
        return SPEC

    task = asyncio.create_task(desk(fleet, Post(), spec).run())
    try:
        await asyncio.wait_for(twice.wait(), 60)
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.asyncio
async def test_a_restart_tells_nothing_twice_and_loses_nothing(fleet: Fleet) -> None:
    post = Post(fails=1)
    quarantine(fleet)
    await settle(desk(fleet, post), fleet.clock)
    assert post.told == []
    again = desk(fleet, post)
    await turn(again)
    assert post.told == [(Kind.PROBLEM, "one")]
    await turn(desk(fleet, post))
    assert post.told == [(Kind.PROBLEM, "one")]


@pytest.mark.asyncio
async def test_what_is_not_taken_is_tried_again_later_and_later(fleet: Fleet) -> None:
    post = Post(fails=3)
    one = desk(fleet, post)
    quarantine(fleet)
    await settle(one, fleet.clock)
    waits: list[float] = []
    for _ in range(3):
        began = fleet.clock()
        while not post.messages and one.failed["webhook"] == len(waits) + 1:
            fleet.clock.advance(1)
            await turn(one)
        waits.append(fleet.clock() - began)
    assert waits == [5, 10, 20]
    assert post.told == [(Kind.PROBLEM, "one")]


@pytest.mark.asyncio
async def test_a_server_that_asks_for_a_pause_gets_it(fleet: Fleet) -> None:
    post = Post(fails=1, pause_s=120)
    one = desk(fleet, post)
    quarantine(fleet)
    await settle(one, fleet.clock)
    fleet.clock.advance(119)
    await turn(one)
    assert post.messages == []
    fleet.clock.advance(1)
    await turn(one)
    assert post.told == [(Kind.PROBLEM, "one")]


@pytest.mark.asyncio
async def test_what_comes_at_once_goes_as_one_message(fleet: Fleet) -> None:
    post = Post()
    one = desk(fleet, post)
    await turn(one)
    alarm(fleet)
    await turn(one)
    for text in ("moved", "copied again", "moved back"):
        alarm(fleet, text=text)
        await turn(one)
    assert [len(notices) for _, notices in post.messages] == [1]
    fleet.clock.advance(BETWEEN_MESSAGES_S)
    await turn(one)
    assert [len(notices) for _, notices in post.messages] == [1, 3]


@pytest.mark.asyncio
async def test_alarms_of_the_past_are_not_told(fleet: Fleet) -> None:
    alarm(fleet)
    post = Post()
    one = desk(fleet, post)
    await turn(one)
    assert post.messages == []
    alarm(fleet, "two")
    await turn(desk(fleet, post))
    assert post.told == [(Kind.ALARM, "two")]


@pytest.mark.asyncio
async def test_a_node_that_waits_for_a_hand_calls_for_one(fleet: Fleet) -> None:
    post = Post()
    one = desk(fleet, post)
    await turn(one)
    alarm(fleet, kind=EventKind.HELD, text="cut its power and give it back")
    alarm(fleet, kind=EventKind.BOOT, text="took the kernel")
    await turn(one)
    ((_, notices),) = post.messages
    assert [notice.text for notice in notices] == ["one: cut its power and give it back"]


@pytest.mark.asyncio
async def test_a_channel_that_hangs_holds_up_no_other(fleet: Fleet) -> None:
    spec = replace(SPEC, notify=(hook("slow"), hook("quick")))
    post, slow = Post(), asyncio.Event()

    async def send(channel: NotifyChannel, cluster: str, notices: Sequence[Notice]) -> None:
        if channel.name == "slow":
            await slow.wait()
        await post(channel, cluster, notices)

    one = NotifyDesk(fleet.store, lambda: spec, "a", clock=fleet.clock, monotonic=fleet.clock, send=send)
    one.look()
    alarm(fleet)
    one.look()
    one.start_sending()
    task = one._lines["quick"].task
    assert task is not None
    async with asyncio.timeout(60):
        await task
    assert [name for name, _ in post.messages] == ["quick"]
    slow.set()
    await turn(one)
    assert [name for name, _ in post.messages] == ["quick", "slow"]


@pytest.mark.asyncio
async def test_without_channels_nothing_is_read_or_written(fleet: Fleet) -> None:
    spec = replace(SPEC, notify=())
    one = desk(fleet, Post(), lambda: spec)
    fleet.store.close()  # any access would raise
    await turn(one)
    assert one.waiting == 0


@pytest.mark.asyncio
async def test_a_channel_that_is_applied_while_the_server_runs_is_used(fleet: Fleet) -> None:
    specs = [replace(SPEC, notify=())]
    post = Post()
    one = desk(fleet, post, lambda: specs[-1])
    await turn(one)
    specs.append(SPEC)
    await turn(one)
    alarm(fleet)
    await turn(one)
    assert post.told == [(Kind.ALARM, "one")]


@pytest.mark.asyncio
async def test_of_two_servers_one_tells_and_the_other_takes_over(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(fleet.store), "is_shared", property(lambda _store: True))
    posts = Post(), Post()
    first, second = (desk(fleet, post, owner=name) for post, name in zip(posts, "ab", strict=True))
    for one in (first, second):
        await turn(one)
    alarm(fleet)
    for one in (second, first):
        await turn(one)
    assert [len(post.messages) for post in posts] == [1, 0]
    fleet.clock.advance(LEASE_S + 1)
    alarm(fleet, "two")
    await turn(second)
    await turn(first)
    assert [post.told for post in posts] == [[(Kind.ALARM, "one")], [(Kind.ALARM, "two")]]


@pytest.mark.asyncio
async def test_run_ends_with_what_it_began(fleet: Fleet) -> None:
    post = Post(gate=asyncio.Event())
    one = desk(fleet, post)
    one.look()
    alarm(fleet)
    running = asyncio.create_task(one.run())
    async with asyncio.timeout(60):
        await post.called.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert all(line.task is not None and line.task.done() for line in one._lines.values())
    assert post.messages == []
