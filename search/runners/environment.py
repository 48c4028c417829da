"""Settings that Ray reads from the environment when it is imported or started: quiet and private."""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from search.home import storing

#: One entry a setting that is ours whatever else runs in this process.
ALWAYS: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the old output is silent at verbose = 0
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a task's relative paths stay what they are
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # MLflow has the curves
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the driver has its own
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a retry may have nothing left to report
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Optuna's storage knows the trials, Tune's state is never read
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
#: For a cluster of our own on this machine.
LOCAL: Mapping[str, str] = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # binds to the loopback, not to every interface
    "RAY_AUTH_MODE": "token",
}
#: Set in the processes of a job: they have its code already, and its cluster is where they are.
IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def settle(folder: Path | None) -> None:
    """Set what is not set already; call it before Ray is imported.

    Args:
        folder: Where a local cluster keeps its files, its token among them; None for a cluster elsewhere.

    Raises:
        StorageError: If the folder cannot be written.
    """
    for name, value in ALWAYS.items():
        os.environ.setdefault(name, value)
    if folder is None:
        return
    for name, value in LOCAL.items():
        os.environ.setdefault(name, value)
    if "RAY_AUTH_TOKEN" not in os.environ:
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            token = folder / f"token_{os.getpid()}"
            # Ray would put it into the user's own folder, readable by all.
            token.touch(mode=0o600)
            token.write_text(_token(), encoding="ascii")
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)


@functools.cache
def _token() -> str:
    """One secret a process: Ray remembers the first one that it reads."""
    return secrets.token_hex(16)
