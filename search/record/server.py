"""MLflow's own server over a home's database: how it is started, and where a study is in its pages."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from urllib.parse import quote, urlencode

from search.record.entries import param_name
from search.record.store import Store
from spaces.errors import StorageError

#: So many knobs are columns of the list of trials.
KNOBS_SHOWN = 8


def server_command(port: int) -> list[str]:
    """The command of a server for this machine only; its database stands in its environment."""
    return [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        "--uvicorn-opts",
        "--log-level warning",
    ]


def server_environment(uri: str) -> dict[str, str]:
    """Its environment: no job queue (ten processes), no telemetry, quiet.

    Args:
        uri: The database; a password in it would be seen by every user of the machine if it stood in the command.
    """
    return os.environ | {
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GIT_PYTHON_REFRESH": "quiet",
        "PYTHONWARNINGS": "ignore",
    }


def study_page(store: Store, study: str, objectives: Sequence[str], *, rising: bool, knobs: Sequence[str] = ()) -> str:
    """The list of a study's trials and its baseline, best first, as it comes after the server's address.

    The columns that tell trials apart are kept with the experiment as a shared view, which is how MLflow's own pages
    pass a choice of columns on; where it cannot be written, the list comes with MLflow's columns.

    Args:
        store: Where it is recorded.
        study: Its name.
        objectives: Shown as columns; the list is sorted by the first.
        rising: Whether its smallest value comes first.
        knobs: What the study searches; the first few are shown.
    """
    facets = {
        "searchFilter": f"tags.study = '{study}' and tags.`trial.state` != ''",
        "orderByKey": f"metrics.`final/{objectives[0]}`",
    }
    columns = [f"metrics.`final/{name}`" for name in objectives]
    columns += [f"tags.`{name}`" for name in ("feasible", "pareto", "trial.state")]
    columns += [f"params.`{param_name(name)}`" for name in knobs[:KNOBS_SHOWN]]
    page = f"#/experiments/{store.experiment}/runs?"
    mode = {"workflowType": "machine_learning"}
    key = f"pleach-{study}"
    try:
        store.share_view(key, json.dumps({**facets, "orderByAsc": rising, "selectedColumns": columns}))
    except StorageError:
        query = {**mode, **facets, "orderByAsc": str(rising).lower()}
        return page + urlencode(query, quote_via=quote)
    return page + urlencode({**mode, "viewStateShareKey": key}, quote_via=quote)
