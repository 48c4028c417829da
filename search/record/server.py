"""MLflow's own server over a home's database: how it is started, and where a study is in its pages."""

from __future__ import annotations

import os
import sys
from urllib.parse import quote, urlencode

from search.record.store import Store


def server_command(uri: str, port: int) -> list[str]:
    """The command of a server for this machine only."""
    server = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    return [
        *server,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        "--uvicorn-opts",
        "--log-level warning",
    ]


def server_environment() -> dict[str, str]:
    """Its environment: no job queue (ten processes), no telemetry, quiet."""
    return os.environ | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GIT_PYTHON_REFRESH": "quiet",
        "PYTHONWARNINGS": "ignore",
    }


def study_page(store: Store, study: str, objective: str, *, rising: bool) -> str:
    """The list of a study's trials and its baseline, best first, as it comes after the server's address.

    Args:
        store: Where it is recorded.
        study: Its name.
        objective: By which the list is sorted.
        rising: Whether the smallest value comes first.
    """
    query = {
        "workflowType": "machine_learning",
        "searchFilter": f"tags.study = '{study}' and tags.`trial.state` != ''",
        "orderByKey": f"metrics.`final/{objective}`",
        "orderByAsc": str(rising).lower(),
    }
    return f"#/experiments/{store.experiment}/runs?{urlencode(query, quote_via=quote)}"
