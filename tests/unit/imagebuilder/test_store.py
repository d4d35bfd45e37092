from __future__ import annotations

import threading
from pathlib import Path, PosixPath
from typing import Self

import pytest

from imagebuilder.errors import NoSpace, StoreError
from imagebuilder.store import Store, flush_tree, remove_tree, require_room


class BuildError(Exception):
    pass


def test_entry_exists_only_after_the_block_ends(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.create("images", "abc") as work:
        (work / "disk.img").write_bytes(b"x")
        assert store.find("images", "abc") is None
        assert work.stat().st_dev == tmp_path.stat().st_dev
    assert store.find("images", "abc") == tmp_path / "images/abc"
    assert (tmp_path / "images/abc/disk.img").read_bytes() == b"x"


def test_entries_may_be_handed_out_while_they_are_listed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for entry_id in ("abc", "def"):
        with store.create("images", entry_id):
            pass

    class Meanwhile(PosixPath):
        """A path that another thread's call comes in between of."""

        @property
        def parent(self) -> Self:
            store.find("images", "def")
            return type(self)(Path(self).parent)

    store.find("images", "abc")
    store._held.update({Meanwhile(path): store._held.pop(path) for path in list(store._held)})
    assert ("images", "abc") in store.held
    assert store.held == {("images", "abc"), ("images", "def")}


def test_failed_build_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def build(into: Path) -> None:
        (into / "half").write_bytes(b"x")
        raise BuildError

    with pytest.raises(BuildError):
        store.get_or_create("images", "abc", build)
    assert store.find("images", "abc") is None
    assert store.entries("images") == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def build(into: Path) -> None:
        (into / "half").write_bytes(b"x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get_or_create("images", "abc", build)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert store.find("images", "abc") is None


def test_what_a_killed_builder_left_is_removed_by_the_next(tmp_path: Path) -> None:
    stale = tmp_path / "tmp/images.abc/tree"
    stale.mkdir(parents=True)
    (stale / "left").write_bytes(b"x")

    def build(into: Path) -> None:
        assert list(into.iterdir()) == []
        (into / "new").write_bytes(b"y")

    entry = Store(tmp_path).get_or_create("images", "abc", build)
    assert [path.name for path in entry.iterdir()] == ["new"]


def test_second_caller_gets_the_first_ones_entry(tmp_path: Path) -> None:
    store = Store(tmp_path)
    inside, go_on = threading.Event(), threading.Event()
    built: list[str] = []
    results: list[Path] = []

    def slow(into: Path) -> None:
        built.append("first")
        inside.set()
        assert go_on.wait(10)
        (into / "file").write_text("first")

    def other(_into: Path) -> None:
        built.append("second")

    first = threading.Thread(target=lambda: results.append(store.get_or_create("images", "abc", slow)))
    second = threading.Thread(target=lambda: results.append(store.get_or_create("images", "abc", other)))
    first.start()
    assert inside.wait(10)
    second.start()
    go_on.set()
    first.join(10)
    second.join(10)
    assert built == ["first"]
    assert results == [tmp_path / "images/abc"] * 2


def test_next_caller_builds_when_the_first_one_failed(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def failing(_into: Path) -> None:
        raise BuildError

    with pytest.raises(BuildError):
        store.get_or_create("images", "abc", failing)
    entry = store.get_or_create("images", "abc", lambda into: (into / "made").mkdir())
    assert (entry / "made").is_dir()


def test_entries_of_different_ids_are_built_at_the_same_time(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.create("images", "one"), store.create("images", "two"), store.create("bases", "one"):
        pass
    assert store.entries("images") == [tmp_path / "images/one", tmp_path / "images/two"]
    assert store.entries("bases") == [tmp_path / "bases/one"]


def test_create_replaces_an_entry(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for text in ("old", "new"):
        with store.create("images", "abc") as work:
            (work / text).write_text(text)
    assert [path.name for path in (tmp_path / "images/abc").iterdir()] == ["new"]
    assert list((tmp_path / "tmp").iterdir()) == []


def test_failed_replacement_keeps_the_old_entry(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.create("images", "abc") as work:
        (work / "old").write_text("x")
    with pytest.raises(BuildError), store.create("images", "abc"):
        raise BuildError
    assert (tmp_path / "images/abc/old").read_text() == "x"


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a\0b", "x" * 129])
def test_names_that_leave_the_store_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError):
        Store(tmp_path).find("images", name)
    with pytest.raises(StoreError):
        Store(tmp_path).entries(name)


def test_unwritable_store_is_named(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written"), Store(blocker).create("images", "abc"):
        pass


def test_default_store_is_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Store.default().root == tmp_path / "bramble"


def test_room_is_checked_on_the_nearest_existing_directory(tmp_path: Path) -> None:
    require_room(tmp_path / "not/yet/there", 1)
    with pytest.raises(NoSpace) as caught:
        require_room(tmp_path / "not/yet/there", 2**60)
    assert caught.value.needed_bytes == 2**60
    assert 0 < caught.value.available_bytes < 2**60


def test_flush_and_remove_do_not_follow_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "link").symlink_to(outside)
    (tree / "dangling").symlink_to("nowhere")
    flush_tree(tree)
    remove_tree(tree)
    remove_tree(tree)
    assert not tree.exists()
    assert (outside / "kept").read_text() == "x"
