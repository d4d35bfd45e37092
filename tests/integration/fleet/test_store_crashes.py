"""What was acknowledged is there after kill -9, a database that crashes, and a disk that takes no more."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import fakes_fleet
import pytest
import store_writer
from fakes_fleet import NOW
from postgres_server import PostgresServer

from fleet.lifecycle import State
from fleet.store.database import Store, StoreError
from fleet.timeline import Entry, Kind

pytestmark = pytest.mark.integration

KILLS = 25
TIMEOUT_S = 120.0
NOTE = Entry(kind=Kind.BOOT, text="a line")


def run_python(*argv: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.run(
        [sys.executable, *argv],
        capture_output=True,
        text=True,
        env=environment,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.mark.usefixtures("backend")
def test_no_acknowledged_event_is_lost_by_kill_9_at_random_moments(tmp_path: Path) -> None:
    place = fakes_fleet.store_place(tmp_path)
    Store.open(place).close()
    done = run_python(str(store_writer.__file__), str(place), str(KILLS))
    assert done.returncode == 0, done.stderr
    kept = json.loads(done.stdout)
    assert len(kept) > KILLS
    store = Store.open(place)
    try:
        with store.read() as reader:
            newest = int(reader.value("newest") or 0)
            found = [int(text) for (text,) in reader.connection.exec_driver_sql("SELECT text FROM events")]
    finally:
        store.close()
    assert set(kept) <= set(found)
    # Each event and its counter are one transaction: neither is there without the other.
    assert max(found) == newest


KILLED_AFTER_INSTALL = """
import os, signal, sys
from pathlib import Path
import fakes_fleet
from fakes_fleet import cluster_spec, hardware_of, installer_hello, node_spec, open_fleet
from agent.protocol import InstallComplete, Proof, ProofKind
from fleet.spec.model import Role
from fleet.store_place import PostgresPlace
place = sys.argv[2]
if place.startswith("postgresql:"):
    fakes_fleet.store_place = lambda state: PostgresPlace(place)
node = node_spec("pi5-1", 1, role=Role.AGENT)
controller = open_fleet(Path(sys.argv[1]), cluster_spec(node)).controller
key = b"k" * 32
welcome = controller.admission.hello(installer_hello(hardware_of(node), key))
proof = Proof(welcome.session, ProofKind.NONE, installer_key=key.hex())
token = controller.admission.prove(proof, None).token
plan = controller.installs.plan(token)
done = InstallComplete(1, plan.image.image_id, "d", 1, 1, 1.0)
controller.installs.complete(token, done)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.usefixtures("backend")
def test_an_installation_that_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    place = fakes_fleet.store_place(tmp_path)
    ended = run_python("-c", KILLED_AFTER_INSTALL, str(tmp_path), str(place))
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    store = Store.open(place)
    try:
        with store.read() as reader:
            assert reader.require_node("pi5-1").state is State.FIRST_BOOT
            assert reader.open_intent("pi5-1") is None
            assert any("installed and verified" in event.text for event in reader.timeline(node="pi5-1"))
    finally:
        store.close()


def test_a_database_that_crashes_is_told_of_and_used_again_when_it_is_back(postgres: PostgresServer) -> None:
    store = Store.open(postgres.new_database())
    try:
        with store.write() as tx:
            tx.put_value("k", "kept")
        postgres.stop(signal.SIGQUIT)
        try:
            with pytest.raises(StoreError, match="cannot be written") as refused, store.write() as tx:
                tx.put_value("k", "lost")
            assert "reachable" in refused.value.hint
            with pytest.raises(StoreError, match="cannot be read"), store.read() as reader:
                reader.value("k")
        finally:
            postgres.start()
        with store.write() as tx:
            assert tx.value("k") == "kept"
            tx.put_value("k", "again")
        with store.read() as reader:
            assert reader.value("k") == "again"
    finally:
        store.close()


FULL_DISK = """
import sys
from pathlib import Path
from fleet.timeline import Entry, Kind
from fleet.store.database import Store, StoreError
store = Store.open(Path(sys.argv[1]) / "control.db")
number = 0
try:
    while True:
        with store.write() as tx:
            tx.add_event(Entry(kind=Kind.BOOT, text=str(number), detail={{"filler": "x" * 20_000}}), 1.0)
        number += 1
except StoreError as error:
    print(error.message)
    print(error.hint)
with store.read() as reader:
    assert [event.text for event in reader.timeline()] == [str(one) for one in range(number)]
    assert number > 5
{make_room}
with store.write() as tx:
    tx.add_event(Entry(kind=Kind.BOOT, text="goes on", detail={{"filler": "x" * 20_000}}), 1.0)
with store.read() as reader:
    assert reader.timeline()[-1].text == "goes on"
"""


@pytest.mark.parametrize(
    ("prepare", "make_room", "words"),
    [
        (
            "mount -t tmpfs -o size=1m none {0} && head -c 300000 /dev/zero > {0}/ballast",
            "(Path(sys.argv[1]) / 'ballast').unlink()",
            "disk is full",
        ),
        (
            "ulimit -S -f 1024",
            "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (r.RLIM_INFINITY, r.RLIM_INFINITY))",
            "disk I/O error",
        ),
    ],
    ids=["full-filesystem", "file-size-limit"],
)
def test_a_disk_that_takes_no_more_is_told_and_what_was_there_stays(
    tmp_path: Path, prepare: str, make_room: str, words: str
) -> None:
    script = tmp_path / "fill.py"
    script.write_text(FULL_DISK.format(make_room=make_room))
    state = tmp_path / "state"
    state.mkdir()
    shell = f"{prepare.format(state)} && trap '' XFSZ && exec {sys.executable} {script} {state}"
    paths = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", shell],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        timeout=TIMEOUT_S,
        check=False,
    )
    assert words in done.stdout, done.stdout + done.stderr
    assert "room on the disk" in done.stdout
    assert done.returncode == 0, done.stderr


def test_a_file_that_became_read_only_is_told(tmp_path: Path) -> None:
    """A remount read-only after an error of the card: SQLite sees it as this pragma shows it."""
    store = Store.open(tmp_path / "control.db")
    try:
        with store.read() as reader:
            reader.connection.exec_driver_sql("PRAGMA query_only=ON")
        with pytest.raises(StoreError, match="readonly database") as refused, store.write() as tx:
            tx.add_event(NOTE, NOW)
        assert "Nothing was changed" in refused.value.hint
    finally:
        store.close()
