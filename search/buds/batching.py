"""Requests that come at the same time are answered together: one pass through each network for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from search.buds.system import Answer


@dataclass(frozen=True, eq=False)
class _Waiting:
    inputs: Tensor
    answer: asyncio.Future[Answer]


class Batcher:
    """Collects what comes while the last batch is being answered, or for a moment where nothing is.

    Args:
        answer: What answers a batch; called in a thread of its own.
        largest: The most samples in a batch; a single request may have more.
        wait: Seconds to wait for company.
    """

    def __init__(self, answer: Callable[[Tensor], Answer], *, largest: int = 256, wait: float = 0.001) -> None:
        self._answer, self._largest, self._wait = answer, largest, wait
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "pleach-answers")
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, inputs: Tensor) -> Answer:
        """The answer to one request."""
        if self._task is None:
            self._task = asyncio.create_task(self._work())
        waiting = _Waiting(inputs, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(waiting)
        return await waiting.answer

    async def close(self) -> None:
        """End; what waits is cancelled."""
        if self._task is not None:
            self._task.cancel()
        while not self._queue.empty():
            self._queue.get_nowait().answer.cancel()
        self._thread.shutdown(wait=False)

    async def _work(self) -> None:
        while True:
            batch = [await self._queue.get()]
            if self._queue.empty() and self._wait > 0:
                await asyncio.sleep(self._wait)
            count = len(batch[0].inputs)
            while not self._queue.empty() and count < self._largest:
                batch.append(self._queue.get_nowait())
                count += len(batch[-1].inputs)
            await self._serve(batch)

    async def _serve(self, batch: list[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        try:
            whole = torch.cat([waiting.inputs for waiting in batch])
            answer = await loop.run_in_executor(self._thread, self._answer, whole)
        except Exception as error:  # the edge of a batch: whoever asked is told, the next batch is answered
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            return
        start = 0
        for waiting in batch:
            part = slice(start, start + len(waiting.inputs))
            start = part.stop
            if not waiting.answer.done():  # who asked may have gone
                waiting.answer.set_result(Answer(answer.outputs[part], answer.weights[part], answer.ran[part]))
