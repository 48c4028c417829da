"""A study's progress as server-sent events: the whole summary whenever it changes, until the study is at rest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from search.service.looks import Look, Looks
from spaces.errors import PleachError

#: Seconds between two looks.
EVERY = 0.5
#: Seconds after which a silent stream says that it is still there.
SILENCE = 15.0


async def progress(looks: Looks, name: str, seen: str | None = None, *, every: float = EVERY) -> AsyncIterator[bytes]:
    """The events of a study: ``study`` with its summary, at last ``end``.

    Args:
        looks: Who looks.
        name: The study.
        seen: The id of the event that the client saw last; it is not sent again.
        every: Seconds between two looks.
    """
    tag, said = seen, time.monotonic()
    yield b"retry: 2000\n\n"
    while True:
        try:
            look = await looks.soon(name)
        except PleachError:  # its folder was taken away
            yield b"event: end\ndata: {}\n\n"
            return
        if look.tag != tag:
            yield _event(look)
            tag, said = look.tag, time.monotonic()
        if not look.active:
            yield b"event: end\ndata: {}\n\n"
            return
        if time.monotonic() - said > SILENCE:
            yield b": still here\n\n"
            said = time.monotonic()
        await asyncio.sleep(every)


def _event(look: Look) -> bytes:
    return b"event: study\nid: " + look.tag.encode() + b"\ndata: " + look.body + b"\n\n"
