"""The table of routes and the OpenAPI document that follows from it."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from agent.protocol import Desired, Health, Status
from agent.wire import decode, encode
from fleet.api.lists import decode_cursor, encode_cursor
from fleet.api.openapi import openapi_path, statuses_of
from fleet.api.routes import Access
from fleet.api.schema import Schemas
from fleet.api.table import ROUTES, openapi
from fleet.refusal import RefusedError

OPEN = {"hello", "prove"}
"""Routes that need no credential: what they are told is proved by what it says."""


def operations() -> dict[str, tuple[str, str, dict[str, Any]]]:
    return {
        operation["operationId"]: (method.upper(), path, operation)
        for path, item in openapi()["paths"].items()
        for method, operation in item.items()
    }


def test_document_has_every_route_and_no_other() -> None:
    assert {name: (method, path) for name, (method, path, _) in operations().items()} == {
        route.name: (route.method, openapi_path(route.path)) for route in ROUTES
    }
    assert len({route.name for route in ROUTES}) == len(ROUTES)


def test_every_route_needs_a_credential_but_for_those_named_here() -> None:
    assert {route.name for route in ROUTES if route.access is Access.ENROLMENT} == OPEN
    without = {name for name, (_, _, operation) in operations().items() if not operation["security"]}
    assert without == OPEN


def test_only_admins_change_anything_that_is_peoples() -> None:
    writes = [route for route in ROUTES if route.is_write and route.access.is_of_people]
    assert writes
    assert {route.access for route in writes} == {Access.ADMIN}
    assert not [route for route in ROUTES if route.access is Access.VIEWER and route.holds_secret]


def test_document_is_plain_json_whose_references_lead_somewhere() -> None:
    text = json.dumps(openapi())
    document = json.loads(text)
    assert document["openapi"] == "3.1.0"
    components = document["components"]["schemas"]
    for schema in components.values():
        Draft202012Validator.check_schema(schema)
    used = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert used == set(components)


def test_parameters_of_a_path_are_described() -> None:
    for _method, path, operation in operations().values():
        described = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
        assert described == {part[1:-1] for part in path.split("/") if part.startswith("{")}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_refusals_are_errors_with_one_shape(route: Any) -> None:
    responses = operations()[route.name][2]["responses"]
    assert set(responses) == {"200"} | {str(status) for status in statuses_of(route)}
    for status, response in responses.items():
        (schema,) = (content["schema"] for content in response["content"].values())
        assert (schema == {"$ref": "#/components/schemas/Error"}) == (status != "200")


def validator(kind: type) -> Draft202012Validator:
    schemas = Schemas()
    schema = schemas.of(kind)
    text = json.dumps({**schema, "components": {"schemas": schemas.components}})
    return Draft202012Validator(json.loads(text))


@given(st.builds(Health, pressure_some_avg10=st.dictionaries(st.text(), st.floats(0, 100))))
def test_what_the_protocol_sends_is_what_the_schema_says(health: Health) -> None:
    if all(value == value for value in (health.uptime_s, health.load1)):  # no NaN: that is no JSON
        value = json.loads(encode(health))
        validator(Health).validate(value)


@pytest.mark.parametrize("change", [{"more": 1}, {"join": "yes"}, {"generation": None}])
def test_what_the_protocol_refuses_the_schema_refuses(change: dict[str, Any]) -> None:
    value = {"generation": 1, "join": True, **change}
    assert not validator(Desired).is_valid(value)
    with pytest.raises(ValueError, match="Desired"):
        decode(Desired, json.dumps(value).encode())
    validator(Status)


@given(st.one_of(st.text(max_size=80).filter(lambda text: "\0" not in text), st.integers(0, 2**63 - 1)))
def test_a_cursor_comes_back(key: str | int) -> None:
    text = encode_cursor(key)
    assert (decode_cursor(text, "") if isinstance(key, str) else decode_cursor(text, 0)) == key


@given(st.text(max_size=60))
def test_no_text_is_a_cursor_that_breaks_a_list(text: str) -> None:
    with contextlib.suppress(RefusedError):
        assert isinstance(decode_cursor(text, ""), str)
    with contextlib.suppress(RefusedError):
        assert isinstance(decode_cursor(text, 0), int)
