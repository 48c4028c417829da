"""Requests and answers at their rawest: bodies that are not too long, JSON that is plain, troubles on one line."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from fastapi.responses import JSONResponse

from spaces.errors import PleachError, RequestError, StorageError, StudyError, UnreachableError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger(__name__)

#: How deep JSON may be nested; a study file needs six levels.
DEEPEST = 16


def one_line(error: BaseException, longest: int = 400) -> str:
    """An error's message as clients get it."""
    text = " ".join(str(error).split())
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def trouble(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An answer that says on one line what is wrong."""
    return JSONResponse({"error": message}, status_code=status, headers=dict(headers or {}))


def status_of(error: PleachError) -> int:
    """Whose fault it is: 404 for what is not there, 409 for what cannot be now, 422 for what is asked wrongly."""
    if isinstance(error, StudyError):
        return 404 if str(error).startswith("there is no study") else 409
    return 422


def refused(error: PleachError) -> JSONResponse:
    """The answer to an error; what the operating system said is the operator's to read."""
    if isinstance(error, UnreachableError):
        logger.error("%s", error)
        return trouble(503, "a server that the service needs does not answer now: try later, or ask the operator")
    if isinstance(error, StorageError):
        logger.error("%s", error)
        return trouble(503, "the service's files cannot be read or written now: ask the operator, whose log has more")
    return trouble(status_of(error), one_line(error))


def from_json(body: bytes) -> Any:
    """The value of a body, as strict as JSON is written down: no NaN, no half characters, not too deep.

    Raises:
        RequestError: If it is none.
    """
    try:
        text = body.decode("utf-8")
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # a lone surrogate cannot be written to any file
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body must be JSON, but is not ({one_line(error, 120)}): correct it") from None
    if _depth(value) > DEEPEST:
        raise RequestError(f"the body may be nested {DEEPEST} levels deep, but is deeper: flatten it")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large a number")
    return number


def _depth(value: Any) -> int:
    deepest, waiting = 0, [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        deepest = max(deepest, depth)
        if depth > DEEPEST:
            break
        inner = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        waiting += [(one, depth + 1) for one in inner]
    return deepest


async def respond(app: App, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
    """What an application answers to a request that came by other ways than a socket: status, headers, body."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-length", str(len(body)).encode())],
        "client": None,
        "server": None,
    }
    status, headers, said = 500, dict[str, str](), bytearray()

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status = int(message["status"])
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
        else:
            said.extend(message.get("body", b""))

    await app(scope, receive, send)
    return status, headers, bytes(said)
