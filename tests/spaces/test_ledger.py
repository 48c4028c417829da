"""What holds for every ledger: the books balance, and they survive JSON."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from spaces.ledger import Event, Ledger

layers = st.sampled_from(["conv1.weight", "fc.weight"])
counts = st.integers(0, 1000)
events = st.builds(
    Event,
    iteration=st.integers(0, 5),
    layer=layers,
    policy=st.sampled_from(["pruning", "reconnection"]),
    reason=st.sampled_from(["magnitude", "gradient", "coupled", "zero"]),
    created=counts,
    pruned=counts,
)
ledgers = st.builds(
    Ledger,
    events=st.lists(events, max_size=8).map(tuple),
    active_at_start=st.dictionaries(layers, counts),
    receipts=st.dictionaries(st.sampled_from(["pruning"]), st.dictionaries(st.text(max_size=5), st.floats(0, 9))),
)


@given(ledgers)
def test_the_books_balance(ledger: Ledger) -> None:
    changed = sum(event.created - event.pruned for event in ledger.events)
    assert sum(ledger.active().values()) == sum(ledger.active_at_start.values()) + changed


@given(ledgers)
def test_a_ledger_survives_json(ledger: Ledger) -> None:
    assert Ledger.from_dict(json.loads(json.dumps(ledger.to_dict()))) == ledger


def test_bookkeeping_stays_out_of_the_ratio_but_not_out_of_the_balance() -> None:
    ledger = Ledger(
        events=(
            Event(0, "fc.weight", "pruning", "magnitude", 0, 6),
            Event(1, "fc.weight", "reconnection", "gradient", 2, 0),
            Event(1, "conv1.weight", "pruning", "coupled", 0, 1),
            Event(2, "fc.weight", "pruning", "zero", 0, 3),
        ),
        active_at_start={"fc.weight": 10, "conv1.weight": 5},
    )
    assert (ledger.created(), ledger.pruned()) == (2, 7)
    assert ledger.active() == {"fc.weight": 3, "conv1.weight": 4}
