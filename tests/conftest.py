"""What every test shares: one thread per process, the same examples in every run, and no state outside its folder."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import settings

# The same examples in every run and no time limit per example: a busy machine must not fail a law.
# PLEACH_EXAMPLES=1000 looks further, at random.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=int(os.environ.get("PLEACH_EXAMPLES", "100")))
settings.load_profile("explore" if "PLEACH_EXAMPLES" in os.environ else "suite")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tests share the machine's cores with the workers they start."""
    torch.set_num_threads(1)
