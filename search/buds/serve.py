"""A system of buds over HTTP: JSON or raw tensors in, answers and who gave them out.

POST /v1/answer      {"inputs": [[...], ...]} -> {"outputs": [...], "answered": [{"0": 1.0}, {}, ...], "system": "..."}
POST /v1/answer/raw  safetensors with `inputs` -> safetensors with `outputs` and `weights`
GET  /v1/buds        what serves now
GET  /metrics        counts and times, as Prometheus reads them
GET  /health         whether it serves
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from safetensors import SafetensorError
from torch import Tensor

from search.buds.batching import Batcher
from search.buds.manager import BudManager
from search.buds.system import Answer
from spaces.errors import RequestError

TENSORS = "application/octet-stream"
#: Of what Prometheus reads.
EXPOSITION = "text/plain; version=0.0.4"


@dataclass(frozen=True)
class Limits:
    """What a request may ask for.

    Args:
        bytes: The largest body.
        samples: The most samples in one request.
        batch: The most samples that are answered together.
        wait: Seconds that a request waits for company.
    """

    bytes: int = 16 * 2**20
    samples: int = 1024
    batch: int = 256
    wait: float = 0.001


class Times:
    """The latest answers' times."""

    def __init__(self, kept: int = 2048) -> None:
        self._latest: deque[float] = deque(maxlen=kept)
        self._lock = threading.Lock()
        self.count, self.total = 0, 0.0

    def add(self, seconds: float) -> None:
        with self._lock:
            self._latest.append(seconds)
            self.count += 1
            self.total += seconds

    def quantile(self, share: float) -> float:
        """Of the latest; NaN where there is none."""
        with self._lock:
            ordered = sorted(self._latest)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else math.nan


def application(manager: BudManager, limits: Limits | None = None) -> FastAPI:
    """The service of a manager.

    Args:
        manager: Answers; closed with the application.
        limits: What a request may ask for.
    """
    limits, times = limits or Limits(), Times()
    batcher = Batcher(manager.answer, largest=limits.batch, wait=limits.wait)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await batcher.close()
        await asyncio.to_thread(manager.close)

    app = FastAPI(title="Pleach buds", lifespan=lifespan, docs_url=None, redoc_url=None)

    async def answered(inputs: Tensor) -> Answer:
        samples = len(inputs) if inputs.ndim else 0
        if not 1 <= samples <= limits.samples:
            raise HTTPException(413, f"a request may have 1 to {limits.samples} samples, but has {samples}")
        began = time.perf_counter()
        try:
            manager.check(inputs)
        except RequestError as error:
            raise HTTPException(422, str(error)) from None
        answer = await batcher(inputs)
        times.add(time.perf_counter() - began)
        return answer

    @app.post("/v1/answer")
    async def from_json(request: Request) -> Response:
        inputs = _from_json(await body_of(request, limits.bytes), manager)
        answer = await answered(inputs)
        weights = answer.weights.tolist()
        said = [{str(i): w for i, w in enumerate(row) if w > 0} for row in weights]
        return JSONResponse(
            {"outputs": _plain(answer.outputs.tolist()), "answered": said, "system": manager.serving.label}
        )

    @app.post("/v1/answer/raw")
    async def from_tensors(request: Request) -> Response:
        inputs = _from_tensors(await body_of(request, limits.bytes))
        answer = await answered(inputs)
        tensors = {"outputs": answer.outputs.contiguous(), "weights": answer.weights.contiguous()}
        return Response(safetensors.torch.save(tensors), media_type=TENSORS)

    @app.get("/v1/buds")
    async def buds() -> Mapping[str, Any]:
        now = manager.serving
        return {
            "system": now.label,
            "subtasks": now.system.subtasks,
            "buds": {str(index): label for index, label in now.labels.items()},
            "inputs": list(now.inputs),
        }

    @app.get("/health")
    async def health() -> Mapping[str, str]:
        return {"status": "ok", "system": manager.serving.label}

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(exposition(manager.figures(), times), media_type=EXPOSITION)

    return app


async def body_of(request: Request, largest: int) -> bytes:
    """The body, as long as it is not too long; what is said of its length is not believed."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > largest:
            raise HTTPException(413, f"a request may have {largest} bytes, but has more: send fewer samples")
    return bytes(body)


def _from_json(body: bytes, manager: BudManager) -> Tensor:
    wanted = manager.serving.inputs
    dtype = getattr(torch, str(wanted[0]["dtype"])) if wanted else torch.float32
    try:
        data = json.loads(body)
        values = _numbers(data["inputs"])
        return torch.tensor(values, dtype=torch.float64).to(dtype)
    except (ValueError, KeyError, TypeError, RecursionError, RuntimeError, OverflowError) as error:
        said = " ".join(str(error).split())[:120]
        raise HTTPException(422, f'a request must be {{"inputs": [[numbers]]}}, but is not ({said})') from None


def _numbers(values: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    if isinstance(values, list):
        return [_numbers(value) for value in values]
    return math.nan if values is None else values


def _from_tensors(body: bytes) -> Tensor:
    try:
        return safetensors.torch.load(body)["inputs"]
    # The parser of safetensors leaves its errors as they come.
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        said = " ".join(str(error).split())[:120]
        raise HTTPException(422, f"a request must be safetensors with `inputs`, but is not ({said})") from None


def _plain(values: Any) -> Any:
    if isinstance(values, list):
        return [_plain(value) for value in values]
    return values if not isinstance(values, float) or math.isfinite(values) else None


def exposition(figures: Mapping[str, float], times: Times) -> str:
    """Counts and times as Prometheus reads them."""
    buds = {name.removeprefix("bud/"): value for name, value in figures.items() if name.startswith("bud/")}
    quantiles = {share: found for share in (0.5, 0.95, 0.99) if not math.isnan(found := times.quantile(share))}
    lines = [
        "# TYPE pleach_requests_total counter",
        *(f"pleach_{name}_total {figures.get(name, 0.0):g}" for name in ("requests", "parent", "blended")),
        "# TYPE pleach_bud_answers_total counter",
        *(f'pleach_bud_answers_total{{bud="{name}"}} {value:g}' for name, value in buds.items()),
        "# TYPE pleach_latency_seconds summary",
        *(f'pleach_latency_seconds{{quantile="{share:g}"}} {found:.6f}' for share, found in quantiles.items()),
        f"pleach_latency_seconds_sum {times.total:.6f}",
        f"pleach_latency_seconds_count {times.count}",
    ]
    return "\n".join(lines) + "\n"
