"""The guard against a stranger's package under one of our names: `spaces` above all, which others publish too."""

from __future__ import annotations

import importlib.util
from pathlib import Path

PACKAGES = ("spaces", "objectives", "dashboards", "search")
ROOT = Path(__file__).resolve().parent.parent


def check_installation() -> None:
    """Make sure that each of our packages is the one beside this file, and that none was written over.

    Raises:
        InstallationError: If Python finds another package under one of the names.
    """
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        found = [Path(place).resolve() for place in (spec and spec.submodule_search_locations) or ()]
        if ROOT / name not in found[:1]:
            where = found[0] if found else (spec and spec.origin) or "nowhere"
            raise _installation_error(
                f"the package {name} must be Pleach's in {ROOT}, but Python finds {where}: uninstall that one, "
                f"take it off PYTHONPATH, or give Pleach a virtual environment of its own"
            )
    if "POLICIES" not in (ROOT / "spaces" / "__init__.py").read_text(encoding="utf-8"):
        raise _installation_error(
            f"the package spaces must be Pleach's, but another one was installed over it in {ROOT}: "
            f"give Pleach a virtual environment of its own"
        )


def _installation_error(message: str) -> ImportError:
    """The error of that name, loaded by its path: by its name Python would look into the stranger's package."""
    spec = importlib.util.spec_from_file_location("spaces.errors", ROOT / "spaces" / "errors.py")
    if spec is None or spec.loader is None:
        return ImportError(message)
    errors = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(errors)
    error: ImportError = errors.InstallationError(message)
    return error
