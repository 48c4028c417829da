"""What stands before the replicas: takes requests over HTTP, hands each to one of them, and adds up what they count.

POST /v1/answer, POST /v1/answer/raw, GET /v1/buds, GET /health   as `search.buds.serve` has them
GET  /v1/replicas    what each replica serves, as it said last
GET  /metrics        the counts of all replicas together, and times as they are seen here
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse

from search.buds.serve import EXPOSITION, Limits, Times, body_of, exposition
from search.service.asking import trouble

#: Asks a replica: method, path, body.
Ask = Callable[[str, str, bytes], Awaitable[Any]]


def front(ask: Ask, limits: Limits) -> FastAPI:
    """The application before the replicas.

    Args:
        ask: As `search.buds.replicas.Replicas.call`.
        limits: What a request may ask for.
    """
    app = FastAPI(title="Pleach buds", docs_url=None, redoc_url=None, openapi_url=None)
    times, said = Times(), dict[str, tuple[float, Any]]()

    async def asked(request: Request, path: str) -> Response:
        body = await body_of(request, limits.bytes) if request.method == "POST" else b""
        began = time.perf_counter()
        reply = await ask(request.method, path, body)
        if reply is None:
            return trouble(503, "a replica must be there, but none is: ask again later")
        said[reply.replica] = (time.monotonic(), reply)
        if request.method == "POST" and reply.status == 200:
            times.add(time.perf_counter() - began)
        return Response(reply.body, reply.status, media_type=reply.kind)

    @app.post("/v1/answer")
    async def from_json(request: Request) -> Response:
        return await asked(request, "/v1/answer")

    @app.post("/v1/answer/raw")
    async def from_tensors(request: Request) -> Response:
        return await asked(request, "/v1/answer/raw")

    @app.get("/v1/buds")
    async def buds(request: Request) -> Response:
        return await asked(request, "/v1/buds")

    @app.get("/health")
    async def health(request: Request) -> Response:
        return await asked(request, "/health")

    @app.get("/v1/replicas")
    async def replicas() -> Mapping[str, Any]:
        now = time.monotonic()
        spoken = sorted(said.values(), key=lambda entry: -entry[0])
        return {
            "replicas": [
                {
                    "replica": reply.replica,
                    "system": reply.label,
                    "buds": {str(index): label for index, label in reply.buds.items()},
                    "seconds_ago": round(now - when, 3),
                    "answered": reply.figures.get("requests", 0.0),
                }
                for when, reply in spoken
            ]
        }

    @app.get("/metrics")
    async def metrics() -> Response:
        # A replica that is gone keeps its last word, so that what is counted only rises.
        counts = Counter[str]()
        for _, reply in said.values():
            counts.update(reply.figures)
        return PlainTextResponse(exposition(counts, times), media_type=EXPOSITION)

    return app
