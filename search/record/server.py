"""MLflow's own server over a home's database: how it is started, and where a study is in its pages."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from search.record.runs import Record


def server_command(uri: str, port: int) -> list[str]:
    """The command of a server for this machine only."""
    server = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    return [*server, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]


def server_environment(home: Path) -> dict[str, str]:
    """Its environment: no job queue (ten processes), no telemetry, its temporary files not in the user's folder."""
    return os.environ | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GIT_PYTHON_REFRESH": "quiet",
        "PYTHONWARNINGS": "ignore",
    }


def run_url(uri: str, task: str, study: str, artifacts: Path) -> str:
    """The page of a study, as it comes after the server's address."""
    record = Record(uri, task=task, study=study, artifacts=artifacts)
    return f"#/experiments/{record.store.experiment}/runs"
