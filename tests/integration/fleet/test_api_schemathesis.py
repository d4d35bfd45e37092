"""Every operation of the OpenAPI document, with what it describes and what it does not, at a running server.

schemathesis makes requests from the document, good ones and bad ones, and holds each answer against it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from fakes_fleet import AgentKey, cluster_spec
from fakes_fleet_server import Running, running
from fleet_story import AGENT, SERVER, ask_to_install, prove_ticket, require_token, see
from fleet_story import install as install_node
from hypothesis import HealthCheck, Phase, settings
from schemathesis import checks
from schemathesis.specs.openapi import checks as openapi_checks

from fleet.api.guard import Limits
from fleet.api.routes import Access
from fleet.api.table import openapi
from fleet.boots import BootStage
from fleet.trust.tokens import TokenRole

pytestmark = pytest.mark.integration

SCHEMA = schemathesis.openapi.from_dict(openapi())
CHECKS: list[Any] = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.negative_data_rejection,
    openapi_checks.unsupported_method,
]
EXAMPLES = 15


@dataclass
class Door:
    """A server, and a session for each kind of caller."""

    url: str
    sessions: dict[Access, requests.Session]


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    state: Path = tmp_path_factory.mktemp("state")
    plenty = Limits(token_burst=10**6, node_burst=10**6, refused_burst=10**6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fleet.api.control.ANONYMOUS_BURST", 10**6)
        patch.setattr("fleet.api.control.SERIAL_BURST", 10**6)
        with running(state, cluster_spec(SERVER, AGENT), plenty) as server:
            door = Door(f"https://127.0.0.1:{server.port}", make_sessions(server, state))
            yield door
            for session in door.sessions.values():
                session.close()


def make_sessions(server: Running, state: Path) -> dict[Access, requests.Session]:
    """Nobody, an admitted installer, an enrolled node, a viewer and an admin."""
    key = AgentKey()

    def enrol_and_admit() -> tuple[str, str]:
        fleet = server.fleet
        install_node(fleet, SERVER)
        certificate = prove_ticket(fleet, SERVER, key).certificate_pem
        assert certificate is not None
        return certificate, admit(server)

    certificate, token = server.in_loop(enrol_and_admit)
    (state / "ca.crt").write_text(server.fleet.pki.ca_pem)
    (state / "node.crt").write_text(certificate)
    (state / "node.key").write_bytes(key.key_pem)
    found = {}
    for access in Access:
        session = requests.Session()
        session.trust_env = False
        session.verify = str(state / "ca.crt")
        found[access] = session
    found[Access.NODE].cert = (str(state / "node.crt"), str(state / "node.key"))
    tokens = {
        Access.INSTALLER: token,
        Access.VIEWER: server.person("viewer-of-the-test", TokenRole.VIEWER).token,
        Access.ADMIN: server.person("admin-of-the-test", TokenRole.ADMIN).token,
    }
    for access, text in tokens.items():
        found[access].headers["Authorization"] = f"Bearer {text}"
    return found


def admit(server: Running) -> str:
    """Let the agent's installer in, which then never goes on."""
    see(server.fleet, AGENT)
    see(server.fleet, AGENT, BootStage.KERNEL)
    return require_token(ask_to_install(server.fleet, AGENT))


@SCHEMA.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_answers_are_what_the_document_says(case: schemathesis.Case[Any], door: Door) -> None:
    access = Access(case.operation.definition.raw["tags"][0])
    session = door.sessions[access]
    response = case.call(base_url=door.url, session=session, verify=session.verify, timeout=20)
    case.validate_response(response, checks=CHECKS)
