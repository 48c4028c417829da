"""The service's calls; what they do is done elsewhere.

GET  /health                        whether it answers; the one call without a token
GET  /v1/tasks                      what may be launched
GET  /v1/studies                    all studies
POST /v1/studies                    launch one: its study file as JSON, its task one of /v1/tasks
GET  /v1/studies/{name}             where it is, the best, the front
GET  /v1/studies/{name}/progress    the same as server-sent events, whenever it changes
POST /v1/studies/{name}/stop        after the running trials, or now
POST /v1/studies/{name}/resume      go on, further if asked
GET  /v1/studies/{name}/front       what no other trial dominates
GET  /v1/studies/{name}/best        the best trial, under a further condition
GET  /v1/studies/{name}/export      its network as a zipped folder
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, cast

from a2wsgi import WSGIMiddleware
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, StreamingResponse
from pydantic import ValidationError

from dashboards.app import application as dashboard
from search.home import STUDY_NAME
from search.service.answers import (
    ChoiceAnswer,
    FrontAnswer,
    Health,
    LaunchAnswer,
    ResumeAsked,
    StopAnswer,
    StudyAnswer,
    TaskAnswer,
    Trouble,
)
from search.service.asking import from_json, refused, trouble
from search.service.guard import Guard
from search.service.pages import docs_page
from search.service.parts import Service
from search.service.stream import progress
from search.service.tokens import Tokens
from search.study_file import StudyFile
from search.study_tables import one_line as broken_rule
from spaces.errors import PleachError, RequestError

DESCRIPTION = (
    "Launch studies, follow them, fetch what they found. Every call but /health brings Authorization: Bearer TOKEN."
)
Name = Annotated[str, InPath(description="The study.", pattern=f"^{STUDY_NAME.pattern}$", examples=["digits-small"])]
Where = Annotated[
    str | None,
    Query(max_length=500, description='A further condition, e.g. "latency_ms <= 5 and macs <= 0.5 * baseline".'),
]
Trial = Annotated[int | None, Query(ge=0, le=10**9, description="A complete trial; else the best.")]
Now = Annotated[bool, Query(description="Drop the running trials; the next run takes them up.")]
SAID: Mapping[int, str] = {
    401: "No valid token.",
    403: "The token lacks the right.",
    404: "There is no such study.",
    409: "Not in the state that the study, or the service, is in.",
    413: "The body is too long.",
    422: "What is asked breaks a rule.",
    429: "Too many calls.",
}


def application(service: Service, tokens: Tokens, *, secure: bool = False) -> Guard:
    """The service as an ASGI application.

    Args:
        service: What it answers with; closed with the application.
        tokens: Who may call.
        secure: Whether it is reached over TLS.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.exports.close()

    app = FastAPI(
        title="Pleach", description=DESCRIPTION, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    _add_troubles(app)
    _add_looks(app, service)
    _add_control(app, service)
    _add_results(app, service)
    _add_pages(app)
    pages = dashboard(service.source(), prefix="/dashboard/", mounted=True, hosts=())
    app.mount("/dashboard", cast(Any, WSGIMiddleware(cast(Any, pages), workers=4)))
    return Guard(app, tokens, service.limits, secure=secure)


def _said(*codes: int) -> dict[int | str, dict[str, Any]]:
    """What can go wrong with a call, for the schema."""
    return {code: {"model": Trouble, "description": SAID[code]} for code in (401, 403, *codes, 422, 429)}


def _add_troubles(app: FastAPI) -> None:
    """Every trouble is one line of JSON."""

    async def known(_: Request, error: Exception) -> Response:
        assert isinstance(error, PleachError)
        return refused(error)

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part not in ("path", "query", "body"))
        rule = str(first["msg"]).removeprefix("Input should be ").removeprefix("String should ")
        verb = "must" if rule.startswith(("match", "have")) else "must be"
        return trouble(422, f"{where} {verb} {rule}, but is {str(first.get('input'))[:80]!r}: correct it")

    async def http(request: Request, error: Exception) -> Response:
        error = cast(HTTPException, error)  # or the one it is made from
        words = {
            404: "there is no such page: see /docs",
            405: f"{request.method} is not what this page takes: see /docs",
        }
        return trouble(error.status_code, words.get(error.status_code, str(error.detail)), error.headers)

    async def bug(_: Request, error: Exception) -> Response:
        return trouble(500, f"this is a bug in pleach ({type(error).__name__}): the operator's log has more")

    app.add_exception_handler(PleachError, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(404, http)
    app.add_exception_handler(405, http)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, bug)


def _add_looks(app: FastAPI, service: Service) -> None:
    """The calls that look."""
    looks = service.looks
    streams = asyncio.Semaphore(service.limits.streams)

    @app.get("/health", tags=["service"])
    async def health() -> Health:
        """Whether the service answers."""
        return Health(status="ok")

    @app.get("/v1/tasks", tags=["studies"], response_model=list[TaskAnswer], responses=_said())
    async def tasks() -> Any:
        """What may be launched, and which arguments may be chosen."""
        return service.allowed.described()

    @app.get("/v1/studies", tags=["studies"], response_model=list[StudyAnswer], responses=_said())
    def studies() -> Response:
        """All studies."""
        return Response(looks.list(), media_type="application/json")

    @app.get("/v1/studies/{name}", tags=["studies"], response_model=StudyAnswer, responses=_said(404))
    async def study(name: Name, request: Request) -> Response:
        """Where a study is; with If-None-Match, 304 while nothing changed."""
        found = await looks.soon(name)
        headers = {"ETag": f'"{found.tag}"'}
        if found.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(found.body, media_type="application/json", headers=headers)

    @app.get(
        "/v1/studies/{name}/progress",
        tags=["studies"],
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}}, **_said(404)},
    )
    async def follow(name: Name, request: Request) -> Response:
        """Server-sent events: `study` with the study whenever it changes, `end` when it is at rest."""
        await looks.soon(name)
        if streams.locked():
            return trouble(429, f"at most {service.limits.streams} streams may be open: poll, or come back later")

        async def events() -> AsyncIterator[bytes]:
            async with streams:
                async for event in progress(looks, name, request.headers.get("last-event-id")):
                    yield event

        return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    @app.get("/v1/studies/{name}/front", tags=["results"], response_model=FrontAnswer, responses=_said(404))
    async def front(name: Name) -> Any:
        """The feasible trials that no other dominates."""
        summary = (await looks.soon(name)).summary
        return {"study": name, "state": summary["state"], "front": summary["front"]}


def _add_control(app: FastAPI, service: Service) -> None:
    """The calls that change something."""
    control = service.control
    wanted = {"description": "A study file as JSON; its task is one of /v1/tasks.", "required": True}
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/StudyFile"}}}
    further = {"application/json": {"schema": {"$ref": "#/components/schemas/ResumeAsked"}}}

    @app.post(
        "/v1/studies",
        tags=["studies"],
        status_code=202,
        response_model=LaunchAnswer,
        responses=_said(409, 413),
        openapi_extra={"requestBody": {**wanted, "content": content}},
    )
    async def launch(request: Request) -> Any:
        """Begin a study. It is checked in a process of its own: follow it to see whether it starts or is refused."""
        data = from_json(await request.body())
        name = await asyncio.to_thread(control.launch, data, request.state.caller)
        return {"study": name, "state": "starting", "follow": f"/v1/studies/{name}/progress"}

    @app.post(
        "/v1/studies/{name}/resume",
        tags=["studies"],
        status_code=202,
        response_model=LaunchAnswer,
        responses=_said(404, 409, 413),
        openapi_extra={"requestBody": {"description": "How far to go on; may be left out.", "content": further}},
    )
    async def resume(name: Name, request: Request) -> Any:
        """Let a study go on."""
        body = await request.body()
        try:
            asked = ResumeAsked.model_validate(from_json(body) if body else {})
        except ValidationError as error:
            raise RequestError(broken_rule(error)) from None
        await asyncio.to_thread(control.resume, name, asked.trials, request.state.caller)
        return {"study": name, "state": "starting", "follow": f"/v1/studies/{name}/progress"}

    @app.post(
        "/v1/studies/{name}/stop",
        tags=["studies"],
        status_code=202,
        response_model=StopAnswer,
        responses=_said(404, 409),
    )
    def stop(name: Name, now: Now = False) -> Any:
        """Stop a study; nothing that is decided is lost."""
        return {"study": name, "stopping": control.stop(name, now=now)}


def _add_results(app: FastAPI, service: Service) -> None:
    """The calls that fetch what was found."""
    looks, exports = service.looks, service.exports

    @app.get("/v1/studies/{name}/best", tags=["results"], response_model=ChoiceAnswer, responses=_said(404))
    def best(name: Name, where: Where = None) -> Any:
        """The best trial so far."""
        return looks.best(name, where)

    @app.get(
        "/v1/studies/{name}/export",
        tags=["results"],
        response_class=FileResponse,
        responses={200: {"content": {"application/zip": {}}}, **_said(404, 409)},
    )
    async def export(name: Name, trial: Trial = None, where: Where = None) -> Response:
        """A trial's network as a zipped folder that stands alone; making it takes seconds to minutes, once."""
        identity, number = await asyncio.to_thread(looks.exported, name, trial, where)
        file = await asyncio.wrap_future(exports.wanted(name, identity, number))
        return FileResponse(file, media_type="application/zip", filename=f"{name}-{number}.zip")


def _add_pages(app: FastAPI) -> None:
    """The schema, and the calls as a page."""

    @app.get("/openapi.json", include_in_schema=False)
    async def schema() -> Any:
        return openapi(app)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(docs_page(openapi(app)))

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse("/dashboard/")


def openapi(app: FastAPI) -> dict[str, Any]:
    """The schema of the calls, with the study file's and the tokens put in."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version="1", description=app.description, routes=app.routes)
        parts = schema["components"]["schemas"]
        for model in (StudyFile, ResumeAsked):
            made = model.model_json_schema(ref_template="#/components/schemas/{model}")
            parts |= made.pop("$defs", {})
            parts[model.__name__] = made
        schema["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"token": []}]
        schema["paths"]["/health"]["get"]["security"] = []
        app.openapi_schema = schema
    return app.openapi_schema
