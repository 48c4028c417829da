"""What the verbs of tokens look like on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

Answer = Mapping[str, Any]


def added_answer(found: Answer) -> RenderableType:
    """The token, on a line of its own."""
    said = f"{found['name']} may {' and '.join(found['rights'])}; only a hash of the token is kept, so note it now:"
    return Group(Text(said), Text(found["token"], style="bold", no_wrap=True, overflow="ignore"))


def tokens_answer(found: Answer) -> RenderableType:
    """Who may call."""
    if not found["tokens"]:
        return Text("There are no tokens yet: pleach token add NAME --rights read,launch makes one.")
    table = Table(box=None)
    for column in ("name", "rights", "made"):
        table.add_column(column)
    for token in found["tokens"]:
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(token["created"]))
        table.add_row(token["name"], ", ".join(token["rights"]), made)
    return table


def revoked_answer(found: Answer) -> RenderableType:
    """Who may no longer."""
    return Text(f"the token of {found['revoked']} opens nothing any more")


#: By the name that the command line gives them.
RENDER_SERVICE: Mapping[str, Callable[[Answer], RenderableType]] = {
    "token add": added_answer,
    "token list": tokens_answer,
    "token revoke": revoked_answer,
}
