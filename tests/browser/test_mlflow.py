"""MLflow's own pages on the same study: the list of its trials with useful columns, and trials side by side."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, expect

from search.home import Home
from search.record.links import run_link
from search.record.store import Store
from search.study import Study
from tests.browser.conftest import Lived

PATIENCE = 90_000


@pytest.mark.slow
def test_mlflow_lists_and_compares_the_trials(browser: Browser, mlflow_server: str, lived: Lived) -> None:
    lived.wait()
    study = Study.load("lived", lived.home)
    place = Home.find(lived.home)
    address = run_link(
        place.mlflow_uri, place.artifacts, mlflow_server, task=study.task_name, study="lived",
        objectives=list(study.file.directions), rising=False, knobs=list(study.file.space.distributions()),
    )  # fmt: skip
    page = browser.new_page(viewport={"width": 2200, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    for column in ("final/accuracy", "final/macs", "final/plasticity", "pruning.sparsity"):
        expect(page.get_by_text(column, exact=True).first).to_be_visible(timeout=PATIENCE)
    store = Store(place.mlflow_uri, study.task_name, place.artifacts)
    runs = [store.find({"study": "lived", "trial.number": str(number)})[0].info.run_id for number in (0, 1)]
    query = f"runs={quote(json.dumps(runs))}&experiments={quote(json.dumps([store.experiment]))}"
    page.goto(f"{mlflow_server}/#/compare-runs?{query}")
    page.reload()
    expect(page.get_by_text("pruning.sparsity", exact=True).first).to_be_attached(timeout=PATIENCE)
    for number in (0, 1):
        expect(page.get_by_text(f"trial {number}").first).to_be_visible(timeout=PATIENCE)
    page.close()
