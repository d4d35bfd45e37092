"""How a command asks about the fleet: the running server by its socket, or the store's file.

Standard library only on the way to the socket: `bramble nodes` must not pay for a web framework.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from fleet.errors import FleetError
from fleet.handout import Handout
from fleet.overview import overview
from fleet.refusal import nearest_hint
from fleet.store.database import NoRecordError, Store
from fleet.store_place import Place
from fleet.views import as_json, fleet_view, timeline_view

TIMEOUT_S: Final = 30.0
"""The server's commits wait for the disk, and one that others give gigabytes to may take over ten seconds
(measured: three virtual boards that install onto one)."""
RESTART_S: Final = 120.0
"""A server that is updated or restarted is back by then; who looks on waits for it."""
RETRY_S: Final = 1.0
NO_EVENTS: Final = 10**18 - 1
"""Greater than the id of any event: a node is asked for without its timeline."""


class NoServerError(FleetError):
    """No 'bramble serve' of this cluster is running."""


class BrokenOffError(FleetError):
    """The server ended before it had answered: whether it did what it was asked is not known."""


_GONE: Final = (NoServerError, BrokenOffError)
"""What is only looked at, the record tells as well."""


class BusyError(FleetError):
    """Somebody else has the server's or the node's attention; it may be asked again in seconds."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class FleetReader:
    """Answers the questions of the command line from one cluster's state directory, and from its store where
    no server runs.

    Args:
        store: Where that is; None for the state directory's own file.
        places: Where the state directory was looked for; told where there is no record.
    """

    def __init__(self, state: Path, store: Place | None = None, places: Sequence[Path] = ()) -> None:
        self._socket = state / "control.sock"
        self._database = store or state / "control.db"
        self._places = places

    def nodes(self) -> Any:
        """A `FleetView` as JSON values; `live` tells whether a server answered."""
        try:
            return {"live": True, **self._ask("GET", "/v1/admin/nodes")}
        except _GONE:
            with self._record() as store:
                return {"live": False, **as_json(fleet_view(store))}

    def overview(self) -> Any:
        """An `Overview` as JSON values; `live` tells whether a server answered."""
        try:
            return {"live": True, **self._ask("GET", "/v1/overview")}
        except _GONE:
            with self._record() as store:
                return {"live": False, **as_json(overview(store))}

    def summary(self) -> Any:
        """Counts by state, and the server's memory.

        Raises:
            NoServerError: Only a running server can tell.
        """
        return self._ask("GET", "/v1/admin/summary")

    def timeline(self, name: str, since: int = 0) -> Any:
        """A `Timeline` as JSON values.

        Raises:
            FleetError: There is no such node or held board.
        """
        try:
            return self._ask("GET", f"/v1/admin/nodes/{quote(name, safe='')}?since={since}")
        except _GONE:
            with self._record() as store:
                found = timeline_view(store, name, since)
                known = [node.name for node in fleet_view(store).nodes] if found is None else []
            if found is None:
                hint = nearest_hint(name, known)
                raise FleetError(f"there is no node or board {name!r}", hint) from None
            return as_json(found)

    def node(self, name: str) -> Any:
        """A `NodeView` as JSON values, for a decision about it: by its name, or its board's serial or MAC.

        Raises:
            NoServerError: Only a running server can carry a decision out.
            FleetError: There is no such node.
        """
        path = f"/v1/admin/nodes/{quote(name, safe='')}?since={NO_EVENTS}"
        found = self._ask("GET", path)["node"]
        if found is None:
            raise FleetError(
                f"{name!r} is a board that is no node's",
                "Add it under 'nodes:' in cluster.yaml with its serial or MAC, then run 'bramble apply'.",
            )
        return found

    def pending_fingerprint(self, name: str) -> str | None:
        """The beginning of the key of this node that waits for approval; None when none does."""
        found: list[str | None] = [
            node["fingerprint"] for node in self.nodes()["nodes"] if node["name"] == name
        ]
        return found[0] if found else None

    def approve(self, name: str, key: str | None = None) -> str:
        """Let a node in: the key that was compared, or where that is None the one that waits now."""
        return self.decide(name, "approve", self.pending_fingerprint(name) or "" if key is None else key)

    def decide(self, name: str, decision: str, key: str | None = None) -> str:
        """Carry out a person's decision about a node; what was done, for people.

        Args:
            decision: `approve`, `reject`, `revoke` or `forget-device`.
            key: The fingerprint that was compared with the board's screen, or "" where none was shown. None
                takes the one that waits.

        Raises:
            NoServerError: Only a running server can.
            FleetError: Nothing of the node waits, or another key than `key` does.
        """
        query = "" if key is None else f"?key={quote(key, safe='')}"
        path = f"/v1/admin/nodes/{quote(name, safe='')}/{decision}{query}"
        message: str = self._ask("POST", path)["message"]
        return message

    def devices(self) -> Any:
        """The device keys on record, as JSON values."""
        return self._ask("GET", "/v1/admin/devices")

    def import_devices(self, keys: Mapping[str, str]) -> str:
        """Put device keys on record, board → SHA-256; what was done, for people.

        Raises:
            NoServerError: Only a running server can.
            FleetError: A board has another key on record.
        """
        message: str = self._ask("POST", "/v1/admin/devices", json.dumps(dict(keys)))["message"]
        return message

    def apply(self, text: str, path: Path, *, dry_run: bool) -> Any:
        """Have the server compare the text of a cluster.yaml with what runs, and take it.

        Raises:
            NoServerError: Only a running server can.
        """
        body = json.dumps({"path": str(path), "text": text})
        return self._ask("POST", f"/v1/admin/apply?dry_run={int(dry_run)}", body)

    def is_served(self) -> bool:
        """Whether a server of this cluster is running.

        Raises:
            FleetError: Another user's is, or it does not answer as expected.
        """
        try:
            self._ask("GET", "/v1/admin/summary")
        except NoServerError:
            return False
        return True

    def begin_handout(self, name: str) -> Handout:
        """What makes an image this node's own, its ticket included.

        Raises:
            NoServerError: Only a running server can.
            FleetError: The node is not declared, is being installed, or is installed.
        """
        path = f"/v1/admin/nodes/{quote(name, safe='')}/handout"
        return Handout.from_json(self._ask("POST", path))

    def finish_handout(self, name: str, intent: int, *, image_id: str, medium: str) -> None:
        """The image was written to `medium`, and read back."""
        query = urlencode({"image": image_id, "medium": medium})
        self._ask("POST", f"/v1/admin/nodes/{quote(name, safe='')}/handout/{intent}?{query}")

    def order_eeprom(self, name: str, settings: Mapping[str, str]) -> str:
        """Have a node's agent write bootloader settings; what was done, for people.

        Raises:
            NoServerError: Only a running server can.
            FleetError: There is no such node, or it is not enrolled.
        """
        path = f"/v1/admin/nodes/{quote(name, safe='')}/eeprom"
        message: str = self._ask("POST", path, json.dumps(dict(settings)))["message"]
        return message

    def ask(self, method: str, path: str, value: Mapping[str, Any] | None = None) -> Any:
        """One route of the admin API.

        Raises:
            NoServerError: Only a running server can answer.
            FleetError: It refuses.
        """
        return self._ask(method, path, None if value is None else json.dumps(dict(value)))

    def look(self, path: str) -> Any:
        """GET a route of the admin API for somebody who looks on: what was ordered outlives the server, so an
        answer is waited for while that begins anew.

        Raises:
            NoServerError: None runs, for as long as a restart may take.
            FleetError: It refuses.
        """
        ends_at = time.monotonic() + RESTART_S
        while True:
            try:
                return self._ask("GET", path)
            except (NoServerError, BrokenOffError):
                if time.monotonic() >= ends_at:
                    raise
                time.sleep(RETRY_S)

    def tokens(self) -> list[dict[str, Any]]:
        """The tokens of the control API, without what has to be shown.

        Raises:
            NoServerError: Only a running server can tell.
        """
        found: list[dict[str, Any]] = self._ask("GET", "/v1/tokens")
        return found

    def create_token(self, name: str, role: str, ttl_s: float) -> dict[str, Any]:
        """Make a token: `{"token": text, "view": …}`.

        Raises:
            NoServerError: Only a running server can.
            FleetError: The name is in use, or is none.
        """
        wanted = json.dumps({"name": name, "role": role, "ttl_s": ttl_s})
        made: dict[str, Any] = self._ask("POST", "/v1/tokens", wanted)
        return made

    def revoke_token(self, name: str) -> str:
        """End a token; what was done, for people.

        Raises:
            NoServerError: Only a running server can.
            FleetError: None in force is called so.
        """
        message: str = self._ask("POST", f"/v1/tokens/{quote(name, safe='', errors='replace')}/revoke")[
            "message"
        ]
        return message

    @contextlib.contextmanager
    def _record(self) -> Iterator[Store]:
        """What the last server wrote.

        Raises:
            NoRecordError: Nothing; it says where that was looked for.
        """
        try:
            with contextlib.closing(Store.open_readonly(self._database)) as store:
                yield store
        except NoRecordError as error:
            if len(self._places) > 1 and isinstance(self._database, Path):
                error.hint += f" Looked for in {', '.join(str(place) for place in self._places)}."
            raise

    def _ask(self, method: str, path: str, body: str | None = None) -> Any:
        connection = _UnixConnection(self._socket)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            status, answer = response.status, json.loads(response.read())
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NoServerError(
                "no server of this cluster is running", "Start 'bramble serve' first."
            ) from error
        except PermissionError as error:
            raise FleetError(
                f"{self._socket} belongs to another user",
                "Run this as the user who runs 'bramble serve', or with sudo.",
            ) from error
        except (ConnectionError, http.client.IncompleteRead) as error:
            raise BrokenOffError(
                f"the server at {self._socket} ended while it was asked: {error}",
                "Is it started again? 'bramble status' shows what became of it.",
            ) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise FleetError(f"the server at {self._socket} does not answer as expected: {error}") from error
        finally:
            connection.close()
        if status != 200:
            kind = BusyError if answer.get("error") == "busy" else FleetError
            raise kind(answer.get("message", f"the server answered {status}"), answer.get("hint", ""))
        return answer
