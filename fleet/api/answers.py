"""How both doors answer: JSON, and errors in the form that `agent.protocol` fixes."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from agent.wire import ProtocolError
from fleet.errors import FleetError
from fleet.refusal import RefusedError

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
REQUEST_ID: Final = web.RequestKey("request_id", str)
RETRY_AFTER_S: Final = 5
_HEADERS: Final = {
    401: {"WWW-Authenticate": "Bearer"},
    429: {"Retry-After": str(RETRY_AFTER_S)},
    503: {"Retry-After": str(RETRY_AFTER_S)},
}


def json_answer(body: bytes) -> web.Response:
    """A ready JSON document. Answers hold secrets at times, so nothing on the way may keep one."""
    return web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-store"})


def error_answer(request: web.Request, status: int, code: str, message: str, hint: str = "") -> web.Response:
    """`{"error": code, "message": text, "hint": text, "request_id": id}`."""
    number = request.get(REQUEST_ID, "")
    body = json.dumps({"error": code, "message": message, "hint": hint, "request_id": number}).encode()
    response = json_answer(body)
    response.set_status(status)
    response.headers.update(_HEADERS.get(status, {}))
    return response


def value_answer(value: Any) -> web.Response:
    return json_answer(json.dumps(value).encode())


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """No request raises past here: refusals carry their answer, mistakes of ours are logged: 500."""
    try:
        return await handler(request)
    except RefusedError as error:
        return error_answer(request, error.status, error.code, error.message, error.hint)
    except ProtocolError as error:
        return error_answer(request, 400, "message", str(error))
    except web.HTTPRequestEntityTooLarge as error:
        return error_answer(request, 413, "too-large", error.text or "the body is too large")
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        answer = error_answer(
            request, 405, "method", f"{error.method} is not what this takes: it takes {allowed}"
        )
        answer.headers["Allow"] = allowed
        return answer
    except web.HTTPException as error:
        return error_answer(request, error.status, "http", error.reason)
    except web.RequestPayloadError:
        return error_answer(request, 400, "body", "the body cannot be unpacked, or did not arrive whole")
    except FleetError as error:
        log.warning("request failed: %s", error.message, extra=_fields(request))
        return error_answer(request, 503, "unavailable", error.message, error.hint)
    except Exception:
        log.exception("request failed", extra=_fields(request))
        return error_answer(
            request, 500, "internal", "the control server made a mistake; its log has the details"
        )


def _fields(request: web.Request) -> dict[str, str]:
    return {"route": request.path, "request": request.get(REQUEST_ID, "")}
