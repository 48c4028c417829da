"""The map of sub-tasks shows every sample once, under its bud."""

from __future__ import annotations

import pandas as pd

from dashboards.buds import map_figure, map_frame

PORTRAIT = {"points": [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], "members": [1, 0, 1], "labels": [7, -1, 3]}


def test_every_sample_is_shown_once_under_its_bud() -> None:
    figure = map_figure(map_frame(PORTRAIT), agreement=0.408)
    assert [(trace.name, list(trace.x), list(trace.y)) for trace in figure.data] == [
        ("bud 0: 33%", [2.0], [3.0]),
        ("bud 1: 67%", [0.0, 4.0], [1.0, 5.0]),
    ]
    assert [list(trace.text) for trace in figure.data] == [[""], ["class 7", "class 3"]]
    assert figure.layout.title.text == "Sub-tasks (agreement with the classes 0.41)"
    assert len({trace.marker.symbol for trace in figure.data}) == 2


def test_without_samples_it_says_so() -> None:
    assert "No samples" in map_figure(pd.DataFrame()).layout.annotations[0].text
    assert map_frame({}).empty
