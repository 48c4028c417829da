"""What some tests need of the machine, e.g. a browser: they are skipped without it, or fail where it is required.

``PLEACH_REQUIRE=browser,postgres`` turns such skips into failures.
"""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

REQUIRED = {name.strip() for name in os.environ.get("PLEACH_REQUIRE", "").split(",") if name.strip()}


def lacking(what: str, remedy: str) -> NoReturn:
    """End a test that cannot run here.

    Args:
        what: What is missing, by the name that ``PLEACH_REQUIRE`` knows it by.
        remedy: How to get it, e.g. ``apt-get install chromium``.
    """
    if what in REQUIRED:
        pytest.fail(f"PLEACH_REQUIRE asks for {what}, but this machine lacks it: {remedy}", pytrace=False)
    pytest.skip(f"this machine lacks {what}: {remedy}")
