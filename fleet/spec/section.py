"""What every section of cluster.yaml's schema is made of."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from fleet.spec import values


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


def name_as_mapping(key: str) -> BeforeValidator:
    """Let a single word stand for a mapping with one key: `disk: nvme` is `disk: {kind: nvme}`."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value)


def _text(value: Any) -> str:
    return values.expect_text(value, "a text")


Text = Annotated[str, BeforeValidator(_text)]
Url = Annotated[str, BeforeValidator(values.parse_http_url)]
Port = Annotated[int, Field(ge=1, le=65535)]
