"""Who comes in: every request but two is stopped here unless it brings a token, or the cookie that one was traded for.

The two are ``/health`` and the login form. Programs send ``Authorization: Bearer TOKEN``. A browser trades a token
for a cookie, which opens only what is looked at: it launches and stops nothing, so a page elsewhere cannot make it.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from fastapi.responses import HTMLResponse, RedirectResponse, Response

from search.service.asking import App, Message, Receive, Scope, Send, refused, trouble
from search.service.pages import LOGIN, login_page
from search.service.rates import Rate
from search.service.tokens import Right, Token, Tokens
from spaces.errors import PleachError

COOKIE = "pleach"
#: Where a browser goes once it is in.
INSIDE = "/dashboard/"
CHALLENGE = {"WWW-Authenticate": "Bearer"}
#: What every answer says to browsers.
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cache-control", b"private, no-cache"),
)


@dataclass(frozen=True)
class Limits:
    """What one caller may ask of the service.

    Args:
        bytes: The largest body.
        seconds: How long a body may take to arrive.
        rate: Calls a second per token.
        burst: Calls at once per token.
        failures: Wrong or missing tokens a minute per address; after that it has to wait.
        streams: Streams of progress at once, of all callers together.
        connections: Connections at once.
        session: Seconds for which a browser stays in.
    """

    bytes: int = 2**20
    seconds: float = 20.0
    rate: float = 200.0
    burst: float = 400.0
    failures: float = 60.0
    streams: int = 128
    connections: int = 512
    session: float = 12 * 3600.0


class Guard:
    """An ASGI application around another one.

    Args:
        app: What is guarded.
        tokens: Who may come in.
        limits: How often, and with how much.
        secure: Whether the service is reached over TLS.
        browsers: Whether there are pages behind it, so that a browser may trade a token for a cookie.
        needed: The right that a request needs.
        clock: Seconds that only rise.
    """

    def __init__(
        self,
        app: App,
        tokens: Tokens,
        limits: Limits,
        *,
        secure: bool = False,
        browsers: bool = True,
        needed: Callable[[Scope], Right] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._browsers, self._needed = browsers, needed or right_for
        self._app, self._tokens, self._limits, self._secure, self._clock = app, tokens, limits, secure, clock
        self._calls = Rate(limits.rate, limits.burst, clock=clock)
        self._failures = Rate(limits.failures / 60, limits.failures, clock=clock)
        self._sessions: dict[str, tuple[Token, float]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, _with_headers(send))
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if path == "/health" and method in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        address = (scope.get("client") or ("",))[0]
        try:
            if path == LOGIN and self._browsers:
                answer: Response | Token = await self._login(scope, receive, address)
            else:
                answer = self._identified(scope, address)
        except PleachError as error:
            answer = refused(error)
        if isinstance(answer, Token):
            wait = self._calls.take(answer.name)
            if wait:
                answer = _later(
                    f"a token may call {self._limits.rate:g} times a second, but this one called more", wait
                )
        if isinstance(answer, Response):
            await answer(scope, receive, send)
            return
        body = await self._body(scope, receive) if method not in ("GET", "HEAD", "OPTIONS") else b""
        if isinstance(body, Response):
            await body(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = answer.name
        await self._app(scope, _again(body, receive), send)

    # -- who it is --------------------------------------------------------------------------------------------------

    def _identified(self, scope: Scope, address: str) -> Token | Response:
        """Who calls, or why not."""
        headers = _headers(scope)
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        needed = self._needed(scope)
        if scheme.lower() == "bearer":
            token, cookie = self._tokens.find(secret.strip()), False
        else:
            token, cookie = self._session(headers), True
        if token is None:
            return self._stranger(scope, headers, address)
        if cookie and not _looks_only(scope, headers):
            return trouble(403, "a browser's login opens what is looked at: to change something send the token itself")
        if needed not in token.rights:
            has = ", ".join(token.rights)
            return trouble(403, f"this call needs the right {needed}, but {token.name} has {has}: use another token")
        return token

    def _stranger(self, scope: Scope, headers: Mapping[str, str], address: str) -> Response:
        asks_for_a_page = scope["method"] == "GET" and "text/html" in headers.get("accept", "")
        if self._browsers and asks_for_a_page and "authorization" not in headers:
            return RedirectResponse(LOGIN, status_code=303)
        wait = self._failures.take(address)
        if wait:
            return _later("too many calls from this address came with no valid token", wait)
        return trouble(
            401,
            "a call must bring a valid token, but this one does not: send Authorization: Bearer TOKEN "
            "(pleach token add makes one)",
            CHALLENGE,
        )

    def _session(self, headers: Mapping[str, str]) -> Token | None:
        """Whose cookie it is; a token that was revoked takes its cookies along."""
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return None
        if COOKIE not in cookies:
            return None
        key = _hidden(cookies[COOKIE].value)
        token, ends = self._sessions.get(key, (None, 0.0))
        if token is None or ends < self._clock() or not self._tokens.holds(token):
            self._sessions.pop(key, None)
            return None
        return token

    # -- the login form ---------------------------------------------------------------------------------------------

    async def _login(self, scope: Scope, receive: Receive, address: str) -> Response:
        if scope["method"] in ("GET", "HEAD"):
            return HTMLResponse(login_page())
        if scope["method"] != "POST":
            return trouble(405, "the login form takes GET and POST", {"Allow": "GET, HEAD, POST"})
        body = await self._body(scope, receive)
        if isinstance(body, Response):
            return body
        try:
            fields = parse_qs(body.decode("ascii"), max_num_fields=8)
        except ValueError:
            fields = {}
        token = self._tokens.find(fields.get("token", [""])[0].strip())
        if token is None or "read" not in token.rights:
            wait = self._failures.take(address)
            if wait:
                return _later("too many calls from this address came with no valid token", wait)
            return HTMLResponse(login_page("That is no token with the right read."), status_code=401)
        session = secrets.token_urlsafe(32)
        now = self._clock()
        self._sessions = {key: kept for key, kept in self._sessions.items() if kept[1] > now}
        self._sessions[_hidden(session)] = (token, now + self._limits.session)
        answer = RedirectResponse(INSIDE, status_code=303)
        answer.set_cookie(
            COOKIE,
            session,
            max_age=int(self._limits.session),
            httponly=True,
            samesite="strict",
            secure=self._secure,
        )
        return answer

    # -- how much it brings -----------------------------------------------------------------------------------------

    async def _body(self, scope: Scope, receive: Receive) -> bytes | Response:
        """The body, as long as it is not too long; what is said of its length is not believed."""
        largest = self._limits.bytes
        said = _headers(scope).get("content-length", "")
        over = trouble(413, f"a request may have {largest} bytes, but has more: send less")
        if said.isdecimal() and (len(said) > 18 or int(said) > largest):
            return over
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        break
                    body += message.get("body", b"")
                    if len(body) > largest:
                        return over
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            return trouble(408, f"a request must arrive within {self._limits.seconds:g} s, but did not: send it again")
        return bytes(body)


def right_for(scope: Scope) -> Right:
    """What a call of the service of studies needs: looking needs one right, changing the other."""
    looked_at = scope["method"] in ("GET", "HEAD", "OPTIONS") or not scope["path"].startswith("/v1")
    return "read" if looked_at else "launch"


def _looks_only(scope: Scope, headers: Mapping[str, str]) -> bool:
    """Whether a call changes nothing: it reads, or it is the dashboard asking itself what to draw."""
    if scope["method"] in ("GET", "HEAD", "OPTIONS"):
        return True
    origin = headers.get("origin", "")
    same = not origin or origin.partition("://")[2] == headers.get("host", "")
    return scope["path"].startswith(INSIDE) and same


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _hidden(session: str) -> str:
    return hashlib.sha256(session.encode("utf-8", "surrogateescape")).hexdigest()


def _later(message: str, wait: float) -> Response:
    seconds = max(1, math.ceil(wait))
    return trouble(429, f"{message}: wait {seconds} s", {"Retry-After": str(seconds)})


def _again(body: bytes, receive: Receive) -> Receive:
    """A body that was read already, then what comes after it."""
    given = False

    async def next_message() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return next_message


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            there = {name.lower() for name, _ in message.get("headers", ())}
            message["headers"] = [*message.get("headers", ()), *(h for h in HEADERS if h[0] not in there)]
        await send(message)

    return sent
