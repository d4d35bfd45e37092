"""What may go from the store, and that what is used, built or needed never does."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.bases.origins import Origin, Proof, write_origin
from imagebuilder.sizes import parse_size
from imagebuilder.store import Store, allocated_bytes
from imagebuilder.store_gc import Item, Place, collect, keep_budget, plan_removals, survey

DAY = 86400.0
NOW = 1_000_000_000.0


def item(name: str, *, days: float = 0, size: int = 100, kind: str = "images", faulty: str = "") -> Item:
    return Item(
        place=Place.ENTRY,
        kind=kind,
        id=name,
        path=Path(kind, name),
        size_bytes=size,
        last_used=NOW - days * DAY,
        faulty=faulty,
    )


def plan(
    items: list[Item],
    *,
    needed: Collection[tuple[str, str]] = (),
    budget: int | None = None,
    unused_days: float = 30,
) -> dict[str, str]:
    found = plan_removals(items, needed=needed, budget_bytes=budget, unused_s=unused_days * DAY, now=NOW)
    assert len({removal.item.id for removal in found}) == len(found)
    return {removal.item.id: removal.reason for removal in found}


def test_nothing_goes_that_is_young_and_fits() -> None:
    assert plan([item("a"), item("b", days=29)]) == {}
    assert plan([]) == {}
    assert plan([item("a", size=50), item("b", size=50)], budget=100) == {}


def test_useless_things_go_whatever_the_rest() -> None:
    assert plan([item("a", faulty="left behind"), item("b")]) == {"a": "left behind"}


def test_age_counts_from_the_last_use() -> None:
    assert plan([item("a", days=31), item("b", days=30), item("c", days=29.9)]) == {
        "a": "not used for 31 days",
        "b": "not used for 30 days",
    }


def test_budget_takes_the_least_recently_used_first_and_no_more_than_it_must() -> None:
    items = [item("new", days=1), item("old", days=20), item("older", days=25), item("mid", days=10)]
    assert set(plan(items, budget=250)) == {"old", "older"}
    assert set(plan(items, budget=399)) == {"older"}
    assert set(plan(items, budget=0)) == {"new", "old", "older", "mid"}


def test_what_can_be_made_again_goes_before_what_has_to_be_fetched() -> None:
    items = [
        item("image", days=1),
        item("base", days=300, kind="bases"),
        item("release", days=200, kind="k3s"),
        item("chunks", days=2, kind="base-chunks"),
    ]
    assert set(plan(items, budget=399, unused_days=1000)) == {"chunks"}
    assert set(plan(items, budget=299, unused_days=1000)) == {"chunks", "image"}
    assert set(plan(items, budget=199, unused_days=1000)) == {"chunks", "image", "base"}


def test_needed_entries_stay_but_count_in_the_budget() -> None:
    items = [item("base", days=400, kind="bases"), item("a", days=2), item("b", days=1)]
    assert set(plan(items, needed={("bases", "base")}, budget=250)) == {"a"}
    assert set(plan(items, needed={("bases", "base")}, budget=50)) == {"a", "b"}


def test_records_go_with_what_they_belong_to_only() -> None:
    items = [item("origin", days=400, kind="base-origins"), item("gone", kind="base-origins", faulty="gone")]
    assert set(plan(items, budget=0)) == {"gone"}


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 1000), st.booleans(), st.booleans()), max_size=12),
    st.none() | st.integers(0, 5000),
)
def test_budget_is_kept_unless_needed_entries_are_in_the_way(
    things: list[tuple[int, int, bool, bool]], budget: int | None
) -> None:
    items = [
        item(str(number), days=days, size=size, faulty="x" if faulty else "")
        for number, (days, size, _, faulty) in enumerate(things)
    ]
    needed = {
        ("images", str(number)) for number, (_, _, need, faulty) in enumerate(things) if need and not faulty
    }
    gone = plan(items, needed=needed, budget=budget)
    left = [one for one in items if one.id not in gone]
    assert not {entry for _, entry in needed} & set(gone)
    assert not any(one.faulty for one in left)
    if budget is not None:
        fits = sum(one.size_bytes for one in left) <= budget
        assert fits or all(("images", one.id) in needed for one in left)


def put(store: Store, kind: str, entry_id: str, size: int = 10_000) -> Path:
    with store.create(kind, entry_id) as work:
        (work / "data").write_bytes(os.urandom(size))
    return store.path(kind, entry_id)


def test_used_entry_stays_until_its_user_is_gone(tmp_path: Path) -> None:
    user = Store(tmp_path)
    path = put(user, "images", "a")
    assert user.find("images", "a") == path
    assert user.held == {("images", "a")}
    report = collect(Store(tmp_path), unused_s=0, now=NOW * 2)
    assert [removal.item.id for removal in report.kept_busy] == ["a"]
    assert not report.removed
    assert path.is_dir()
    del user
    report = collect(Store(tmp_path), unused_s=0, now=NOW * 2)
    assert [removal.item.id for removal in report.removed] == ["a"]
    assert not path.exists()
    assert report.size_bytes == 0
    assert report.freed_bytes >= 10_000


def test_entry_that_was_built_just_now_is_in_use(tmp_path: Path) -> None:
    builder = Store(tmp_path)
    entry = builder.get_or_create("images", "a", lambda into: (into / "x").mkdir())
    assert not Store(tmp_path).evict("images", "a")
    assert entry.is_dir()


def test_what_is_being_built_stays_and_what_a_dead_builder_left_goes(tmp_path: Path) -> None:
    dead = tmp_path / "tmp/images.dead/disk.img"
    dead.parent.mkdir(parents=True)
    dead.write_bytes(b"x" * 5000)
    half_gone = tmp_path / "tmp/~bases.half"
    half_gone.mkdir()
    store = Store(tmp_path)
    with store.create("images", "alive") as work:
        (work / "x").write_bytes(b"x")
        report = collect(Store(tmp_path), now=NOW * 2)
        assert {removal.item.id for removal in report.removed} == {"dead", "half"}
        assert [removal.item.id for removal in report.kept_busy] == ["alive"]
        assert (work / "x").is_file()
    assert not dead.exists()
    assert not half_gone.exists()
    assert store.find("images", "alive") is not None


def test_dry_run_removes_nothing_and_says_the_same(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, "images", "a")
    put(store, "images", "b")
    held = Store(tmp_path)
    held.find("images", "b")
    tried = collect(Store(tmp_path), unused_s=0, now=NOW * 2, dry_run=True)
    assert store.path("images", "a").is_dir()
    done = collect(Store(tmp_path), unused_s=0, now=NOW * 2)
    assert tried == done
    assert not store.path("images", "a").exists()


def test_last_use_is_remembered_and_decides(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("a", "b"):
        put(store, "images", name)
        os.utime(store.path("images", name), (NOW - 40 * DAY, NOW - 40 * DAY))
    Store(tmp_path).find("images", "b")
    assert store.last_used("images", "b") > NOW
    report = collect(Store(tmp_path), now=store.last_used("images", "b"))
    assert [removal.item.id for removal in report.removed] == ["a"]


def test_downloads_that_nobody_goes_on_with_go_after_a_week(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name, days in (("old", 8), ("young", 6)):
        directory = store.path("downloads", name)
        directory.mkdir(parents=True)
        (directory / "file.part").write_bytes(b"x" * 5000)
        os.utime(directory / "file.part", (NOW - days * DAY, NOW - days * DAY))
    with store.locked("downloads", "old"):
        assert collect(Store(tmp_path), now=NOW).removed == ()
    assert [removal.item.id for removal in collect(Store(tmp_path), now=NOW).removed] == ["old"]
    assert store.path("downloads", "young").is_dir()


def test_record_of_a_removed_base_goes_in_the_same_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, "bases", "sha256-aa")
    origin = Origin(
        name="ubuntu-24.04",
        release="24.04",
        source="https://x/y",
        file_sha256="f" * 64,
        file_bytes=1,
        base_id="sha256-aa",
        proof=Proof.LOCAL,
        evidence="",
        fetched_at="2026-11-25T00:00:00+00:00",
    )
    write_origin(origin, store)
    (tmp_path / "base-origins/torn").mkdir()
    del store
    report = collect(Store(tmp_path), unused_s=0, now=NOW * 2)
    assert [removal.item.kind for removal in report.removed] == ["base-origins", "bases", "base-origins"]
    assert survey(Store(tmp_path)) == []


def test_digests_of_files_that_are_gone_go(tmp_path: Path) -> None:
    (tmp_path / "digests").mkdir()
    (tmp_path / "alive").write_bytes(b"")
    (tmp_path / "digests/one").write_text(
        '{"key": ["' + str(tmp_path / "alive") + '", 0, 0, 0], "sha256": "x"}'
    )
    (tmp_path / "digests/two").write_text('{"key": ["/nowhere/at/all", 0, 0, 0], "sha256": "x"}')
    (tmp_path / "digests/torn").write_text("{")
    report = collect(Store(tmp_path), now=NOW)
    assert {removal.item.id for removal in report.removed} == {"two", "torn"}
    assert (tmp_path / "digests/one").is_file()


def test_lent_entries_are_not_ours_to_remove(tmp_path: Path) -> None:
    lender = Store(tmp_path / "lender")
    put(lender, "bases", "a")
    (tmp_path / "store/bases").mkdir(parents=True)
    (tmp_path / "store/bases/a").symlink_to(lender.path("bases", "a"))
    assert collect(Store(tmp_path / "store"), unused_s=0, now=NOW * 2).removed == ()
    assert (lender.path("bases", "a") / "data").is_file()


def test_adopted_entry_takes_the_id_that_the_build_found(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def build(work: Path) -> str:
        (work / "disk.img").write_bytes(b"content")
        return "sha256-1"

    assert store.adopt("bases", "new-1", build) == tmp_path / "bases/sha256-1"
    assert store.adopt("bases", "new-2", build) == tmp_path / "bases/sha256-1"
    assert [path.name for path in store.entries("bases")] == ["sha256-1"]
    assert list((tmp_path / "tmp").iterdir()) == []

    def fail(work: Path) -> str:
        (work / "half").write_bytes(b"x")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        store.adopt("bases", "new-3", fail)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_holes_and_second_names_take_no_room(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    (tmp_path / "data").write_bytes(os.urandom(100_000))
    os.link(tmp_path / "data", tmp_path / "again")
    assert 100_000 <= allocated_bytes(tmp_path) < 200_000


def test_store_with_a_budget_gives_up_what_nobody_uses_and_no_more(tmp_path: Path) -> None:
    for name, used in (("old", 1.0), ("older", 0.5), ("young", 2.0)):
        put(Store(tmp_path), "images", name)
        os.utime(tmp_path / "images" / name, (used, used))
    other = Store(tmp_path)
    other.find("images", "older")  # a server that hands it to boards
    size = sum(one.size_bytes for one in survey(other))
    store = Store(tmp_path, budget_bytes=size - 5_000)
    store.find("images", "young")
    report = keep_budget(store, NOW)
    assert report is not None
    assert [removal.item.id for removal in report.removed] == ["old"]
    assert not report.is_over_budget
    tight = Store(tmp_path, budget_bytes=1)
    assert store.held
    report = keep_budget(tight, NOW)
    assert report is not None
    assert (report.removed, report.is_over_budget) == ((), True)
    assert {removal.item.id for removal in report.kept_busy} == {"older", "young"}


def test_store_without_a_budget_keeps_everything(tmp_path: Path) -> None:
    put(Store(tmp_path), "images", "a")
    assert keep_budget(Store(tmp_path), NOW) is None
    assert Store(tmp_path).find("images", "a")


def test_store_that_cannot_be_cleaned_does_not_spoil_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(Store(tmp_path), "images", "a")

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("imagebuilder.store_gc.survey", fail)
    assert keep_budget(Store(tmp_path, budget_bytes=1), NOW) is None
    assert "could not be kept to its budget" in caplog.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4096", 4096),
        ("500M", 500_000_000),
        ("20 GB", 20_000_000_000),
        ("1.5Ti", 1_649_267_441_664),
        ("2kiB", 2048),
    ],
)
def test_sizes_of_every_form(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "lots", "-1", "1e9", "5 X", "G", "1.G", "\u0663M\n1"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size; write 500M"):
        parse_size(text)
