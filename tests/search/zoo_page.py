"""The page of the docs on networks: what works on which of the zoo and why the rest does not, from the runs."""

from __future__ import annotations

import re

from tests.search import zoo
from tests.search.zoo_outcomes import OPERATIONS, covered, outcome, subject

HEAD = """\
# Networks

What can be done to which network. Every cell below is a run: a tiny network of that kind is traced, worked on during
six optimizer steps, finalized, written to a folder and read back. *yes* says that connections were switched off (and,
where it says so, created), that the finalized network computes what the network under surgery did, that the books
count its non-zeros, and that what was read back computes the same. Under *channels* stands in how many of its layers
channels, groups or heads can go; there the finalized network has fewer parameters. A number in brackets leads to the
reason, in the words of the error that a user gets.

- *weights*: single weights, `pruning.granularity = "weight"`
- *2:4*: two of every four weights, `"nm"`
- *channels*: whole channels with all that depends on them, `"channel"`
- *regrown weights*, *regrown channels*: connections come back within the layers, `reconnection.granularity`
- *edges*: new connections across layers, `reconnection.radius = 2`
"""
FOOT = """\
## What is left alone

- **Weights under two names**: a weight that two layers share is masked once, and its channels stay. One that is tied to
  an embedding (the head of most language models) is left alone, because what goes there would change what a token is.
- **Recurrent layers** are masked connection by connection: their units are in every gate and every step.
- **Groups and heads** go whole where they can (a group of a convolution, a head of attention with its queries, keys,
  values and its columns of the projection back), or else every one of them loses as much. Several heads of queries
  that read one of keys and values go with it.
- **A LayerNorm** computes with all channels at once: the stream that it reads keeps its width, what is inside of the
  blocks does not.
"""


def networks_page() -> str:
    """The whole page; runs whatever has not been run in this process."""
    reasons: list[str] = []
    titles = " | ".join(OPERATIONS)
    lines = [HEAD, f"| network | | {titles} |", f"|---|---|{'---|' * len(OPERATIONS)}"]
    for name, make in zoo.ALL.items():
        cells = " | ".join(_cell(name, operation, reasons) for operation in OPERATIONS)
        lines.append(f"| `{name}` | {(make.__doc__ or '').rstrip('.')} | {cells} |")
    lines += ["", *(f"({i}) {reason}  " for i, reason in enumerate(reasons, 1)), "", *_untraced(), FOOT]
    return "\n".join(lines) + "\nThis page is written from the runs themselves by `python -m tests.pages networks`.\n"


def few_words(message: str) -> str:
    """Why, out of an error's one line: without the knob that it begins with and the remedy that it ends with."""
    why = message.rpartition(": ")[0].rpartition(": ")[2]
    return re.sub(r"^[\w.]+ = \S+ ", "", why)


def _cell(name: str, operation: str, reasons: list[str]) -> str:
    found = outcome(name, operation)
    if faults := found.faults(operation):
        raise AssertionError(f"{operation} of {name}: {', '.join(faults)}")
    if found.refusal:
        why = few_words(found.refusal)
        if why not in reasons:
            reasons.append(why)
        return f"no ({reasons.index(why) + 1})"
    if operation == "channels":
        some, layers = covered(name)
        return f"{some} of {layers}"
    return "yes"


def _untraced() -> list[str]:
    """What the user of each network without a graph reads."""
    messages = {name: subject(name).untraceable for name in zoo.STRANGERS}
    head = (
        "## Networks without a graph\n\nEdges need a graph. Where torch.fx cannot make one, the message says where:\n"
    )
    # Another line above that of the zoo's own network would make the page stale.
    shown = {name: re.sub(r"\((zoo_odd[.]py):[0-9]+ `(.*)`\)", r"(\1, \2)", text) for name, text in messages.items()}
    return [head, *(f"- `{name}`: {text}" for name, text in shown.items()), ""]
